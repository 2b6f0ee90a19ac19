"""The precision benchmark: speeds of a real small file, requirements and table on figures made up."""

from __future__ import annotations

from typing import Any

from benchmarks.precision import requirements, table, timed
from serving import artifact as artifacts
from serving.predictor import load_predictor
from tasks.data.dataset import subset
from tests.conftest import Pipeline


def file(precision: str, accuracy: float, size: float, difference: float) -> dict[str, Any]:
    point = {"accuracy": [accuracy, accuracy - 0.02, accuracy + 0.02], "recall": [0.9, 0.8, 0.95]}
    return {
        "precision": precision,
        "verdict": "PASSED",
        "served": point,
        "argmax": point,
        "temperature": 1.0,
        "threshold": None,
        "size_mb": size,
        "largest_difference": difference,
        "labels_as_fp32": 1.0,
        "argmax_as_fp32": 1.0,
        "latency_ms": 5.0,
        "pictures_per_second": 200.0,
    }


def figures(**changes: dict[str, Any]) -> dict[str, Any]:
    files = [file("fp32", 0.89, 13.7, 7e-6), file("fp16", 0.888, 7.0, 9e-3), file("int8", 0.891, 3.8, 0.2)]
    files = [row | changes.get(row["precision"], {}) for row in files]
    run = {"precision": "fp32", "verdict": "PASSED"}
    return {"pictures": 654, "watched": "bad", "run": run, "repeats": 10, "files": files}


def test_requirements() -> None:
    assert all(holds for holds, _ in requirements(figures()))
    for change in (
        {"fp32": {"largest_difference": 1e-3}},
        {"fp32": {"verdict": "REJECTED"}},
        {"int8": {"size_mb": 5.0}},
        {"int8": {"argmax": file("int8", 0.81, 3.8, 0.2)["argmax"]}},
    ):
        assert [holds for holds, _ in requirements(figures(**change))].count(False) == 1, change


def test_the_table_has_a_column_a_precision() -> None:
    text = table(figures())
    assert "|  | fp32 | fp16 | int8 |" in text
    assert "| accuracy at argmax | 0.890 (0.870-0.910) |" in text
    assert "| threshold | - | - | - |" in text


def test_speeds_are_measured_for_every_file(pipeline: Pipeline) -> None:
    predictor = load_predictor(artifacts.read(pipeline.certified.artifact), "cpu")
    found = timed([predictor, predictor], subset(pipeline.dataset, "test"), repeats=3)
    assert len(found) == 2
    assert all(row["latency_ms"] > 0 and row["pictures_per_second"] > 0 for row in found)
