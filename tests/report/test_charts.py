"""The charts: the same bytes for the same figures, names that neither break XML nor become formulas, both kinds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tasks.evaluation.scores import reliability
from tasks.evaluation.threshold import tradeoff
from tasks.report import charts
from tasks.report.charts import Curve, Kind, short

NAMES = ("<b>&", "$x_1$ \U0001f600", "n" * 200, "line\nbreak\x01\udcff")
SCORES = np.random.default_rng(0).random(500)
CURVE = tradeoff(SCORES, SCORES > 0.6)
EPOCHS: list[dict[str, Any]] = [
    {"epoch": 0, "train_loss": None, "train_accuracy": None, "validation_loss": 0.4, "validation_accuracy": 0.8},
    {"epoch": 1, "train_loss": 0.5, "train_accuracy": 0.7, "validation_loss": 0.3, "validation_accuracy": 0.9},
]
PHASES = {"train_head": {"epochs": EPOCHS[1:], "best_epoch": 1}, "finetune": {"epochs": EPOCHS, "best_epoch": 1}}
BINS = reliability(np.stack([SCORES, 1 - SCORES], axis=1), np.zeros(500, np.int64))
DRAWN: dict[str, Callable[[Kind], bytes]] = {
    "curves": lambda kind: charts.training_curves(PHASES, kind),
    "nothing trained": lambda kind: charts.training_curves({}, kind),
    "confusion": lambda kind: charts.confusion([[3, 1, 0, 0], [0, 0, 0, 0], [2, 2, 2, 2], [0, 0, 0, 9]], NAMES, kind),
    "precision": lambda kind: charts.precision_recall(
        [Curve(name, CURVE.recall, CURVE.precision, (0.9, 0.8) if i else None) for i, name in enumerate(NAMES)], kind
    ),
    "thresholds": lambda kind: charts.operating_points(CURVE, 0.3, kind),
    "a small threshold": lambda kind: charts.operating_points(CURVE, 0.003, kind),
    "no threshold": lambda kind: charts.operating_points(CURVE, None, kind),
    "reliability": lambda kind: charts.reliability(BINS, BINS, kind),
    "no pictures": lambda kind: charts.reliability(np.zeros((0, 3)), np.zeros((0, 3)), kind),
}


@pytest.mark.parametrize("name", DRAWN)
def test_svg_is_xml_without_dates_and_always_the_same(name: str) -> None:
    svg = DRAWN[name]("svg")
    assert svg == DRAWN[name]("svg")
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert b"<metadata" not in svg and b"<script" not in svg and b"<image" not in svg


@pytest.mark.parametrize("name", DRAWN)
def test_png_for_who_cannot_show_svg(name: str) -> None:
    png = DRAWN[name]("png")
    assert png == DRAWN[name]("png")
    with Image.open(BytesIO(png)) as image:
        image.load()
        assert image.format == "PNG" and min(image.size) > 300


def test_names_are_text_in_the_chart() -> None:
    svg = DRAWN["confusion"]("svg").decode()
    texts = [text.text for text in ElementTree.fromstring(svg).iter() if text.tag.endswith("text")]
    assert {"<b>&", "$x_1$ \U0001f600", "n" * 15 + "\u2026", "line break\ufffd\ufffd"} <= set(texts)


@pytest.mark.parametrize("size", [1, 2, 24, 25, 500])
def test_short_names_keep_within_their_length(size: int) -> None:
    found = short("x" * size)
    assert len(found) == min(size, 24)
    assert found.endswith("\u2026") == (size > 24)


def test_a_heavy_curve_is_thinned_but_keeps_its_ends() -> None:
    scores = np.random.default_rng(1).random(100_000)
    curve = tradeoff(scores, scores > 0.5)
    assert len(charts.operating_points(curve, 0.5)) < 60_000
    rows = charts._thinned(len(curve.thresholds))
    assert (rows[0], rows[-1]) == (0, len(curve.thresholds) - 1) and len(rows) == 400


def test_another_process_draws_the_same_whatever_the_settings_of_its_user(tmp_path: Any) -> None:
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nsvg.fonttype: path\nlines.linewidth: 9\n")
    code = "import sys; from tests.report.test_charts import DRAWN; sys.stdout.buffer.write(DRAWN['confusion']('svg'))"
    root = str(charts.__file__).rsplit("/tasks/", 1)[0]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, check=True,
        env={"MATPLOTLIBRC": str(tmp_path), "PYTHONHASHSEED": "7", "HOME": str(tmp_path), "PYTHONPATH": root},
    )  # fmt: skip
    assert done.stdout == DRAWN["confusion"]("svg")
