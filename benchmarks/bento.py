"""Does the Bento serve on its own, and how large is it?

    uv run python -m benchmarks.bento [--write]

Builds it, installs only what it asks for into a new environment, publishes a small model, serves the Bento from there
and asks it for a prediction. Required: neither torch nor Prefect in that environment, and the predictor's own answer.
Needs the package index; 3 GB of disk while it runs. About a minute.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from benchmarks.coverage import conclude, rows
from benchmarks.served import ROOT, model_store
from benchmarks.serving_speed import started
from serving.ledger import opened
from serving.predictor import load_predictor
from serving.store import Store
from tests.serving import tiny

NEWEST = "2026-11-20"
ABSENT = ("torch", "torchvision", "timm", "prefect")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    write = parser.parse_args().write
    with tempfile.TemporaryDirectory(prefix="thaw-bento-") as folder, model_store(Path(folder, "bentoml")):
        figures = measure(Path(folder))
    conclude("bento", figures, table(figures), requirements(figures), write)


def measure(place: Path) -> dict[str, Any]:
    environment = {**os.environ, "BENTOML_HOME": str(place / "bentoml"), "THAW_HOME": str(place / "home")}
    build = [sys.executable, "-m", "bentoml", "build", "-f", "serving/bentofile.yaml", "."]
    subprocess.run(build, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    (bento,) = (path for path in (place / "bentoml/bentos/thaw").iterdir() if path.is_dir())
    python = installed(place / "venv", bento / "env/python/requirements.txt")
    artifact = tiny.make_artifact(place / "artifact", looking=True)
    with opened(place / "home") as ledger:
        Store(place / "home", ledger).publish(artifact, "drill", "bento")
        ledger.promote("colours", 1, who="drill", why="bento")
    picture = place / "picture.png"
    Image.linear_gradient("L").save(picture)
    command = [str(python), "-m", "bentoml", "serve", str(bento), "--host", "127.0.0.1", "--port", "PORT"]
    with started(command, environment | {"THAW_INSECURE": "1"}, cwd=place) as url:
        served = httpx.post(f"{url}/v1/predict", content=picture.read_bytes(), timeout=30).json()
    predictor = load_predictor(artifact, "cpu")
    here = predictor.answer([predictor.read(picture.read_bytes())])[0]
    return {
        "bento_kilobytes": kilobytes(bento),
        "environment_megabytes": kilobytes(place / "venv") / 1024,
        "present": [name for name in ABSENT if importable(python, name)],
        "served": [served.get("label"), served.get("probability")],
        "here": [here.label, here.probability],
    }


def installed(place: Path, wanted: Path) -> Path:
    """The interpreter of a new environment with these packages and no others."""
    python = place / "bin" / "python"
    subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, str(place)], check=True)
    install = ["uv", "pip", "install", "--quiet", "--exclude-newer", NEWEST, "--python", str(python), "-r", str(wanted)]
    subprocess.run(install, check=True)
    return python


def kilobytes(place: Path) -> float:
    return sum(path.lstat().st_size for path in place.rglob("*")) / 1024


def importable(python: Path, name: str) -> bool:
    return subprocess.run([python, "-c", f"import {name}"], capture_output=True).returncode == 0


def requirements(f: dict[str, Any]) -> list[tuple[bool, str]]:
    return [
        (not f["present"], f"none of {', '.join(ABSENT)}, found {f['present']}"),
        (f["served"][0] == f["here"][0], f"the predictor's label, found {f['served']} and {f['here']}"),
        (
            abs((f["served"][1] or 0) - f["here"][1]) <= 1e-5,
            f"the predictor's answer, found {f['served']}, {f['here']}",
        ),
    ]


def table(f: dict[str, Any]) -> str:
    body = [
        ("the Bento", f"{f['bento_kilobytes']:.0f} kB"),
        ("an environment with what it asks for", f"{f['environment_megabytes']:.0f} MB"),
        (f"of {', '.join(ABSENT)} in it", ", ".join(f["present"]) or "none"),
        ("served, and by the predictor here", f"{f['served']}, {f['here']}"),
    ]
    return "\n".join(["# The Bento on its own\n", rows(("", ""), body), ""])


if __name__ == "__main__":
    main()
