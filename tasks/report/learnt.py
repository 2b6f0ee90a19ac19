"""The part of the report that says how training went."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from tasks.report import charts
from tasks.report.charts import as_figure
from tasks.report.mistakes import Part
from tasks.report.tables import Body, Table, number, words

_LEARNT = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
# of the table of epochs: keys of a row, and what stands above them
_COLUMNS = {
    "train_loss": "training loss",
    "train_accuracy": "accuracy",
    "validation_loss": "validation loss",
    "validation_accuracy": "accuracy",
    "validation_precision": "precision",
    "validation_recall": "recall",
    "validation_f1": "F1",
    "learning_rate": "learning rate",
    "pictures_per_second": "pictures/s",
}


def training(evaluation: Body) -> list[Part]:
    """A sentence for each phase; charts and a table if it had more than one epoch; what the course warns of."""
    parts: list[Part] = []
    for name, phase in evaluation["phases"].items():
        text = _sentence(name, phase)
        parts.append(f"<p>{escape(text)}</p>")
        parts += [f'<p class="warning">{escape(sign)}</p>' for sign in phase.get("signs", ())]
        if len(phase["epochs"]) > 1:
            parts += _course(name, phase, text)
    said = (
        "Training figures are means over an epoch while the weights still moved, with augmentation and label smoothing "
        "where these are on: compare their course with validation, not their height. Precision, recall and F1 are "
        "means over classes, at argmax, on validation."
    )
    return [*parts, f"<p>{said}</p>"]


def _sentence(name: str, phase: Body) -> str:
    trained, kept, epochs = phase["trainable"], phase["best_epoch"], phase["epochs"]
    row: Body = next((row for row in epochs if row["epoch"] == kept), {})
    figures = "; ".join(f"{words(key)} {number(row[key])}" for key in _LEARNT if row.get(key) is not None)
    text = (
        f"{words(name).capitalize()}: {trained['values']:,} values in {trained['tensors']} tensors trained; "
        f"epoch {kept} of {sum(1 for row in epochs if row['epoch'])} kept ({figures})."
    )
    if 0 < phase.get("share", 1.0) < 1:
        text += (
            f" Of the way from the head-only weights to that epoch's, {phase['share']:.0%} is kept: the lowest loss on "
            "validation."
        )
    return text


def _course(name: str, phase: Body, text: str) -> Iterator[Part]:
    for measure in ("loss", "accuracy"):
        chart = charts.training_curves({name: phase}, measures=(measure,))
        caption = f"{measure.capitalize()} by epoch, {words(name)}."
        yield as_figure(chart, f"{caption} {text}", caption)
    shown = {key: title for key, title in _COLUMNS.items() if any(row.get(key) is not None for row in phase["epochs"])}
    rows = tuple(
        (row["epoch"], *("" if row.get(key) is None else number(row[key]) for key in shown)) for row in phase["epochs"]
    )
    yield Table(f"By epoch, {words(name)}", ("epoch", *shown.values()), rows)
