"""What is measured: the value, its interval, and n as the number of independent units behind it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tasks.evaluation import intervals, scores
from tasks.evaluation.gate import Measurement
from tasks.evaluation.intervals import wilson
from tasks.evaluation.measure import LOSSES, ON_PICTURES, RANKINGS, f1_scores, gain, gap, measure, rankings
from tasks.evaluation.metrics import BY_CLASS, OVERALL, Floats, confusion_matrix
from tasks.evaluation.sample import Sample
from tests.evaluation.build import counted, sample

THREE = [[80, 15, 5], [4, 30, 6], [1, 2, 17]]
EMPTY = sample([], classes=3)


def noisy(n: int, seed: int = 0, classes: int = 3) -> Sample:
    """Random pictures with random probabilities that lean to the truth; four pictures a unit."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, n)
    logits = random.normal(size=(n, classes)) + 1.5 * np.eye(classes)[truth]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    units = [f"{i // 4}" for i in range(n)]
    return sample(truth.tolist(), shares.argmax(axis=1).tolist(), shares, units, classes=classes)


def of(
    metric: str, found: Sample, label: int | None = None, grouped: bool = False, confidence: float = 0.95
) -> Measurement:
    return measure(metric, found, label, found.probabilities.shape[1], grouped, confidence)


def not_measured(found: Measurement) -> bool:
    return math.isnan(found.value) and all(math.isnan(end) for end in found.interval)


# --- values and n


@pytest.mark.parametrize("metric", sorted(OVERALL))
@pytest.mark.parametrize("grouped", [False, True])
def test_an_overall_figure_is_that_of_the_confusion_matrix(metric: str, grouped: bool) -> None:
    found = of(metric, noisy(200), grouped=grouped)
    exact = noisy(200)
    assert found.value == pytest.approx(float(OVERALL[metric](confusion_matrix(exact.truth, exact.decided, 3))))
    assert found.interval[0] < found.value < found.interval[1]
    assert (found.n, found.unit) == ((50, "groups") if grouped else (200, "pictures"))


@pytest.mark.parametrize("metric", sorted(BY_CLASS))
def test_a_figure_by_class_is_that_class_s_and_counts_the_pictures_it_is_about(metric: str) -> None:
    shown = counted(THREE)
    for label, about in enumerate({"recall": (100, 40, 20), "precision": (85, 47, 28), "f1": (160,) * 3}[metric]):
        found = of(metric, shown, label)
        assert found.value == pytest.approx(float(BY_CLASS[metric](np.array(THREE))[label]))
        assert found.n == about
        assert found.interval[0] < found.value < found.interval[1]


@pytest.mark.parametrize("metric", sorted(LOSSES))
@pytest.mark.parametrize("grouped", [False, True])
def test_a_loss_is_the_mean_over_pictures(metric: str, grouped: bool) -> None:
    shown = noisy(120)
    found = of(metric, shown, grouped=grouped)
    assert found.value == LOSSES[metric](shown.probabilities, shown.truth)
    assert found.interval[0] < found.interval[1]
    assert (found.n, found.unit) == ((30, "groups") if grouped else (120, "pictures"))


@pytest.mark.parametrize("metric", sorted(RANKINGS))
def test_a_ranking_is_of_one_class_or_the_mean_of_all(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 200)
    shown = noisy(120)
    each = [getattr(scores, metric)(shown.probabilities[:, i], shown.truth == i) for i in range(3)]
    assert [of(metric, shown, i).value for i in range(3)] == each
    assert of(metric, shown).value == pytest.approx(np.mean(each))
    together = rankings(metric, shown, 3, False, 0.95)
    assert together == [of(metric, shown, i) for i in (0, 1, 2, None)]
    assert all(found.interval[0] < found.value < found.interval[1] for found in together)
    assert of(metric, shown, grouped=True).n == 30


@pytest.mark.parametrize("grouped", [False, True])
def test_all_f1_scores_at_once_are_those_one_by_one(grouped: bool) -> None:
    shown = noisy(120)
    together = f1_scores(shown, 3, grouped, 0.95)
    assert [found.value for found in together] == [of("f1", shown, i, grouped).value for i in range(3)]
    assert [found.interval for found in together] == [of("f1", shown, i, grouped).interval for i in range(3)]
    assert [(found.n, found.unit) for found in together] == [(30, "groups") if grouped else (120, "pictures")] * 3


def test_rankings_of_very_many_pictures_have_values_without_intervals() -> None:
    shown = noisy(120)
    drawn, undrawn = (rankings("roc_auc", shown, 3, False, 0.95, yes) for yes in (True, False))
    assert [found.value for found in undrawn] == [found.value for found in drawn]
    assert all(math.isnan(end) for found in undrawn for end in found.interval)
    assert [found.n for found in undrawn] == [120] * 4


def test_the_losses_are_the_scores_of_the_same_names() -> None:
    assert set(LOSSES) == {"log_loss", "brier", "calibration_error"}
    assert set(RANKINGS) == {"roc_auc", "pr_auc"}
    assert all(function is getattr(scores, name) for name, function in LOSSES.items())
    assert all(function is getattr(scores, f"{name}s") for name, function in RANKINGS.items())


# --- intervals


@pytest.mark.parametrize(
    ("metric", "label", "hits", "n"),
    [
        ("recall", 1, 30, 40),
        ("precision", 1, 30, 47),
        ("accuracy", None, 127, 160),
        ("weighted_recall", None, 127, 160),
    ],
)
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_proportions_are_wilsons_on_their_own_n(
    metric: str, label: int | None, hits: int, n: int, confidence: float
) -> None:
    found = of(metric, counted(THREE), label, confidence=confidence)
    assert found == Measurement(hits / n, wilson(hits, n, confidence), n, proportion=True)


@pytest.mark.parametrize("metric", ["macro_recall", "balanced_accuracy"])
def test_mean_recalls_are_drawn_from_jeffreys(metric: str) -> None:
    found = of(metric, counted(THREE))
    assert found.interval == intervals.jeffreys_macro([80, 30, 17], [100, 40, 20], 0.95)
    assert not found.proportion


@pytest.mark.parametrize("metric", [*sorted(set(OVERALL) - {"accuracy", "weighted_recall"}), *RANKINGS])
@pytest.mark.parametrize("perfect", [[[5, 0], [0, 5]], [[500, 0], [0, 3]]])
def test_a_few_perfect_pictures_prove_no_perfection(metric: str, perfect: list[list[int]]) -> None:
    """However many there are of the other class."""
    found = of(metric, counted(perfect))
    assert found.value == 1.0
    assert found.interval[0] < 0.85


@pytest.mark.parametrize("metric", ["f1", "roc_auc", "pr_auc"])
def test_three_perfect_pictures_of_a_class_prove_little_of_it(metric: str) -> None:
    found = of(metric, counted([[500, 0], [0, 3]]), label=1)
    assert found.value == 1.0
    assert found.interval[0] == pytest.approx(wilson(3, 3, 0.95)[0])


@pytest.mark.parametrize("metric", ["recall", "precision", "f1", "roc_auc", "pr_auc"])
def test_three_perfect_groups_of_a_class_prove_little_of_it(metric: str) -> None:
    """30 pictures of 3 patients beside 300 healthy ones: 3 units show it, whatever else was seen."""
    found = of(metric, counted([[3000, 0], [0, 30]], group_size=10), label=1, grouped=True)
    assert found.value == 1.0
    assert found.interval[0] <= wilson(3, 3, 0.95)[0] + 1e-9


@pytest.mark.parametrize("metric", ["roc_auc", "pr_auc"])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_ranking_hangs_on_the_scarcer_of_both_kinds(metric: str, grouped: bool) -> None:
    """3 units of another class are all that the first one was ever told from."""
    confusion, size = ([[3000, 0], [0, 30]], 10) if grouped else ([[500, 0], [0, 3]], 1)
    found = of(metric, counted(confusion, group_size=size), label=0, grouped=grouped)
    assert found.value == 1.0
    assert found.interval[0] <= wilson(3, 3, 0.95)[0] + 1e-9


@pytest.mark.parametrize("metric", ["roc_auc", "pr_auc"])
def test_a_ranking_of_one_class_ranks_no_other(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ranked: list[int] = []
    plain = RANKINGS[metric]

    def counting(shares: Floats, positive: np.ndarray, weights: Floats) -> Floats:
        ranked.append(len(weights))
        return plain(shares, positive, weights)

    monkeypatch.setitem(RANKINGS, metric, counting)
    found = of(metric, noisy(60), 1)
    assert ranked == [1, intervals.RESAMPLES], "the pictures as they are, then all draws at once"
    assert found == rankings(metric, noisy(60), 3, False, 0.95)[1]


@pytest.mark.parametrize("grouped", [False, True])
def test_a_calibrated_model_s_calibration_error_may_be_nought(grouped: bool) -> None:
    """Noise adds to it, in a sample and in every draw: percentiles would start above nought for every one of these."""
    above = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        logits = 2 * random.normal(size=(300, 3))
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        truth = (shares.cumsum(axis=1) < random.random((300, 1))).sum(axis=1)
        found = of("calibration_error", sample(truth.tolist(), probabilities=shares, classes=3), grouped=grouped)
        assert found.interval[0] < found.value <= found.interval[1]
        above += found.interval[0] > 0.005
    assert above <= 2


def test_an_uncalibrated_model_s_calibration_error_is_shown() -> None:
    """Always sure to 95 %, right in 70 % of each class: the error is 0.25, and one half of it can be shown."""
    decided, right = np.arange(400) % 2, np.arange(400) % 20 < 14
    shares = np.where(decided[:, None] == [0, 1], 0.95, 0.05)
    found = of("calibration_error", sample(np.where(right, decided, 1 - decided).tolist(), decided.tolist(), shares))
    assert found.value == pytest.approx(0.25)
    assert 0.125 < found.interval[0] < 0.24 < 0.26 < found.interval[1]


@pytest.mark.parametrize("metric", ["macro_recall", "balanced_accuracy", "macro_precision", "macro_f1", "roc_auc"])
def test_three_perfect_groups_of_a_class_prove_little_of_a_mean_over_classes(metric: str) -> None:
    found = of(metric, counted([[3000, 0], [0, 30]], group_size=10), grouped=True)
    assert found.value == 1.0
    assert found.interval[0] < 0.85


@pytest.mark.parametrize(("metric", "label"), [("recall", 0), ("precision", 0), ("f1", 0), ("accuracy", None)])
def test_groups_widen_the_interval_and_are_what_n_counts(metric: str, label: int | None) -> None:
    """200 pictures of 20 patients are evidence of 20, not of 200."""
    shown = counted([[90, 10], [10, 90]], group_size=10)
    apart, together = of(metric, shown, label), of(metric, shown, label, grouped=True)
    assert together.value == apart.value
    assert together.interval[0] < apart.interval[0]
    assert (apart.unit, together.unit) == ("pictures", "groups")
    assert together.n == {"recall": 10, "precision": 10, "f1": 20, "accuracy": 20}[metric]
    assert not together.proportion, "its interval is no longer Wilson's on n"


def test_a_few_groups_are_never_narrower_than_wilsons_on_as_many() -> None:
    found = of("recall", counted([[30, 0], [0, 30]], group_size=10), 1, grouped=True)
    assert found.interval == pytest.approx(wilson(3, 3, 0.95))
    assert found.n == 3


def test_each_picture_its_own_group_is_about_as_wide_as_no_groups() -> None:
    shown = counted([[90, 10], [30, 70]])
    for metric in ("accuracy", "macro_f1", "log_loss"):
        apart, together = of(metric, shown), of(metric, shown, grouped=True)
        assert together.n == apart.n == 200
        width = apart.interval[1] - apart.interval[0]
        assert together.interval[1] - together.interval[0] == pytest.approx(width, rel=0.35)


# --- undefined


@pytest.mark.parametrize("metric", ON_PICTURES)
@pytest.mark.parametrize("grouped", [False, True])
def test_no_pictures_measure_nothing(metric: str, grouped: bool) -> None:
    found = of(metric, EMPTY, label=0 if metric in BY_CLASS else None, grouped=grouped)
    assert not_measured(found)
    assert found.n == 0


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(
    "metric", ["macro_recall", "balanced_accuracy", "macro_precision", "macro_f1", "roc_auc", "pr_auc"]
)
def test_a_mean_over_classes_needs_them_all(metric: str, grouped: bool) -> None:
    """10 pictures of the first two classes, none of the third."""
    assert not_measured(of(metric, counted([[8, 2, 0], [3, 7, 0], [0, 0, 0]]), grouped=grouped))


@pytest.mark.parametrize("grouped", [False, True])
def test_what_a_class_without_pictures_leaves_undefined(grouped: bool) -> None:
    shown = counted([[8, 1, 1], [3, 7, 0], [0, 0, 0]])
    for metric in ("recall", "roc_auc", "pr_auc"):
        assert not_measured(of(metric, shown, 2, grouped))
    assert of("precision", shown, 2, grouped).value == 0
    assert of("f1", shown, 2, grouped).value == 0
    assert of("accuracy", shown, grouped=grouped).value == 0.75
    assert of("weighted_recall", shown, grouped=grouped).value == 0.75


@pytest.mark.parametrize("grouped", [False, True])
def test_a_class_never_decided_has_no_precision(grouped: bool) -> None:
    nobody = counted([[10, 0], [5, 0]])
    found = of("precision", nobody, 1, grouped)
    assert not_measured(found)
    assert found.n == 0
    for metric in ("macro_precision", "weighted_precision"):
        assert not_measured(of(metric, nobody, grouped=grouped))
    assert of("recall", nobody, 1, grouped).value == 0


@pytest.mark.parametrize("metric", sorted(RANKINGS))
def test_one_class_alone_cannot_be_ranked(metric: str) -> None:
    alone = counted([[10, 2], [0, 0]])
    assert not_measured(of(metric, alone, 1))
    assert not_measured(of("roc_auc", alone, 0))
    assert of("pr_auc", alone, 0).value == 1.0, "every threshold finds only positives"


# --- gaps


def test_a_gap_is_how_much_better_training_is_with_both_errors() -> None:
    """Train 90 of 100, validation 24 of 40: 0.9 - 0.6, MOVER from the two Wilson intervals."""
    train, validation = counted([[45, 5], [5, 45]], name="a"), counted([[12, 8], [8, 12]], name="b")
    found = gap("accuracy", train, validation, 2, False, 0.95)
    (low, high), (other_low, other_high) = wilson(90, 100, 0.95), wilson(24, 40, 0.95)
    assert found.value == pytest.approx(0.3)
    assert found.interval[0] == pytest.approx(0.3 - math.sqrt((0.9 - low) ** 2 + (other_high - 0.6) ** 2))
    assert found.interval[1] == pytest.approx(0.3 + math.sqrt((high - 0.9) ** 2 + (0.6 - other_low) ** 2))
    assert (found.n, found.unit, found.proportion) == (40, "pictures", False)
    swapped = gap("accuracy", validation, train, 2, False, 0.95)
    assert swapped.value == pytest.approx(-0.3)
    assert swapped.interval == pytest.approx((-found.interval[1], -found.interval[0]))


def test_a_gap_of_losses_is_above_nought_where_training_loses_less() -> None:
    sure = sample([0, 1] * 20, probabilities=[[0.9, 0.1], [0.1, 0.9]] * 20)
    unsure = sample([0, 1] * 15, probabilities=[[0.6, 0.4], [0.4, 0.6]] * 15)
    found = gap("log_loss", sure, unsure, 2, False, 0.95)
    assert found.value == pytest.approx(math.log(0.9 / 0.6), abs=1e-6)
    assert found.n == 30
    assert gap("brier", sure, unsure, 2, False, 0.95).value == pytest.approx(2 * 0.4**2 - 2 * 0.1**2, abs=1e-6)
    assert gap("log_loss", unsure, sure, 2, False, 0.95).value == pytest.approx(-math.log(0.9 / 0.6), abs=1e-6)


def test_a_gap_counts_groups_where_there_are_groups_and_needs_both_splits() -> None:
    train, validation = counted([[90, 10], [10, 90]], group_size=10), counted([[30, 10], [10, 30]], group_size=10)
    found = gap("accuracy", train, validation, 2, True, 0.95)
    assert (found.n, found.unit) == (8, "groups")
    assert found.interval[0] < gap("accuracy", train, validation, 2, False, 0.95).interval[0]
    assert not_measured(gap("accuracy", train, sample([]), 2, False, 0.95))
    assert not_measured(gap("log_loss", sample([]), validation, 2, False, 0.95))


# --- gains over a baseline


def test_a_gain_is_the_difference_on_the_same_pictures() -> None:
    """16 pictures: ours right on 6 of 8 and 7 of 8, theirs on 8 of 8 and 2 of 8."""
    ours, theirs = counted([[6, 2], [1, 7]]), sample([0] * 8 + [1] * 8, [0] * 8 + [1] * 2 + [0] * 6)
    found = gain("accuracy", ours, theirs, 2, False, 0.95)
    assert found.value == pytest.approx(13 / 16 - 10 / 16)
    assert (found.n, found.unit, found.proportion) == (16, "pictures", False)
    assert found.interval[0] < found.value < found.interval[1]
    assert gain("macro_recall", ours, theirs, 2, False, 0.95).value == pytest.approx(13 / 16 - 10 / 16)
    precisions = (6 / 7 + 7 / 9) / 2 - (8 / 14 + 2 / 2) / 2
    assert gain("macro_precision", ours, theirs, 2, False, 0.95).value == pytest.approx(precisions)
    f1 = (12 / 15 + 14 / 17) / 2 - (16 / 22 + 4 / 10) / 2
    assert gain("macro_f1", ours, theirs, 2, False, 0.95).value == pytest.approx(f1)
    assert gain("accuracy", theirs, ours, 2, False, 0.95).value == -found.value


def test_a_gain_in_log_loss_is_what_is_lost_less() -> None:
    truth = [0, 1] * 30
    better = sample(truth, probabilities=[[0.8, 0.2], [0.2, 0.8]] * 30)
    worse = sample(truth, probabilities=[[0.5, 0.5], [0.5, 0.5]] * 30)
    found = gain("log_loss", better, worse, 2, False, 0.95)
    assert found.value == pytest.approx(math.log(0.8 / 0.5), abs=1e-6)
    assert found.value > 0
    assert gain("log_loss", worse, better, 2, False, 0.95).value == pytest.approx(-found.value)


def test_a_gain_is_drawn_in_pairs() -> None:
    """Both wrong on the same pictures: the gain varies far less than either accuracy does."""
    truth = [0] * 100 + [1] * 100
    hard = np.arange(200) % 2 == 0  # both get these wrong
    theirs = np.where(hard, 1 - np.array(truth), truth)
    ours = theirs.copy()
    ours[[0, 2, 100, 102]] = np.array(truth)[[0, 2, 100, 102]]
    found = gain("accuracy", sample(truth, ours.tolist()), sample(truth, theirs.tolist()), 2, False, 0.95)
    assert found.value == pytest.approx(0.02)
    assert found.interval[0] >= -0.02, "Tango's ends for 4 of 200 are 0.005 and 0.05"
    assert 0.03 <= found.interval[1] <= 0.06


def test_a_gain_with_groups_counts_and_draws_groups() -> None:
    ours, theirs = counted([[90, 10], [10, 90]], group_size=10), counted([[60, 40], [40, 60]], group_size=10)
    apart, together = (gain("accuracy", ours, theirs, 2, grouped, 0.95) for grouped in (False, True))
    assert apart.value == together.value == pytest.approx(0.3)
    assert (together.n, together.unit) == (20, "groups")
    assert together.interval[1] - together.interval[0] > 1.5 * (apart.interval[1] - apart.interval[0])


def test_a_gain_that_is_undefined_is_not_measured() -> None:
    """The majority decides one class only, so it has no macro precision, and there is no gain over it."""
    ours, majority = counted([[6, 2], [1, 7]]), sample([0] * 8 + [1] * 8, [0] * 16)
    assert not_measured(gain("macro_precision", ours, majority, 2, False, 0.95))
    for metric in ("accuracy", "log_loss"):
        found = gain(metric, sample([]), sample([]), 2, False, 0.95)
        assert not_measured(found)
        assert found.n == 0


@pytest.mark.parametrize("metric", ["accuracy", "macro_recall", "macro_f1"])
def test_a_gain_on_a_few_pictures_is_uncertain(metric: str) -> None:
    """Right on all six, the baseline on four of them: six pictures prove no certain gain, nor that there is none."""
    ours, theirs = counted([[3, 0], [0, 3]]), sample([0] * 3 + [1] * 3, [0] * 3 + [1, 0, 0])
    none, some = gain(metric, ours, ours, 2, False, 0.95), gain(metric, ours, theirs, 2, False, 0.95)
    assert some.interval[0] < some.value
    assert none.value == 0
    assert none.interval[0] < 0 < none.interval[1]


def test_a_recall_s_interval_covers_in_a_simulation_with_groups() -> None:
    random, held = np.random.default_rng(5), 0
    for _ in range(50):
        rates = random.beta(8, 2, 30)
        right = random.random((30, 6)) < rates[:, None]
        units = np.repeat([f"{i}" for i in range(30)], 6).tolist()
        found = of("recall", sample([1] * 180, right.ravel().astype(int).tolist(), units=units), 1, grouped=True)
        held += found.interval[0] <= 0.8 <= found.interval[1]
    assert held >= stats.binom.ppf(0.001, 50, 0.95)
