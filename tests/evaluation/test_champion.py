"""The comparison with the champion: which pictures count, the paired difference, its evidence and its notes."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from serving.artifact import SPLIT, Artifact
from serving.errors import BadInput
from serving.predictor import Predictor, load_predictor
from serving.settings import Device
from tasks.data.dataset import Subset
from tasks.data.split import Place, write_table
from tasks.evaluation import champion as champions
from tasks.evaluation import intervals
from tasks.evaluation.champion import (
    ACCURACY_MARGIN,
    RECALL_MARGIN,
    Comparison,
    _mean_over_strata,
    compare,
    mcnemar,
    paired_difference,
    score,
)
from tasks.evaluation.evidence import Evidence, Pairs
from tasks.evaluation.gate import Line, Measurement, judge
from tasks.evaluation.judgement import judge_all
from tasks.evaluation.metrics import Floats
from tasks.evaluation.spec import DecisionSpec, GateSpec, WatchSpec
from tests.evaluation.build import champion_of, counted, evidence, sample
from tests.serving.tiny import make_artifact, reseal

WATCH = DecisionSpec(watch=(WatchSpec(label="bad", recall=0.9),))
THREE = ("a", "b", "c")


def gained(ours: int, theirs: int, n: int) -> Floats:
    """+1 where only ours is right, -1 where only theirs is, 0 for the rest of n pictures."""
    return np.array([1.0] * ours + [-1.0] * theirs + [0.0] * (n - ours - theirs))


def compared(shown: Evidence, decision: DecisionSpec = DecisionSpec(), **gate: float) -> Comparison:
    return compare(shown, decision, GateSpec.model_validate(gate))


def measurements(comparison: Comparison) -> list[Measurement | None]:
    return [measured for _, measured in comparison.lines]


def verdicts(comparison: Comparison) -> list[str]:
    return [judge(line, measured).verdict for line, measured in comparison.lines]


# --- the paired difference


@pytest.mark.parametrize(("ours", "theirs", "n"), [(7, 2, 40), (0, 0, 50), (3, 9, 20), (20, 0, 20)])
def test_the_difference_of_one_stratum_is_tangos(ours: int, theirs: int, n: int) -> None:
    found = paired_difference(gained(ours, theirs, n), [np.arange(n)], None, 0.95)
    assert found is not None
    assert found.value == pytest.approx((ours - theirs) / n)
    assert found.interval == pytest.approx(intervals.tango(ours, theirs, n, 0.95))
    assert (found.n, found.unit, found.proportion) == (n, "pictures", False)


def test_identical_models_differ_by_nought_and_never_certainly() -> None:
    found = paired_difference(gained(0, 0, 60), [np.arange(60)], None, 0.95)
    assert found is not None
    z = stats.norm.ppf(0.975)
    assert found.value == 0
    assert found.interval == pytest.approx((-(z**2) / (60 + z**2), z**2 / (60 + z**2)))


def test_the_difference_of_several_strata_is_their_mean_put_together() -> None:
    """40 pictures of one class, 10 of another: 5 and 2 more right of the first, 1 fewer of the second."""
    values = np.concatenate([gained(6, 1, 40), gained(1, 2, 10)])
    found = paired_difference(values, [np.arange(40), np.arange(40, 50)], None, 0.95)
    assert found is not None
    assert found.value == pytest.approx((5 / 40 - 1 / 10) / 2)
    (low, high), (other_low, other_high) = intervals.tango(6, 1, 40, 0.95), intervals.tango(1, 2, 10, 0.95)
    assert found.interval[0] == pytest.approx(found.value - math.hypot(0.125 - low, -0.1 - other_low) / 2)
    assert found.interval[1] == pytest.approx(found.value + math.hypot(high - 0.125, other_high + 0.1) / 2)
    assert found.n == 50


def test_groups_are_drawn_whole_and_counted() -> None:
    """60 pictures in 6 groups, all of a group gained or lost together."""
    values = np.repeat([1.0, 1.0, 0.0, 0.0, 0.0, -1.0], 10)
    rows, groups = [np.arange(60)], np.repeat(np.arange(6), 10)
    alone, together = (paired_difference(values, rows, g, 0.95) for g in (None, groups))
    assert alone is not None
    assert together is not None
    assert together.value == alone.value == pytest.approx(1 / 6)
    assert (together.n, together.unit) == (6, "groups")
    low, high = intervals.tango(2, 1, 6, 0.95)
    assert together.interval[0] <= low < high <= together.interval[1], "never narrower than Tango's on 6"
    assert together.interval[1] - together.interval[0] > 2 * (alone.interval[1] - alone.interval[0])


def test_a_few_groups_without_a_difference_prove_little() -> None:
    found = paired_difference(gained(0, 0, 300), [np.arange(300)], np.repeat([4, 7, 9], 100), 0.95)
    assert found is not None
    assert (found.value, found.n) == (0, 3)
    assert found.interval == pytest.approx(intervals.tango(0, 0, 3, 0.95))


def test_groups_that_are_all_alike_are_tangos_on_as_many_groups() -> None:
    """8 groups of 10 with 2 gained and 1 lost in each: no resample differs, so the least width there is stands."""
    values = np.tile(gained(2, 1, 10), 8)
    found = paired_difference(values, [np.arange(80)], np.repeat(np.arange(8), 10), 0.95)
    assert found is not None
    assert found.interval == pytest.approx(intervals.tango(1.6, 0.8, 8, 0.95))


def test_one_large_group_makes_the_difference_uncertain() -> None:
    """100 pictures of one group are gained, one each of 19 others are not: without that group nothing is left."""
    values = np.concatenate([gained(100, 0, 100), gained(0, 0, 19)])
    groups = np.concatenate([np.zeros(100, np.int64), np.arange(1, 20)])
    found = paired_difference(values, [np.arange(119)], groups, 0.95)
    assert found is not None
    assert found.value == pytest.approx(100 / 119)
    assert found.interval[0] == 0


def test_a_resample_weighs_every_stratum_alike_and_needs_them_all() -> None:
    values, weights = np.array([1.0, -1.0, 1.0, 1.0, 0.0, 1.0]), np.ones((4, 6))
    weights[1, 5], weights[2, 4:], weights[3, :4] = 0, 0, 0
    found = _mean_over_strata(values, np.array([0, 4]), weights)
    assert found.tolist() == pytest.approx([(0.5 + 0.5) / 2, 0.25, math.nan, math.nan], nan_ok=True)


def test_a_stratum_without_pairs_leaves_nothing_to_compare() -> None:
    nothing = np.zeros(0, np.int64)
    assert paired_difference(gained(1, 0, 5), [np.arange(5), nothing], None, 0.95) is None
    assert paired_difference(gained(1, 0, 5), [nothing], None, 0.95) is None
    assert paired_difference(gained(1, 0, 5), [], None, 0.95) is None


def test_the_paired_interval_covers_in_a_simulation() -> None:
    """The challenger gains 12 % and loses 7 % of one class, 5 % and 5 % of another."""
    random, held = np.random.default_rng(0), 0
    for _ in range(400):
        first = random.choice([1.0, -1.0, 0.0], 60, p=[0.12, 0.07, 0.81])
        second = random.choice([1.0, -1.0, 0.0], 30, p=[0.05, 0.05, 0.90])
        found = paired_difference(np.concatenate([first, second]), [np.arange(60), np.arange(60, 90)], None, 0.95)
        assert found is not None
        held += found.interval[0] <= 0.025 <= found.interval[1]
    assert 0.93 <= held / 400 <= 0.99


# --- McNemar


@pytest.mark.parametrize(("ours", "theirs"), [(0, 0), (5, 0), (0, 3), (7, 2), (4, 4), (30, 14), (1, 0)])
def test_mcnemar_is_the_exact_binomial_test(ours: int, theirs: int) -> None:
    """By the formula: twice the smaller tail of Binomial(ours + theirs, 1/2), at most 1."""
    found = mcnemar(gained(ours, theirs, 100), grouped=False)
    both = ours + theirs
    tail = sum(math.comb(both, k) for k in range(min(ours, theirs) + 1)) / 2**both
    assert found == {
        "only_this_right": ours,
        "only_champion_right": theirs,
        "p": pytest.approx(min(1.0, 2 * tail)),
        "n": 100,
    }
    assert mcnemar(gained(ours, theirs, 100), grouped=True) == found | {"p": None}, "it takes them for independent"


# --- lines and evidence


def test_without_a_champion_nothing_is_compared() -> None:
    assert compared(evidence(counted([[5, 0], [0, 5]]))) == Comparison(
        (), None, ("no champion yet: this version is compared with nothing",)
    )


def test_by_default_the_margins_are_judged_by_value() -> None:
    test = counted([[20, 0], [0, 20]])
    lines = [line for line, _ in compared(evidence(test, champion=champion_of(test, test.decided.tolist()))).lines]
    assert (RECALL_MARGIN, ACCURACY_MARGIN) == (0.02, 0.05)
    assert lines == [
        Line("recall_vs_champion", "test", "overall", ">=", -0.02, "fail", "point"),
        Line("accuracy_vs_champion", "test", "overall", ">=", -0.05, "fail", "point"),
    ]


def test_a_margin_that_the_user_states_must_be_shown_by_the_interval() -> None:
    test = counted([[20, 0], [0, 20]])
    shown = evidence(test, champion=champion_of(test, test.decided.tolist()))
    comparison = compared(shown, WATCH, champion_recall_margin=0.1, champion_accuracy_margin=0)
    assert [line for line, _ in comparison.lines] == [
        Line("recall_vs_champion", "test", "bad", ">=", -0.1, "fail", "interval"),
        Line("accuracy_vs_champion", "test", "overall", ">=", 0, "fail", "interval"),
    ]
    only_one = compared(shown, champion_accuracy_margin=0.2)
    assert [line.evidence for line, _ in only_one.lines] == ["point", "interval"]


def test_identical_models_pass_by_value_and_by_interval_only_with_enough_pictures() -> None:
    """Tango's end for 40 pictures is 0.088, for 200 it is 0.019, and half of them are of the watched class."""
    for each, accuracy, recall in (
        (20, "INCONCLUSIVE", "INCONCLUSIVE"),
        (100, "PASSED", "INCONCLUSIVE"),
        (200, "PASSED", "PASSED"),
    ):
        test = counted([[each, 0], [0, each]])
        shown = evidence(test, champion=champion_of(test, test.decided.tolist()))
        assert verdicts(compared(shown, WATCH)) == ["PASSED", "PASSED"]
        strict = compared(shown, WATCH, champion_recall_margin=0.02, champion_accuracy_margin=0.02)
        assert verdicts(strict) == [recall, accuracy]
        assert strict.mcnemar == {"only_this_right": 0, "only_champion_right": 0, "p": 1.0, "n": 2 * each}


def test_a_worse_model_is_rejected_by_either_evidence() -> None:
    test = counted([[100, 0], [10, 90]])
    shown = evidence(test, champion=champion_of(test, test.truth.tolist()))
    for gate in ({}, {"champion_recall_margin": 0.02, "champion_accuracy_margin": 0.02}):
        comparison = compared(shown, WATCH, **gate)
        assert verdicts(comparison)[0] == "REJECTED"
        recall, accuracy = measurements(comparison)
        assert recall is not None
        assert accuracy is not None
        assert (recall.value, recall.n) == (pytest.approx(-0.1), 100)
        assert (accuracy.value, accuracy.n) == (pytest.approx(-0.05), 200)
        assert recall.interval == pytest.approx(intervals.tango(0, 10, 100, 0.95))
        assert accuracy.interval == pytest.approx(intervals.tango(0, 10, 200, 0.95))


def test_the_confidence_is_the_gate_s() -> None:
    test = counted([[30, 2], [3, 15]])
    shown = evidence(test, champion=champion_of(test, test.truth.tolist()))
    _, accuracy = measurements(compared(shown, confidence=0.8))
    assert accuracy is not None
    assert accuracy.interval == pytest.approx(intervals.tango(0, 5, 50, 0.8))


def test_with_groups_the_comparison_counts_groups() -> None:
    test = counted([[90, 10], [10, 90]], group_size=10)
    shown = evidence(test, grouped=True, champion=champion_of(test, test.truth.tolist()))
    recall, accuracy = measurements(compared(shown, WATCH))
    assert recall is not None
    assert accuracy is not None
    assert (recall.n, accuracy.n, accuracy.unit) == (10, 20, "groups")
    assert compared(shown, WATCH).mcnemar == {
        "only_this_right": 0, "only_champion_right": 20, "p": None, "n": 200,
    }  # fmt: skip


# --- classes that changed, pictures that were seen


def of_three(champion_classes: tuple[str, ...], comparable: list[bool] | None = None) -> Evidence:
    """10 pictures of a, 10 of b, 5 of c. Ours misses two of a and two of b; the champion is right where it can be."""
    truth = [0] * 10 + [1] * 10 + [2] * 5
    decided = [0] * 8 + [1] * 2 + [1] * 8 + [0] * 2 + [2] * 5
    test = sample(truth, decided, classes=3)
    known = [THREE[i] in champion_classes for i in truth]
    return evidence(test, classes=THREE, champion=champion_of(test, truth, champion_classes, comparable or known))


def test_a_class_added_since_is_left_out_and_noted() -> None:
    comparison = compared(of_three(("a", "b")))
    recall, accuracy = measurements(comparison)
    assert recall is not None
    assert accuracy is not None
    assert recall.value == pytest.approx(-0.2), "the mean of a and b; c cannot be compared"
    assert (recall.n, accuracy.value, accuracy.n) == (20, pytest.approx(-0.2), 20)
    assert comparison.mcnemar is not None
    assert comparison.mcnemar["n"] == 20
    assert comparison.notes == (
        "classes changed since the champion (added ['c'], removed []): compared on what both know",
    )


def test_a_class_removed_since_is_noted_and_counts_as_the_champion_s_mistake() -> None:
    """Where the champion decides `old`, which is no class any more, it is wrong."""
    test = sample([0] * 10 + [1] * 10)
    champion = champion_of(test, [0] * 10 + [1] * 6 + [-1] * 4, ("good", "bad", "old"))
    comparison = compared(evidence(test, champion=champion))
    recall, removed, accuracy = measurements(comparison)
    assert recall is not None
    assert accuracy is not None
    assert (recall.value, accuracy.value) == (pytest.approx(0.2), pytest.approx(0.2))
    assert removed is None
    assert comparison.notes == (
        "classes changed since the champion (added [], removed ['old']): compared on what both know",
    )


def test_a_watched_class_that_the_champion_does_not_know_gives_way_to_the_mean() -> None:
    comparison = compared(of_three(("a", "b")), DecisionSpec(watch=(WatchSpec(label="c", recall=0.9),)))
    assert [line.scope for line, _ in comparison.lines] == ["overall", "overall"]
    second = DecisionSpec(watch=(WatchSpec(label="c", recall=0.9), WatchSpec(label="b", recall=0.9)))
    (line, recall), _ = compared(of_three(("a", "b")), second).lines
    assert line.scope == "b"
    assert recall is not None
    assert (recall.value, recall.n) == (pytest.approx(-0.2), 10)


def test_a_class_removed_since_is_inconclusive_until_somebody_promotes_by_hand() -> None:
    """A folder that was not there today: all the rest is as good, and nothing can answer `old` any more."""
    test = sample([0] * 10 + [1] * 10)
    shown = evidence(test, champion=champion_of(test, test.truth.tolist(), ("good", "old", "bad")))
    for decision in (DecisionSpec(), WATCH):
        judged = judge_all(shown, decision, GateSpec(), "fp32")
        assert judged.verdict == "INCONCLUSIVE"
        (check,) = (check for check in judged.checks if check.verdict != "PASSED")
        assert (check.metric, check.scope, check.value) == ("recall_vs_champion", "old", None)
        assert check.advice == (
            "class 'old' removed since the champion, which answers it: give its pictures back, or if it is meant to "
            'go, promote by hand: thaw promote NAME:VERSION --override "reason"'
        )


def test_pictures_that_the_champion_has_seen_are_left_out_and_counted() -> None:
    """The two of class a that ours misses were the champion's training pictures."""
    comparable = [True] * 8 + [False] * 2 + [True] * 15
    comparison = compared(of_three(THREE, comparable))
    recall, accuracy = measurements(comparison)
    assert recall is not None
    assert accuracy is not None
    assert recall.value == pytest.approx((0 - 0.2 + 0) / 3)
    assert (accuracy.value, accuracy.n) == (pytest.approx(-2 / 23), 23)
    assert comparison.notes == (
        "2 test pictures were the champion's training or validation: left out of the comparison",
    )


@pytest.mark.parametrize("margins", [{}, {"champion_recall_margin": 1.0, "champion_accuracy_margin": 1.0}])
def test_no_comparable_pictures_are_inconclusive_whatever_the_margin(margins: dict[str, float]) -> None:
    comparison = compared(of_three(THREE, [False] * 25), DecisionSpec(), **margins)
    assert measurements(comparison) == [None, None]
    assert verdicts(comparison) == ["INCONCLUSIVE", "INCONCLUSIVE"]
    assert comparison.mcnemar == {"only_this_right": 0, "only_champion_right": 0, "p": 1.0, "n": 0}
    assert comparison.notes == (
        "25 test pictures were the champion's training or validation: left out of the comparison",
    )


def test_no_comparable_pictures_of_one_class_leave_the_mean_recall_unknown() -> None:
    comparison = compared(of_three(THREE, [True] * 20 + [False] * 5))
    recall, accuracy = measurements(comparison)
    assert recall is None
    assert accuracy is not None
    assert accuracy.n == 20
    wide = GateSpec(champion_accuracy_margin=1.0)
    judged = judge_all(of_three(THREE, [True] * 20 + [False] * 5), DecisionSpec(), wide, "fp32")
    assert [check.metric for check in judged.checks if check.verdict != "PASSED"] == ["recall_vs_champion"]
    assert judged.verdict == "INCONCLUSIVE"


def test_no_class_in_common_is_inconclusive() -> None:
    test = sample([0] * 5 + [1] * 5)
    champion = champion_of(test, [-1] * 10, ("old", "older"), [False] * 10)
    comparison = compared(evidence(test, champion=champion))
    assert verdicts(comparison) == ["INCONCLUSIVE"] * 4, "the mean, both classes removed, accuracy"
    assert comparison.notes == (
        "classes changed since the champion (added ['bad', 'good'], removed ['old', 'older']): compared on what both "
        "know",
    )


# --- scoring, with a real artifact: a linear model on the mean colour, whose classes are red, green and blue

OURS = ("green", "pink", "red")
PAINT = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200), "pink": (200, 20, 20)}


def paint(folder: Path, labels: list[str], colours: list[str]) -> Subset:
    """One picture a label, of that colour, each with other bytes."""
    paths = []
    for i, colour in enumerate(colours):
        picture = Image.new("RGB", (12, 12), PAINT[colour])
        picture.putpixel((0, 0), (i, i, i))
        paths.append(folder / f"{i}.png")
        picture.save(paths[-1])
    digests = tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    rows = np.arange(len(labels))
    truth = np.array([OURS.index(label) for label in labels], np.int64)
    return Subset(rows, truth, digests, tuple(f"unit-{i}" for i in rows), tuple(paths))


def champion(place: Path, seen: dict[str, str]) -> Artifact:
    """The tiny artifact whose split table says where it saw which picture."""
    made = make_artifact(place)
    write_table(made.path / SPLIT, {digest: Place(f"old-{i}", split) for i, (digest, split) in enumerate(seen.items())})
    return reseal(made.path)


def scored(made: Artifact, test: Subset) -> Pairs:
    return score(made, 4, 9, OURS, test, "cpu")


def test_the_champion_s_decisions_are_in_our_classes(tmp_path: Path) -> None:
    """It calls a blue picture `blue`, which is no class of ours: that is a mistake, whatever it is."""
    test = paint(tmp_path, ["red", "green", "green", "red"], ["red", "green", "blue", "green"])
    made = champion(tmp_path / "champion", {})
    pairs = scored(made, test)
    assert pairs.decided.tolist() == [2, 0, -1, 0]
    assert pairs.comparable.tolist() == [True] * 4
    assert (pairs.version, pairs.generation, pairs.digest) == (4, 9, made.digest)
    assert pairs.classes == ("red", "green", "blue")


def test_only_pictures_unseen_by_it_and_of_classes_it_knows_are_comparable(tmp_path: Path) -> None:
    labels = ["red", "red", "red", "green", "pink"]
    test = paint(tmp_path, labels, labels)
    seen = dict(zip(test.digests, ["train", "validation", "test"], strict=False))
    pairs = scored(champion(tmp_path / "champion", seen), test)
    assert pairs.comparable.tolist() == [False, False, True, True, False]
    assert pairs.decided.tolist() == [-1, -1, 2, 0, -1]


def test_the_champion_runs_on_the_device_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def load(artifact: Artifact, device: Device) -> Predictor:
        asked.append(device)
        return load_predictor(artifact, "cpu")

    monkeypatch.setattr(champions, "load_predictor", load)
    test = paint(tmp_path, ["red"], ["red"])
    score(champion(tmp_path / "champion", {}), 4, 9, OURS, test, "cuda")
    assert asked == ["cuda"]


def test_a_champion_that_has_seen_everything_is_compared_on_nothing(tmp_path: Path) -> None:
    test = paint(tmp_path, ["red", "green"], ["red", "green"])
    pairs = scored(champion(tmp_path / "champion", dict.fromkeys(test.digests, "train")), test)
    assert not pairs.comparable.any()
    assert pairs.decided.tolist() == [-1, -1]


def test_a_test_picture_that_changed_is_refused(tmp_path: Path) -> None:
    test = paint(tmp_path, ["red", "green"], ["red", "green"])
    Image.new("RGB", (12, 12), PAINT["blue"]).save(test.paths[1])
    with pytest.raises(BadInput, match="found other bytes: it changed during the run"):
        scored(champion(tmp_path / "champion", {}), test)
    test.paths[1].unlink()
    with pytest.raises(BadInput, match="cannot be opened"):
        scored(champion(tmp_path / "champion", {}), test)
