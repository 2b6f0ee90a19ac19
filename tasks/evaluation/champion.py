"""The comparison with the champion: the same held-out pictures, through the same predictor, scored again now.

Non-inferiority of paired proportions: the difference (challenger minus champion) must not be below minus a margin.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from serving.artifact import SPLIT, Artifact
from serving.predictor import load_predictor
from serving.settings import Device
from tasks.data.dataset import Subset
from tasks.data.split import read_table
from tasks.evaluation import intervals
from tasks.evaluation.evidence import Evidence, Pairs
from tasks.evaluation.gate import Line, Measurement
from tasks.evaluation.metrics import Floats, Ints, ratio
from tasks.evaluation.outputs import from_files
from tasks.evaluation.spec import DecisionSpec, GateSpec

RECALL_MARGIN, ACCURACY_MARGIN = 0.02, 0.05  # by value, where the user states none


@dataclass(frozen=True, slots=True)
class Comparison:
    """Lines with what they measure, McNemar's figures, and notes on what could not be compared."""

    lines: tuple[tuple[Line, Measurement | None], ...]
    mcnemar: dict[str, Any] | None
    notes: tuple[str, ...]


def score(
    champion: Artifact, version: int, generation: int, classes: tuple[str, ...], test: Subset, device: Device
) -> Pairs:
    """The champion's decisions on our test pictures, from the original bytes; its old figures are never looked at.

    Comparable are pictures that are in neither model's training or validation table, of classes both know.
    """
    table = read_table(champion.path / SPLIT)
    unseen = np.array([d not in table or table[d].split == "test" for d in test.digests], bool)
    known = np.isin(test.labels, [i for i, label in enumerate(classes) if label in champion.classes])
    rows = np.flatnonzero(unseen & known)
    part = Subset(
        test.rows[rows],
        test.labels[rows],
        tuple(test.digests[i] for i in rows),
        tuple(test.units[i] for i in rows),
        tuple(test.paths[i] for i in rows),
    )
    index = np.array([classes.index(label) if label in classes else -1 for label in champion.classes])
    decided = np.full(len(test), -1, np.int64)
    decided[rows] = index[from_files(load_predictor(champion, device), part).sample.decided]
    return Pairs(version, generation, champion.digest, champion.classes, decided, unseen & known)


def compare(evidence: Evidence, decision: DecisionSpec, gate: GateSpec) -> Comparison:
    """Paired differences: of each watched class, in what it is watched for, and of accuracy.

    Macro recall as well where no class is watched for recall. A class that only the champion knows is a line that
    nothing can measure: a folder that was not there today must not put a model live that cannot answer it.
    """
    pairs, test = evidence.champion, evidence.test
    if pairs is None:
        return Comparison((), None, ("no champion yet: this version is compared with nothing",))
    truth = np.where(pairs.comparable, test.truth, -1)
    gained = (test.decided == truth).astype(np.float64) - (pairs.decided == truth)
    whole = np.flatnonzero(pairs.comparable)
    groups = intervals.group_numbers(test.units) if evidence.grouped else None

    def recall(labels: Iterable[str]) -> Measurement | None:
        strata = [np.flatnonzero(truth == evidence.classes.index(label)) for label in labels]
        return paired_difference(gained, strata, groups, gate.confidence)

    def precision(label: str) -> Measurement | None:
        decisions = truth[whole], test.decided[whole], pairs.decided[whole]
        part = None if groups is None else groups[whole]
        return paired_precision(*decisions, evidence.classes.index(label), part, gate.confidence)

    known = [watch for watch in decision.watch if watch.label in pairs.classes]
    found = [
        ("recall", label, recall([label])) if wanted else ("precision", label, precision(label))
        for label, wanted in ((watch.label, watch.recall) for watch in known)
    ]
    if not any(watch.recall for watch in known):
        found.append(("recall", "overall", recall(label for label in evidence.classes if label in pairs.classes)))
    found += [("recall", label, None) for label in pairs.classes if label not in evidence.classes]
    accuracy = _line("accuracy_vs_champion", "overall", gate.champion_accuracy_margin, ACCURACY_MARGIN)
    lines = (
        *(
            (_line(f"{metric}_vs_champion", scope, gate.champion_recall_margin, RECALL_MARGIN), measured)
            for metric, scope, measured in found
        ),
        (accuracy, paired_difference(gained, [whole], groups, gate.confidence)),
    )
    return Comparison(lines, mcnemar(gained[whole], evidence.grouped), _notes(pairs, evidence.classes, test.truth))


def paired_precision(
    truth: Ints, ours: Ints, theirs: Ints, label: int, groups: Ints | None, confidence: float
) -> Measurement | None:
    """Precision of `label`, ours minus theirs, on the same pictures [N]; n: those that either decides to be it.

    The two have no denominator in common, so no score interval: pictures (or groups) are drawn again, both models'
    decisions together, and the interval is never narrower than Tango's without a difference on as many as the scarcer
    one decided. None where either decides none.
    """
    right, decided = truth == label, np.stack([ours == label, theirs == label], axis=1)

    def difference(weights: Floats) -> Floats:
        counts, hits = weights @ decided, weights @ (decided & right[:, None])
        first, second = ratio(hits, counts).T
        gained: Floats = first - second
        return gained

    def units(rows: npt.NDArray[np.bool_]) -> int:
        return int(rows.sum()) if groups is None else len(np.unique(groups[rows]))

    value = float(difference(np.ones((1, len(truth))))[0])
    if np.isnan(value):
        return None
    numbers = None if groups is None else np.unique(groups, return_inverse=True)[1].astype(np.int64)
    (drawn,) = intervals.bootstrap(truth, numbers, difference, confidence)
    low, high = intervals.tango(0, 0, min(units(decided[:, 0]), units(decided[:, 1])), confidence)
    ends = intervals.widest(drawn, (value + low, value + high))
    return Measurement(
        value, ends, units(decided[:, 0] | decided[:, 1]), unit="pictures" if groups is None else "groups"
    )


def paired_difference(gained: Floats, strata: list[Ints], groups: Ints | None, confidence: float) -> Measurement | None:
    """Mean over strata (classes) of the mean of `gained` (1: only ours is right, -1: only theirs, 0: alike).

    Tango's interval per stratum, put together; with groups, whole groups are drawn again, and the interval is never
    narrower than Tango's on as many pairs as there are groups. None without pairs in some stratum.
    """
    if not strata or any(len(rows) == 0 for rows in strata):
        return None
    values = [float(gained[rows].mean()) for rows in strata]
    units = [len(rows) if groups is None else len(np.unique(groups[rows])) for rows in strata]
    ends = [_tango(gained[rows], n, confidence) for rows, n in zip(strata, units, strict=True)]
    together = intervals.mean_of(values, ends)
    value = float(np.mean(values))
    if groups is None:
        return Measurement(value, together, sum(units))
    member = np.concatenate(strata)
    stratum = np.concatenate([np.full(len(rows), i) for i, rows in enumerate(strata)])
    count = len(np.unique(groups[member]))
    numbers = np.unique(groups[member], return_inverse=True)[1].astype(np.int64)
    starts = np.cumsum([0, *(len(rows) for rows in strata[:-1])])
    (drawn,) = intervals.bootstrap(
        stratum, numbers, lambda weights: _mean_over_strata(gained[member], starts, weights), confidence
    )
    return Measurement(value, intervals.widest(drawn, together), count, unit="groups")


def mcnemar(gained: Floats, grouped: bool) -> dict[str, Any]:
    """Exact McNemar test on the pictures that exactly one of the two gets right (two-sided binomial).

    With groups `p` is None: it would take a group's pictures, right or wrong together, for independent ones.
    """
    ours, theirs = int((gained > 0).sum()), int((gained < 0).sum())
    p = float(stats.binomtest(ours, ours + theirs).pvalue) if ours + theirs else 1.0
    return {"only_this_right": ours, "only_champion_right": theirs, "p": None if grouped else p, "n": len(gained)}


def _line(metric: str, scope: str, margin: float | None, default: float) -> Line:
    """A margin that the user states must be shown by the interval; the built-in one is judged by value."""
    evidence = "point" if margin is None else "interval"
    return Line(metric, "test", scope, ">=", -(default if margin is None else margin), evidence=evidence)


def _tango(gained: Floats, units: int, confidence: float) -> intervals.Interval:
    share = units / len(gained)
    return intervals.tango((gained > 0).sum() * share, (gained < 0).sum() * share, units, confidence)


def _mean_over_strata(gained: Floats, starts: Ints, weights: Floats) -> Floats:
    """[D] of weights [D, N]: the mean of each stratum's mean; they lie one after another, from `starts` on."""
    sums, counts = (np.add.reduceat(part, starts, axis=1) for part in (weights * gained, weights))
    means: Floats = ratio(sums, counts).mean(axis=1)
    return means


def _notes(pairs: Pairs, ours: tuple[str, ...], truth: Ints) -> tuple[str, ...]:
    notes = []
    added, removed = sorted(set(ours) - set(pairs.classes)), sorted(set(pairs.classes) - set(ours))
    if added or removed:
        notes.append(
            f"classes changed since the champion (added {added}, removed {removed}): compared on what both know"
        )
    known = np.isin(truth, [i for i, label in enumerate(ours) if label in pairs.classes])
    seen = int((known & ~pairs.comparable).sum())
    if seen:
        notes.append(f"{seen} test pictures were the champion's training or validation: left out of the comparison")
    return tuple(notes)
