"""The `retrain` flow.

prepare -> embed -> train_head -> finetune -> validate -> export -> certify -> publish -> promote
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows import result
from flows.outcome import final_state, publish_artifacts
from flows.parameters import NAME, Parameters, RuntimeSpec
from flows.steps import (
    CERTIFY,
    DISPLAY,
    EMBED,
    EXPORT,
    FINETUNE,
    PREPARE,
    PROMOTE,
    PUBLISH,
    TRAIN_HEAD,
    VALIDATE,
    Clock,
)
from serving.settings import find_home, load_settings
from serving.store import whoami
from tasks.certification.certify import Certified, Record
from tasks.certification.gather import Trained
from tasks.data.dataset import Dataset
from tasks.data.spec import DataSpec
from tasks.evaluation.spec import DecisionSpec, GateSpec
from tasks.evaluation.validate import Validated, check_plan
from tasks.export.export import Exported
from tasks.export.spec import ExportSpec
from tasks.model.backbone import describe
from tasks.model.classifier import Checkpoint
from tasks.model.device import torch_device
from tasks.model.spec import ModelSpec
from tasks.release.release import Promotion, Published, decisions_made, find_champion
from tasks.release.spec import ReleaseSpec
from tasks.release.unchanged import find_unchanged
from tasks.report.spec import ReportSpec
from tasks.training.embed import Features
from tasks.training.spec import FinetuneSpec, HeadSpec


@flow(name="retrain", flow_run_name="retrain {name}", validate_parameters=True, persist_result=False)
def retrain(
    name: Annotated[str, Field(pattern=NAME, description="model name, e.g. solar-cells")],
    data: DataSpec,
    model: ModelSpec = ModelSpec(),
    head: HeadSpec = HeadSpec(),
    finetune: FinetuneSpec = FinetuneSpec(),
    decision: DecisionSpec = DecisionSpec(),
    gate: GateSpec = GateSpec(),
    export: ExportSpec = ExportSpec(),
    release: ReleaseSpec = ReleaseSpec(),
    report: ReportSpec = ReportSpec(),
    runtime: RuntimeSpec = RuntimeSpec(),
) -> dict[str, Any]:
    """Retrains a model, certifies the exported file, publishes it with its verdict, and promotes it if it PASSED.

    Ends in the state `Completed`, `Rejected`, `Inconclusive` or `Skipped`. Its result is the JSON document that
    `thaw retrain --json` prints, which is also written to `runs/<run-id>/result.json`.
    """
    parameters = Parameters(
        name=name, data=data, model=model, head=head, finetune=finetune, decision=decision, gate=gate, export=export,
        release=release, report=report, runtime=runtime,
    )  # fmt: skip
    body = _chain(parameters, find_home(), load_settings().ledger, Clock(DISPLAY.get()))
    if not body["skipped"]:
        publish_artifacts(body)
    ended: dict[str, Any] = final_state(body)  # Prefect takes the state, and gives its caller the data in it
    return ended


def _chain(p: Parameters, home: Path, ledger: str | None, clock: Clock) -> dict[str, Any]:
    """The arrow chain. Each step names a directory under the home; the next one reads it."""
    preprocessing, device, seed = describe(p.model), torch_device(p.runtime.device), p.runtime.seed
    run = result.new_run(home)

    dataset: Dataset = clock.run(PREPARE, p.name, home, p.data, preprocessing)
    check_plan(dataset, p.decision, p.gate)
    features: Features = clock.run(EMBED, dataset, home, p.model, preprocessing, seed, device)
    head: Checkpoint = clock.run(TRAIN_HEAD, dataset, features, run, p.model, preprocessing, p.head, seed)
    tuned: Checkpoint = clock.run(FINETUNE, head, dataset, run, p.finetune, p.head.class_weights, seed, device)

    inputs = result.inputs_digest(p, dataset, tuned)
    unchanged = find_unchanged(p.name, inputs, run.parent, home, ledger)
    if unchanged is not None:
        return result.skipped(unchanged, clock.seconds)

    validated: Validated = clock.run(VALIDATE, tuned, dataset, run, p.decision, p.gate)
    if validated.ruled_out and p.gate.stop_early:
        return result.stopped(run, p, inputs, validated, clock.seconds)

    exported: Exported = clock.run(EXPORT, tuned, dataset, run, p.decision, p.export)
    trained = Trained(p.name, dataset, features, head, tuned, exported)
    certified, published, promotion = _release(p, home, ledger, clock, run, trained)
    if promotion.stale:  # another champion meanwhile: what was compared with the old one proves nothing
        certified, published, promotion = _release(p, home, ledger, clock, run, trained, attempt=2)
    return result.finished(run, p, inputs, dataset, certified, published, promotion, clock.seconds)


def _release(
    p: Parameters,
    home: Path,
    ledger: str | None,
    clock: Clock,
    run: Path,
    trained: Trained,
    attempt: int = 1,
) -> tuple[Certified, Published, Promotion]:
    """certify -> publish -> promote, against the champion that stands now."""
    champion, earlier = find_champion(p.name, home, ledger), decisions_made(p.name, home, ledger)
    seconds = tuple(clock.seconds.items())
    record = Record(result.shipped_configuration(p), result.provenance(run.name), attempt, earlier, seconds)
    certified: Certified = clock.run(
        CERTIFY, trained, champion, run, p.decision, p.gate, record, p.report, p.runtime.device
    )
    who, why = whoami(), f"run {run.name}"
    published: Published = clock.run(PUBLISH, certified, home, ledger, who, why)
    promotion: Promotion = clock.run(PROMOTE, published, certified, home, ledger, p.release, who, why)
    return certified, published, promotion
