"""The report's charts: SVG for the page, PNG for who asks. The same figures give the same bytes.

Drawn with matplotlib's objects (no pyplot). Colours are Okabe and Ito's; line style or marker always differ as well.
"""

from __future__ import annotations

import base64
import io
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tasks.evaluation.intervals import wilson
from tasks.evaluation.metrics import Floats, Ints
from tasks.evaluation.threshold import Tradeoff

Kind = Literal["svg", "png"]

_INK, _FAINT, _SKY = "#1f2933", "#dde2e8", "#56b4e9"
_BLUE, _VERMILLION, _GREEN, _PURPLE, _ORANGE = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"
_LOOKS = (  # colour, line, marker; the palest colours last
    (_BLUE, "-", "o"),
    (_VERMILLION, "--", "s"),
    (_GREEN, "-.", "^"),
    (_INK, ":", "D"),
    (_PURPLE, (0, (6, 1, 1, 1, 1, 1)), "v"),
    (_ORANGE, (0, (3, 1)), "P"),
)
MOST_CURVES = len(_LOOKS)
_POINTS = 400  # of one curve: more cannot be told apart, and would make the page heavy
_WIDTH = 5.4  # inches; at 400 pixels a chart is shown at two thirds, which 9.5 points survive
_LOG_BELOW = 0.02  # a threshold that a linear axis would press against its end
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "thaw",
    "text.parse_math": False,  # a class name may hold dollars
    "text.usetex": False,
    "text.color": _INK,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same layout on every machine
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#7b8794",
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "grid.color": _FAINT,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "savefig.dpi": 150,
}
_DRAWING = threading.Lock()  # matplotlib keeps its settings once per process


@dataclass(frozen=True, slots=True)
class Curve:
    """A class's precision against its recall. `served`: (recall, precision) of the decisions as served, or None."""

    label: str
    recall: Floats
    precision: Floats
    served: tuple[float, float] | None


@contextmanager
def _settings() -> Iterator[None]:
    with _DRAWING, warnings.catch_warnings(), matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever this machine's own settings are
        matplotlib.rcParams.update(_STYLE)
        warnings.simplefilter("ignore")  # a class name may need a font that is not here; the browser has one
        yield


def embedded(data: bytes, media_type: str = "image/svg+xml") -> str:
    """A picture's bytes as an address that needs no other file."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def as_figure(svg: bytes, alt: str, caption: str, wide: bool = False) -> str:
    """A chart as HTML; `alt` says its key numbers to who cannot see it. `wide`: a row of its own."""
    image = f'<img src="{embedded(svg)}" alt="{escape(alt)}">'
    mark = ' class="wide"' if wide else ""
    return f"<figure{mark}>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def short(text: str, most: int = 24) -> str:
    """A name as a chart can hold it: one line, at most `most` characters, none that XML forbids."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
    return line if len(line) <= most else line[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


@_settings()
def training_curves(
    phases: Mapping[str, Any], kind: Kind = "svg", measures: Sequence[str] = ("loss", "accuracy")
) -> bytes:
    """A column per phase, a row per measure by epoch; `phases` as in `evaluation.json`. The epoch kept is ringed."""
    columns = max(1, len(phases))
    figure = Figure(figsize=(_WIDTH * columns, 0.9 + 2.6 * len(measures)), layout="constrained")
    grid = figure.subplots(len(measures), columns, squeeze=False, sharex="col")
    for column, (name, phase) in zip(grid.T, phases.items(), strict=False):
        for axes, measure in zip(column, measures, strict=True):
            _by_epoch(axes, measure, phase)
        column[0].set_title(name.replace("_", " "), pad=24)
        _legend(column[0], columns=3)
        column[-1].set_xlabel("epoch")
    return _bytes(figure, kind)


def _by_epoch(axes: Axes, measure: str, phase: Mapping[str, Any]) -> None:
    epochs = [row["epoch"] for row in phase["epochs"]]
    for (colour, line, marker), split in zip(_LOOKS, ("train", "validation"), strict=False):
        values = [_number(row[f"{split}_{measure}"]) for row in phase["epochs"]]
        axes.plot(epochs, values, color=colour, linestyle=line, marker=marker, label=split)
        if split == "validation" and phase["best_epoch"] in epochs:
            kept = values[epochs.index(phase["best_epoch"])]
            axes.plot(
                phase["best_epoch"], kept, "o", markersize=12, markerfacecolor="none", color=_INK, label="epoch kept"
            )
    axes.set_ylabel(measure)
    axes.set_xlim(min(epochs, default=0) - 0.5, max(epochs, default=1) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


@_settings()
def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str], kind: Kind = "svg") -> bytes:
    """Counts, rows true and columns decided; shaded by the share of the row. For up to about 25 classes."""
    counts = np.array(matrix, np.float64)
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros_like(counts), where=rows > 0)
    n = len(classes)
    side = min(9.0, max(2.2, 0.9 * n if n <= 6 else 2.5 + 0.42 * n))
    figure = Figure(figsize=(side + 2.0, side + 1.0), layout="constrained")
    axes = figure.add_subplot()
    shading = LinearSegmentedColormap.from_list("shares", ("#ffffff", _SKY))  # light enough for dark text everywhere
    axes.pcolormesh(shares, cmap=shading, vmin=0, vmax=1, edgecolors=_FAINT, linewidth=0.8)
    for i, j in np.ndindex(n, n):
        text = f"{counts[i, j]:.0f}\n{shares[i, j]:.0%}" if n <= 10 and rows[i, 0] else f"{counts[i, j]:.0f}"
        axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=10 if n <= 10 else 8)
    names = [short(label, 16) for label in classes]
    axes.set_xticks(np.arange(n) + 0.5, names, rotation=0 if n <= 3 else 60, ha="center" if n <= 3 else "right")
    axes.set_yticks(np.arange(n) + 0.5, names)
    if n > 3:
        axes.tick_params(axis="x", which="major", pad=1)
        for tick in axes.get_xticklabels():
            tick.set_rotation_mode("anchor")
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.set(xlabel="decided", ylabel="true", aspect="equal")
    axes.invert_yaxis()
    return _bytes(figure, kind)


@_settings()
def precision_recall(curves: Sequence[Curve], kind: Kind = "svg") -> bytes:
    """Precision against recall, one line per class (at most MOST_CURVES), what is served as a large marker."""
    figure = Figure(figsize=(_WIDTH, 4.2 + 0.2 * len(curves)), layout="constrained")
    axes = figure.add_subplot()
    for (colour, line, marker), curve in zip(_LOOKS, curves, strict=False):
        rows, name = _thinned(len(curve.recall)), short(curve.label, 16)
        axes.plot(curve.recall[rows], curve.precision[rows], color=colour, linestyle=line)
        served = curve.served or (float("nan"), float("nan"))
        said = f"served at recall {served[0]:.3f}, precision {served[1]:.3f}" if curve.served else "never decided"
        looks: Any = {"color": colour, "linestyle": line, "marker": marker, "markersize": 9, "markeredgecolor": _INK}
        axes.plot(*served, **looks, label=f"{name}: {said}", clip_on=False)  # one entry shows line and marker
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.04))
    _legend(axes, columns=1)
    return _bytes(figure, kind)


@_settings()
def operating_points(curve: Tradeoff, served: float | None, kind: Kind = "svg") -> bytes:
    """What each threshold on a class's probability finds; `served`: the threshold in use, or None."""
    figure = Figure(figsize=(_WIDTH, 4.4), layout="constrained")
    axes = figure.add_subplot()
    rows = _thinned(len(curve.thresholds))
    at = curve.thresholds[rows]
    axes.plot(at, curve.recall[rows], color=_BLUE, linestyle="-", label="recall")
    axes.plot(at, curve.recall_bound()[rows], color=_BLUE, linestyle=":", label="recall, 95 % lower bound")
    axes.plot(at, curve.precision[rows], color=_VERMILLION, linestyle="--", label="precision")
    if served is not None:
        axes.axvline(served, color=_INK, linewidth=1.2, label=f"served: {served:.4g}")
    if served is not None and 0 < served < _LOG_BELOW:
        axes.set(xscale="log", xlim=(max(min(served, float(at.min(initial=1.0))) / 2, 1e-8), 1.0))
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_xlim(0, 1)
    axes.set(xlabel="threshold", ylabel="recall, precision", ylim=(0, 1.04))
    _legend(axes)
    return _bytes(figure, kind)


@_settings()
def reliability(before: Floats, after: Floats, kind: Kind = "svg") -> bytes:
    """Accuracy against the stated probability, before and after the temperature: `evaluation.scores.reliability`."""
    figure = Figure(figsize=(_WIDTH, 5.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot((0, 1), (0, 1), color="#7b8794", linewidth=1, label="exactly as stated")
    named = (("before temperature", _LOOKS[1], before), ("as served", _LOOKS[0], after))
    for label, (colour, line, marker), bins in named:
        upper.plot(bins[:, 0], bins[:, 1], color=colour, linestyle=line, marker=marker, label=label)
    upper.set(ylabel="share that is right", ylim=(0, 1.04), xlim=(0, 1.02))
    ends = np.array([wilson(n * right, int(n), 0.95) for _, right, n in after]).reshape(-1, 2)
    upper.vlines(after[:, 0], ends[:, 0], ends[:, 1], color=_BLUE, linewidth=1, label="95 % interval")
    _legend(upper)
    lower.bar(after[:, 0], after[:, 2], width=0.03, color=_BLUE)
    lower.set(xlabel="probability of the likeliest class", ylabel="pictures")
    return _bytes(figure, kind)


def _legend(axes: Axes, columns: int = 2) -> None:
    """Above the axes, where it covers no line."""
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, borderaxespad=0.2, handlelength=2.6)


def _thinned(n: int) -> Ints:
    return np.unique(np.linspace(0, max(0, n - 1), min(n, _POINTS)).round().astype(np.int64))


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _bytes(figure: Figure, kind: Kind) -> bytes:
    """Without dates and version numbers, which would make every page another one."""
    nothing = ("Date", "Creator", "Format", "Type") if kind == "svg" else ("Software",)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=dict.fromkeys(nothing))
    return buffer.getvalue()
