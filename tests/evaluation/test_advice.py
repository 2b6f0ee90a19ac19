"""The cheapest next step: exact texts and numbers, and never one that the test split was asked for."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tasks.evaluation.advice import advise, units_to_decide
from tasks.evaluation.evidence import Evidence
from tasks.evaluation.gate import Line, Measurement, judge
from tasks.evaluation.intervals import clopper_pearson_lower, wilson
from tasks.evaluation.judgement import judge_all
from tasks.evaluation.metrics import OVERALL, confusion_matrix
from tasks.evaluation.sample import Sample
from tasks.evaluation.spec import DecisionSpec, GateSpec, LineSpec, WatchSpec
from tasks.evaluation.threshold import choose_rule, tradeoff
from tests.evaluation.build import CLASSES, evidence, sample

NAN = math.nan
BLIND = sample([0, 1] * 10, probabilities=[[0.5, 0.5]] * 20)  # validation that shows no other operating point


def graded(n: int = 400, seed: int = 0, leaning: float = 2.0) -> Sample:
    """A third of the pictures are bad, and their probabilities lean to it."""
    random = np.random.default_rng(seed)
    truth = (random.random(n) < 0.3).astype(int)
    bad = 1 / (1 + np.exp(-random.normal(leaning * truth - 1.0, 1.2)))
    return sample(truth.tolist(), (bad >= 0.5).astype(int).tolist(), np.stack([1 - bad, bad], axis=1))


def share(hits: int, n: int) -> Measurement:
    return Measurement(hits / n, wilson(hits, n, 0.95), n, proportion=True)


def recall(threshold: float = 0.8, scope: str = "bad", **changes: str) -> Line:
    return Line("recall", "test", scope, ">=", threshold, **changes)


def advice(
    line: Line, measured: Measurement | None, validation: Sample = BLIND, confidence: float = 0.95
) -> str | None:
    return advise(judge(line, measured), measured, confidence, validation, CLASSES)


# --- how many more


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize(
    ("value", "threshold", "n", "upper"),
    [
        (0.85, 0.8, 100, False),
        (0.9, 0.8, 10, False),
        (1.0, 0.9, 5, False),
        (0.81, 0.8, 400, False),
        (0.5, 0.45, 0, False),
        (0.05, 0.1, 50, True),
        (0.0, 0.1, 3, True),
        (0.9, 0.95, 50, True),
    ],
)
def test_the_number_that_would_decide_is_the_first_that_does(
    value: float, threshold: float, n: int, upper: bool, confidence: float
) -> None:
    def clear(size: int) -> bool:
        low, high = wilson(value * size, size, confidence)
        return high <= threshold if upper else low >= threshold

    more = units_to_decide(value, threshold, n, confidence, upper)
    first = next(size for size in range(max(1, n), 100_000) if clear(size))
    assert more == first - n > 0
    assert units_to_decide(value, threshold, first - 1, confidence, upper) == 1
    assert units_to_decide(value, threshold, first, confidence, upper) == 0


def test_nothing_more_is_needed_where_it_is_decided() -> None:
    assert units_to_decide(0.9, 0.8, 200, 0.95) == 0
    assert units_to_decide(0.1, 0.2, 200, 0.95, upper=True) == 0


@pytest.mark.parametrize(("value", "upper"), [(0.8, False), (0.79, False), (0.8, True), (0.81, True)])
def test_no_number_decides_what_is_not_beyond_the_threshold(value: float, upper: bool) -> None:
    assert units_to_decide(value, 0.8, 100, 0.95, upper) is None


def test_a_hair_beyond_the_threshold_needs_a_number_without_end_and_gets_one() -> None:
    more = units_to_decide(math.nextafter(0.8, 1), 0.8, 100, 0.95)
    assert more is not None
    assert more > 10**12


# --- doubt


def test_a_doubtful_proportion_says_how_many_pictures_would_decide() -> None:
    assert advice(recall(), share(166, 200)) == (
        f"about {units_to_decide(0.83, 0.8, 200, 0.95)} more test pictures of 'bad' would decide, at the same value"
    )
    line = Line("accuracy", "train", "overall", "<=", 0.95)
    assert advice(line, share(186, 200)) == (
        f"about {units_to_decide(0.93, 0.95, 200, 0.95, upper=True)} more train pictures of any class would decide, "
        "at the same value"
    )
    wide = advice(recall(), share(166, 200), confidence=0.99)
    assert wide is not None
    assert wide.startswith(f"about {units_to_decide(0.83, 0.8, 200, 0.99)} more")


@pytest.mark.parametrize(
    ("line", "measured", "more"),
    [
        # the interval must shrink to half its width: four times the units, three times more
        (Line("f1", "test", "bad", ">=", 0.75), Measurement(0.8125, (0.6875, 0.9), 50), "150 more test pictures"),
        (Line("log_loss", "train", "overall", "<=", 0.5), Measurement(0.4, (0.1, 0.6), 30), "90 more train pictures"),
        (recall(0.75), Measurement(0.8125, (0.6875, 0.9), 20, unit="groups"), "60 more test groups"),
        (
            Line("latency_ms", "test", "overall", "<=", 20),
            Measurement(18, (17, 22), 30, unit="runs"),
            "90 more test runs",
        ),
        (Line("brier", "test", "overall", "<=", 0.5), Measurement(0.4, (0.3, 0.50001), 30), "1 more test pictures"),
    ],
)
def test_other_intervals_shrink_with_the_root_of_n(line: Line, measured: Measurement, more: str) -> None:
    whom = "'bad'" if line.metric == "recall" else "any class"
    assert advice(line, measured) == f"about {more} of {whom} would decide, at the same value"


def test_a_value_on_the_threshold_can_never_be_decided() -> None:
    for measured in (share(160, 200), Measurement(0.8, (0.7, 0.9), 50)):
        assert (
            advice(recall(), measured) == "the value stands on the threshold: no number of test pictures would decide"
        )
    groups = Measurement(0.8, (0.7, 0.9), 50, unit="groups")
    assert advice(recall(), groups) == "the value stands on the threshold: no number of test groups would decide"


def test_a_value_without_an_interval_needs_every_class() -> None:
    line = Line("macro_f1", "validation", "overall", ">=", 0.5)
    assert advice(line, Measurement(0.9, (NAN, NAN), 50)) == "no interval: add validation pictures of every class"


def test_what_was_not_measured_says_of_whom_there_are_none() -> None:
    assert advice(recall(), None) == "not measured: no test pictures of 'bad' to tell"
    nothing = Measurement(NAN, (NAN, NAN), 0)
    assert advice(recall(scope="bad in site=north"), nothing) == (
        "not measured: no test pictures of 'bad in site=north' to tell"
    )
    assert advice(Line("log_loss", "train", "overall", "<=", 0.5), nothing) == (
        "not measured: no train pictures of any class to tell"
    )


def test_where_there_is_no_doubt_there_is_no_advice() -> None:
    assert advice(recall(), share(190, 200)) is None
    assert advice(recall(0.5, evidence="point"), share(90, 100)) is None
    assert advice(recall(0.5, evidence="point"), Measurement(0.6, (NAN, NAN), 0)) is None
    assert advice(recall(0.5, evidence="point"), Measurement(0.6, (0.5, 0.7), 9)) is None
    assert (
        advice(Line("log_loss", "test", "overall", "<=", 0.5, evidence="point"), Measurement(0.4, (0.3, 0.5), 9))
        is None
    )


def test_a_pass_by_value_alone_says_what_its_interval_does_not() -> None:
    line = recall(0.5, evidence="point")
    assert judge(line, share(6, 10)).verdict == "PASSED"
    assert advice(line, share(6, 10)) == (
        f"the value passes, its interval does not: about {units_to_decide(0.6, 0.5, 10, 0.95)} more test pictures of "
        "'bad' would decide, at the same value"
    )
    upper = Line("log_loss", "test", "overall", "<=", 0.5, evidence="point")
    assert advice(upper, Measurement(0.4, (0.3, 0.6), 10)) == (
        "the value passes, its interval does not: about 30 more test pictures of any class would decide, at the same "
        "value"
    )


def test_a_precision_is_told_by_pictures_decided_so() -> None:
    """More of the class need not be decided to be it, and 30 pictures of one never decided are not none."""
    line = Line("precision", "test", "bad", ">=", 0.85)
    more = units_to_decide(30 / 34, 0.85, 34, 0.95)
    assert advice(line, share(30, 34)) == (
        f"about {more} more test pictures decided to be 'bad' would decide, at the same value"
    )
    assert advice(line, Measurement(NAN, (NAN, NAN), 0)) == "not measured: no test pictures decided to be 'bad'"


def test_a_figure_of_all_pictures_is_told_by_all_of_them() -> None:
    """n of an F1 counts every picture, or every one of the slice."""
    doubtful = Measurement(0.8125, (0.6875, 0.9), 50)
    for scope, whom in (("bad", "any class"), ("bad in site=north", "'site=north'"), ("site=north", "'site=north'")):
        metric = "f1" if scope.startswith("bad") else "macro_f1"
        assert advice(Line(metric, "test", scope, ">=", 0.75), doubtful) == (
            f"about 150 more test pictures of {whom} would decide, at the same value"
        )


# --- shortfalls


@pytest.mark.parametrize(
    ("metric", "operator", "value", "threshold", "text"),
    [
        (
            "recall_vs_champion", ">=", -0.05, -0.02,
            "worse than the champion by 0.0300 more than the margin allows: the champion stays",
        ),
        (
            "latency_ms", "<=", 31.5, 20,
            "11.5 ms too slow: a smaller model.image_size or backbone, or export.precision=int8",
        ),
        ("model_size_mb", "<=", 13.25, 10, "3.25 MB too large: a smaller backbone, or export.precision=int8"),
        (
            "accuracy_gap", "<=", 0.15, 0.1,
            "0.0500 too wide: more pictures, stronger finetune.augmentation, or fewer epochs",
        ),
        (
            "accuracy_over_majority", ">=", 0.05, 0.2,
            "short by 0.1500: this backbone finds no more in these pictures and labels; see the mistakes",
        ),
        ("log_loss", "<=", 0.75, 0.5, "0.2500 too high"),
        ("recall", "<=", 0.75, 0.5, "0.2500 too high"),
        ("macro_f1", ">=", 0.7, 0.8, "short by 0.1000: train longer, add pictures, or ask for less (gate)"),
        ("roc_auc", ">=", 0.7, 0.8, "short by 0.1000: train longer, add pictures, or ask for less (gate)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("evidence", ["interval", "point"])
def test_a_shortfall_names_its_size_and_its_remedy(
    metric: str, operator: str, value: float, threshold: float, text: str, evidence: str
) -> None:
    line = Line(metric, "test", "overall", operator, threshold, evidence=evidence)
    assert advice(line, Measurement(value, (value - 0.1, value + 0.1), 100)) == text


@pytest.mark.parametrize("metric", ["parity", "parity_logits"])
def test_a_lack_of_parity_is_never_the_model_s_fault(metric: str) -> None:
    text = advice(Line(metric, "test", "overall", "<=", 1e-4, evidence="point"), Measurement(0.2, (NAN, NAN), 100))
    assert text is not None
    assert text.startswith("the exported file and the trained network disagree: ")
    assert "0.2" not in text


def test_a_recall_that_no_threshold_would_reach_needs_pictures() -> None:
    assert advice(recall(0.99), share(100, 200), graded()) == "short by 0.4900: add pictures of 'bad' to train on"
    assert advice(recall(scope="bad in site=north"), share(100, 200), graded()) == (
        "short by 0.3000: add pictures of 'bad in site=north' to train on"
    )


def test_a_precision_that_no_threshold_would_reach_needs_training() -> None:
    line = Line("precision", "test", "bad", ">=", 0.999)
    assert advice(line, share(100, 200), graded()) == (
        "short by 0.4990: train longer, add pictures, or ask for less (gate)"
    )


# --- another operating point, from validation


def counts(validation: Sample, threshold: float) -> tuple[int, int, int]:
    """Bad pictures found, pictures decided, bad pictures."""
    decided = validation.probabilities[:, 1] >= threshold
    bad = validation.truth == 1
    return int((decided & bad).sum()), int(decided.sum()), int(bad.sum())


@pytest.mark.parametrize("wanted", [0.7, 0.8, 0.9])
def test_the_other_threshold_for_a_recall_is_the_largest_that_shows_it(wanted: float) -> None:
    validation = graded()
    shows = [
        float(t) for t in validation.probabilities[:, 1]
        if clopper_pearson_lower(counts(validation, t)[0], counts(validation, t)[2]) >= wanted
    ]  # fmt: skip
    found, decided, _ = counts(validation, max(shows))
    assert advice(recall(wanted), share(100, 200), validation) == (
        f"short by {wanted - 0.5:.4f}: on validation, threshold {max(shows):.2g} for 'bad' reaches this recall at "
        f"precision {found / decided:.2f} (decision.watch)"
    )


@pytest.mark.parametrize("wanted", [0.6, 0.7])
def test_the_other_threshold_for_a_precision_is_what_would_be_chosen(wanted: float) -> None:
    validation = graded()
    decision = DecisionSpec(watch=(WatchSpec(label="bad", precision=wanted),))
    threshold = choose_rule(validation.probabilities, validation.truth, CLASSES, decision).watch[0].threshold
    found, _, bad = counts(validation, threshold)
    assert advice(Line("precision", "test", "bad", ">=", wanted), share(100, 200), validation) == (
        f"short by {wanted - 0.5:.4f}: on validation, threshold {threshold:.2g} for 'bad' reaches this precision at "
        f"recall {found / bad:.2f} (decision.watch)"
    )


def test_a_doubtful_recall_may_be_decided_by_pictures_or_by_another_threshold() -> None:
    text = advice(recall(), share(166, 200), graded())
    assert text is not None
    first, second = text.split("; or ")
    assert first == advice(recall(), share(166, 200))
    assert second.startswith("on validation, threshold 0.")
    assert second.endswith("(decision.watch)")
    f1 = Line("f1", "test", "bad", ">=", 0.75)
    assert advice(f1, Measurement(0.8125, (0.6875, 0.9), 50), graded()) == (
        "about 150 more test pictures of any class would decide, at the same value"
    ), "an F1 names no threshold"


def test_a_bound_that_is_just_what_was_wanted_reaches_it() -> None:
    validation = graded()
    curve = tradeoff(validation.probabilities[:, 1], validation.truth == 1)
    bounds = curve.recall_bound()

    def largest(reaching: np.ndarray) -> str:
        return f"{curve.thresholds[reaching][0]:.2g}"

    # one whose threshold can be told from the next in two digits
    wanted = next(float(b) for b in bounds if b > 0.6 and largest(bounds >= b) != largest(bounds > b))
    text = advice(recall(wanted), share(10, 200), validation)
    assert text is not None
    assert f"threshold {largest(bounds == wanted)} for 'bad'" in text


def test_an_upper_limit_on_a_recall_names_no_threshold() -> None:
    line = Line("recall", "test", "bad", "<=", 0.875)
    text = advice(line, share(166, 200), graded())
    assert text is not None
    assert judge(line, share(166, 200)).verdict == "INCONCLUSIVE"
    assert "threshold" not in text


@pytest.mark.parametrize(("served", "likeliest", "said"), [(0.6, 0.8, False), (0.5, 0.6, True), (0.5, 0.5, False)])
def test_a_threshold_costs_an_accuracy_only_from_below_the_line_to_at_least_it(
    served: float, likeliest: float, said: bool
) -> None:
    """Ten pictures, a line at 0.6: at the line is as good as above it."""
    truth = np.zeros(10, np.int64)
    right = np.arange(10) < likeliest * 10
    validation = replace(
        sample(truth.tolist(), probabilities=np.where(right[:, None], [0.9, 0.1], [0.1, 0.9])),
        decided=np.where(np.arange(10) < served * 10, 0, 1),
    )
    text = advice(Line("accuracy", "test", "overall", ">=", 0.6), share(100, 200), validation)
    assert text is not None
    assert ("watched class's threshold costs it" in text) == said


def test_where_the_watched_class_s_threshold_costs_an_overall_figure_that_is_said() -> None:
    validation = graded()
    eager = replace(validation, decided=np.ones(len(validation), np.int64))
    likeliest = float(OVERALL["accuracy"](confusion_matrix(validation.truth, validation.at_argmax().decided, 2)))
    assert likeliest > 0.7
    accuracy = Line("accuracy", "test", "overall", ">=", 0.7)
    assert advice(accuracy, share(100, 200), eager) == (
        f"short by 0.2000: on validation the watched class's threshold costs it ({likeliest:.2f} at argmax): want less "
        "in decision.watch"
    )
    plain = "short by 0.2000: train longer, add pictures, or ask for less (gate)"
    assert advice(accuracy, share(100, 200), validation) == plain, "the threshold costs nothing"
    out_of_reach = Line("accuracy", "test", "overall", ">=", 0.99)
    assert advice(out_of_reach, share(158, 200), eager) == plain, "argmax does not reach it either"
    sliced = Line("accuracy", "test", "site=north", ">=", 0.7)
    assert advice(sliced, share(100, 200), eager) == plain


# --- the test split is judged once, and never asked what would have passed

GATE = GateSpec(
    min_accuracy=0.9,
    min_recall={"bad": 0.9},
    lines=(LineSpec(metric="precision", scope="bad", threshold=0.75),),
)


def advised(shown: Evidence) -> dict[str, str | None]:
    judged = judge_all(shown, DecisionSpec(), GATE, "fp32")
    assert judged.verdict == "REJECTED"
    return {f"{check.metric} {check.scope} {check.threshold:.2g}": check.advice for check in judged.checks}


def test_no_advice_comes_from_the_probabilities_of_the_test_split() -> None:
    """The same decisions with other probabilities: whatever threshold would have passed there, advice is the same."""
    validation, test = graded(seed=1), graded(seed=2)
    before = advised(evidence(test, validation=validation))
    assert sum("on validation, threshold" in str(text) for text in before.values()) == 2
    for changed in (
        test.probabilities[::-1],
        np.full_like(test.probabilities, 0.5),
        np.eye(2, dtype=np.float32)[test.truth],
    ):
        assert advised(evidence(replace(test, probabilities=changed), validation=validation)) == before
    other = advised(evidence(test, validation=graded(seed=3)))
    assert other["recall bad 0.9"] != before["recall bad 0.9"], "it comes from validation"
