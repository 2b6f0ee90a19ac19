"""The JSON document that says what a run did: printed by the command line, kept as `runs/<run-id>/result.json`."""

from __future__ import annotations

import json
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flows.parameters import Parameters
from serving import sealed
from tasks.certification.certify import Certified, read_evaluation
from tasks.data.dataset import Dataset
from tasks.evaluation.gate import failing
from tasks.evaluation.validate import Validated
from tasks.model.classifier import Checkpoint
from tasks.release.release import Promotion, Published
from tasks.release.unchanged import RESULT

_LIBRARIES = (
    "thaw",
    "torch",
    "torchvision",
    "timm",
    "onnx",
    "onnxscript",
    "numpy",
    "pillow",
    "scikit-learn",
    "prefect",
    "bentoml",
)


_FROM_EVALUATION = (
    "rule", "checks", "metrics", "baselines", "slices", "phases", "champion", "counts", "data", "held_out", "precision",
    "size_mb", "latency_ms", "verdict_digest",
)  # fmt: skip


def inputs_digest(parameters: Parameters, dataset: Dataset, tuned: Checkpoint) -> str:
    """Digest of everything a decision depends on but the champion."""
    relevant = parameters.model_dump(mode="json", include={"decision", "gate", "export", "release"})
    return sealed.digest_of([relevant, dataset.key, tuned.key, version("thaw")])


def provenance(run_id: str) -> str:
    """Where and with what a model was made, as JSON text; no host or path."""
    return json.dumps(
        {
            "run_id": run_id,
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "code_revision": code_revision(),
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
            "libraries": {name: version(name) for name in _LIBRARIES},
        }
    )


def shipped_configuration(parameters: Parameters) -> str:
    """The parameters as JSON text, paths cut to their last part: where somebody's pictures lie is not shipped."""
    body = parameters.model_dump(mode="json")
    body["data"]["root"] = parameters.data.root.name
    body["model"]["weights"] = Path(parameters.model.weights).name
    return json.dumps(body)


def finished(
    run: Path,
    parameters: Parameters,
    inputs: str,
    dataset: Dataset,
    certified: Certified,
    published: Published,
    promotion: Promotion,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """The result of a run that certified and published."""
    evaluation = read_evaluation(certified)
    about = sealed.about(dataset.path) or {}
    return _kept(
        run,
        {
            "name": parameters.name,
            "version": published.version,
            "verdict": certified.verdict,
            "promoted": promotion.promoted,
            "waiting": promotion.waiting,
            "skipped": False,
            "reason": "; ".join([promotion.reason, *certified.failing]),
            **{key: evaluation[key] for key in _FROM_EVALUATION},
            "unreadable": len(about["unreadable"]),
            "bridges": len(about["bridges"]),
            "seconds": seconds,
            "artifact": str(certified.artifact),
            "report": str(certified.report),
            "run_id": run.name,
            "inputs": inputs,
        },
    )


def skipped(earlier: dict[str, Any], seconds: dict[str, float]) -> dict[str, Any]:
    """The earlier result, when nothing changed since; `seconds` are this run's."""
    version = earlier["version"]
    did = f"published {earlier['name']}:{version}" if version is not None else "published nothing"
    reason = f"nothing changed since run {earlier['run_id']}, which {did}"
    return earlier | {"skipped": True, "reason": reason, "seconds": seconds}


def ended(earlier: dict[str, Any]) -> dict[str, Any]:
    """The result of a run that had ended before it was started once more."""
    reason = f"run {earlier['run_id']} had ended, nothing was done: to train again, start a new run"
    return earlier | {"skipped": True, "reason": reason, "seconds": {}}


def stopped(
    run: Path,
    parameters: Parameters,
    inputs: str,
    dataset: Dataset,
    validated: Validated,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """The result of a run that `gate.stop_early` ended: validation rules a line out."""
    lines = [check.sentence() for check in failing(validated.checks)]
    return _kept(
        run,
        {
            "name": parameters.name,
            "version": None,
            "verdict": "REJECTED",
            "promoted": False,
            "waiting": False,
            "skipped": False,
            "reason": "; ".join(
                [f"validation rules out {', '.join(validated.ruled_out)}: stopped before export", *lines]
            ),
            "checks": [check.as_json() for check in validated.checks],
            "metrics": {},
            "baselines": {},
            "champion": {"generation": None, "version": None, "notes": []},
            "data": {"fingerprint": dataset.key},
            "seconds": seconds,
            "artifact": None,
            "report": None,
            "run_id": run.name,
            "inputs": inputs,
        },
    )


def _kept(run: Path, body: dict[str, Any]) -> dict[str, Any]:
    run.mkdir(parents=True, exist_ok=True)
    sealed.write_text(run / RESULT, json.dumps(body, indent=1, allow_nan=False))
    return body


def code_revision() -> str | None:
    """The commit of the code's own checkout, with `+` where it was changed; None outside one."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10)
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return f"{commit.stdout.strip()}{'+' if changed.stdout else ''}" if commit.returncode == 0 else None
