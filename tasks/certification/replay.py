"""The arithmetic of a verdict again, from the evidence an evaluation keeps: no picture and no model is needed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving import sealed
from serving.artifact import Rule
from serving.errors import BadInput
from tasks.evaluation import evidence as evidences
from tasks.evaluation.evidence import EVALUATION
from tasks.evaluation.judgement import Judgement, judge_all
from tasks.evaluation.spec import DecisionSpec, GateSpec
from tasks.evaluation.threshold import choose_rule


@dataclass(frozen=True, slots=True)
class Replayed:
    """`rule` is chosen again on the kept validation outputs, as export did."""

    judgement: Judgement
    rule: Rule


def read_kept(path: Path) -> dict[str, Any]:
    """`evaluation.json` (or the directory it lies in), after checking it and its evidence against their digests.

    Raises BadInput: there is none; ArtifactError: it was altered.
    """
    directory = _directory(path)
    if not (directory / EVALUATION).is_file():
        raise BadInput(f"expected {EVALUATION} at {path}, found none: name one of runs/<run-id>/evaluation-<n>/")
    sealed.verify(directory)
    body: dict[str, Any] = json.loads((directory / EVALUATION).read_text(encoding="utf-8"))
    return body


def replay(path: Path, decision: DecisionSpec, gate: GateSpec, precision: str) -> Replayed:
    """Judges an evaluation's evidence by these parameters: its own give its own verdict, others what would have been.

    Raises BadInput: what `decision` wants cannot be shown on the validation pictures, or a line names an unknown class.
    """
    evidence = evidences.load(_directory(path))
    validation = evidence.samples["validation"]
    groups = validation.units if evidence.grouped else None
    rule = choose_rule(validation.probabilities, validation.truth, evidence.classes, decision, groups)
    return Replayed(judge_all(evidence.at(rule), decision, gate, precision), rule)


def _directory(path: Path) -> Path:
    return path if path.is_dir() else path.parent
