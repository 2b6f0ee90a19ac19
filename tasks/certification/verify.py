"""verify: the original pictures predicted again, elsewhere, must give the same verdict.

Nothing of the run is needed but the artifact: its file, its split table, its rule and its gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from serving.artifact import SPLIT, Artifact
from serving.errors import BadInput
from serving.predictor import Predictor, load_predictor
from serving.settings import Device, cores
from tasks.data.dataset import Slice, Subset
from tasks.data.source import SPLITS, Source, find_pictures
from tasks.data.spec import DataSpec
from tasks.data.split import Place, read_table
from tasks.data.verified import digest_of
from tasks.evaluation import champion as champions
from tasks.evaluation.evidence import Evidence, Machine
from tasks.evaluation.gate import overall
from tasks.evaluation.judgement import Judgement, judge_all, travels
from tasks.evaluation.outputs import from_files
from tasks.evaluation.spec import DecisionSpec, GateSpec
from tasks.progress import Progress, silent


def verify(
    artifact: Artifact,
    champion: tuple[Artifact, int, int] | None,
    data: DataSpec,
    decision: DecisionSpec,
    gate: GateSpec,
    device: Device = "auto",
    progress: Progress = silent,
) -> Judgement:
    """The verdict from the pictures under `data.root`, of the lines that can be judged away from the training machine.

    `champion`: the artifact it was compared with, its version and generation. Raises BadInput: pictures of the split
    table are missing; ArtifactError: the file does not give its golden answers here.
    """
    parts = _parts(artifact, data)
    predictor = load_predictor(artifact, device)
    evidence = _gather(artifact, predictor, parts, progress)
    if champion is not None:
        theirs, version, generation = champion
        pairs = champions.score(theirs, version, generation, artifact.classes, parts["test"], device)
        evidence = replace(evidence, champion=pairs)
    judgement = judge_all(evidence, decision, gate, artifact.contents.precision)
    checks = tuple(check for check in judgement.checks if travels(check))
    return replace(judgement, checks=checks, verdict=overall(checks))


def _gather(artifact: Artifact, predictor: Predictor, parts: dict[str, Subset], progress: Progress) -> Evidence:
    total, done = sum(len(part) for part in parts.values()), 0
    samples = {}
    for split, part in parts.items():
        samples[split] = from_files(predictor, part).sample
        done += len(part)
        progress(done, total, f"{split} pictures predicted")
    return Evidence(
        classes=artifact.classes,
        grouped=bool(artifact.contents.dataset["grouped"]),
        samples=samples,
        head_only=None,
        champion=None,
        size=artifact.model.stat().st_size,
        machine=Machine(float("nan"), float("nan"), ()),
    )


def _parts(artifact: Artifact, data: DataSpec) -> dict[str, Subset]:
    """The pictures of the artifact's split table, wherever they lie now; others under the root are ignored."""
    table = read_table(artifact.path / SPLIT)
    sources = find_pictures(data)
    with ThreadPoolExecutor(cores()) as pool:
        digests = list(pool.map(_digest, sources))
    missing = len(set(table) - set(digests))
    if missing:
        raise BadInput(
            f"expected the {len(table)} pictures that {artifact.contents.name} was made of under {data.root}, found "
            f"{len(table) - missing}: the same files are needed, byte for byte, wherever they lie"
        )
    found = [(s, d, table[d]) for s, d in zip(sources, digests, strict=True) if d in table]
    strange = sorted({source.label for source, _, _ in found} - set(artifact.classes))
    if strange:
        raise BadInput(f"expected the classes {', '.join(artifact.classes)}, found {', '.join(strange)}: relabel them")
    return {split: _subset([row for row in found if row[2].split == split], artifact, data) for split in SPLITS}


def _subset(rows: Sequence[tuple[Source, str, Place]], artifact: Artifact, data: DataSpec) -> Subset:
    return Subset(
        rows=np.arange(len(rows)),
        labels=np.array([artifact.classes.index(source.label) for source, _, _ in rows], np.int64),
        digests=tuple(digest for _, digest, _ in rows),
        units=tuple(place.unit for _, _, place in rows),
        paths=tuple(source.path for source, _, _ in rows),
        slices=tuple(
            Slice(column, tuple(source.slices[i] for source, _, _ in rows)) for i, column in enumerate(data.slices)
        ),
    )


def _digest(source: Source) -> str:
    """Empty where it cannot be read: counted as missing, if it is one of those needed."""
    return digest_of(source) or ""
