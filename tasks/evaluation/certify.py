"""certify: what is gated is what is served.

The exported file is judged from the original bytes of the test pictures, through the decode and the predictor that
the server uses, at the operating point that will be served; then everything is put into one artifact.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving import artifact as artifacts
from serving import sealed
from serving.artifact import CARD, GOLDEN, MODEL, SPLIT, Artifact
from serving.predictor import Predictor
from serving.settings import Device
from tasks.data.dataset import Dataset, Subset, subset
from tasks.evaluation import champion as champions
from tasks.evaluation import evidence, metrics, report
from tasks.evaluation.champion import Comparison
from tasks.evaluation.evidence import Outputs
from tasks.evaluation.gate import Check, Line, Measurement, Verdict, judge, overall
from tasks.evaluation.lines import built_in_lines, measure, wanted_lines
from tasks.evaluation.spec import DecisionSpec, GateSpec
from tasks.export.export import Exported
from tasks.model.classifier import Checkpoint, load_classifier, manifest_of
from tasks.progress import Progress, silent
from tasks.training.embed import Features, read_features
from tasks.training.finetune import logits_of

PARITY = 1e-4  # largest difference of a probability between the exported file and the trained network
# every decision on the same pictures leaks a little of them into what is tried next (Dwork et al. 2015)
WORN_AFTER = 50
REPORT = "report.html"
EVALUATION = "evaluation.json"


@dataclass(frozen=True, slots=True)
class Candidate:
    """The champion to compare with: its verified artifact's directory and digest, version and generation."""

    path: Path
    digest: str
    version: int
    generation: int


@dataclass(frozen=True, slots=True)
class Certified:
    """Names a complete artifact and the directory of its evaluation and report. `generation`: of the champion met."""

    artifact: Path
    digest: str
    evaluation: Path
    verdict: Verdict
    generation: int

    @property
    def report(self) -> Path:
        return self.evaluation / REPORT


def certify(
    name: str,
    exported: Exported,
    tuned: Checkpoint,
    head: Checkpoint,
    features: Features,
    dataset: Dataset,
    champion: Candidate | None,
    run: Path,
    decision: DecisionSpec,
    gate: GateSpec,
    configuration: str,
    provenance: str,
    device: Device = "auto",
    attempt: int = 1,
    earlier_decisions: int = 0,
    progress: Progress = silent,
) -> Certified:
    """Judges the exported file and writes its artifact, evaluation and report.

    Writes `run/evaluation-<attempt>/` (evaluation.json, report.html) and `run/artifact-<attempt>/`.
    `configuration` and `provenance` are JSON texts that are stored as they are; `earlier_decisions` is how often this
    name was judged on its held-out pictures before. Raises BadInput if a test picture changed since it was prepared.
    """
    predictor = Predictor(exported.path / MODEL, exported.classes, exported.preprocessing, exported.rule, device)
    parts = {split: subset(dataset, split) for split in ("train", "validation", "test")}
    outputs = {split: evidence.from_pixels(predictor, dataset, parts[split]) for split in ("train", "validation")}
    outputs["test"] = evidence.from_files(predictor, parts["test"], progress)
    comparison = _compare(champion, dataset, parts["test"], outputs["test"], decision, gate, device)
    checks = [
        *_judge_lines(dataset, parts, outputs, decision, gate),
        _judge_parity(tuned, exported, dataset, parts["test"], outputs["test"], gate),
        *(judge(line, measured, gate.confidence) for line, measured in comparison.lines),
    ]
    verdict = overall(checks)
    body = {
        "name": name,
        "verdict": verdict,
        "checks": [check.as_json() for check in checks],
        "metrics": _metrics(dataset, parts, outputs),
        "baselines": _baselines(dataset, parts, head, features),
        "champion": {"generation": comparison.generation, "version": comparison.version, "notes": comparison.notes},
        "held_out": {"decisions": earlier_decisions + 1, "worn": earlier_decisions >= WORN_AFTER},
        "rule": exported.rule.text(),
        "provider": predictor.provider,
        "phases": {check.phase: _phase(check) for check in (head, tuned)},
        "classes": exported.classes,
        "counts": (sealed.about(dataset.path) or {}).get("counts"),
        "configuration": json.loads(configuration),
        "provenance": json.loads(provenance),
    }
    place = run / f"evaluation-{attempt}"
    with sealed.sealing(place, {"verdict": verdict}) as directory:
        text = json.dumps(body, indent=1, allow_nan=False)
        (directory / EVALUATION).write_text(text)
        (directory / REPORT).write_text(report.html_page(json.loads(text)), encoding="utf-8")
    artifact = _write_artifact(run / f"artifact-{attempt}", exported, dataset, body, comparison.generation)
    return Certified(artifact.path, artifact.digest, place, verdict, comparison.generation)


def read_evaluation(certified: Certified) -> dict[str, Any]:
    """`evaluation.json` as JSON values."""
    body: dict[str, Any] = json.loads((certified.evaluation / EVALUATION).read_text())
    return body


def _compare(
    champion: Candidate | None,
    dataset: Dataset,
    test: Subset,
    outputs: Outputs,
    decision: DecisionSpec,
    gate: GateSpec,
    device: Device,
) -> Comparison:
    if champion is None:
        return champions.no_champion()
    artifact = artifacts.read(champion.path, champion.digest)
    return champions.compare(
        artifact,
        champion.version,
        champion.generation,
        dataset.classes,
        test,
        outputs.decided,
        decision,
        gate,
        dataset.grouped,
        device,
    )


def _judge_lines(
    dataset: Dataset,
    parts: Mapping[str, Subset],
    outputs: Mapping[str, Outputs],
    decision: DecisionSpec,
    gate: GateSpec,
) -> list[Check]:
    test = parts["test"].labels
    prevalence = {label: float((test == i).mean()) for i, label in enumerate(dataset.classes)}
    lines = (*wanted_lines(gate, dataset.classes), *built_in_lines(decision, dataset.classes, prevalence))
    checks = []
    for line in lines:
        decided = evidence.decisions(parts[line.split], outputs[line.split].decided)
        measured = measure(line, decided, dataset.classes, dataset.grouped, gate.confidence)
        checks.append(judge(line, measured, gate.confidence))
    return checks


def _judge_parity(
    tuned: Checkpoint, exported: Exported, dataset: Dataset, test: Subset, outputs: Outputs, gate: GateSpec
) -> Check:
    """The trained network on the prepared arrays against the exported file on the original bytes."""
    logits = logits_of(load_classifier(tuned), dataset, test) / exported.temperature
    expected = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    worst = float(np.abs(expected - outputs.probabilities).max())
    line = Line("parity", "test", "overall", "<=", PARITY, evidence="point")
    return judge(line, Measurement(worst, (float("nan"), float("nan")), len(test)), gate.confidence)


def _metrics(dataset: Dataset, parts: Mapping[str, Subset], outputs: Mapping[str, Outputs]) -> dict[str, Any]:
    by_split = {split: evidence.figures(parts[split], outputs[split], dataset.classes) for split in parts}
    test = by_split.pop("test")
    return {
        **test,
        **{f"{split}_accuracy": figures["accuracy"] for split, figures in by_split.items()},
        "splits": by_split,
    }


def _baselines(dataset: Dataset, parts: Mapping[str, Subset], head: Checkpoint, features: Features) -> dict[str, Any]:
    """What the trained model must be worth: always the commonest class, and the head alone; at argmax, on test."""
    test = parts["test"]
    majority = int(np.bincount(parts["train"].labels).argmax())
    layer = load_classifier(head).head
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    logits = read_features(features)[test.rows].astype(np.float64) @ weight.T + bias
    always = np.full(len(test), majority)
    return {
        "majority": {"label": dataset.classes[majority], **metrics.summary(test.labels, always, dataset.classes)},
        "head_only": metrics.summary(test.labels, logits.argmax(axis=1), dataset.classes),
    }


def _phase(checkpoint: Checkpoint) -> dict[str, Any]:
    about = manifest_of(checkpoint)
    return {name: about[name] for name in ("trainable", "epochs", "best_epoch")}


def _write_artifact(
    place: Path, exported: Exported, dataset: Dataset, body: Mapping[str, Any], generation: int
) -> Artifact:
    """Everything of the contract, `artifact.json` last; then read back as a server would."""
    about = {
        "name": body["name"],
        "classes": exported.classes,
        "preprocessing": exported.preprocessing.model_dump(mode="json"),
        "rule": exported.rule.model_dump(mode="json"),
        "temperature": exported.temperature,
        "metrics": body["metrics"],
        "checks": body["checks"],
        "verdict": body["verdict"],
        "champion_generation": generation,
        "dataset": {
            "fingerprint": dataset.key,
            "counts": body["counts"],
            "split": sealed.sha256_of(dataset.path / SPLIT),
        },
        "configuration": body["configuration"],
        "provenance": body["provenance"],
    }
    with sealed.sealing(place, about, artifacts.MANIFEST) as directory:
        for name in (MODEL, GOLDEN):
            shutil.copyfile(exported.path / name, directory / name)
        shutil.copyfile(dataset.path / SPLIT, directory / SPLIT)
        (directory / CARD).write_text(report.card(body), encoding="utf-8")
    return artifacts.read(place)
