"""The report's sections to look at: curves, what is confused, operating points, calibration, the worst mistakes.

A section is a list of parts, each HTML or a table. What advises (thresholds) is computed on validation, never on test.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from html import escape
from typing import Literal

import numpy as np
from PIL import Image

from tasks.data.dataset import Dataset, Subset, pixels
from tasks.evaluation.evidence import Evidence
from tasks.evaluation.metrics import Ints
from tasks.evaluation.sample import Sample
from tasks.evaluation.scores import reliability, without_temperature
from tasks.evaluation.threshold import Tradeoff, tradeoff
from tasks.report import charts
from tasks.report.charts import as_figure, embedded
from tasks.report.tables import MANY, Body, Cell, Table, measured, number, watched

Pictures = Literal["embed", "local", "none"]
Part = str | Table
_MOST = 12  # mistakes shown
_SIDE = 160  # longest side of an embedded copy, pixels
_PAIRS = 15
_WIDE = 6  # classes: above this a confusion matrix needs the page's width
_WANTED = {"recall": (0.8, 0.9, 0.95, 0.99), "precision": (0.8, 0.95)}


def confusions(evaluation: Body) -> list[Part]:
    """The matrix, or above MANY classes only its largest mistakes."""
    classes, matrix = evaluation["classes"], evaluation["metrics"]["confusion_matrix"]
    counts = np.array(matrix)
    pairs = sorted(((int(counts[i, j]), i, j) for i, j in np.argwhere(counts) if i != j), key=lambda p: (-p[0], p[1:]))
    wrong, total = sum(n for n, _, _ in pairs), int(counts.sum())
    parts: list[Part] = []
    if len(classes) <= MANY:
        alt = f"Confusion matrix of {total} test pictures: {total - wrong} on the diagonal, {wrong} beside it."
        if pairs:
            n, i, j = pairs[0]
            alt += f" Most often {classes[i]} is decided to be {classes[j]}: {n} times."
        caption = "Rows are the true class, columns the decided one; shading shows the share of the row."
        parts.append(as_figure(charts.confusion(matrix, classes), alt, caption, wide=len(classes) > _WIDE))
    if pairs and len(classes) > 2:
        rows = tuple((classes[i], classes[j], n, f"{n / counts[i].sum():.1%}") for n, i, j in pairs[:_PAIRS])
        of = f", {_PAIRS} of {len(pairs)}" if len(pairs) > _PAIRS else ""
        parts.append(Table(f"Most confused pairs{of}", ("true", "decided", "pictures", "of the true class"), rows))
    return parts or ["<p>No test picture is decided wrongly.</p>" if total else "<p>There are no test pictures.</p>"]


def operating_points(evaluation: Body, evidence: Evidence) -> list[Part]:
    """Precision against recall on test, then thresholds on validation; of watched classes, else of the weakest."""
    marked = watched(evaluation)
    labels = marked[: charts.MOST_CURVES] or _weakest(evaluation)
    curves = [curve for label in labels if (curve := _curve(evaluation, evidence, label)) is not None]
    parts: list[Part] = [_ranked(evaluation, curves)] if curves else ["<p>No test pictures of these classes.</p>"]
    sample = evidence.samples["validation"]
    free = np.ones(len(sample), bool)  # not claimed by a watched class before
    for label in labels:
        index, served = evidence.classes.index(label), evaluation["thresholds"].get(label)
        scores = sample.probabilities[:, index].astype(np.float64)
        found = tradeoff(scores, sample.truth == index, free, sample.units if evidence.grouped else None)
        parts += _thresholds(label, found, served)
        parts += [_choices(label, found)] if marked and found.positives else []
        if served is not None:  # in words it is rounded to six digits
            free &= ~((sample.decided == index) & (scores >= served * (1 - 1e-5)))
    return parts


def _weakest(evaluation: Body) -> tuple[str, ...]:
    """Those with the lowest F1 on validation, in the order of the classes."""
    f1, classes = evaluation["metrics"]["splits"]["validation"]["f1"], evaluation["classes"]
    ranked = sorted(classes, key=lambda label: -1.0 if f1[label] is None else f1[label])
    return tuple(label for label in classes if label in ranked[: charts.MOST_CURVES])


def _curve(evaluation: Body, evidence: Evidence, label: str) -> charts.Curve | None:
    index, metrics = evidence.classes.index(label), evaluation["metrics"]
    curve = tradeoff(evidence.test.probabilities[:, index], evidence.test.truth == index)
    if not curve.positives:
        return None
    recall, precision = metrics["recall"][label], metrics["precision"][label]
    served = None if recall is None or precision is None else (recall, precision)
    return charts.Curve(label, curve.recall, curve.precision, served)


def _ranked(evaluation: Body, curves: list[charts.Curve]) -> str:
    metrics = evaluation["metrics"]
    said = [
        f"{curve.label}: recall {number(metrics['recall'][curve.label])} at precision "
        f"{number(metrics['precision'][curve.label])} as served"
        + (f", area {number(metrics['pr_auc'][curve.label])}" if "pr_auc" in metrics else "")
        for curve in curves
    ]
    alt = f"Precision against recall on test. {'; '.join(said)}."
    caption = "Test: precision at every recall; the large marker is what is served. Not for choosing: see validation."
    if len(curves) > 1:
        caption += " A marker stands beside its line where another class takes some of the pictures first."
    return as_figure(charts.precision_recall(curves), alt, caption)


def _thresholds(label: str, curve: Tradeoff, served: float | None) -> list[Part]:
    if not curve.positives or not len(curve.thresholds):
        return [f"<p>No validation pictures of {escape(label)}: no threshold can be chosen.</p>"]
    alt = f"Recall and precision of {label} on validation, by threshold."
    if served is not None:
        row = int((curve.thresholds >= served).sum()) - 1
        at = f"recall {curve.recall[row]:.3f}, precision {curve.precision[row]:.3f}" if row >= 0 else "nothing is found"
        alt += f" At the served threshold {served:.4g}: {at}."
    caption = f"Validation, {label}: what another threshold would give, from {curve.positives} pictures of the class."
    return [as_figure(charts.operating_points(curve, served), alt, caption)]


def _choices(label: str, curve: Tradeoff) -> Table:
    """What could be asked for instead in `decision.watch`, chosen as `choose_rule` would."""
    rows: list[tuple[Cell, ...]] = []
    for metric, wanted in [(metric, share) for metric, shares in _WANTED.items() for share in shares]:
        best = curve.for_recall(wanted) if metric == "recall" else curve.for_precision(wanted)
        found: tuple[Cell, ...] = ("cannot be shown", "", "", "")
        if best is not None:
            there = f"{curve.recall[best]:.3f}", f"{curve.precision[best]:.3f}"
            found = (f"{curve.thresholds[best]:.4g}", *there, int(curve.decided[best]))
        rows.append((f"{metric} {wanted:g}", *found))
    header = ("wanted, as a 95 % bound", "threshold", "recall", "precision", "decided so")
    return Table(f"Other choices for {label}, on validation", header, tuple(rows))


def calibration(evaluation: Body, evidence: Evidence) -> list[Part]:
    test, temperature = evidence.test, float(evaluation["temperature"])
    if not len(test):
        return ["<p>There are no test pictures.</p>"]
    before = reliability(without_temperature(test.probabilities, temperature), test.truth)
    after = reliability(test.probabilities, test.truth)
    metrics = evaluation["metrics"]
    served, raw = measured(metrics, "calibration_error"), metrics["calibration_error_before_temperature"]
    text = f"calibration error {served}; before the temperature of {number(temperature)} it was {number(raw)}"
    alt = f"Stated probability against the share that is right, on {len(test)} test pictures: {text}."
    caption = f"Test: {text}. On the diagonal a stated 90 % is right nine times in ten; below it the model is too sure."
    return [as_figure(charts.reliability(before, after), alt, caption)]


def worst_rows(sample: Sample, first: tuple[int, ...], most: int = _MOST) -> Ints:
    """Rows decided wrongly, the worst first: missed pictures of the classes `first`, in their order, then all others.

    Within these by how far the decided label's probability stands above the true one's; ties by digest.
    """
    rows = np.flatnonzero(sample.decided != sample.truth)
    truth, decided = sample.truth[rows], sample.decided[rows]
    margin = sample.probabilities[rows, decided] - sample.probabilities[rows, truth]
    rank = np.array([first.index(label) if label in first else len(first) for label in truth.tolist()], np.int64)
    order = np.lexsort((np.array([sample.digests[i] for i in rows], str), -margin, rank))
    return rows[order][:most]


def worst_mistakes(
    evaluation: Body, evidence: Evidence, dataset: Dataset, test: Subset, pictures: Pictures
) -> list[Part]:
    """`test` is aligned with `evidence.test`. With `none` neither a picture nor the name of a file."""
    sample, marked = evidence.test, watched(evaluation)
    rows = worst_rows(sample, tuple(evidence.classes.index(label) for label in marked))
    wrong = int((sample.decided != sample.truth).sum())
    if not wrong:
        return ["<p>No test picture is decided wrongly.</p>" if len(sample) else "<p>There are no test pictures.</p>"]
    first = f"Missed pictures of {', '.join(marked)} come first; then t" if marked else "T"
    order = f"{first}hose whose decided label is likeliest against the true one."
    how = {
        "embed": f"Shown as the model sees them ({dataset.image_size} pixels, {dataset.resize}).",
        "local": "Shown from this machine's files.",
        "none": "Without pictures and file names; a picture is named by its SHA-256.",
    }[pictures]
    items = "".join(_mistake(evidence, int(row), _look(dataset, test, int(row), pictures)) for row in rows)
    return [
        f"<p>{len(rows)} of {wrong:,} wrong decisions. {escape(order)} {escape(how)}</p>",
        f'<ul class="pictures">{items}</ul>',
    ]


def _look(dataset: Dataset, test: Subset, row: int, pictures: Pictures) -> tuple[str, str]:
    """The picture's address, empty for none, and its name."""
    if pictures == "none":
        return "", test.digests[row][:12]
    path = test.paths[row]
    if pictures == "local":
        return path.absolute().as_uri(), path.name
    image = Image.fromarray(np.array(pixels(dataset)[test.rows[row]]))
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return embedded(buffer.getvalue(), "image/jpeg"), path.name


def _mistake(evidence: Evidence, row: int, look: tuple[str, str]) -> str:
    address, name = look
    sample, classes = evidence.test, evidence.classes
    true, decided = int(sample.truth[row]), int(sample.decided[row])
    alt = f"Labelled {classes[true]}, decided {classes[decided]}"
    image = f'<img src="{escape(address)}" alt="{escape(alt)}">' if address else ""
    scores = "".join(_scores(evidence, row, true, decided))
    return f'<li>{image}<p class="name">{escape(name)}</p><dl>{scores}</dl></li>'


def _scores(evidence: Evidence, row: int, true: int, decided: int) -> Iterator[str]:
    """The two labels in question, and the likeliest if it is a third one."""
    scores = evidence.test.probabilities[row]
    named = {"true": true, "decided": decided}
    if int(scores.argmax()) not in named.values():
        named["likeliest"] = int(scores.argmax())
    for word, index in named.items():
        yield f"<dt>{word}</dt><dd>{escape(evidence.classes[index])} <b>{scores[index]:.3f}</b></dd>"
