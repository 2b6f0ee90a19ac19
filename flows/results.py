"""Where the results of `thaw predict` go: lines on the terminal, one JSON document, or a file, whole or not there."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from serving.errors import BadInput

Result = dict[str, Any]
SUFFIXES = (".csv", ".json", ".jsonl")


@dataclass(slots=True)
class Tally:
    """How many pictures there were, and how many of them could not be predicted."""

    files: int = 0
    failed: int = 0

    def of(self, results: Iterable[Result]) -> Iterator[Result]:
        """The same results, counted as they pass."""
        for result in results:
            self.files += 1
            self.failed += "error" in result
            yield result


@contextmanager
def counting(console: Console, total: int, *, visible: bool) -> Iterator[Callable[[], None]]:
    """A bar with the time left; call what it gives once for each file. Nothing where stderr is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(28), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (visible and console.is_terminal)) as bars:
        task = bars.add_task("files", total=total)
        yield lambda: bars.advance(task)


def print_lines(results: Iterable[Result], out: TextIO) -> None:
    """One line a picture."""
    for result in results:
        answer = result["error"]["message"] if "error" in result else f"{result['label']}  {result['probability']:.4f}"
        print(f"{result['path']}  {answer}", file=out)


def print_json(results: Iterable[Result], out: TextIO, *, one: bool) -> None:
    """A JSON array, written as the results come; or, for a single picture, its object."""
    out.write("" if one else "[")
    for number, result in enumerate(results):
        out.write((",\n" if number else "") + json.dumps(result))
    out.write("\n" if one else "]\n")


def write_file(path: Path, results: Iterable[Result], classes: tuple[str, ...]) -> None:
    """CSV (path, label, probability, error, then each class's probability), JSON array or JSON lines, by the suffix."""
    with _replacing(path) as out:
        if path.suffix == ".csv":
            _write_csv(out, results, classes)
        elif path.suffix == ".json":
            print_json(results, out, one=False)
        else:
            out.writelines(json.dumps(result) + "\n" for result in results)


def check_output(path: Path) -> None:
    """Raises BadInput before anything is predicted, not after."""
    if path.suffix not in SUFFIXES:
        raise BadInput(f"expected --output to end in {', '.join(SUFFIXES)}, found {path.name}: choose one of them")
    if path.is_dir():
        raise BadInput(f"expected a file for --output, found the folder {path.absolute()}: choose another name")
    if not path.parent.is_dir():
        raise BadInput(f"expected a folder at {path.parent.absolute()}, found none: create it, or choose another place")


def _write_csv(out: TextIO, results: Iterable[Result], classes: tuple[str, ...]) -> None:
    table = csv.writer(out)
    table.writerow(["path", "label", "probability", "error", *(f"probability:{label}" for label in classes)])
    for result in results:
        if "error" in result:
            table.writerow([result["path"], "", "", result["error"]["message"], *("" for _ in classes)])
            continue
        scores = {score["label"]: score["probability"] for score in result["scores"]}
        values = [scores[label] for label in classes]
        table.writerow([result["path"], result["label"], result["probability"], "", *values])


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """A file that takes the path's place when everything was written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # the bytes of a file name need not be UTF-8, and come out as they are
        with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out:
            yield out
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
