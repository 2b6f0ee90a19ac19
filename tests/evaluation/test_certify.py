"""What certify writes down of a verdict: the champion it met, how worn the held-out pictures are, what failed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from serving.artifact import read
from tasks.certification.certify import WORN_AFTER, Candidate, Certified, certify, read_evaluation
from tasks.evaluation import intervals
from tasks.evaluation.evidence import load
from tasks.evaluation.gate import Check, failing
from tasks.evaluation.judgement import judge_all
from tasks.evaluation.spec import GateSpec, LineSpec
from tests.conftest import Pipeline, certify_again, record, trained


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shared model is made before, with all of them."""
    monkeypatch.setattr(intervals, "RESAMPLES", 20)


def judged_by(pipeline: Pipeline, run: Path, gate: GateSpec, earlier: int = 0) -> Certified:
    kept = replace(record(), earlier_decisions=earlier)
    return certify(trained(pipeline), None, run, pipeline.decision, gate, kept, device="cpu")


def test_the_model_against_itself_differs_by_nought_with_tangos_width(pipeline: Pipeline, tmp_path: Path) -> None:
    """As champion of its own generation: the same pictures, none of them in either's training."""
    champion = Candidate(pipeline.certified.artifact, pipeline.certified.digest, version=4, generation=9)
    certified = certify_again(pipeline, tmp_path, champion=champion)
    body = read_evaluation(certified)
    checks = {check["metric"]: check for check in body["checks"]}
    z = stats.norm.ppf(0.975)
    for metric, n in (("recall_vs_champion", 20), ("accuracy_vs_champion", 60)):
        check, end = checks[metric], z**2 / (n + z**2)
        assert (check["value"], check["n"], check["verdict"]) == (0, n, "PASSED")
        assert (check["ci_low"], check["ci_high"]) == pytest.approx((-end, end), abs=1e-6)
    assert checks["recall_vs_champion"]["scope"] == "digit-7", "the watched class"
    assert body["champion"] == {
        "generation": 9,
        "version": 4,
        "digest": pipeline.certified.digest,
        "mcnemar": {"only_this_right": 0, "only_champion_right": 0, "p": 1.0, "n": 60},
        "notes": [],
    }
    assert certified.generation == 9
    contents = read(certified.artifact).contents
    assert (contents.champion_generation, contents.champion_version) == (9, 4)


def test_without_a_champion_its_generation_is_nought(pipeline: Pipeline) -> None:
    body = read_evaluation(pipeline.certified)
    assert pipeline.certified.generation == 0
    assert (body["champion"]["generation"], body["champion"]["version"]) == (0, None)
    assert body["champion"]["notes"] == ["no champion yet: this version is compared with nothing"]


@pytest.mark.parametrize(("earlier", "worn"), [(WORN_AFTER - 1, False), (WORN_AFTER, True)])
def test_held_out_pictures_are_worn_after_fifty_decisions(
    pipeline: Pipeline, tmp_path: Path, earlier: int, worn: bool
) -> None:
    body = read_evaluation(judged_by(pipeline, tmp_path, pipeline.gate, earlier))
    assert body["held_out"] == {"decisions": earlier + 1, "worn": worn}
    assert WORN_AFTER == 50


def test_what_failed_is_said_in_words_and_only_that(pipeline: Pipeline, tmp_path: Path) -> None:
    gate = GateSpec(
        lines=(
            LineSpec(metric="model_size_mb", operator="<=", threshold=1),
            LineSpec(metric="log_loss", operator="<=", threshold=0, severity="warn"),
            LineSpec(metric="accuracy", threshold=0.1),
        )
    )
    certified = judged_by(pipeline, tmp_path, gate)
    assert certified.verdict == "REJECTED"
    (sentence,) = certified.failing
    assert sentence.startswith("model_size_mb on test: ")
    assert sentence.endswith("n 1), wanted <= 1")
    assert pipeline.certified.failing == ()


def test_the_evaluation_is_what_its_evidence_gives(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every check, the verdict and the digest, from the arrays alone."""
    monkeypatch.undo()  # the shared model was certified with all resamples
    certified = pipeline.certified
    body, evidence = read_evaluation(certified), load(certified.evaluation)
    judged = judge_all(evidence, pipeline.decision, pipeline.gate, "fp32")
    assert [check.as_json() for check in judged.checks] == body["checks"]
    assert (judged.verdict, judged.digest) == (body["verdict"], body["verdict_digest"])
    assert (certified.verdict, certified.failing) == (
        judged.verdict,
        tuple(c.sentence() for c in failing(judged.checks)),
    )
    contents = read(certified.artifact, certified.digest).contents
    assert (contents.verdict, contents.verdict_digest) == (judged.verdict, judged.digest)
    assert tuple(Check(**check) for check in contents.checks) == judged.checks


def test_every_split_is_measured_with_intervals_and_nothing_is_nan(pipeline: Pipeline) -> None:
    body = read_evaluation(pipeline.certified)
    json.dumps(body, allow_nan=False)
    sizes = {"train": 120, "validation": 60}
    assert body["metrics"]["n"] == 60
    assert {split: figures["n"] for split, figures in body["metrics"]["splits"].items()} == sizes

    def ends(intervals_of: Any) -> list[list[float | None]]:
        if isinstance(intervals_of, dict):
            return [pair for value in intervals_of.values() for pair in ends(value)]
        return [intervals_of]

    for figures in (body["metrics"], *body["metrics"]["splits"].values(), *body["baselines"].values()):
        assert all(len(pair) == 2 for pair in ends(figures["intervals"]))
        assert sum(map(sum, figures["confusion_matrix"])) == figures["n"]
    assert body["phases"].keys() == {"train_head", "finetune"}
    assert all(phase["trainable"]["values"] > 0 for phase in body["phases"].values())
    assert body["latency_ms"] == pytest.approx(np.median(load(pipeline.certified.evaluation).machine.latencies_ms))
