"""Does `thaw predict` on a large folder stay small?

    uv run python -m benchmarks.offline [--pictures 100000] [--write]

A folder of that many pictures (hard links to a dozen) through the command line into a CSV file, with a small model;
once with a tenth of them, once with all. Required: every picture in the file, and at most 50 MB more memory at the peak
for ten times as many. About 3 minutes for 100,000.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.candidates import made_pictures
from benchmarks.coverage import conclude, rows
from benchmarks.served import ROOT, model_store
from serving.ledger import opened
from serving.store import Store
from tests.serving import tiny

GROWTH_MB = 50.0
FOLDERS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thaw-offline-") as folder, model_store(Path(folder, "bentoml")):
        figures = measure(Path(folder), arguments.pictures)
    conclude("offline", figures, table(figures), requirements(figures), arguments.write)


def measure(place: Path, pictures: int) -> dict[str, Any]:
    with opened(place / "home") as ledger:
        Store(place / "home", ledger).publish(tiny.make_artifact(place / "artifact"), "drill", "offline")
        ledger.promote("colours", 1, who="drill", why="offline")
    return {"runs": [predicted(place, count) for count in (pictures // 10, pictures)]}


def predicted(place: Path, count: int) -> dict[str, Any]:
    """One run of the command; its peak memory is the child's own `ru_maxrss`."""
    folder, output = place / f"pictures-{count}", place / f"{count}.csv"
    made = []
    for number, data in enumerate(made_pictures()):
        made.append(place / f"{number}.png")
        made[-1].write_bytes(data)
    for number in range(count):
        link = folder / f"{number % FOLDERS}" / f"{number}.png"
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(made[number % len(made)], link)
    environment = {**os.environ, "THAW_HOME": str(place / "home"), "BENTOML_HOME": str(place / "bentoml")}
    command = [sys.executable, "-m", "flows.cli", "predict", str(folder), "--output", str(output), "--device", "cpu"]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    with output.open() as lines:
        rows_written = sum(1 for _ in lines) - 1
    return {
        "pictures": count,
        "rows": rows_written,
        "status": process.returncode,
        "peak_mb": usage.ru_maxrss / 1024,
        "seconds": time.perf_counter() - started,
    }


def requirements(f: dict[str, Any]) -> list[tuple[bool, str]]:
    few, many = f["runs"]
    growth = many["peak_mb"] - few["peak_mb"]
    found = [(run["status"] == 0, f"exit status 0, found {run['status']}") for run in f["runs"]]
    found += [(run["rows"] == run["pictures"], f"{run['pictures']} rows, found {run['rows']}") for run in f["runs"]]
    return [*found, (growth <= GROWTH_MB, f"at most {GROWTH_MB} MB more, found {growth:.0f}")]


def table(f: dict[str, Any]) -> str:
    body = [(f"{run['pictures']}", f"{run['peak_mb']:.0f}", f"{run['seconds']:.0f}") for run in f["runs"]]
    return "\n".join(["# `thaw predict` on a folder\n", rows(("pictures", "peak MB", "seconds"), body), ""])


if __name__ == "__main__":
    main()
