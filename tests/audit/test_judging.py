"""Labels, shortcuts, odd pictures, pairs, policy and proofs: each found where it was planted, and not elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.audit.copies import Copy
from tasks.audit.findings import Finding, Suspect, by_policy
from tasks.audit.labels import doubt_labels
from tasks.audit.looks import odd_pictures, shortcut_finding, shortcuts
from tasks.audit.provable import errors_allowed, what_can_be_proved
from tasks.audit.same import pairs_of, rows_to_leave_out, same_pictures
from tasks.audit.spec import AuditSpec
from tasks.data.facts import Facts
from tasks.evaluation.intervals import wilson
from tasks.evaluation.spec import GateSpec
from tests.conftest import Pipeline


def facts_of(count: int = 60, seed: int = 0) -> Facts:
    draw = np.random.default_rng(seed)
    return Facts(
        paths=tuple(Path(f"{i}.png") for i in range(count)),
        digests=tuple(f"d{i}" for i in range(count)),
        labels=np.arange(count) % 2,
        units=tuple(str(i) for i in range(count)),
        splits=("train",) * count,
        widths=np.full(count, 300),
        heights=np.full(count, 200),
        sizes=draw.integers(9_000, 11_000, count),
        modes=("RGB",) * count,
        formats=("PNG",) * count,
        brightness=draw.normal(120, 10, count),
        contrast=draw.normal(40, 3, count),
        sharpness=draw.normal(300, 30, count),
        looks=np.zeros((count, 32), np.uint8),
    )


def test_flipped_labels_come_first() -> None:
    draw, n = np.random.default_rng(0), 300
    truth = np.arange(n) % 3
    features = (np.eye(3)[truth] * 3 + draw.normal(0, 0.8, (n, 3))).astype(np.float32)
    flipped = draw.permutation(n)[:15]
    labels = truth.copy()
    labels[flipped] = (labels[flipped] + 1) % 3
    found = doubt_labels(features, labels, [str(i) for i in range(n)], 3)
    assert found is not None
    assert np.isin(flipped, np.argsort(found.quality)[:24]).mean() >= 0.9
    assert (found.likeliest[flipped] == truth[flipped]).mean() >= 0.9
    assert np.isin(found.rows, flipped).mean() >= 0.6


def test_a_copy_does_not_vouch_for_its_own_label() -> None:
    draw = np.random.default_rng(0)
    truth = np.repeat([0, 1], 40)
    features = (np.eye(2)[truth] * 2 + draw.normal(0, 0.3, (80, 2))).astype(np.float32)
    features = np.concatenate([features, np.repeat(features[:1], 12, axis=0)])
    labels = np.concatenate([truth, np.ones(12, np.int64)])
    apart = doubt_labels(features, labels, [str(i) for i in range(92)], 2)
    together = doubt_labels(features, labels, [*(str(i) for i in range(80)), *["copies"] * 12], 2)
    assert apart is not None
    assert together is not None
    assert together.quality[80:].max() < apart.quality[80:].min()


def test_a_class_of_one_unit_gives_no_doubts() -> None:
    assert doubt_labels(np.zeros((4, 2), np.float32), np.array([0, 0, 1, 1]), ["a", "b", "c", "c"], 2) is None


def test_a_property_that_tells_the_label_is_named_and_chance_is_not() -> None:
    clean = facts_of(200)
    assert shortcut_finding(shortcuts(clean, 2), 2) is None
    told = replace(clean, sizes=np.where(clean.labels == 1, clean.sizes + 5_000, clean.sizes))
    finding = shortcut_finding(shortcuts(told, 2), 2)
    assert finding is not None
    assert "file size" in finding.text
    assert "brightness" not in finding.text


def test_odd_pictures_are_found_and_a_usual_oddity_is_one_line() -> None:
    facts = facts_of()
    odd = replace(
        facts,
        widths=np.where(np.arange(60) == 1, 30, facts.widths),
        heights=np.where(np.arange(60) == 2, 900, facts.heights),
        brightness=np.where(np.arange(60) == 3, 2.0, facts.brightness),
        sharpness=np.where(np.arange(60) == 4, 1.0, facts.sharpness),
    )
    assert list(odd_pictures(facts, 160)) == []
    found = {finding.kind: [suspect.rows[0] for suspect in finding.suspects] for finding in odd_pictures(odd, 160)}
    assert found == {"tiny": [1], "odd_shape": [1, 2], "dark": [3], "blurry": [4]}
    (usual,) = (f for f in odd_pictures(replace(facts, brightness=np.full(60, 5.0)), 160) if f.kind == "dark")
    assert (usual.level, usual.suspects) == ("INFO", ())


def test_of_copies_that_hang_together_only_those_that_judge_stay() -> None:
    splits = ("train", "train", "validation", "test", "train")
    copies = [Copy(0, 1, 0.01, False), Copy(1, 2, 0.01, False), Copy(2, 3, 0.01, True)]
    pairs = pairs_of(facts_of(5), splits, copies)
    assert rows_to_leave_out(pairs, splits) == (0, 1, 2)
    assert rows_to_leave_out(pairs[:1], splits) == ()
    assert pairs[2].rows == (3, 2), "the picture that judges comes first"


def test_pairs_are_told_by_what_they_mean() -> None:
    facts = replace(facts_of(6), digests=("a", "a", "c", "d", "e", "f"), labels=np.array([0, 1, 0, 0, 1, 1]))
    splits = ("train", "train", "train", "test", "train", "train")
    pairs = pairs_of(facts, splits, [Copy(0, 1, 0.0, False), Copy(2, 3, 0.03, False), Copy(4, 5, 0.03, True)])

    def told(given: bool, left_out: tuple[int, ...] = ()) -> dict[str, tuple[Suspect, ...]]:
        return {f.kind: f.suspects for f in same_pictures(pairs, facts, splits, given, left_out)}

    assert set(told(given=True)) == {"leakage", "conflict", "near_duplicate"}
    assert told(given=True)["leakage"][0].rows == (3, 2)
    assert told(given=True)["leakage"][0].action == "drop"
    assert set(told(given=False, left_out=(2,))) == {"left_out", "conflict", "near_duplicate"}


def test_what_is_left_out_is_a_warning_where_labels_disagree_or_it_is_much() -> None:
    facts, splits = facts_of(60), ("train",) * 50 + ("test",) * 10

    def left_out(*rows: tuple[int, int]) -> Finding:
        pairs = pairs_of(facts, splits, [Copy(i, j, 0.03, False) for i, j in rows])
        (found,) = same_pictures(pairs, facts, splits, False, rows_to_leave_out(pairs, splits))
        return found

    assert (left_out((0, 50)).level, left_out((0, 51)).level) == ("INFO", "WARN")  # labels are even and odd
    assert "(2 pairs of pictures; 1 of them has two labels, look there)" in left_out((0, 50), (1, 52)).text
    assert "6% of the training pictures" in left_out((0, 50), (2, 52), (4, 54)).text
    pairs = pairs_of(facts, splits, [Copy(0, 51, 0.03, False)])
    for given in (True, False):
        (leak,) = same_pictures(pairs, facts, splits, given, ())
        assert (leak.kind, "1 of them has two labels" in leak.text) == ("leakage", True)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(("split", "level"), [("train", "INFO"), ("validation", "WARN"), ("test", "WARN")])
def test_copies_in_what_judges_are_a_warning_that_counts_their_looks(exact: bool, split: str, level: str) -> None:
    """Twelve pictures of 5 copies each would count as 60 independent ones."""
    looks = [f"{row // 5}" for row in range(60)]
    facts = replace(facts_of(70), labels=np.zeros(70, np.int64))
    if exact:
        facts = replace(facts, digests=(*looks, *(f"other {i}" for i in range(10))))
    copies = [] if exact else [Copy(row - 1, row, 0.03, False) for row in range(1, 60) if row % 5]
    splits = (split,) * 60 + ("train",) * 10
    (found,) = same_pictures(pairs_of(facts, splits, copies), facts, splits, False, ())
    assert (found.kind, found.level) == ("duplicate" if exact else "near_duplicate", level)
    assert (f"60 pictures of {split} have 12 looks" in found.text) == (level == "WARN")


def test_the_policy_blocks_ignores_and_orders() -> None:
    found = [Finding("dark", "WARN", "d"), Finding("duplicate", "INFO", "i"), Finding("leakage", "WARN", "l")]
    assert [(f.kind, f.level) for f in by_policy(found, AuditSpec())] == [
        ("leakage", "BLOCK"),
        ("dark", "WARN"),
        ("duplicate", "INFO"),
    ]
    spec = AuditSpec(block=("dark",), ignore=("duplicate",))
    assert [(f.kind, f.level) for f in by_policy(found, spec)] == [("dark", "BLOCK"), ("leakage", "WARN")]


def test_what_can_be_proved_is_the_gates_own_interval_at_no_error(pipeline: Pipeline) -> None:
    proofs = what_can_be_proved(pipeline.dataset, GateSpec(min_recall=0.8, min_accuracy=0.99))
    assert [one.units for one in proofs.classes] == [20, 20, 20]
    assert proofs.classes[0].best_recall == pytest.approx(wilson(20, 20, 0.95)[0])
    lines = {line.line: line for line in proofs.lines}
    assert lines["recall of digit-0 >= 0.8"].provable
    assert lines["recall of digit-0 >= 0.8"].errors == 0
    short = lines["accuracy >= 0.99"]
    assert not short.provable
    assert short.more is not None
    assert wilson(60 + short.more, 60 + short.more, 0.95)[0] >= 0.99
    assert wilson(59 + short.more, 59 + short.more, 0.95)[0] < 0.99


def test_errors_allowed_are_the_most_that_still_show_it() -> None:
    allowed = errors_allowed(200, 0.9, 0.95)
    assert allowed is not None
    assert wilson(200 - allowed, 200, 0.95)[0] >= 0.9 > wilson(199 - allowed, 200, 0.95)[0]
    assert errors_allowed(0, 0.9, 0.95) is None
    assert errors_allowed(7, 0.0, 0.95) == 7
