"""`thaw audit`: what is wrong with a folder of pictures, and what could be proved with it, without training."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from flows.displays import Display
from flows.parameters import Parameters
from serving.errors import BadInput
from serving.preprocess import Preprocessing
from serving.settings import find_home
from tasks.audit.audit import Audit, Audited, examine, read_audit
from tasks.audit.findings import Suspect
from tasks.audit.page import write_page
from tasks.audit.suspects import read_corrections, write_manifest, write_suspects
from tasks.data.dataset import Dataset
from tasks.data.facts import Facts, facts
from tasks.data.prepare import prepare
from tasks.data.source import find_pictures
from tasks.model.backbone import describe
from tasks.model.device import torch_device
from tasks.training.embed import embed

BLOCKED = 3  # exit status where something would stop a retrain
_COLOURS = {"BLOCK": "red", "WARN": "yellow", "INFO": "default"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Files to write beside what is told."""

    html: Path | None = None
    suspects: Path | None = None


def audit_pictures(parameters: Parameters, wanted: Wanted, display: Display) -> dict[str, Any]:
    """The JSON document of `thaw audit`: every finding with its pictures, and what can be proved.

    Prepares and embeds under the home, as the retrain will, which then uses both again. Raises BadInput: as `prepare`.
    """
    with _prepared(parameters, display) as (home, dataset):
        preprocessing, device = describe(parameters.model), torch_device(parameters.runtime.device)
        features = embed(
            dataset, home, parameters.model, preprocessing, parameters.runtime.seed, device, display.progress("embed")
        )
        audited = examine(
            dataset, features, home, parameters.data, parameters.audit, parameters.gate, display.progress("audit")
        )
        return _told(parameters, dataset, audited, wanted)


def apply_suspects(parameters: Parameters, suspects: Path, out: Path) -> dict[str, Any]:
    """Writes the manifest of the pictures as a person corrected them. Raises BadInput: see `tasks.audit.suspects`."""
    data = parameters.data
    corrections = read_corrections(suspects)
    left = write_manifest(out, find_pictures(data), corrections, data.slices)
    dropped = sum(correction.label is None for correction in corrections.values())
    return {"manifest": str(out), "pictures": left, "dropped": dropped, "relabelled": len(corrections) - dropped}


def print_audit(console: Console, body: dict[str, Any]) -> None:
    """A line a finding, then what could be proved."""
    for found in body["findings"]:
        level = f"[{_COLOURS[found['level']]}]{found['level']:<5}[/]"
        text = found["text"].replace("[", r"\[")
        console.print(f"{level} {found['kind']:<14} {text}", highlight=False, soft_wrap=True)
    proofs = body["provable"]
    for one in proofs["classes"]:
        console.print(
            f"{one['units']} test {proofs['unit']} of {one['label']}: at best recall >= {one['best_recall']:.3f} "
            "could be shown",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    blocked = sum(found["level"] == "BLOCK" for found in body["findings"])
    console.print(f"{blocked} findings would stop a retrain" if blocked else "nothing would stop a retrain")
    for name in ("html", "suspects"):
        if body[name]:
            console.print(f"{name}: {body[name]}", highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _prepared(parameters: Parameters, display: Display) -> Iterator[tuple[Path, Dataset]]:
    """The home and the dataset in it.

    Where `prepare` refuses a split that the user gave because of copies in it, the pictures are prepared without that
    split in a home of their own, so that the audit can show which they are.
    """
    data, preprocessing, home = parameters.data, describe(parameters.model), find_home()
    progress = display.progress("prepare")
    dataset: Dataset | None = None
    try:
        dataset = prepare(parameters.name, home, data, preprocessing, progress)
    except BadInput as refused:
        if "leakage" not in str(refused):
            raise
    if dataset is not None:
        yield home, dataset
        return
    with tempfile.TemporaryDirectory(prefix="thaw-audit-") as folder:
        yield Path(folder), _without_split(parameters, Path(folder), preprocessing)


def _without_split(parameters: Parameters, home: Path, preprocessing: Preprocessing) -> Dataset:
    manifest, data = home / "pictures.csv", parameters.data
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", *data.slices))
        for source in find_pictures(data):
            writer.writerow((source.path.absolute(), source.label, *source.slices))
    return prepare(parameters.name, home, data.model_copy(update={"root": manifest, "group_by": None}), preprocessing)


def _told(parameters: Parameters, dataset: Dataset, audited: Audited, wanted: Wanted) -> dict[str, Any]:
    found, told = read_audit(audited), facts(dataset)
    if wanted.html is not None:
        _check_folder(wanted.html)
        write_page(wanted.html, parameters.name, found, dataset, parameters.report.pictures)
    if wanted.suspects is not None:
        write_suspects(wanted.suspects, found.findings, told, dataset.classes)
    return {
        "name": parameters.name,
        "pictures": found.pictures,
        "classes": list(dataset.classes),
        "blocked": bool(found.blocking),
        "findings": _findings(found, told, dataset.classes),
        "provable": found.proofs,
        "html": str(wanted.html) if wanted.html else None,
        "suspects": str(wanted.suspects) if wanted.suspects else None,
    }


def _findings(found: Audit, told: Facts, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    def suspect(one: Suspect) -> dict[str, Any]:
        paths = [str(told.paths[row]).encode("utf-8", "surrogateescape").decode("utf-8", "replace") for row in one.rows]
        labels = [classes[told.labels[row]] for row in one.rows]
        return {"paths": paths, "labels": labels, "score": one.score, "suggested": one.suggested, "action": one.action}

    return [
        {"kind": f.kind, "level": f.level, "text": f.text, "suspects": [suspect(one) for one in f.suspects]}
        for f in found.findings
    ]


def _check_folder(file: Path) -> None:
    if not file.absolute().parent.is_dir():
        raise BadInput(f"expected a folder for {file}, found none: create it, or name another file")
