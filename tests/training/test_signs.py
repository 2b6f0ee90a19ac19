"""The warning signs: each is told of a table or of outputs that show it, and a healthy training has none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from tasks.training.signs import signs
from tasks.training.table import Epoch

CLASSES = ("sound", "cracked")
Outputs = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]


def epoch(
    number: int, train_loss: float | None, validation_loss: float, train: float | None = 0.9, validation: float = 0.9
) -> Epoch:
    return Epoch(number, train_loss, train, validation_loss, validation, 0.9, 0.9, 0.9, 1e-4)


def course(*losses: tuple[float, float], train: float = 0.9, validation: float = 0.9) -> list[Epoch]:
    """A start of validation loss 1, and epochs of (training loss, validation loss)."""
    return [
        epoch(0, None, 1.0, None),
        *(epoch(i, a, b, train, validation) for i, (a, b) in enumerate(losses, start=1)),
    ]


def outputs(confusion: Sequence[Sequence[int]]) -> Outputs:
    """Logits and labels with so many pictures of each class (row) decided as each (column)."""
    pairs = [(i, j) for i, line in enumerate(confusion) for j, many in enumerate(line) for _ in range(many)]
    labels, decided = np.array(pairs).T
    return 4 * np.eye(len(confusion))[decided], labels


HEALTHY = course((0.9, 0.8), (0.6, 0.5), (0.5, 0.4))
GOOD = outputs([[90, 10], [5, 45]])


def test_a_healthy_training_has_none() -> None:
    assert signs(HEALTHY, GOOD, CLASSES) == ()


def test_a_little_rise_is_noise() -> None:
    assert signs(course((0.9, 0.8), (0.6, 0.5), (0.5, 0.524)), GOOD, CLASSES) == ()


@pytest.mark.parametrize(
    ("rows", "sign"),
    [
        (course((0.9, 0.8), (0.6, 0.5), (0.3, 0.53)), "overfitting: validation loss rose from 0.5000 (epoch 2"),
        (course((0.9, 0.5), (0.9, 0.45), (0.95, 0.4)), "nothing learned: training loss went from 0.9000 to 0.9500"),
        (course((0.9, 1.01), (0.8, 1.02)), "no better than the head alone"),
        (course((0.9, 0.8), (0.5, 0.4), train=0.97, validation=0.86), "training accuracy 0.9700 but validation"),
    ],
)
def test_each_sign_of_the_course_is_told_alone(rows: list[Epoch], sign: str) -> None:
    (told,) = signs(rows, GOOD, CLASSES)
    assert told.startswith(sign)
    assert told.count(": ") >= 2, "what to try comes after what was seen"


def test_validation_that_rises_with_training_is_not_overfitting() -> None:
    (told,) = signs(course((0.5, 0.4), (0.7, 0.9)), GOOD, CLASSES)
    assert told.startswith("nothing learned")


def test_one_epoch_cannot_show_that_nothing_is_learned() -> None:
    assert signs(course((0.9, 0.8)), GOOD, CLASSES) == ()


def test_the_gap_is_that_of_the_epoch_that_is_kept() -> None:
    """A later epoch, not kept, may have learned the pictures by heart."""
    rows = [*course((0.9, 0.5)), epoch(2, 0.1, 0.51, train=1.0, validation=0.8)]
    assert signs(rows, GOOD, CLASSES) == ()


def test_a_start_without_epochs_says_nothing_of_a_course() -> None:
    assert signs(course(), GOOD, CLASSES) == ()


def test_a_model_that_only_knows_the_most_frequent_class() -> None:
    (told,) = signs(HEALTHY, outputs([[70, 0], [30, 0]]), CLASSES)
    assert told.startswith("no better than always deciding the most frequent class: accuracy 0.7000")


@pytest.mark.parametrize(
    ("confusion", "label", "measures"),
    [
        ([[100, 0], [12, 8]], "cracked", "precision 1.0000 but recall 0.4000"),
        ([[8, 12], [0, 100]], "sound", "precision 1.0000 but recall 0.4000"),
        ([[95, 45, 0], [0, 30, 0], [0, 0, 60]], "torn", "recall 1.0000 but precision 0.4000"),
    ],
)
def test_precision_and_recall_that_part_are_told_of_their_class(
    confusion: list[list[int]], label: str, measures: str
) -> None:
    classes = CLASSES if len(confusion) == 2 else ("sound", "torn", "cracked")
    (told,) = signs(HEALTHY, outputs(confusion), classes)
    assert told.startswith(f"{label}: {measures}")


def test_a_class_that_is_never_decided_is_no_division_by_zero() -> None:
    found = signs(HEALTHY, outputs([[50, 0, 0], [0, 50, 0], [3, 3, 0]]), ("a", "b", "c"))
    assert found == ()


def test_all_of_them_are_told_together() -> None:
    rows = course((0.9, 0.5), (0.1, 0.9), train=0.99, validation=0.6)
    found = signs(rows, outputs([[70, 0], [30, 0]]), CLASSES)
    assert [text.split(":")[0].split(" but")[0] for text in found] == [
        "overfitting",
        "training accuracy 0.9900",
        "no better than always deciding the most frequent class",
    ]
