"""The `retrain` flow.

prepare -> embed -> audit -> train_head -> finetune -> validate -> export -> certify -> publish -> promote
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger
from pydantic import Field

from flows import artifacts, events, result
from flows.approval import ask, champion_to_meet, is_asked, is_deployed, refuse
from flows.begun import check_root, keep_parameters
from flows.displays import Display, RunDisplay
from flows.outcome import final_state, not_started
from flows.parameters import NAME, Parameters, RuntimeSpec
from flows.private import details_kept
from flows.runs import find_run, flow_run_name
from flows.steps import (
    AUDIT,
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
from flows.turn import Busy, is_automatic, is_superseded, this_run, turn_of
from serving.settings import find_home, load_settings
from serving.store import whoami
from tasks.audit.audit import Audited, audit_text
from tasks.audit.spec import AuditSpec
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
from tasks.model.device import torch_device, training_precision
from tasks.model.spec import ModelSpec
from tasks.release.release import Promotion, Published, decisions_made, find_champion
from tasks.release.spec import ReleaseSpec
from tasks.release.unchanged import find_ended, find_unchanged
from tasks.report.spec import ReportSpec
from tasks.training.embed import Features
from tasks.training.spec import FinetuneSpec, HeadSpec


@flow(name="retrain", flow_run_name=flow_run_name, validate_parameters=True, persist_result=False)
def retrain(
    name: Annotated[str, Field(pattern=NAME)],
    data: DataSpec,
    audit: AuditSpec = AuditSpec(),
    model: ModelSpec = ModelSpec(),
    head: HeadSpec = HeadSpec(),
    finetune: FinetuneSpec = FinetuneSpec(),
    decision: DecisionSpec = DecisionSpec(),
    gate: GateSpec = GateSpec(),
    export: ExportSpec = ExportSpec(),
    release: ReleaseSpec = ReleaseSpec(),
    report: ReportSpec = ReportSpec(),
    runtime: RuntimeSpec = RuntimeSpec(),
) -> Any:
    """Retrains a model, certifies the exported file, publishes it with its verdict, and promotes it if it PASSED.

    Ends in the state `Completed`, `Rejected`, `Inconclusive` or `Skipped`. Its result is the JSON document that
    `thaw retrain --json` prints, which is also written to `runs/<run-id>/result.json`.

    Args:
        name: model name: lowercase letters, digits and dashes, e.g. solar-cells
    """
    parameters = Parameters(
        name=name, data=data, audit=audit, model=model, head=head, finetune=finetune, decision=decision, gate=gate,
        export=export, release=release, report=report, runtime=runtime,
    )  # fmt: skip
    check_root(data.root)
    home, ledger, flow_run = find_home(), load_settings().ledger, this_run()
    if is_superseded(flow_run):
        return not_started(name, "a newer run of the same schedule is due: this late one would only repeat it")
    run = find_run(home, flow_run)
    display = DISPLAY.get() or (RunDisplay() if is_deployed() else Display())
    try:
        with turn_of(name, home, ledger, not is_automatic(flow_run), get_run_logger().warning), details_kept(run):
            body = _chain(parameters, home, ledger, run, Clock(display))
    except Busy as busy:
        return not_started(name, str(busy))
    return final_state(body)  # Prefect takes the state, and gives its caller the data in it


def _chain(p: Parameters, home: Path, ledger: str | None, run: Path, clock: Clock) -> dict[str, Any]:
    """The arrow chain. Each step names a directory under the home; the next one reads it."""
    ended = find_ended(p.name, run, home, ledger)
    if ended is not None:
        keep_parameters(run, p)
        return result.ended(ended)
    preprocessing, device, seed = describe(p.model), torch_device(p.runtime.device), p.runtime.seed

    dataset: Dataset = clock.run(PREPARE, p.name, home, p.data, preprocessing)
    check_plan(dataset, p.decision, p.gate)
    keep_parameters(run, p)
    artifacts.show_data(p.name, dataset)
    features: Features = clock.run(EMBED, dataset, home, p.model, preprocessing, seed, device)
    audited: Audited = clock.run(AUDIT, dataset, features, home, p.data, p.audit, p.gate)
    artifacts.show_audit(p.name, audited)
    dataset = audited.dataset
    head: Checkpoint = clock.run(TRAIN_HEAD, dataset, features, run, p.model, preprocessing, p.head, seed)
    precision = training_precision(p.runtime.precision, device)
    tuned: Checkpoint = clock.run(
        FINETUNE,
        head, dataset, run, p.finetune, p.head.class_weights, seed, device, precision, p.runtime.processes,
    )  # fmt: skip

    inputs = result.inputs_digest(p, dataset, tuned)
    unchanged = find_unchanged(p.name, inputs, run, home, ledger)
    if unchanged is not None:
        return result.skipped(unchanged, clock.seconds)
    artifacts.show_curves(p.name, head, tuned)

    validated: Validated = clock.run(VALIDATE, tuned, dataset, run, p.decision, p.gate)
    if validated.ruled_out and p.gate.stop_early:
        return _told(result.stopped(run, p, inputs, dataset, validated, clock.seconds))

    exported: Exported = clock.run(EXPORT, tuned, dataset, run, p.decision, p.export)
    trained = Trained(p.name, dataset, features, head, tuned, exported)
    champion = champion_to_meet(p.name, run, home, ledger)
    while True:
        earlier, seconds = decisions_made(p.name, home, ledger), tuple(clock.seconds.items())
        record = Record(
            result.shipped_configuration(p), result.provenance(run.name), earlier, seconds, audit_text(audited)
        )
        certified: Certified = clock.run(
            CERTIFY, trained, champion, run, p.decision, p.gate, record, p.report, p.runtime.device
        )
        published: Published = clock.run(PUBLISH, certified, home, ledger, whoami(), f"run {run.name}")
        finish = partial(result.finished, run, p, inputs, dataset, certified, published)
        promotion = _promote(p, home, ledger, clock, certified, published, finish)
        if not promotion.stale:
            return _told(finish(promotion, clock.seconds))
        # another champion meanwhile: what was compared with the old one proves nothing
        champion = find_champion(p.name, home, ledger)


def _promote(
    p: Parameters, home: Path, ledger: str | None, clock: Clock, certified: Certified, published: Published, finish: Any
) -> Promotion:
    """Promotes, after a person's word where one is wanted."""
    who, why, release = whoami(), f"run {certified.evaluation.parent.name}", p.release
    if is_asked(release, certified, p.name, home, ledger):
        asked = Promotion(False, False, f"{p.name}:{published.version} waits for approval", waiting=True)
        waiting = finish(asked, clock.seconds)
        answer = ask(published, release, waiting, home, ledger)
        if answer.decision == "refuse":
            return Promotion(False, False, refuse(published, answer, why, home, ledger))
        who, why, release = answer.who, f"approved: {answer.reason} ({why})", ReleaseSpec(promote="auto")
    promotion: Promotion = clock.run(PROMOTE, published, certified, home, ledger, release, who, why)
    return promotion


def _told(body: dict[str, Any]) -> dict[str, Any]:
    """The result, after its artifacts and its event."""
    artifacts.show_verdict(body)
    tell = events.promoted if body["promoted"] else events.rejected
    if body["promoted"] or body["verdict"] != "PASSED":
        tell(body["name"], body["version"], body["verdict"], body["reason"], run_id=body["run_id"])
    return body
