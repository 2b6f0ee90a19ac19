"""Everything a verdict is computed from, as arrays in one file: with it, `thaw gate` does the arithmetic again.

evidence.npz   per split: truth, probabilities, units, digests, slices; the baselines; the champion's decisions;
               what was measured of the machine. No names of files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from serving.artifact import Rule
from tasks.data.dataset import Slice
from tasks.data.source import SPLITS
from tasks.evaluation.metrics import Floats, Ints
from tasks.evaluation.sample import Sample

FILE = "evidence.npz"
EVALUATION = "evaluation.json"  # beside it: the figures and the verdict, for people and programs


@dataclass(frozen=True, slots=True)
class Pairs:
    """The champion on the same test pictures: `decided` [n test] in our class indices, -1 for a class we do not know.

    `comparable` [n test]: pictures in neither model's training or validation, of a class the champion knows.
    """

    version: int
    generation: int
    digest: str
    classes: tuple[str, ...]
    decided: Ints
    comparable: np.ndarray


@dataclass(frozen=True, slots=True)
class Machine:
    """What was measured here and would differ elsewhere. NaN and () where it was not measured.

    `parity`, `parity_logits`: largest difference between the exported file and the trained network on test.
    """

    parity: float
    parity_logits: float
    latencies_ms: tuple[float, ...]  # of one picture, decode included


@dataclass(frozen=True, slots=True)
class Evidence:
    """`head_only`: the head alone's probabilities on test, None where unknown. `size`: bytes of the exported file."""

    classes: tuple[str, ...]
    grouped: bool
    samples: Mapping[str, Sample]
    head_only: Floats | None
    champion: Pairs | None
    size: int
    machine: Machine

    @property
    def test(self) -> Sample:
        return self.samples["test"]

    def slice_values(self) -> dict[str, tuple[str, ...]]:
        """Every value of every slice column on the test split, sorted."""
        return {found.column: tuple(sorted(set(found.values))) for found in self.test.slices}

    def baseline(self, name: str) -> Sample | None:
        """`majority` (always the commonest training class, its shares as probabilities) or `head_only`, on test."""
        if name == "majority":
            shares = self.prior()
            return _decided(self.test, np.tile(shares, (len(self.test), 1)))
        return None if self.head_only is None else _decided(self.test, self.head_only)

    def prior(self) -> Floats:
        """Each class's share of the training pictures, [C]."""
        truth = self.samples["train"].truth
        return np.bincount(truth, minlength=len(self.classes)) / max(1, len(truth))

    def in_order(self) -> Evidence:
        """Every split sorted by picture digest: seeded draws are then the same wherever the pictures lie."""
        orders = {s: np.lexsort((x.truth, np.array(x.digests, str))) for s, x in self.samples.items()}
        test, pairs = orders["test"], self.champion
        return replace(
            self,
            samples={split: sample.take(orders[split]) for split, sample in self.samples.items()},
            head_only=None if self.head_only is None else self.head_only[test],
            champion=pairs and replace(pairs, decided=pairs.decided[test], comparable=pairs.comparable[test]),
        )

    def at(self, rule: Rule) -> Evidence:
        """The same outputs decided by another rule."""
        samples = {
            split: replace(sample, decided=rule.decide(sample.probabilities, self.classes))
            for split, sample in self.samples.items()
        }
        return replace(self, samples=samples)


def save(evidence: Evidence, directory: Path) -> None:
    """Writes `evidence.npz`."""
    arrays: dict[str, Any] = {}
    for split, sample in evidence.samples.items():
        arrays |= {f"{split}/{name}": getattr(sample, name) for name in ("truth", "probabilities", "decided")}
        arrays |= {f"{split}/{name}": np.array(getattr(sample, name), str) for name in ("digests", "units")}
        arrays |= {f"{split}/slice:{s.column}": np.array(s.values, str) for s in sample.slices}
    about: dict[str, Any] = {
        "classes": evidence.classes,
        "grouped": evidence.grouped,
        "slices": [s.column for s in evidence.test.slices],
        "size": evidence.size,
        "head_only": evidence.head_only is not None,
        "machine": asdict(evidence.machine),
    }
    if evidence.head_only is not None:
        arrays["head_only"] = evidence.head_only
    if evidence.champion is not None:
        pairs = evidence.champion
        arrays |= {"champion/decided": pairs.decided, "champion/comparable": pairs.comparable}
        about["champion"] = [pairs.version, pairs.generation, pairs.digest, pairs.classes]
    np.savez(directory / FILE, about=np.array(json.dumps(about)), **arrays)


def load(directory: Path) -> Evidence:
    """What `save` wrote; the caller has verified the directory."""
    with np.load(directory / FILE) as arrays:
        about = json.loads(str(arrays["about"]))
        samples = {split: _sample(arrays, split, about["slices"]) for split in SPLITS}
        machine = about["machine"]
        champion = None
        if "champion" in about:
            version, generation, digest, classes = about["champion"]
            pair = arrays["champion/decided"], arrays["champion/comparable"]
            champion = Pairs(version, generation, digest, tuple(classes), *pair)
        return Evidence(
            tuple(about["classes"]),
            bool(about["grouped"]),
            samples,
            arrays["head_only"] if about["head_only"] else None,
            champion,
            int(about["size"]),
            Machine(machine["parity"], machine["parity_logits"], tuple(machine["latencies_ms"])),
        )


def _sample(arrays: Any, split: str, columns: list[str]) -> Sample:
    def texts(name: str) -> tuple[str, ...]:
        return tuple(arrays[f"{split}/{name}"].tolist())

    return Sample(
        arrays[f"{split}/truth"],
        arrays[f"{split}/probabilities"],
        arrays[f"{split}/decided"],
        texts("digests"),
        texts("units"),
        tuple(Slice(column, texts(f"slice:{column}")) for column in columns),
    )


def _decided(sample: Sample, probabilities: Floats) -> Sample:
    return replace(sample, probabilities=probabilities).at_argmax()
