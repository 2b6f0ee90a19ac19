"""The artifact: one directory that is all a server needs, and all an auditor needs to know about it.

    model.onnx      uint8 [N, H, W, 3] RGB in; float32 `probabilities` and `logits` [N, C] out
    golden.npz      synthetic inputs and the outputs they must give on the machine that serves
    split.csv       picture digest, unit and split: which pictures the model has seen
    card.md         the same in words
    artifact.json   written last: everything below, and the sha256 of each file

The artifact's digest is the sha256 of `artifact.json`, which names every other file's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serving import sealed
from serving.errors import ArtifactError
from serving.preprocess import Preprocessing

MANIFEST = "artifact.json"
MODEL = "model.onnx"
GOLDEN = "golden.npz"
SPLIT = "split.csv"
CARD = "card.md"

Scores = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


class Watch(BaseModel):
    """One step of the decision rule: decide `label` where its probability is at least `threshold`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    threshold: float = Field(ge=0, le=1)
    metric: Literal["recall", "precision"] = Field(description="which was wanted of this class")
    wanted: float = Field(gt=0, lt=1, description="the value wanted on validation, as a one-sided 95 % bound")


class Rule(BaseModel):
    """The served operating point: the first watched class that reaches its threshold, else argmax of the others.

    Without watched classes it is plain argmax.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    watch: tuple[Watch, ...] = ()

    def decide(self, probabilities: Scores, classes: tuple[str, ...]) -> Labels:
        """Class indices [N] for probabilities float32 [N, C].

        >>> rule = Rule(watch=(Watch(label="bad", threshold=0.2, metric="recall", wanted=0.9),))
        >>> rule.decide(np.array([[0.7, 0.3], [0.9, 0.1]], np.float32), ("good", "bad")).tolist()
        [1, 0]
        """
        watched = [classes.index(step.label) for step in self.watch]
        exact = probabilities.astype(np.float64)  # float32 would round the stored threshold before comparing
        others = exact.copy()
        others[:, watched] = -1.0
        # every class watched: there are no others, so a picture nobody claims gets the plain argmax
        labels: Labels = (exact if len(watched) == len(classes) else others).argmax(axis=1).astype(np.int64)
        for step, index in reversed(list(zip(self.watch, watched, strict=True))):
            labels = np.where(exact[:, index] >= step.threshold, index, labels).astype(np.int64)
        return labels

    def text(self) -> str | None:
        """The rule in words, or None for plain argmax."""
        if not self.watch:
            return None
        steps = [f"{step.label} if its probability >= {step.threshold:.6g}" for step in self.watch]
        return "; else ".join([*steps, "the likeliest other class"])


class Contents(BaseModel):
    """`artifact.json` as a typed value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = Field(alias="schema")
    name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    rule: Rule
    temperature: float = Field(gt=0)
    precision: Literal["fp32", "fp16", "int8"] = Field("fp32", description="of the file's weights and arithmetic")
    metrics: dict[str, Any]
    checks: tuple[dict[str, Any], ...]
    verdict: Literal["PASSED", "REJECTED", "INCONCLUSIVE"]
    verdict_digest: str | None = Field(None, description="what `thaw verify` must reach from the same pictures")
    champion_generation: int | None = Field(description="generation of the champion it was compared with")
    champion_version: int | None = Field(None, description="its version; None where there was none yet")
    dataset: dict[str, Any]
    configuration: dict[str, Any]
    provenance: dict[str, Any]
    files: dict[str, str]

    @model_validator(mode="after")
    def _rule_fits_classes(self) -> Contents:
        watched = [step.label for step in self.rule.watch]
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            raise ValueError(f"expected two or more distinct classes, found {self.classes}")
        if not set(watched) <= set(self.classes) or len(set(watched)) != len(watched):
            raise ValueError(f"expected watched classes among {self.classes}, each once, found {watched}")
        return self


@dataclass(frozen=True, slots=True)
class Artifact:
    """A verified artifact: its place, its digest and what `artifact.json` says."""

    path: Path
    digest: str
    contents: Contents

    @property
    def classes(self) -> tuple[str, ...]:
        return self.contents.classes

    @property
    def model(self) -> Path:
        return self.path / MODEL


def read(path: Path, digest: str | None = None) -> Artifact:
    """Opens an artifact after checking every file's sha256 (and the artifact's own against `digest`).

    Raises ArtifactError: it is incomplete, altered, or not the one asked for.
    """
    body = sealed.verify(path, MANIFEST)
    found = sealed.sha256_of(path / MANIFEST)
    if digest is not None and found != digest:
        raise ArtifactError(f"{path}: expected artifact digest {digest[:12]}, found {found[:12]}: it was altered")
    missing = {MODEL, GOLDEN, SPLIT, CARD} - set(body["files"])
    if missing:
        raise ArtifactError(f"{path}: expected {', '.join(sorted(missing))} among its files, found it missing")
    try:
        return Artifact(path, found, Contents.model_validate(body))
    except ValidationError as error:
        raise ArtifactError(f"{path / MANIFEST} does not read as an artifact: {error.errors()[0]['msg']}") from None


def golden_inputs(image_size: int, count: int = 3, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Seeded synthetic pictures uint8 [count, H, W, 3]: noise, a ramp and a flat grey, so that every layer works."""
    random = np.random.default_rng(seed)
    noise = random.integers(0, 256, (count, image_size, image_size, 3), dtype=np.uint8)
    noise[1] = np.linspace(0, 255, image_size, dtype=np.uint8)[None, :, None]
    noise[2] = 128
    return noise
