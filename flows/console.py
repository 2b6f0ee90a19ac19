"""What a person sees on the terminal. Everything here goes to stderr but the last table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from flows.displays import Display, is_line
from tasks.progress import Progress as Callback

_JUSTIFY: dict[str, JustifyMethod] = {"value": "right", "n": "right"}
_COLOURS = {"PASSED": "green", "REJECTED": "red", "INCONCLUSIVE": "yellow"}


class LiveDisplay(Display):
    """A bar for the running step, a line for each finished one; plain lines where stderr is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (
            SpinnerColumn(),
            TextColumn("{task.fields[step]:<10}"),
            BarColumn(28),
            TextColumn("{task.description}", markup=False),
        )
        self._bars = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
        self._bar = self._bars.add_task("", step="", visible=False)
        self._latest = ""

    def __enter__(self) -> LiveDisplay:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:  # elsewhere it never started, and stopping would print an empty line
            self._bars.stop()

    def started(self, step: str) -> None:
        self._latest = ""
        self._bars.reset(self._bar, step=step, description="", total=None, visible=True)

    def progress(self, step: str) -> Callback:  # noqa: ARG002 - there is one bar, whatever the step
        def report(done: int, total: int, text: str = "") -> None:
            self._bars.update(self._bar, completed=done, total=total, description=text)
            self._latest = text
            if is_line(text):
                self._console.print(f"           {text}", highlight=False, markup=False, soft_wrap=True)

        return report

    def finished(self, step: str, seconds: float) -> None:
        self._bars.update(self._bar, visible=False)
        latest = "" if is_line(self._latest) else self._latest
        self._console.print(f"{step:<10} {seconds:7.1f} s  {latest}", highlight=False, markup=False, soft_wrap=True)


def print_result(console: Console, result: Mapping[str, Any]) -> None:
    """Verdict, lines, baselines and what to do next."""
    print_checks(console, result["checks"])
    if result["metrics"]:
        console.print(_comparison(result))
    verdict = result["verdict"]
    label = f"{result['name']}:{result['version']}" if result["version"] else result["name"]
    console.print(f"[bold {_COLOURS[verdict]}]{verdict}[/] {label}: {escape(result['reason'])}")
    if result["report"]:
        console.print(f"report: {result['report']}", soft_wrap=True, highlight=False)


def print_replay(console: Console, body: Mapping[str, Any]) -> None:
    """The lines judged again, and whether the verdict is the recorded one."""
    print_checks(console, body["checks"])
    verdict, recorded = body["verdict"], body["recorded"]
    if body["same"]:
        said = f"the same as recorded, digest {body['verdict_digest'][:12]}"
    else:
        said = f"not the recorded verdict: {recorded['verdict']}, digest {str(recorded['verdict_digest'])[:12]}"
    label = f"{body['name']}:{body['version']}" if "version" in body else body["name"]
    console.print(f"[bold {_COLOURS[verdict]}]{verdict}[/] {label}: {said}")


def print_checks(console: Console, checks: Sequence[Mapping[str, Any]]) -> None:
    """One row a line of the gate, and under the table what to do about those that did not pass."""
    table = Table(box=None, pad_edge=False)
    for column in ("line", "value", "interval", "wanted", "n", "verdict"):
        table.add_column(column, no_wrap=column != "line", overflow="fold", justify=_JUSTIFY.get(column, "left"))
    for check in checks:
        table.add_row(*_check_cells(check))
    console.print(table)
    for check in checks:
        if check["advice"]:
            console.print(f"- {_line_name(check)}: {escape(check['advice'])}", highlight=False, soft_wrap=True)


def _check_cells(check: Mapping[str, Any]) -> tuple[str, ...]:
    interval = "" if check["ci_low"] is None else f"{check['ci_low']:.3f} - {check['ci_high']:.3f}"
    value = "-" if check["value"] is None else f"{check['value']:.4g}"
    verdict = f"[{_COLOURS[check['verdict']]}]{check['verdict']}[/]"
    return (
        _line_name(check),
        value,
        interval,
        f"{check['operator']} {check['threshold']:.4g}",
        str(check["n"]),
        verdict,
    )


def _line_name(check: Mapping[str, Any]) -> str:
    name = check["metric"] if check["scope"] == "overall" else f"{check['metric']} {check['scope']}"
    where = "" if check["split"] == "test" else f", {check['split']}"
    return escape(name + where + (" (warning only)" if check["severity"] == "warn" else ""))


def _comparison(result: Mapping[str, Any]) -> Table:
    """The served operating point, and at argmax the model beside its baselines; all on test."""
    table = Table(box=None, pad_edge=False, title="test split", title_justify="left")
    classes = list(result["metrics"]["recall"])
    for column in ("", "accuracy", "macro recall", *(f"recall {label}" for label in classes)):
        table.add_column(escape(column))
    rows = {
        "as served": result["metrics"],
        "at argmax": result["metrics"]["argmax"],
        "head only": result["baselines"]["head_only"],
        "majority": result["baselines"]["majority"],
    }
    for label, figures in rows.items():
        values = (figures["accuracy"], figures["macro_recall"], *figures["recall"].values())
        table.add_row(label, *("-" if value is None else f"{value:.4f}" for value in values))
    return table
