"""certify: what is gated is what is served.

The exported file is judged from the original bytes of the test pictures, through the decode and the predictor that
the server uses, at the operating point that will be served; then everything is put into one artifact.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving import artifact as artifacts
from serving import sealed
from serving.artifact import MODEL
from serving.predictor import Predictor
from serving.settings import Device
from tasks.certification.gather import Trained, gather
from tasks.certification.pack import pack
from tasks.data.dataset import Dataset, Subset, subset
from tasks.evaluation import champion as champions
from tasks.evaluation import evidence as evidences
from tasks.evaluation import figures
from tasks.evaluation.evidence import EVALUATION, Evidence, Pairs
from tasks.evaluation.gate import Check, Verdict, failing
from tasks.evaluation.judgement import Judgement, judge_all
from tasks.evaluation.spec import DecisionSpec, GateSpec
from tasks.model.classifier import Checkpoint, manifest_of
from tasks.progress import Progress, silent
from tasks.report.page import write_report
from tasks.report.spec import ReportSpec

# every decision on the same pictures leaks a little of them into what is tried next (Dwork et al. 2015)
WORN_AFTER = 50
REPORT = "report.html"


@dataclass(frozen=True, slots=True)
class Candidate:
    """The champion to compare with: its verified artifact's directory and digest, version and generation."""

    path: Path
    digest: str
    version: int
    generation: int


@dataclass(frozen=True, slots=True)
class Record:
    """What an evaluation keeps beside its figures. `configuration`, `provenance` and `audit` are JSON texts.

    `earlier_decisions`: how often this name was judged on its held-out pictures before; `seconds` of the steps so far.
    """

    configuration: str
    provenance: str
    earlier_decisions: int = 0
    seconds: tuple[tuple[str, float], ...] = ()
    audit: str = "{}"


@dataclass(frozen=True, slots=True)
class Certified:
    """Names a complete artifact and the directory of its evaluation and report. `generation`: of the champion met."""

    artifact: Path
    digest: str
    evaluation: Path
    verdict: Verdict
    generation: int
    failing: tuple[str, ...]  # the lines that decided against it, in words

    @property
    def report(self) -> Path:
        return self.evaluation / REPORT


def certify(
    trained: Trained,
    champion: Candidate | None,
    run: Path,
    decision: DecisionSpec,
    gate: GateSpec,
    record: Record,
    report: ReportSpec = ReportSpec(),
    device: Device = "auto",
    progress: Progress = silent,
) -> Certified:
    """Judges the exported file and writes its artifact, evaluation and report.

    Writes `run/evaluation-<n>/` (evaluation.json, evidence.npz, report.html), then `run/artifact-<n>/` from it: n is
    the next free number, unless the run has judged the same before, against the same champion. Then those are the
    answer, and an artifact that a kill kept from being written is written now.
    Raises BadInput if a test picture changed since it was prepared; ArtifactError if what is there was altered.
    """
    key = _key(trained, decision, gate, record, report)
    number = _number(run, key, champion)
    place = run / f"evaluation-{number}"
    if sealed.reusable(place, key) is None:
        about = {"key": key, "champion": _identity(champion)}
        _evaluate(place, about, trained, champion, decision, gate, record, report, device, progress)
    body: dict[str, Any] = json.loads((place / EVALUATION).read_text(encoding="utf-8"))
    artifact = pack(run / f"artifact-{number}", trained.exported, trained.dataset, body)
    sentences = tuple(check.sentence() for check in failing([Check(**check) for check in body["checks"]]))
    return Certified(artifact.path, artifact.digest, place, body["verdict"], body["champion"]["generation"], sentences)


def read_evaluation(certified: Certified) -> dict[str, Any]:
    """`evaluation.json` as JSON values."""
    body: dict[str, Any] = json.loads((certified.evaluation / EVALUATION).read_text())
    return body


def _key(trained: Trained, decision: DecisionSpec, gate: GateSpec, record: Record, report: ReportSpec) -> str:
    """Digest of all that an evaluation depends on but the champion. When it was made, and how long it took, is not."""
    model = sealed.sha256_of(trained.exported.path / MODEL)
    steps = [trained.dataset.key, trained.features.key, trained.head.key, trained.tuned.key]
    parameters = [spec.model_dump(mode="json") for spec in (trained.exported.rule, decision, gate, report)]
    made_of = [trained.name, model, trained.exported.temperature, *steps, *parameters, record.configuration]
    return sealed.digest_of(made_of)[:16]


def _identity(champion: Candidate | None) -> dict[str, Any] | None:
    return None if champion is None else {"digest": champion.digest, "generation": champion.generation}


def _number(run: Path, key: str, champion: Candidate | None) -> int:
    """That of the evaluation that was made of the same before, else the next free one.

    If the champion is this run's own artifact, the run was killed after promoting it: it is not judged against itself.
    """
    endings = [p.name.rpartition("-")[2] for kind in ("evaluation", "artifact") for p in run.glob(f"{kind}-*")]
    numbers = sorted({int(ending) for ending in endings if ending.isdecimal()})
    for number in numbers:
        about = sealed.about(run / f"evaluation-{number}") or {}
        manifest = run / f"artifact-{number}" / artifacts.MANIFEST
        own = champion is not None and manifest.is_file() and sealed.sha256_of(manifest) == champion.digest
        if about.get("key") == key and (own or about.get("champion") == _identity(champion)):
            return number
    return numbers[-1] + 1 if numbers else 1


def _evaluate(
    place: Path,
    about: dict[str, Any],
    trained: Trained,
    champion: Candidate | None,
    decision: DecisionSpec,
    gate: GateSpec,
    record: Record,
    report: ReportSpec,
    device: Device,
    progress: Progress,
) -> None:
    exported, dataset = trained.exported, trained.dataset
    predictor = Predictor(exported.path / MODEL, exported.classes, exported.preprocessing, exported.rule, device)
    test = subset(dataset, "test")
    pairs = _score(champion, dataset, test, device)
    evidence = gather(trained, predictor, test, pairs, progress)
    judgement = judge_all(evidence, decision, gate, exported.precision)
    body = _body(trained, evidence, judgement, decision, gate, record) | {"provider": predictor.provider}
    with sealed.sealing(place, about | {"verdict": judgement.verdict}) as directory:
        evidences.save(evidence, directory)
        (directory / EVALUATION).write_text(json.dumps(body, indent=1, allow_nan=False))
        write_report(directory / REPORT, body, evidence, dataset, test, report.pictures)


def _score(champion: Candidate | None, dataset: Dataset, test: Subset, device: Device) -> Pairs | None:
    if champion is None:
        return None
    artifact = artifacts.read(champion.path, champion.digest)
    return champions.score(artifact, champion.version, champion.generation, dataset.classes, test, device)


def _body(
    trained: Trained,
    evidence: Evidence,
    judgement: Judgement,
    decision: DecisionSpec,
    gate: GateSpec,
    record: Record,
) -> dict[str, Any]:
    """`evaluation.json`: every figure and line, without names of files."""
    exported, pairs = trained.exported, evidence.champion
    about = sealed.about(trained.dataset.path) or {}
    return {
        "name": trained.name,
        "verdict": judgement.verdict,
        "verdict_digest": judgement.digest,
        "checks": [check.as_json() for check in judgement.checks],
        "metrics": figures.by_split(evidence, exported.temperature, gate.confidence),
        "baselines": figures.baselines(evidence, gate.confidence),
        "slices": figures.slices(evidence, decision, gate.confidence),
        "champion": {
            "generation": pairs.generation if pairs else 0,
            "version": pairs.version if pairs else None,
            "digest": pairs.digest if pairs else None,
            "mcnemar": judgement.comparison.mcnemar,
            "notes": judgement.comparison.notes,
        },
        "held_out": {"decisions": record.earlier_decisions + 1, "worn": record.earlier_decisions >= WORN_AFTER},
        "rule": exported.rule.text(),
        "thresholds": {step.label: step.threshold for step in exported.rule.watch},
        "temperature": exported.temperature,
        "precision": exported.precision,
        "size_mb": evidence.size / 1e6,
        "latency_ms": float(np.median(evidence.machine.latencies_ms)),
        "phases": {check.phase: _phase(check) for check in (trained.head, trained.tuned)},
        "classes": exported.classes,
        "counts": about.get("counts"),
        "data": {
            "fingerprint": trained.dataset.key,
            "grouped": trained.dataset.grouped,
            "units": about.get("units"),
            "unreadable": len(about.get("unreadable", ())),
            "bridges": len(about.get("bridges", ())),
        },
        "audit": json.loads(record.audit),
        "configuration": json.loads(record.configuration),
        "provenance": json.loads(record.provenance),
        "seconds": dict(record.seconds),
    }


def _phase(checkpoint: Checkpoint) -> dict[str, Any]:
    about = manifest_of(checkpoint)
    told = ("trainable", "epochs", "best_epoch", "learning_rate", "share", "signs")
    return {name: about[name] for name in told if name in about}
