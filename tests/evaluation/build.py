"""Samples and evidence small enough to count by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tasks.data.dataset import Slice
from tasks.evaluation.evidence import Evidence, Machine, Pairs
from tasks.evaluation.metrics import Floats
from tasks.evaluation.sample import Sample

CLASSES = ("good", "bad")
MACHINE = Machine(parity=1e-6, parity_logits=1e-5, latencies_ms=tuple(float(ms) for ms in range(10, 40)))


def sample(
    truth: Sequence[int],
    decided: Sequence[int] | None = None,
    probabilities: npt.ArrayLike | None = None,
    units: Sequence[str] | None = None,
    slices: Mapping[str, Sequence[str]] | None = None,
    classes: int = 2,
    name: str = "picture",
) -> Sample:
    """Everything is decided right unless `decided` says otherwise; what is decided has a probability of 0.8."""
    true = np.array(truth, np.int64)
    labels = true if decided is None else np.array(decided, np.int64)
    if probabilities is None:
        probabilities = np.full((len(true), classes), 0.2 / (classes - 1))
        probabilities[np.arange(len(true)), labels] = 0.8
    return Sample(
        true,
        np.array(probabilities, np.float32).reshape(len(true), classes),
        labels,
        tuple(f"{name}-{i:06}" for i in range(len(true))),
        tuple(units) if units is not None else tuple(f"unit-{i}" for i in range(len(true))),
        tuple(Slice(column, tuple(values)) for column, values in (slices or {}).items()),
    )


def counted(confusion: Sequence[Sequence[int]], group_size: int = 1, name: str = "picture") -> Sample:
    """Pictures as a confusion matrix counts them (row: true class). Each class's are in groups of `group_size`."""
    cells = np.array(confusion)
    truth, decided = (np.repeat(index.ravel(), cells.ravel()) for index in np.indices(cells.shape))
    numbers = np.concatenate([np.arange(total) // group_size for total in cells.sum(axis=1)])
    units = [f"class {c}, group {k}" for c, k in zip(truth, numbers, strict=True)]
    return sample(truth.tolist(), decided.tolist(), units=units, classes=len(cells), name=name)


def evidence(
    test: Sample,
    train: Sample | None = None,
    validation: Sample | None = None,
    classes: tuple[str, ...] = CLASSES,
    grouped: bool = False,
    head_only: Floats | None = None,
    champion: Pairs | None = None,
    machine: Machine = MACHINE,
) -> Evidence:
    """Training and validation say what test says unless they are given. The file has 2 MB."""
    samples = {"train": train or test, "validation": validation or test, "test": test}
    return Evidence(classes, grouped, samples, head_only, champion, 2_000_000, machine)


def champion_of(
    test: Sample,
    decided: Sequence[int],
    classes: tuple[str, ...] = CLASSES,
    comparable: Sequence[bool] | None = None,
) -> Pairs:
    """Version 3 of generation 7, on the same pictures; all of them comparable unless said otherwise."""
    unseen = np.ones(len(test), bool) if comparable is None else np.array(comparable, bool)
    return Pairs(3, 7, "c" * 64, classes, np.where(unseen, np.array(decided, np.int64), -1), unseen)
