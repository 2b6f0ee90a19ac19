"""Which mistakes are shown and in which order, and what a person is advised: from validation alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serving.artifact import Rule, Watch
from tasks.evaluation.sample import Sample
from tasks.evaluation.spec import DecisionSpec, WatchSpec
from tasks.evaluation.threshold import choose_rule
from tasks.report.learnt import training
from tasks.report.mistakes import Part, confusions, operating_points, worst_mistakes, worst_rows
from tasks.report.tables import Table
from tests.report.made import dataset_of, evaluation_of, evidence_of, watching

Row = tuple[int, int, tuple[float, ...], str]  # truth, decided, probabilities, digest


def sample_of(*rows: Row) -> Sample:
    truth, decided, scores, digests = zip(*rows, strict=True)
    return Sample(np.array(truth), np.array(scores, np.float32), np.array(decided), digests, digests)


def tables(parts: list[Part]) -> list[Table]:
    return [part for part in parts if isinstance(part, Table)]


def test_missed_pictures_of_watched_classes_come_first_then_the_surest_mistakes() -> None:
    sample = sample_of(
        (0, 1, (0.1, 0.9, 0.0), "a"),  # missed, sure
        (1, 1, (0.2, 0.8, 0.0), "b"),  # right
        (1, 2, (0.0, 0.01, 0.99), "c"),  # the surest mistake, of no watched class
        (0, 2, (0.45, 0.05, 0.5), "d"),  # missed, hardly
        (2, 0, (0.3, 0.0, 0.7), "e"),  # a false alarm against the odds
        (1, 0, (0.6, 0.4, 0.0), "z"),
        (1, 0, (0.6, 0.4, 0.0), "y"),  # ties by digest
    )
    assert worst_rows(sample, (0,)).tolist() == [0, 3, 2, 6, 5, 4]
    assert worst_rows(sample, ()).tolist() == [2, 0, 6, 5, 3, 4]
    assert worst_rows(sample, (2, 0)).tolist()[:3] == [4, 0, 3]
    assert worst_rows(sample, (0,), most=2).tolist() == [0, 3]
    assert worst_rows(sample.take(np.array([1])), (0,)).tolist() == []


def test_each_mistake_says_its_labels_and_scores(tmp_path: Path) -> None:
    classes = ("bad", "good", "odd")
    evidence = evidence_of(classes, each=2)
    only = sample_of((0, 1, (0.1, 0.3, 0.6), "f" * 64))
    evidence = replace(evidence, samples={**evidence.samples, "test": only})
    dataset, test = dataset_of(evidence, tmp_path)
    body = evaluation_of(evidence_of(classes, each=2))
    said, listed = worst_mistakes(body, evidence, dataset, test, "none")
    assert isinstance(said, str) and said.startswith("<p>1 of 1 wrong decisions.")
    scores = "<dt>true</dt><dd>bad <b>0.100</b></dd><dt>decided</dt><dd>good <b>0.300</b></dd>"
    assert f"<dl>{scores}<dt>likeliest</dt><dd>odd <b>0.600</b></dd></dl>" in str(listed)


def test_without_mistakes_it_says_so(tmp_path: Path) -> None:
    evidence = evidence_of(("bad", "good"))
    perfect = replace(evidence.test, decided=evidence.test.truth)
    evidence = replace(evidence, samples={**evidence.samples, "test": perfect})
    dataset, test = dataset_of(evidence, tmp_path)
    assert worst_mistakes(evaluation_of(evidence), evidence, dataset, test, "embed") == [
        "<p>No test picture is decided wrongly.</p>"
    ]


def test_thresholds_are_what_would_be_chosen_on_validation() -> None:
    evidence, rule = watching(evidence_of(("bad", "good"), each=200), "bad")
    (table,) = tables(operating_points(evaluation_of(evidence, rule), evidence))
    validation = evidence.samples["validation"]
    for row in table.rows:
        metric, wanted = str(row[0]).split()
        decision = DecisionSpec(watch=(WatchSpec.model_validate({"label": "bad", metric: float(wanted)}),))
        if row[1] != "cannot be shown":
            chosen = choose_rule(validation.probabilities, validation.truth, evidence.classes, decision)
            assert row[1] == f"{chosen.watch[0].threshold:.4g}"
    assert {"cannot be shown"} < {str(row[1]) for row in table.rows}


def test_a_later_watched_class_gets_what_earlier_ones_leave() -> None:
    evidence = evidence_of(("bad", "good"), each=100)
    steps = (("bad", 0.6), ("good", 0.7))
    rule = Rule(watch=tuple(Watch(label=x, threshold=t, metric="recall", wanted=0.8) for x, t in steps))
    evidence = evidence.at(rule)
    first, second = tables(operating_points(evaluation_of(evidence, rule), evidence))
    validation = evidence.samples["validation"]
    claimed = validation.probabilities[:, 0] >= 0.6
    assert claimed.sum() < (validation.decided == 0).sum()  # some are bad only as the likeliest class
    assert max(int(str(row[4] or 0)) for row in second.rows) <= (~claimed).sum()
    assert "good" in second.caption and "bad" in first.caption


def test_no_advice_comes_from_the_test_split() -> None:
    one, rule = watching(evidence_of(("bad", "good"), each=60), "bad")
    drawn = watching(evidence_of(("bad", "good"), each=60, seed=9), "bad")[0].test
    other = replace(one, samples={**one.samples, "test": drawn})
    parts = [operating_points(evaluation_of(e, rule), e) for e in (one, other)]
    assert parts[0][0] != parts[1][0]  # precision against recall on test
    assert parts[0][1:] == parts[1][1:]


def test_without_watched_classes_the_weakest_on_validation_are_shown() -> None:
    evidence = evidence_of(tuple("abcdefgh"), each=8)
    body = evaluation_of(evidence)
    f1 = dict.fromkeys(evidence.classes, 0.9) | {"b": 0.1, "h": None}
    body["metrics"]["splits"]["validation"]["f1"] = f1
    said = " ".join(str(part) for part in operating_points(body, evidence))
    for label in "bh":
        assert f"Validation, {label}: " in said
    assert said.count("Validation, ") == 6


@pytest.mark.parametrize("classes", [2, 25, 26])
def test_many_classes_are_a_table_of_pairs(classes: int) -> None:
    evidence = evidence_of(tuple(f"c{i}" for i in range(classes)), each=3)
    parts = confusions(evaluation_of(evidence))
    assert len(tables(parts)) == (classes > 2)
    assert any("data:image/svg" in str(part) for part in parts) == (classes <= 25)


def test_the_most_confused_pair_is_the_first() -> None:
    body = evaluation_of(evidence_of(("a", "b", "c"), each=3))
    body["metrics"]["confusion_matrix"] = [[5, 0, 5], [1, 9, 0], [0, 0, 10]]
    figure, table = confusions(body)
    assert isinstance(table, Table) and table.rows == (("a", "c", 5, "50.0%"), ("b", "a", 1, "10.0%"))
    assert "24 on the diagonal, 6 beside it. Most often a is decided to be c: 5 times." in str(figure)


def test_training_says_which_epoch_was_kept() -> None:
    parts = [str(part) for part in training(evaluation_of(evidence_of(("a", "b"), each=3)))]
    kept = (
        "epoch 2 of 2 kept (train loss 0.300; train accuracy 0.700; validation loss 0.450; validation accuracy 0.850)."
    )
    assert sum(kept in part for part in parts) == 3  # a sentence and the words for two charts
    assert sum("<figure" in part for part in parts) == 2
