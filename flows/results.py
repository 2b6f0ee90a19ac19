"""Where the results of `thaw predict` go: lines on the terminal, one JSON document, or a file, whole or not there."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from serving.errors import BadInput

Result = dict[str, Any]
SUFFIXES = (".csv", ".json", ".jsonl")


@contextmanager
def counting(console: Console, total: int, *, visible: bool) -> Iterator[Callable[[], None]]:
    """A bar with the time left; call what it gives once for each file. Nothing where stderr is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(28), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (visible and console.is_terminal)) as bars:
        task = bars.add_task("files", total=total)
        yield lambda: bars.advance(task)


def print_lines(results: Iterable[Result], out: TextIO) -> int:
    """One line a picture. Like the others: returns how many pictures could not be predicted."""
    failed = 0
    for result in results:
        failed += "error" in result
        answer = result["error"]["message"] if "error" in result else f"{result['label']}  {result['probability']:.4f}"
        print(f"{result['path']}  {answer}", file=out)
    return failed


def print_json(results: Iterable[Result], out: TextIO, *, one: bool) -> int:
    """A JSON array, written as the results come; or, for a single picture, its object."""
    failed = count = 0
    out.write("" if one else "[")
    for count, result in enumerate(results, 1):
        failed += "error" in result
        out.write(("" if count == 1 else ",\n") + json.dumps(result))
    out.write("\n" if one else "]\n")
    return failed


def write_file(path: Path, results: Iterable[Result], classes: tuple[str, ...]) -> int:
    """CSV (path, label, probability, error, then each class's probability), JSON array or JSON lines, by the suffix."""
    with _replacing(path) as out:
        if path.suffix == ".csv":
            return _write_csv(out, results, classes)
        if path.suffix == ".json":
            return print_json(results, out, one=False)
        failed = 0
        for result in results:
            failed += "error" in result
            out.write(json.dumps(result) + "\n")
        return failed


def check_output(path: Path) -> None:
    """Raises BadInput before anything is predicted, not after."""
    if path.suffix not in SUFFIXES:
        raise BadInput(f"expected --output to end in {', '.join(SUFFIXES)}, found {path.name}: choose one of them")
    if path.is_dir():
        raise BadInput(f"expected a file for --output, found the folder {path.absolute()}: choose another name")
    if not path.parent.is_dir():
        raise BadInput(f"expected a folder at {path.parent.absolute()}, found none: create it, or choose another place")


def _write_csv(out: TextIO, results: Iterable[Result], classes: tuple[str, ...]) -> int:
    failed = 0
    table = csv.writer(out)
    table.writerow(["path", "label", "probability", "error", *(f"probability:{label}" for label in classes)])
    for result in results:
        if "error" in result:
            failed += 1
            table.writerow([result["path"], "", "", result["error"]["message"], *("" for _ in classes)])
            continue
        scores = {score["label"]: score["probability"] for score in result["scores"]}
        values = [scores[label] for label in classes]
        table.writerow([result["path"], result["label"], result["probability"], "", *values])
    return failed


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """A file that takes the path's place when everything was written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as out:
            yield out
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
