"""The artifact of a certified model, packed from its evaluation, the exported file and the split table."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from serving import artifact as artifacts
from serving import sealed
from serving.artifact import CARD, GOLDEN, MODEL, SPLIT, Artifact
from serving.errors import ArtifactError
from tasks.data.dataset import Dataset
from tasks.evaluation.evidence import EVALUATION
from tasks.export.export import Exported
from tasks.report.card import card


def pack(place: Path, exported: Exported, dataset: Dataset, body: dict[str, Any]) -> Artifact:
    """Everything of the contract, read back as a server would; `body` is what `evaluation.json` says.

    Writes `place`, `artifact.json` last, unless it is there already. Raises ArtifactError: it was altered, or does not
    belong to this evaluation.
    """
    about = _contents(exported, dataset, body)
    if not place.exists():
        with sealed.sealing(place, about, artifacts.MANIFEST) as directory:
            for name in (MODEL, GOLDEN):
                shutil.copyfile(exported.path / name, directory / name)
            shutil.copyfile(dataset.path / SPLIT, directory / SPLIT)
            (directory / CARD).write_text(card(body), encoding="utf-8")
    found = sealed.about(place, artifacts.MANIFEST) or {}
    if {name: found.get(name) for name in about} != json.loads(json.dumps(about)):
        raise ArtifactError(
            f"{place / artifacts.MANIFEST}: expected what {EVALUATION} of the same number says, found other values: "
            f"it was altered; remove {place} and resume the run"
        )
    return artifacts.read(place)


def _contents(exported: Exported, dataset: Dataset, body: dict[str, Any]) -> dict[str, Any]:
    """What `artifact.json` says beside the files."""
    return {
        "classes": exported.classes,
        "preprocessing": exported.preprocessing.model_dump(mode="json"),
        "rule": exported.rule.model_dump(mode="json"),
        "temperature": exported.temperature,
        "precision": exported.precision,
        **{key: body[key] for key in ("name", "metrics", "checks", "verdict", "verdict_digest")},
        "champion_generation": body["champion"]["generation"],
        "champion_version": body["champion"]["version"],
        "dataset": {
            **body["data"],
            "counts": body["counts"],
            "split": sealed.sha256_of(dataset.path / SPLIT),
        },
        "configuration": body["configuration"],
        "provenance": body["provenance"],
    }
