"""audit: what is wrong with the pictures, and what they can prove, before anything is trained."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving import sealed
from serving.errors import BadInput
from tasks.audit.copies import find_copies
from tasks.audit.findings import Finding, Suspect, by_policy, counted, finding_of, of_pictures
from tasks.audit.labels import doubt_labels
from tasks.audit.looks import odd_pictures, shortcut_finding, shortcuts
from tasks.audit.provable import Proofs, what_can_be_proved
from tasks.audit.repair import without
from tasks.audit.same import lost_classes, pairs_of, rows_to_leave_out, same_pictures
from tasks.audit.spec import AuditSpec
from tasks.data.dataset import Dataset, pixels
from tasks.data.facts import Facts, facts
from tasks.data.source import find_pictures
from tasks.data.spec import DataSpec
from tasks.evaluation.spec import GateSpec
from tasks.progress import Progress, silent
from tasks.training.embed import Features, read_features

FILE = "audit.json"
_FORMAT = 4
_NAMED = 3  # pairs that an error message names
_RATIO = 10  # of the largest to the smallest class


@dataclass(frozen=True, slots=True)
class Audited:
    """Names a complete directory with `audit.json`, and the dataset to learn from: without copies of what judges."""

    path: Path
    key: str
    dataset: Dataset
    reused: bool


@dataclass(frozen=True, slots=True)
class Audit:
    """What `audit.json` holds: rows of the dataset, no names of pictures. `proofs` as of `Proofs.as_json`."""

    findings: tuple[Finding, ...]
    proofs: Mapping[str, Any]
    pictures: int

    @property
    def blocking(self) -> tuple[Finding, ...]:
        return tuple(found for found in self.findings if found.level == "BLOCK")


def audit(
    dataset: Dataset,
    features: Features,
    home: Path,
    data: DataSpec,
    spec: AuditSpec,
    gate: GateSpec,
    progress: Progress = silent,
) -> Audited:
    """`examine`, and a stop where something blocks. Raises BadInput: which findings, and what to do."""
    audited = examine(dataset, features, home, data, spec, gate, progress)
    blocking = read_audit(audited).blocking
    if blocking:
        said = "; ".join(found.text for found in blocking)
        advice = "`thaw audit` with --html shows them, with --suspects lists them for a correction"
        names = _named(blocking, facts(dataset))
        raise BadInput(f"{said}. {names}. {advice}", shared=f"{said}. {advice}")
    return audited


def examine(
    dataset: Dataset,
    features: Features,
    home: Path,
    data: DataSpec,
    spec: AuditSpec,
    gate: GateSpec,
    progress: Progress = silent,
) -> Audited:
    """Looks for everything that docs/audit.md lists; stops at nothing.

    Writes `audits/<key>/audit.json`, and where rows are left out a dataset without them beside the dataset's own; the
    key covers dataset, features, policy and gate. Raises BadInput: a gate line about a class that does not exist.
    """
    given = any(source.split is not None for source in find_pictures(data))
    made_of = [_FORMAT, dataset.key, features.key, given]
    key = sealed.digest_of([*made_of, spec.model_dump(mode="json"), gate.model_dump(mode="json")])[:16]
    place = home / "audits" / key
    reused = sealed.about(place) is not None
    if not reused:
        found, left_out, proofs = _look(dataset, features, facts(dataset), given, spec, gate, progress)
        body = {
            "pictures": len(pixels(dataset)),
            "findings": [one.as_json() for one in found],
            "proofs": proofs.as_json(),
            "left_out": left_out,
        }
        with sealed.sealing(place, {"dataset": dataset.key}) as directory:
            (directory / FILE).write_text(json.dumps(body, indent=1, allow_nan=False), encoding="utf-8")
    body = json.loads((place / FILE).read_text(encoding="utf-8"))
    audited = Audited(place, key, without(dataset, body["left_out"]), reused)
    progress(1, 1, _summary(read_audit(audited)))
    return audited


def read_audit(audited: Audited) -> Audit:
    """What was found."""
    body = json.loads((audited.path / FILE).read_text(encoding="utf-8"))
    return Audit(tuple(map(finding_of, body["findings"])), body["proofs"], int(body["pictures"]))


def audit_text(audited: Audited) -> str:
    """For the run's evaluation, as JSON text: level, kind, sentence and number of each finding; what can be proved."""
    found = read_audit(audited)
    told = [{"level": f.level, "kind": f.kind, "text": f.text, "count": len(f.suspects)} for f in found.findings]
    return json.dumps({"findings": told, "proofs": found.proofs})


def _look(
    dataset: Dataset,
    features: Features,
    told: Facts,
    given: bool,
    spec: AuditSpec,
    gate: GateSpec,
    progress: Progress,
) -> tuple[tuple[Finding, ...], tuple[int, ...], Proofs]:
    """Findings, the rows to leave out, and what can be proved."""
    steps = 4
    progress(0, steps, "looking for copies")
    pairs = pairs_of(told, told.splits, find_copies(pixels(dataset), read_features(features)))
    left_out = rows_to_leave_out(pairs, told.splits) if spec.drop_copies and not given else ()
    found = list(same_pictures(pairs, told, told.splits, given, left_out))
    lost = lost_classes(told, told.splits, left_out)
    if lost:
        found.append(_lost(dataset, lost))
        left_out = ()
    progress(1, steps, "looking for label errors")
    found += _label_errors(dataset, features, told)
    progress(2, steps, "looking for odd pictures and shortcuts")
    found += odd_pictures(told, dataset.image_size)
    shortcut = shortcut_finding(shortcuts(told, len(dataset.classes)), len(dataset.classes))
    found += [shortcut] if shortcut else []
    progress(3, steps, "what can be proved")
    proofs = what_can_be_proved(dataset, gate)
    found += [*_imbalance(dataset, told), *_unprovable(proofs)]
    return by_policy(found, spec), left_out, proofs


def _lost(dataset: Dataset, lost: Sequence[tuple[int, str]]) -> Finding:
    """Blocks whatever the policy says: nothing could be learnt of such a class, or chosen for it."""
    named = ", ".join(f"{dataset.classes[label]!r} in {split}" for label, split in lost)
    return Finding(
        "left_out",
        "BLOCK",
        f"expected pictures of every class that are no copies of held-out ones, found none of {named}: add different "
        "pictures, keep copies together with data.group_by under another name, or set audit.drop_copies=false and take "
        "leakage out of audit.block",
    )


def _label_errors(dataset: Dataset, features: Features, told: Facts) -> Iterator[Finding]:
    doubts = doubt_labels(read_features(features), told.labels, told.units, len(dataset.classes))
    if doubts is None or not len(doubts.rows):
        return
    suspects = tuple(
        Suspect((int(row),), round(float(1 - doubts.quality[row]), 4), "keep", dataset.classes[doubts.likeliest[row]])
        for row in doubts.rows
    )
    text = (
        f"expected labels that fit their pictures, found {of_pictures(len(suspects))} that a head fitted on the others "
        "would label otherwise: look at the first of them; hard pictures are among them, not only errors"
    )
    yield Finding("label_error", "WARN", text, suspects)


def _imbalance(dataset: Dataset, told: Facts) -> Iterator[Finding]:
    counts = Counter(dataset.classes[label] for label in told.labels)
    (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
    if many >= _RATIO * few:
        yield Finding(
            "imbalance",
            "WARN",
            f"expected classes of like size, found {many:,} pictures of {most} and {few:,} of {least}: add pictures of "
            f"{least}, set head.class_weights=balanced, and ask for its recall by name (gate.min_recall)",
        )


def _unprovable(proofs: Proofs) -> Iterator[Finding]:
    """No model can pass such a line by its interval, however good."""
    lines = [line for line in proofs.lines if not line.provable]
    if lines:
        said = "; ".join(
            f"{line.line} needs {line.more:,} more {proofs.unit}"
            if line.more
            else f"{line.line} cannot be shown by {line.units:,} {proofs.unit}"
            for line in lines
        )
        yield Finding(
            "unprovable",
            "WARN",
            f"expected test {proofs.unit} enough for the gate, found too few even for a perfect model: {said}; "
            "add pictures, raise data.test, or ask for less",
        )


def _summary(found: Audit) -> str:
    count = Counter(one.level for one in found.findings)
    stop = counted(count["BLOCK"], "finding")
    return f"{of_pictures(found.pictures)} audited: {stop} to stop a run, {count['WARN']} to look at"


def _named(blocking: Sequence[Finding], told: Facts) -> str:
    names = [
        " = ".join(str(told.paths[row]) for row in suspect.rows)
        for found in blocking
        for suspect in found.suspects[:_NAMED]
    ]
    return "The first: " + ", ".join(names) if names else "See the audit"
