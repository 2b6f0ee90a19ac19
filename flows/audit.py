"""`thaw audit`: what is wrong with a folder of pictures, and what could be proved with it, without training."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from flows.displays import Display
from flows.gc import ASIDE
from flows.parameters import Parameters
from serving.errors import BadInput
from serving.settings import find_home
from tasks.audit.audit import Audit, examine, read_audit
from tasks.audit.findings import Finding, Suspect, counted
from tasks.audit.page import write_page
from tasks.audit.suspects import read_corrections, write_manifest, write_suspects
from tasks.data.dataset import Dataset
from tasks.data.draws import copy_tables
from tasks.data.facts import Facts, facts
from tasks.data.prepare import find_prepared, prepare
from tasks.data.source import find_pictures
from tasks.data.split import Torn
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

    Embeds under the home, as the retrain will, which then uses the features again. Raises BadInput: as `prepare`, and
    for a file to write that is there already.
    """
    check_free(html=wanted.html, suspects=wanted.suspects)
    home = find_home()
    with _prepared(parameters, display) as (dataset, refusal):
        preprocessing, device = describe(parameters.model), torch_device(parameters.runtime.device)
        features = embed(
            dataset, home, parameters.model, preprocessing, parameters.runtime.seed, device, display.progress("embed")
        )
        audited = examine(
            dataset, features, home, parameters.data, parameters.audit, parameters.gate, display.progress("audit")
        )
        found = read_audit(audited)
        if refusal is not None:
            found = replace(found, findings=(Finding("leakage", "BLOCK", refusal), *found.findings))
        return _told(parameters, dataset, found, wanted)


def apply_suspects(parameters: Parameters, suspects: Path, out: Path) -> dict[str, Any]:
    """Writes the manifest of the pictures as a person corrected them. Raises BadInput: see `tasks.audit.suspects`."""
    check_free(out=out)
    data = parameters.data
    corrections, sources = read_corrections(suspects), find_pictures(data)
    left = write_manifest(out, sources, corrections, data)
    dropped = sum(correction.label is None for correction in corrections.values())
    return {
        "manifest": str(out),
        "pictures": left,
        "dropped": dropped,
        "relabelled": len(corrections) - dropped,
        "refused": sum(source.refused is not None for source in sources),
    }


def check_free(**files: Path | None) -> None:
    """Raises BadInput: a file to write, by its option, is there already, has no folder, or is named twice."""
    taken: set[Path] = set()
    for option, file in files.items():
        if file is None:
            continue
        place = file.absolute()
        if not place.parent.is_dir():
            raise BadInput(f"expected a folder for --{option} {file}, found none: create it, or name another file")
        if os.path.lexists(place) or place in taken:
            raise BadInput(
                f"expected a new file for --{option}, found that {file} is there already: name another, or remove it"
            )
        taken.add(place)


def print_audit(console: Console, body: dict[str, Any]) -> None:
    """A line a finding, then what could be proved."""
    for found in body["findings"]:
        level = f"[{_COLOURS[found['level']]}]{found['level']:<5}[/]"
        console.print(f"{level} {found['kind']:<14} {escape(found['text'])}", highlight=False, soft_wrap=True)
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
    console.print(f"{counted(blocked, 'finding')} would stop a retrain" if blocked else "nothing would stop a retrain")
    for name in ("html", "suspects"):
        if body[name]:
            console.print(f"{name}: {body[name]}", highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _prepared(parameters: Parameters, display: Display) -> Iterator[tuple[Dataset, str | None]]:
    """The dataset, and why a retrain would refuse the split that the user gave, or None.

    What no run has prepared yet is prepared aside, and thrown away: an audit decides nothing, and a table in the name's
    own folder would fix the split for good.
    """
    name, data, preprocessing, home = parameters.name, parameters.data, describe(parameters.model), find_home()
    progress = display.progress("prepare")
    if find_prepared(name, home, data, preprocessing) is not None:
        yield prepare(name, home, data, preprocessing, progress), None
        return
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=ASIDE, dir=home) as folder:
        aside, refusal = Path(folder), None
        copy_tables(name, home, aside)
        try:
            dataset = prepare(name, aside, data, preprocessing, progress)
        except Torn as refused:
            refusal = str(refused)
            dataset = prepare(name, aside / "torn", data, preprocessing, progress, torn=True)
        yield dataset, refusal


def _told(parameters: Parameters, dataset: Dataset, found: Audit, wanted: Wanted) -> dict[str, Any]:
    told = facts(dataset)
    if wanted.suspects is not None:
        write_suspects(wanted.suspects, found.findings, told, dataset.classes)
    if wanted.html is not None:
        write_page(wanted.html, parameters.name, found, dataset, parameters.report.pictures)
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
