"""The evidence file: what is saved comes back, without pickles, and gives the same verdict; its baselines and order."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.artifact import Rule, Watch
from tasks.evaluation import intervals
from tasks.evaluation.evidence import FILE, Evidence, Machine, load, save
from tasks.evaluation.judgement import judge_all
from tasks.evaluation.sample import Sample
from tasks.evaluation.spec import DecisionSpec, GateSpec, LineSpec, WatchSpec
from tests.evaluation.build import champion_of, counted, evidence, sample

UNITS = ("Zelle 7 Süd", "患者 42", "", "a/b\\c", "bad in site=north", "\udcff not UTF-8")
GATE = GateSpec(
    min_recall=0.6,
    champion_accuracy_margin=0.2,
    lines=(
        LineSpec(metric="roc_auc", threshold=0.5),
        LineSpec(metric="log_loss_over_majority", threshold=0.0),
        LineSpec(metric="accuracy_gap", operator="<=", threshold=0.2),
        LineSpec(metric="recall", scope="bad in Ort=*", threshold=0.5),
        LineSpec(metric="latency_ms", operator="<=", threshold=25),
        LineSpec(metric="model_size_mb", operator="<=", threshold=2),
    ),
)
WATCH = DecisionSpec(watch=(WatchSpec(label="bad", recall=0.6),))


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared here is equal with any number of them."""
    monkeypatch.setattr(intervals, "RESAMPLES", 100)


def random_sample(n: int, seed: int, name: str) -> Sample:
    random = np.random.default_rng(seed)
    truth = random.integers(0, 2, n)
    bad = np.clip(0.6 * truth + 0.4 * random.random(n) + random.normal(size=n) * 0.15, 0.01, 0.99)
    return sample(
        truth.tolist(),
        (bad >= 0.45).astype(int).tolist(),
        np.stack([1 - bad, bad], axis=1),
        [UNITS[i % len(UNITS)] + str(i // 12) for i in range(n)],
        {"Ort": [("Süd", "Nord", "")[i % 3] for i in range(n)], "truth": ["x"] * n, "a/../b": ["y", "z"] * (n // 2)},
        name=name,
    )


def full(grouped: bool = False, champion: bool = True, head_only: bool = True) -> Evidence:
    test = random_sample(120, 0, "test")
    random = np.random.default_rng(9)
    shares = random.dirichlet([2, 2], 120)
    theirs = champion_of(
        test,
        np.where(random.random(120) < 0.8, test.truth, -1).tolist(),
        ("bad", "good", "älter"),
        (random.random(120) < 0.9).tolist(),
    )
    return evidence(
        test,
        train=random_sample(240, 1, "train"),
        validation=random_sample(60, 2, "validation"),
        grouped=grouped,
        head_only=shares if head_only else None,
        champion=theirs if champion else None,
    )


def same(first: Any, second: Any) -> bool:
    """Equal in every field, arrays in values and type; NaN is equal to NaN."""
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if hasattr(first, "__dataclass_fields__"):
        names = [field.name for field in fields(first)]
        return type(first) is type(second) and all(same(getattr(first, n), getattr(second, n)) for n in names)
    return bool(first == second) or (first != first and second != second)


def saved(shown: Evidence, place: Path) -> Evidence:
    save(shown, place)
    return load(place)


VARIANTS = [{}, {"grouped": True}, {"champion": False}, {"head_only": False}]


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_saved_comes_back(variant: dict[str, bool], tmp_path: Path) -> None:
    shown = full(**variant)
    assert same(saved(shown, tmp_path), shown)


def test_what_was_not_measured_comes_back_so(tmp_path: Path) -> None:
    shown = replace(full(), machine=Machine(math.nan, math.nan, ()))
    back = saved(shown, tmp_path)
    assert math.isnan(back.machine.parity)
    assert same(back, shown)


def test_no_pictures_come_back_as_none(tmp_path: Path) -> None:
    nothing = sample([], slices={"site": []})
    back = saved(evidence(nothing), tmp_path)
    assert same(back, evidence(nothing))
    assert len(back.test) == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_file_holds_arrays_and_no_pickles(variant: dict[str, bool], tmp_path: Path) -> None:
    save(full(**variant), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    with np.load(tmp_path / FILE, allow_pickle=False) as arrays:
        assert {arrays[name].dtype.kind for name in arrays.files} <= set("iufbU")
        assert len(arrays.files) > 15


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_saved_evidence_gives_the_same_verdict_and_digest(variant: dict[str, bool], tmp_path: Path) -> None:
    shown = full(**variant)
    before = judge_all(shown, WATCH, GATE, "fp32")
    after = judge_all(saved(shown, tmp_path), WATCH, GATE, "fp32")
    assert repr(after) == repr(before)
    assert after.digest == before.digest
    assert len(before.checks) > 10


# --- the order of pictures


def shuffled(shown: Evidence, seed: int) -> Evidence:
    random = np.random.default_rng(seed)
    orders = {split: random.permutation(len(part)) for split, part in shown.samples.items()}
    test, pairs = orders["test"], shown.champion
    return replace(
        shown,
        samples={split: part.take(orders[split]) for split, part in shown.samples.items()},
        head_only=None if shown.head_only is None else shown.head_only[test],
        champion=pairs and replace(pairs, decided=pairs.decided[test], comparable=pairs.comparable[test]),
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_order_of_pictures_changes_nothing(variant: dict[str, bool]) -> None:
    shown = full(**variant)
    ordered = shown.in_order()
    assert list(ordered.test.digests) == sorted(shown.test.digests)
    before = judge_all(shown, WATCH, GATE, "fp32")
    for seed in range(2):
        other = shuffled(shown, seed)
        assert other.test.digests != shown.test.digests
        assert same(other.in_order(), ordered)
        assert repr(judge_all(other, WATCH, GATE, "fp32")) == repr(before)


# --- baselines, slices, rules


def test_the_majority_always_says_the_commonest_training_class() -> None:
    test = sample([0, 1, 2, 2], classes=3)
    shown = evidence(test, train=counted([[2, 0, 0], [0, 5, 0], [0, 0, 3]]), classes=("a", "b", "c"))
    assert shown.prior().tolist() == [0.2, 0.5, 0.3]
    majority = shown.baseline("majority")
    assert majority is not None
    assert majority.decided.tolist() == [1, 1, 1, 1]
    assert majority.probabilities.tolist() == [[0.2, 0.5, 0.3]] * 4
    assert (majority.truth.tolist(), majority.digests) == (test.truth.tolist(), test.digests)


def test_the_head_alone_decides_by_argmax_and_may_be_unknown() -> None:
    shown = evidence(sample([0, 1]), head_only=np.array([[0.3, 0.7], [0.6, 0.4]]))
    head = shown.baseline("head_only")
    assert head is not None
    assert head.decided.tolist() == [1, 0]
    assert evidence(sample([0, 1])).baseline("head_only") is None


def test_slices_are_the_values_of_test() -> None:
    test = sample([0, 1, 1], slices={"site": ["b", "a", "b"], "empty": ["", "", ""]})
    train = sample([0], slices={"site": ["only in training"], "empty": [""]})
    assert evidence(test, train=train).slice_values() == {"site": ("a", "b"), "empty": ("",)}
    assert evidence(sample([0, 1])).slice_values() == {}


def test_another_rule_decides_every_split_anew_and_changes_nothing_else() -> None:
    shown = full()
    rule = Rule(watch=(Watch(label="bad", threshold=0.2, metric="recall", wanted=0.9),))
    other = shown.at(rule)
    for split, part in shown.samples.items():
        expected = (part.probabilities[:, 1].astype(np.float64) >= 0.2).astype(np.int64)
        assert np.array_equal(other.samples[split].decided, expected)
        assert same(replace(other.samples[split], decided=part.decided), part)
    assert same(replace(other, samples=shown.samples), shown)


# --- samples


def test_taking_rows_takes_everything_of_them() -> None:
    whole = sample([0, 1, 0, 1], [1, 1, 0, 0], units=list("abcd"), slices={"site": ["n", "s", "n", "e"]})
    part = whole.take(np.array([3, 0, 0]))
    assert len(part) == 3
    assert part.truth.tolist() == [1, 0, 0]
    assert part.decided.tolist() == [0, 1, 1]
    assert np.array_equal(part.probabilities, whole.probabilities[[3, 0, 0]])
    assert part.digests == ("picture-000003", "picture-000000", "picture-000000")
    assert part.units == ("d", "a", "a")
    assert part.slices[0].values == ("e", "n", "n")


def test_a_slice_of_a_sample_is_where_its_column_has_that_value() -> None:
    whole = sample([0, 1, 0, 1], slices={"site": ["n", "s", "n", ""], "type": ["n", "n", "n", "n"]})
    assert whole.where("site", "n").digests == ("picture-000000", "picture-000002")
    assert whole.where("site", "").digests == ("picture-000003",)
    assert whole.where("type", "n").digests == whole.digests
    for nothing in (whole.where("site", "west"), whole.where("place", "n")):
        assert len(nothing) == 0
        assert nothing.probabilities.shape == (0, 2)


def test_at_argmax_the_likeliest_is_decided() -> None:
    shown = sample([0, 1], [1, 1], [[0.7, 0.3], [0.2, 0.8]])
    assert shown.at_argmax().decided.tolist() == [0, 1]
    assert shown.decided.tolist() == [1, 1]
    assert len(sample([]).at_argmax()) == 0
