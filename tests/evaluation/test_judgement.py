"""The verdict from evidence: every line is judged and listed, and its digest names what others must reach."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from serving.errors import BadInput
from tasks.evaluation import intervals
from tasks.evaluation.advice import units_to_decide
from tasks.evaluation.evidence import Evidence, Machine
from tasks.evaluation.gate import overall
from tasks.evaluation.judgement import Judgement, judge_all, travels
from tasks.evaluation.spec import METRICS, DecisionSpec, GateSpec, LineSpec, WatchSpec
from tests.evaluation.build import MACHINE, champion_of, counted, evidence

WATCH = DecisionSpec(watch=(WatchSpec(label="bad", recall=0.9),))
GATE = GateSpec(
    min_recall={"bad": 0.5},
    lines=(
        LineSpec(metric="latency_ms", operator="<=", threshold=35),
        LineSpec(metric="accuracy_over_head_only", threshold=0.0, evidence="point"),
    ),
)


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared here is equal with any number of them."""
    monkeypatch.setattr(intervals, "RESAMPLES", 100)


def good(machine: Machine = MACHINE) -> Evidence:
    """45 of 50 and 46 of 50 are right; so are the champion's, on other pictures; the head alone gets 70 of 100."""
    test = counted([[45, 5], [4, 46]])
    champion = champion_of(test, counted([[50, 0], [9, 41]]).decided.tolist())
    head = np.eye(2)[counted([[35, 15], [15, 35]]).decided]
    return evidence(test, champion=champion, head_only=head, machine=machine)


def judged(
    shown: Evidence, decision: DecisionSpec = WATCH, gate: GateSpec = GATE, precision: str = "fp32"
) -> Judgement:
    return judge_all(shown, decision, gate, precision)


def verdict_of(judgement: Judgement, metric: str) -> str:
    return next(check.verdict for check in judgement.checks if check.metric == metric)


def redecided(shown: Evidence, row: int) -> Evidence:
    """The same but for one test picture's decision."""
    decided = shown.test.decided.copy()
    decided[row] = 1 - decided[row]
    return replace(shown, samples={**shown.samples, "test": replace(shown.test, decided=decided)})


def test_every_kind_of_line_is_judged_and_listed_in_order() -> None:
    result = judged(good())
    assert [(check.metric, check.scope) for check in result.checks] == [
        ("recall", "bad"),
        ("latency_ms", "overall"),
        ("accuracy_over_head_only", "overall"),
        ("balanced_accuracy", "overall"),
        ("recall", "good"),
        ("recall", "bad"),
        ("precision", "bad"),
        ("parity", "overall"),
        ("parity_logits", "overall"),
        ("recall_vs_champion", "bad"),
        ("accuracy_vs_champion", "overall"),
    ]
    assert result.verdict == "PASSED"
    assert {check.verdict for check in result.checks} == {"PASSED"}
    assert [measured.value if measured else None for _, measured in result.comparison.lines] == [
        check.value for check in result.checks[-2:]
    ]


def test_a_line_that_fails_keeps_no_other_from_being_judged() -> None:
    failing = evidence(counted([[50, 0], [45, 5]]), champion=champion_of(good().test, [0] * 100))
    result = judged(failing)
    assert len(result.checks) == 11
    assert result.verdict == "REJECTED"
    assert verdict_of(result, "recall") == "REJECTED"
    assert verdict_of(result, "accuracy_over_head_only") == "INCONCLUSIVE"
    assert verdict_of(result, "precision") == "PASSED"
    assert result.verdict == overall(result.checks)
    assert all(
        (check.advice is None) == (check.verdict == "PASSED") for check in result.checks if check.evidence != "point"
    )


def test_the_prevalence_is_that_of_the_test_pictures() -> None:
    result = judged(evidence(counted([[70, 10], [2, 18]])))
    line = next(check for check in result.checks if check.metric == "precision")
    assert (line.operator, line.threshold) == (">", 0.2)


def test_the_confidence_is_the_gate_s_in_every_line_and_its_advice() -> None:
    shown = evidence(counted([[50, 0], [10, 40]]))
    for confidence in (0.8, 0.99):
        check = judged(shown, gate=GateSpec(min_recall={"bad": 0.78}, confidence=confidence)).checks[0]
        assert check.verdict == "INCONCLUSIVE"
        assert (check.ci_low, check.ci_high) == intervals.wilson(40, 50, confidence)
        assert f"about {units_to_decide(0.8, 0.78, 50, confidence)} more" in str(check.advice)


def test_an_unknown_scope_is_refused() -> None:
    with pytest.raises(BadInput, match="found ugly"):
        judged(good(), gate=GateSpec(min_recall={"ugly": 0.5}))


def test_int8_is_not_held_to_the_network_it_was_made_of() -> None:
    far = good(Machine(0.9, 9.0, MACHINE.latencies_ms))
    for precision, expected in (("fp32", "REJECTED"), ("fp16", "REJECTED"), ("int8", "PASSED")):
        result = judged(far, precision=precision)
        assert verdict_of(result, "parity") == "REJECTED"
        assert result.verdict == expected


# --- the digest


def test_the_digest_changes_with_any_one_decision() -> None:
    """Also where it changes no figure: two pictures of one class, one right and one wrong, change places."""
    before = judged(good())
    digests = {judged(redecided(good(), row)).digest for row in (0, 47, 99)}
    assert len(digests | {before.digest}) == 4
    swapped = judged(redecided(redecided(good(), 0), 49))
    assert [check.value for check in swapped.checks[:1]] == [check.value for check in before.checks[:1]]
    assert swapped.digest != before.digest


def test_the_digest_changes_with_two_labels_that_change_places() -> None:
    """Both were decided alike: no figure changes."""
    shown = replace(good(), champion=None)
    truth = shown.test.truth.copy()
    truth[[0, 50]] = truth[[50, 0]]
    assert shown.test.decided[0] == shown.test.decided[50]
    swapped = replace(shown, samples={**shown.samples, "test": replace(shown.test, truth=truth)})
    assert judged(swapped).digest != judged(shown).digest
    values = [[check.value for check in judged(one).checks if check.metric != "precision"] for one in (swapped, shown)]
    assert values[0] == values[1]


def test_the_digest_changes_with_a_label_a_class_or_a_line() -> None:
    shown, before = good(), judged(good()).digest
    truth = shown.test.truth.copy()
    truth[0] = 1
    relabelled = replace(shown, samples={**shown.samples, "test": replace(shown.test, truth=truth)})
    assert judged(relabelled).digest != before
    other_name = DecisionSpec(watch=(WatchSpec(label="worse", recall=0.9),))
    renamed = replace(shown, classes=("good", "worse"), champion=None)
    assert (
        judged(renamed, other_name, GateSpec(min_recall={"worse": 0.5})).digest
        != judged(replace(shown, champion=None), gate=GateSpec(min_recall={"bad": 0.5})).digest
    )
    for gate in (
        GATE.model_copy(update={"min_recall": {"bad": 0.51}}),
        GATE.model_copy(update={"min_accuracy": 0.5}),
        GATE.model_copy(update={"champion_recall_margin": 0.5}),
    ):
        assert judged(shown, gate=gate).digest != before
    assert judged(shown, DecisionSpec()).digest != before


def test_the_digest_changes_with_the_champion() -> None:
    shown = good()
    worse = replace(shown, champion=champion_of(shown.test, [0] * 100))
    assert judged(worse).verdict == "PASSED"
    assert judged(replace(shown, champion=None)).digest != judged(shown).digest
    better = replace(shown, champion=champion_of(shown.test, shown.test.truth.tolist()))
    assert judged(better).verdict == "REJECTED"
    assert judged(better).digest != judged(shown).digest


@pytest.mark.parametrize(
    "machine",
    [
        Machine(1e-7, 1e-6, (1.0,) * 30),
        Machine(1e-6, 1e-5, (99.0,) * 30),  # too slow: rejected here
        Machine(0.9, 9.0, MACHINE.latencies_ms),  # another file or another decode: rejected here
        Machine(float("nan"), float("nan"), ()),
    ],
)
def test_the_digest_is_the_same_on_another_machine(machine: Machine) -> None:
    assert judged(good(machine)).digest == judged(good()).digest


def test_the_digest_needs_no_weights_of_the_head() -> None:
    without = judged(replace(good(), head_only=None))
    assert without.verdict == "INCONCLUSIVE"
    assert without.digest == judged(good()).digest


def test_the_digest_is_the_same_after_rounding() -> None:
    """Another processor's probabilities, where no decision changes."""
    shown = good()
    random = np.random.default_rng(0)
    noisy = {
        split: replace(part, probabilities=part.probabilities + random.normal(size=part.probabilities.shape) * 1e-6)
        for split, part in shown.samples.items()
    }
    assert judged(replace(shown, samples=noisy)).digest == judged(shown).digest


@pytest.mark.parametrize("metric", [*METRICS, "parity", "parity_logits", "recall_vs_champion", "accuracy_vs_champion"])
def test_what_travels_is_what_the_artifact_and_the_pictures_show(metric: str) -> None:
    stays = metric in ("parity", "parity_logits", "latency_ms") or metric.endswith("_over_head_only")
    check = replace(judged(good()).checks[0], metric=metric)
    assert travels(check) == (not stays)
