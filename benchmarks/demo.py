"""The README's main job, run for real: what `.ci/run` proves after the tests.

    uv run python -m benchmarks.demo [--write]

In an empty directory with its own homes: `thaw demo` twice, its verdict replayed (`thaw gate`) and reached again from
the photos (`thaw verify`), a gate that cannot be met, the server and `curl` on a photo against `thaw predict`, the
whole test split through network, file and server, and the threshold's promise simulated from the demo's own scores.
Exits 1 with what was found if any of it does not hold. About 15 minutes on 2 cores. `--write` keeps the figures in
benchmarks/results/demo.json and demo.md, and what a person sees in demo.txt.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import parity, threshold_rule
from benchmarks.served import served
from flows.console import print_result
from flows.demo import MANIFEST
from tasks.evaluation.evidence import load

RESULTS = Path(__file__).parent / "results"
SCREEN = "screen.txt"
UP_TO_FINETUNE = ("prepare", "embed", "train_head")
PAPER_ACCURACY = 0.8842  # Deitsch et al. 2019, fine-tuned CNN
THRESHOLD_DRAWS = 1000  # the full count is benchmarks/threshold_rule.py's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    write = parser.parse_args().write
    with tempfile.TemporaryDirectory(prefix="thaw-demo-") as folder:
        place = Path(folder)
        figures = run_demo(place) | run_again(place) | run_evidence(place)
        figures |= run_rejected(place) | run_served(place)
        measured, unmet = run_programs(place)
        figures |= measured
        screen = (place / SCREEN).read_text()
    print(json.dumps(figures, indent=1))
    problems = [*unmet, *(text for holds, text in requirements(figures) if not holds)]
    if write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "demo.json").write_text(json.dumps(figures, indent=1) + "\n")
        (RESULTS / "demo.md").write_text(table(figures))
        (RESULTS / "demo.txt").write_text(screen)
    for problem in problems:
        print(f"not met: {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


def requirements(f: dict[str, Any]) -> list[tuple[bool, str]]:
    """What the README and the contract promise of the demo."""
    return [
        (f["exit"] == 0, f"exit status 0, found {f['exit']}"),
        (
            f["verdict"] == "PASSED" and f["promoted"],
            f"verdict PASSED and promoted, found {f['verdict']}, {f['promoted']}",
        ),
        (
            f["accuracy"] >= f["head_only_accuracy"],
            f"accuracy at argmax not below the head alone, found {f['accuracy']:.4f}",
        ),
        (f["reuse_ratio"] >= 3, f"a second run 3 times as fast up to finetune, found {f['reuse_ratio']:.1f}"),
        (f["second_version"] == f["version"], "an unchanged second run publishes nothing"),
        (f["replayed"], "thaw gate to give the recorded verdict digest"),
        (f["verified"], "thaw verify to reach the recorded verdict digest from the photos"),
        (f["rejected_exit"] == 3, f"exit status 3 for a gate that cannot be met, found {f['rejected_exit']}"),
        (f["rejected_version"] == f["version"] + 1, "a rejected version is published with its verdict"),
        (f["served_version"] == f["version"], f"the champion is still served, found version {f['served_version']}"),
        (f["largest_difference"] <= 1e-5, f"curl and thaw predict alike to 1e-5, found {f['largest_difference']}"),
    ]


def run_demo(place: Path) -> dict[str, Any]:
    start = time.perf_counter()
    status, result = thaw(place, "demo", "--json", progress=place / SCREEN)
    seconds = time.perf_counter() - start
    with (place / SCREEN).open("a") as file:
        print_result(Console(file=file, width=100), shown(result))
    at_argmax = result["metrics"]["argmax"]
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "exit": status,
        "verdict": result["verdict"],
        "promoted": result["promoted"],
        "version": result["version"],
        "wall_seconds": round(seconds, 1),
        "seconds": result["seconds"],
        "accuracy": at_argmax["accuracy"],
        "recall_defective": at_argmax["recall"]["defective"],
        "head_only_accuracy": result["baselines"]["head_only"]["accuracy"],
        "majority_accuracy": result["baselines"]["majority"]["accuracy"],
        "served_accuracy": result["metrics"]["accuracy"],
        "served_recall_defective": result["metrics"]["recall"]["defective"],
        "rule": result["rule"],
    }


def run_again(place: Path) -> dict[str, Any]:
    _, first = 0, json.loads(next((place / ".thaw" / "runs").glob("*/result.json")).read_text())
    _, second = thaw(place, "demo", "--json")
    before, after = (sum(result["seconds"][step] for step in UP_TO_FINETUNE) for result in (first, second))
    return {
        "reuse_ratio": before / max(after, 1e-3),
        "second_skipped": second["skipped"],
        "second_version": second["version"],
    }


def run_evidence(place: Path) -> dict[str, Any]:
    """The verdict again: from the kept evidence, and from the photos themselves."""
    (evaluation,) = (place / ".thaw" / "runs").glob("*/evaluation-1/evaluation.json")
    _, replayed = thaw(place, "gate", str(evaluation), "--json")
    start = time.perf_counter()
    _, verified = thaw(place, "verify", f"{replayed['name']}:1", str(place / ".thaw" / MANIFEST), "--json")
    return {
        "verdict_digest": replayed["recorded"]["verdict_digest"],
        "replayed": replayed["same"],
        "verified": verified["same"],
        "verify_seconds": round(time.perf_counter() - start, 1),
    }


def run_rejected(place: Path) -> dict[str, Any]:
    status, result = thaw(place, "demo", "--json", "--set", "gate.min_accuracy=0.999")
    return {"rejected_exit": status, "rejected_version": result["version"], "rejected_checks": len(result["checks"])}


def run_served(place: Path) -> dict[str, Any]:
    """The README's curl call against a real server; the photo is the data set's first."""
    from elpv_dataset import utils

    photo = Path(utils.__file__).parent / "data" / "images" / "cell0001.png"
    with served({"THAW_HOME": str(place / ".thaw"), "BENTOML_HOME": environment(place)["BENTOML_HOME"]}) as server:
        address = f"{server.url}/v1/predict"
        curl = subprocess.run(["curl", "-s", "--data-binary", f"@{photo}", address], capture_output=True, check=True)
        answer = json.loads(curl.stdout)
    _, here = thaw(place, "predict", str(photo), "--json")
    ours = {score["label"]: score["probability"] for score in here["scores"]}
    difference = max(abs(score["probability"] - ours[score["label"]]) for score in answer["scores"])
    return {"served": answer, "served_version": answer["model"]["version"], "largest_difference": difference}


def run_programs(place: Path) -> tuple[dict[str, Any], list[str]]:
    """The measurements that need a finished demo: their figures, and what they find unmet."""
    home = place / ".thaw"
    first = min(path.parent.name for path in (home / "runs").glob("*/result.json"))
    same = parity.measure(home, first, home / MANIFEST, environment(place))
    kept = threshold_rule.measure(load(home / "runs" / first / "evaluation-1"), THRESHOLD_DRAWS)
    required = [*parity.requirements(same), *threshold_rule.requirements(kept)]
    figures = {
        "parity_pictures": same["pictures"],
        "parity_largest": max(row["largest_difference"] for row in same["pairs"]),
        "parity_fewest_equal": min(row["equal_labels"] for row in same["pairs"]),
    }
    return figures, [text for holds, text in required if not holds]


def shown(result: dict[str, Any]) -> dict[str, Any]:
    """The result as a page of this repository may show it: paths without the place where it ran."""
    return result | {"report": ".thaw/" + result["report"].partition(".thaw/")[2]}


def thaw(place: Path, *arguments: str, progress: Path | None = None) -> tuple[int, Any]:
    """Exit status and the JSON document of one command; its progress goes to a file, or through to our stderr."""
    command = [sys.executable, "-m", "flows.cli", *arguments]
    with progress.open("w") if progress else contextlib.nullcontext() as stderr:
        done = subprocess.run(
            command, cwd=place, env=environment(place), stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    try:
        return done.returncode, json.loads(done.stdout)
    except ValueError:
        raise SystemExit(
            f"not met: one JSON document from thaw {' '.join(arguments)}, found {done.stdout[:300]!r}"
        ) from None


def environment(place: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("THAW_", "PREFECT_", "BENTOML_"))}
    return kept | {"BENTOML_HOME": str(place / "bentoml"), "PREFECT_HOME": str(place / "prefect")}


def table(f: dict[str, Any]) -> str:
    rows = [
        ("accuracy at argmax, test", f"{f['accuracy']:.4f}"),
        ("the paper's fine-tuned CNN", f"{PAPER_ACCURACY:.4f}"),
        ("head alone", f"{f['head_only_accuracy']:.4f}"),
        ("always the commonest class", f"{f['majority_accuracy']:.4f}"),
        ("recall of defective at argmax", f"{f['recall_defective']:.4f}"),
        ("accuracy as served", f"{f['served_accuracy']:.4f}"),
        ("recall of defective as served", f"{f['served_recall_defective']:.4f}"),
        ("network, file and server on test: pictures", f"{f['parity_pictures']}"),
        ("- equal labels", f"{f['parity_fewest_equal']}"),
        ("- largest difference of a probability", f"{f['parity_largest']:.1e}"),
        ("whole command, s", f"{f['wall_seconds']:.0f}"),
        *((f"{step}, s", f"{seconds:.1f}") for step, seconds in f["seconds"].items()),
        ("second run up to finetune, times faster", f"{f['reuse_ratio']:.0f}"),
    ]
    lines = [f"| {name} | {value} |" for name, value in rows]
    return "\n".join([f"# The demo on {f['machine']}", "", "| figure | value |", "|---|---|", *lines, ""])


if __name__ == "__main__":
    main()
