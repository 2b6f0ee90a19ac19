"""validate: the gate's lines on the validation split, before anything is exported. It can rule out, never pass."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from serving import sealed
from tasks.data.dataset import Dataset, groups_of, subset
from tasks.evaluation.gate import Check, Line, holds, judge
from tasks.evaluation.lines import parse_scope, wanted_lines
from tasks.evaluation.measure import ON_PICTURES, measure
from tasks.evaluation.metrics import accuracy, confusion_matrix
from tasks.evaluation.outputs import sample_of
from tasks.evaluation.sample import Sample
from tasks.evaluation.spec import DecisionSpec, GateSpec
from tasks.evaluation.threshold import choose_rule
from tasks.export.temperature import fit_temperature
from tasks.model.classifier import Checkpoint, load_classifier
from tasks.progress import Progress, silent
from tasks.training.pictures import logits_of

FILE = "validation.json"  # the checks


@dataclass(frozen=True, slots=True)
class Validated:
    """Names a complete directory with `validation.json`. `ruled_out`: lines that even the interval's far end misses."""

    path: Path
    checks: tuple[Check, ...]
    ruled_out: tuple[str, ...]


def check_plan(dataset: Dataset, decision: DecisionSpec, gate: GateSpec) -> None:
    """Refuses, before any training, what could not be decided afterwards.

    Raises BadInput: an unknown class in a line or a watch, too few validation positives to show a wanted recall.
    """
    wanted_lines(gate, dataset.classes, _slice_values(dataset))
    part = subset(dataset, "validation")
    perfect = np.eye(len(dataset.classes), dtype=np.float32)[part.labels]
    choose_rule(perfect, part.labels, dataset.classes, decision, groups_of(dataset, part))


def validate(
    checkpoint: Checkpoint,
    dataset: Dataset,
    run: Path,
    decision: DecisionSpec,
    gate: GateSpec,
    progress: Progress = silent,
) -> Validated:
    """Judges the wanted lines on validation, at the operating point that the network would be given there.

    Writes `run/validate/`, unless it is there already: then that is the answer. Those figures chose the epoch and
    the threshold, so they are hopeful; a line they miss by a whole interval is out of reach. Raises BadInput: see
    `check_plan`; ArtifactError: `run/validate/` was made of something else, or altered.
    """
    place = run / "validate"
    parameters = [decision.model_dump(mode="json"), gate.model_dump(mode="json")]
    key = sealed.digest_of([checkpoint.key, dataset.key, *parameters])[:16]
    if sealed.reusable(place, key) is None:
        checks = _judge_all(checkpoint, dataset, decision, gate, progress)
        with sealed.sealing(place, {"key": key}) as directory:
            text = json.dumps([check.as_json() for check in checks], indent=1, allow_nan=False)
            (directory / FILE).write_text(text, encoding="utf-8")
    kept = tuple(Check(**check) for check in json.loads((place / FILE).read_text(encoding="utf-8")))
    out = tuple(f"{c.metric} of {c.scope}" for c in kept if c.severity == "fail" and _out_of_reach(c))
    return Validated(place, kept, out)


def _judge_all(
    checkpoint: Checkpoint, dataset: Dataset, decision: DecisionSpec, gate: GateSpec, progress: Progress
) -> tuple[Check, ...]:
    part = subset(dataset, "validation")
    logits = logits_of(load_classifier(checkpoint), dataset, part)
    scaled = logits / fit_temperature(logits, part.labels)
    probabilities = np.exp(scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)).astype(np.float32)
    rule = choose_rule(probabilities, part.labels, dataset.classes, decision, groups_of(dataset, part))
    decided = rule.decide(probabilities, dataset.classes)
    sample = sample_of(part, probabilities, decided)
    lines = (line for line in wanted_lines(gate, dataset.classes, _slice_values(dataset)) if line.split != "train")
    checks = tuple(
        _check(replace(line, split="validation"), sample, dataset, gate) for line in lines if line.metric in ON_PICTURES
    )
    share = float(accuracy(confusion_matrix(part.labels, decided, len(dataset.classes))))
    progress(1, 1, f"accuracy {share:.4f} on validation")
    return checks


def _check(line: Line, sample: Sample, dataset: Dataset, gate: GateSpec) -> Check:
    scope = parse_scope(line.scope, dataset.classes, _slice_values(dataset))
    part = sample if scope.column is None else sample.where(scope.column, scope.value)
    return judge(line, measure(line.metric, part, scope.label, len(dataset.classes), dataset.grouped, gate.confidence))


def _slice_values(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    return {found.column: tuple(sorted(set(found.values))) for found in subset(dataset, "test").slices}


def _out_of_reach(check: Check) -> bool:
    if check.value is None or check.ci_low is None or check.ci_high is None or holds(check, check.value):
        return False
    return check.ci_low > check.threshold if check.operator == "<=" else check.ci_high < check.threshold
