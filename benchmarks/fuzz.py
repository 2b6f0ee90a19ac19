"""Is the OpenAPI document true? Schemathesis attacks a real server with requests made from it.

    uv run python -m benchmarks.fuzz [--examples 1000] [--write]

A small model behind `thaw serve` with a token. Schemathesis (from the package index, in an environment of its own)
sends valid, invalid and half-valid requests to every documented route with all its checks: no 5xx, only documented
statuses, content types, headers and bodies, what breaks the schema refused, what follows it accepted, no way round the
token. Required: no failure in at least 2,000 requests. Control: a document that lies about an answer is found out.
About 4 minutes.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.coverage import conclude, rows
from benchmarks.served import model_store, served
from serving.ledger import opened
from serving.store import Store
from tests.serving import tiny

NAME, TOKEN = "colours", "a-token-of-the-drill"
PACKAGES = ("schemathesis==4.32.5", "pillow>=12.3")
NEWEST = "2026-11-20"
HOOKS = Path(__file__).parent / "others" / "schemathesis_hooks.py"
WANTED = 2000
CONTROL_EXAMPLES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1000, help="of each operation and phase")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thaw-fuzz-") as folder, model_store(Path(folder, "bentoml")):
        figures = measure(Path(folder), arguments.examples)
    needed = min(WANTED, arguments.examples)
    conclude("fuzz", figures, table(figures), requirements(figures, needed), arguments.write)


def measure(place: Path, examples: int) -> dict[str, Any]:
    home = place / "home"
    with opened(home) as ledger:
        Store(home, ledger).publish(tiny.make_artifact(place / "artifact", NAME), "drill", "fuzz")
        ledger.promote(NAME, 1, who="drill", why="fuzz")
    environment = {"THAW_HOME": str(home), "BENTOML_HOME": str(place / "bentoml"), "THAW_API_TOKEN": TOKEN}
    environment |= {"THAW_LOG_LEVEL": "WARNING", "THAW_DEVICE": "cpu"}
    with served(environment, log=place / "log") as server:
        document = server.get("/docs.json").json()
        honest = attacked(place, server.url, document, examples)
        lying = attacked(place, server.url, with_a_lie(document), CONTROL_EXAMPLES)
        said = server.said()
    return honest | {
        "control_failures": lying["failures"],
        "token_in_the_log": said.count(TOKEN),
        "tracebacks_in_the_log": said.count("Traceback"),
    }


def with_a_lie(document: dict[str, Any]) -> dict[str, Any]:
    """The document with an answer that has one more field than it has."""
    lie = copy.deepcopy(document)
    lie["components"]["schemas"]["Prediction"]["required"].append("colour")
    return lie


def attacked(place: Path, url: str, document: dict[str, Any], examples: int) -> dict[str, Any]:
    """Requests sent and failures found; `report` is what Schemathesis says at its end."""
    (place / "openapi.json").write_text(json.dumps(document))
    packages = [word for package in PACKAGES for word in ("--with", package)]
    command = [
        *("uv", "run", "--no-project", "--exclude-newer", NEWEST, *packages, "schemathesis", "run"),
        *("openapi.json", "--url", url, "-H", f"Authorization: Bearer {TOKEN}", "--checks", "all"),
        *("--max-examples", str(examples), "--seed", "1", "--continue-on-failure", "--no-color"),
    ]
    environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    done = subprocess.run(
        command, cwd=place, env=environment | {"SCHEMATHESIS_HOOKS": str(HOOKS)}, capture_output=True, text=True
    )
    said = done.stdout
    generated = re.search(r"(\d[\d,]*) generated", said)
    found = re.search(r"(\d[\d,]*) found (\d[\d,]*) unique failures?", said)
    return {
        "requests": number(generated[1]) if generated else 0,
        "failures": number(found[2]) if found else 0,
        "status": done.returncode,
        "report": said[-6000:] + done.stderr[-2000:],
    }


def number(text: str) -> int:
    return int(text.replace(",", ""))


def requirements(f: dict[str, Any], needed: int) -> list[tuple[bool, str]]:
    return [
        (f["requests"] >= needed, f"at least {needed} requests, found {f['requests']}: {f['report'][-1500:]}"),
        (f["status"] == 0 and f["failures"] == 0, f"no failure, found {f['failures']}: {f['report']}"),
        (f["token_in_the_log"] == 0, f"no token in the log, found {f['token_in_the_log']}"),
        (f["tracebacks_in_the_log"] == 0, f"no defect in the log, found {f['tracebacks_in_the_log']}"),
        (f["control_failures"] > 0, "the control's lie is found out"),
    ]


def table(f: dict[str, Any]) -> str:
    body = [
        ("requests", f"{f['requests']}"),
        ("failures of any check", f"{f['failures']}"),
        ("tracebacks, tokens in the server's log", f"{f['tracebacks_in_the_log']}, {f['token_in_the_log']}"),
        ("control: failures found in a document that lies", f"{f['control_failures']}"),
    ]
    return "\n".join([f"# The OpenAPI document under attack ({PACKAGES[0]})\n", rows(("", ""), body), ""])


if __name__ == "__main__":
    main()
