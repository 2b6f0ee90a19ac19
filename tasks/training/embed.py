"""embed: run the frozen backbone once over every picture and keep its features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from serving import sealed
from serving.preprocess import Preprocessing
from tasks.data.dataset import Dataset, pixels
from tasks.model.classifier import Classifier, new_classifier, weights_digest
from tasks.model.spec import ModelSpec
from tasks.progress import Progress, silent

FEATURES = "features.npy"
BATCH = 64
_FORMAT = 1  # part of every key from here on: raise it when the same inputs would train another model


@dataclass(frozen=True, slots=True)
class Features:
    """Names a complete directory with `features.npy`, float32 [N, F]; row i belongs to the dataset's row i."""

    path: Path
    key: str
    reused: bool


def embed(
    dataset: Dataset,
    home: Path,
    model: ModelSpec,
    preprocessing: Preprocessing,
    seed: int,
    device: str = "cpu",
    progress: Progress = silent,
) -> Features:
    """Features of every picture of the dataset.

    Writes `features/<key>/`; the key covers pixels, weights and preprocessing. Raises BadInput: weights that
    do not fit or cannot be fetched.
    """
    network = new_classifier(model, preprocessing, len(dataset.classes), seed).to(device)
    # the name too: two architectures may have tensors of the same names and shapes
    made_of = [_FORMAT, model.backbone, weights_digest(network.body), preprocessing.model_dump(mode="json"), device]
    key = sealed.digest_of([dataset.key, *made_of])[:16]
    place = home / "features" / key
    if sealed.about(place) is not None:
        return Features(place, key, reused=True)
    with sealed.sealing(place, {"dataset": dataset.key, "backbone": model.backbone}) as directory:
        _write_features(directory / FEATURES, network, dataset, device, progress)
    return Features(place, key, reused=False)


def read_features(features: Features) -> npt.NDArray[np.float32]:
    """float32 [N, F], mapped from disk."""
    mapped: npt.NDArray[np.float32] = np.load(features.path / FEATURES, mmap_mode="r")
    return mapped


def _write_features(path: Path, network: Classifier, dataset: Dataset, device: str, progress: Progress) -> None:
    network.eval()
    images = pixels(dataset)
    shape = (len(images), network.head.in_features)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    with torch.inference_mode():
        for start in range(0, len(images), BATCH):
            batch = torch.from_numpy(images[start : start + BATCH].copy()).to(device)
            array[start : start + BATCH] = network.features(batch).cpu().numpy()
            progress(min(start + BATCH, len(images)), len(images), "pictures embedded")
    array.flush()
