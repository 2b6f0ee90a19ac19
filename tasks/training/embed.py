"""embed: run the frozen backbone once over every picture and keep its features."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import nn

from serving import sealed
from serving.preprocess import Pixels, Preprocessing
from tasks.data.dataset import Dataset
from tasks.export.onnx_file import write_network
from tasks.model.classifier import Classifier, new_classifier, weights_digest
from tasks.model.device import full_float32
from tasks.model.spec import ModelSpec
from tasks.progress import Progress, silent
from tasks.training.memory import Mapped, in_halves, kept

FEATURES = "features.npy"
BATCH = 64
Floats = npt.NDArray[np.float32]
Route = Callable[[Pixels], Floats]  # pictures uint8 [n, H, W, 3] -> features float32 [n, F]
# pixels from which on the export's seconds come back on a CPU; a rule, no probe: the same pictures give the same bits
_WORTH_EXPORTING = 1_000 * 160**2
_FORMAT = 3  # part of every key from here on: raise it when the same inputs would train another model


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

    Writes `features/<key>/`; the key covers pixels, weights and preprocessing. On a GPU with too little memory
    fewer pictures are taken at once. Raises BadInput: weights that do not fit or cannot be fetched; TooLarge.
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


def through_torch(network: Classifier, device: str) -> Route:
    """The network as it is, channels_last."""

    def features(batch: Pixels) -> Floats:
        with torch.inference_mode():
            made: Floats = network.features(torch.from_numpy(batch).to(device)).cpu().numpy()
        return made

    return features


def through_onnxruntime(network: Classifier, image_size: int, file: Path) -> Route:
    """An export of normalisation and backbone, written to `file`, on the CPU with all threads torch would use."""
    write_network(file, nn.Sequential(network.normalize, network.body), image_size)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def features(batch: Pixels) -> Floats:
        made: Floats = session.run(None, {"images": batch})[0]
        return made

    return features


def _write_features(path: Path, network: Classifier, dataset: Dataset, device: str, progress: Progress) -> None:
    network.eval()
    mapped = Mapped(dataset)
    many = len(mapped.images)
    shape = (many, network.head.in_features)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    with tempfile.TemporaryDirectory(prefix="thaw-embed-") as folder, kept(), full_float32():
        exported = device == "cpu" and many * dataset.image_size**2 >= _WORTH_EXPORTING
        route = (
            through_onnxruntime(network, dataset.image_size, Path(folder, "backbone.onnx"))
            if exported
            else through_torch(network, device)
        )

        def write(size: int) -> None:
            for start in range(0, many, size):
                end = min(start + size, many)
                array[start:end] = route(mapped.read(np.arange(start, end)))
                progress(end, many, "pictures embedded")

        in_halves(write, BATCH)
    array.flush()
