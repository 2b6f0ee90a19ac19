"""Would the tests notice? The gate with one small fault at a time, and its tests run against each.

    uv run python -m benchmarks.mutants [--write] [MODULE ...]

MODULE: of `tasks/evaluation/`, each with a `tests/evaluation/test_<module>.py`; without any, the gate. The tool is
mutmut, which `uv` fetches for the run; it works on a copy in a temporary directory. It negates conditions, turns
comparisons, changes constants, texts and arguments, one at a time. Required: the tests of the gate kill 85 % of its
mutants. A control shows that mutants can survive: the same ones against a single test of that file.
`--write` keeps the figures in benchmarks/results/mutants.json and mutants.md. Exits 1 with what was not met.
The gate: about 30 s.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.coverage import conclude, rows

TOOL = "mutmut==3.8.1"
ROOT = Path(__file__).parent.parent
COPIED = ("serving", "tasks", "tests")
GATE = "gate"
REQUIRED = 0.85
CONTROL = "test_a_check_is_json"  # one test of the gate's: it cannot tell most mutants from the gate
KILLED = {"killed", "timeout", "segfault"}
CONFIGURATION = """[mutmut]
source_paths=tasks/
only_mutate=tasks/evaluation/{module}.py
also_copy=
  serving
  tests
pytest_add_cli_args=
  --noconftest
  -c
  /dev/null
  -p
  no:cacheprovider
pytest_add_cli_args_test_selection={tests}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=[GATE], metavar="MODULE")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    wanted = parser.parse_args()
    modules = [measured(module, tests_of(module)) for module in wanted.modules]
    control = measured(GATE, f"{tests_of(GATE)}::{CONTROL}", show=False)
    figures = {"tool": TOOL, "modules": modules, "control": control}
    conclude("mutants", figures, table(figures), requirements(figures), wanted.write)


def requirements(figures: dict[str, Any]) -> list[tuple[bool, str]]:
    """Of the gate, and of the control."""
    control = figures["control"]
    return [
        *(
            (
                row["killed"] >= REQUIRED * row["mutants"],
                f"{REQUIRED:.0%} of the gate's mutants killed, found {share(row)}",
            )
            for row in figures["modules"]
            if row["module"] == GATE
        ),
        (
            control["killed"] < 0.5 * control["mutants"],
            f"most mutants survive a single test, found {share(control)} killed",
        ),
    ]


def measured(module: str, tests: str, show: bool = True) -> dict[str, Any]:
    """One module's mutants against these tests, on a copy. `survivors`: name to changed lines, empty if not shown."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="thaw-mutants-") as folder:
        place = Path(folder)
        for name in COPIED:
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        (place / "setup.cfg").write_text(CONFIGURATION.format(module=module, tests=tests))
        run(place, "run")
        listed = run(place, "results", "--all", "true")
        statuses = dict(line.strip().split(": ") for line in listed.splitlines() if "__mutmut_" in line)
        alive = [name for name, status in statuses.items() if status not in KILLED]
        survivors = {name: difference(run(place, "show", name)) if show else "" for name in alive}
    counts = {"mutants": len(statuses), "killed": len(statuses) - len(alive)}
    return {
        "module": module,
        "tests": tests,
        **counts,
        "seconds": round(time.perf_counter() - start),
        "survivors": survivors,
    }


def tests_of(module: str) -> str:
    return f"tests/evaluation/test_{module}.py"


def run(place: Path, *arguments: str) -> str:
    """mutmut with this project's packages; stops with its own words if it does not work."""
    command = ["uv", "run", "--no-sync", "--project", str(ROOT), "--with", TOOL, "mutmut", *arguments]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def difference(shown: str) -> str:
    """The changed lines alone."""
    lines = [line for line in shown.splitlines() if line[:1] in "+-" and not line.startswith(("+++", "---"))]
    return "\n".join(lines)


def share(row: dict[str, Any]) -> str:
    return f"{row['killed']} of {row['mutants']}"


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown, with every survivor."""
    control = figures["control"]
    body = [
        (row["module"], row["mutants"], row["killed"], f"{100 * row['killed'] / row['mutants']:.1f} %", row["seconds"])
        for row in figures["modules"]
    ]
    text = [
        f"# Mutants of `tasks/evaluation/`, by {figures['tool']}",
        rows(("module", "mutants", "killed", "share", "seconds"), body),
        f"Control: the gate's mutants against `{CONTROL}` alone: {share(control)} killed.",
    ]
    for row in figures["modules"]:
        text += [f"## {name} survived\n\n```diff\n{diff}\n```" for name, diff in row["survivors"].items()]
    return "\n\n".join(text) + "\n"


if __name__ == "__main__":
    main()
