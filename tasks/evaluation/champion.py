"""The comparison with the champion: the same held-out pictures, through the same predictor, scored again now."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.artifact import SPLIT, Artifact
from serving.predictor import load_predictor
from serving.settings import Device
from tasks.data.dataset import Subset
from tasks.data.split import read_table
from tasks.evaluation import intervals
from tasks.evaluation.evidence import from_files
from tasks.evaluation.gate import Line, Measurement
from tasks.evaluation.metrics import Ints
from tasks.evaluation.spec import DecisionSpec, GateSpec


@dataclass(frozen=True, slots=True)
class Comparison:
    """`generation` 0 and no lines: there is no champion yet. `notes` say what could not be compared."""

    generation: int
    version: int | None
    lines: tuple[tuple[Line, Measurement | None], ...]
    notes: tuple[str, ...]


def no_champion() -> Comparison:
    return Comparison(0, None, (), ("no champion yet: this version is compared with nothing",))


def compare(
    champion: Artifact,
    version: int,
    generation: int,
    classes: tuple[str, ...],
    test: Subset,
    decided: Ints,
    decision: DecisionSpec,
    gate: GateSpec,
    grouped: bool,
    device: Device,
) -> Comparison:
    """Paired differences (challenger minus champion) of the watched class's recall (else macro recall) and of accuracy.

    Only on test pictures that are in neither model's training or validation table, and on classes both know.
    """
    table = read_table(champion.path / SPLIT)
    unseen = np.array([d not in table or table[d].split == "test" for d in test.digests], bool)
    known = np.array([classes[label] in champion.classes for label in test.labels], bool)
    rows = np.flatnonzero(unseen & known)
    notes = _notes(champion.classes, classes, len(test), unseen)
    part = Subset(
        test.rows[rows],
        test.labels[rows],
        tuple(test.digests[i] for i in rows),
        tuple(test.units[i] for i in rows),
        tuple(test.paths[i] for i in rows),
    )
    outputs = from_files(load_predictor(champion, device), part)
    theirs = _translated(outputs.decided, champion.classes, classes)
    right, right_theirs = decided[rows] == part.labels, theirs == part.labels
    watched = [classes.index(watch.label) for watch in decision.watch if watch.label in champion.classes][:1]
    scope = classes[watched[0]] if watched else "overall"
    shared = watched or [i for i, label in enumerate(classes) if label in champion.classes]
    strata = [np.flatnonzero(part.labels == index) for index in shared]
    margins = (
        (-gate.champion_recall_margin, "recall_vs_champion", scope, strata),
        (-gate.champion_accuracy_margin, "accuracy_vs_champion", "overall", [np.arange(len(part))]),
    )
    units = np.array(part.units)
    lines = tuple(
        (
            Line(metric, "test", where, ">=", threshold, evidence="point"),
            _difference(right, right_theirs, rows_of, units, grouped, gate.confidence),
        )
        for threshold, metric, where, rows_of in margins
    )
    return Comparison(generation, version, lines, notes)


def _difference(
    ours: npt.NDArray[np.bool_],
    theirs: npt.NDArray[np.bool_],
    strata: list[Ints],
    units: npt.NDArray[np.str_],
    grouped: bool,
    confidence: float,
) -> Measurement | None:
    """Mean over strata of the mean paired difference; the interval resamples pairs, or whole groups."""
    if not strata or any(len(rows) == 0 for rows in strata):
        return None
    difference = ours.astype(np.float64) - theirs.astype(np.float64)
    value = float(np.mean([difference[rows].mean() for rows in strata]))
    member = np.concatenate(strata)

    def statistic(rows: Ints) -> float:
        parts = [difference[rows[np.isin(rows, stratum)]] for stratum in strata]
        return float(np.mean([part.mean() if len(part) else np.nan for part in parts]))

    if grouped:
        groups = [member[units[member] == unit] for unit in np.unique(units[member])]
        return Measurement(value, intervals.group_bootstrap(groups, statistic, confidence), len(groups), unit="groups")
    return Measurement(value, intervals.bootstrap(strata, statistic, confidence), len(member))


def _translated(decided: Ints, theirs: tuple[str, ...], ours: tuple[str, ...]) -> Ints:
    """The champion's class indices in our order; a class we do not know becomes -1, which is never right."""
    index = np.array([ours.index(label) if label in ours else -1 for label in theirs])
    return index[decided]


def _notes(theirs: tuple[str, ...], ours: tuple[str, ...], n: int, unseen: npt.NDArray[np.bool_]) -> tuple[str, ...]:
    notes = []
    added, removed = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
    if added or removed:
        notes.append(
            f"classes changed since the champion (added {added}, removed {removed}): compared on what both know"
        )
    if not unseen.all():
        seen = n - int(unseen.sum())
        notes.append(f"{seen} test pictures were the champion's training or validation: left out of the comparison")
    return tuple(notes)
