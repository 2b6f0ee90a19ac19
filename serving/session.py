"""One onnxruntime session, on the device that was asked for and no other."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort

from serving.artifact import Scores
from serving.errors import ArtifactError, DeviceError
from serving.preprocess import Pixels
from serving.settings import Device

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
BATCH = 32
# cuDNN chooses its algorithms anew for each batch size: on a GPU only these occur, each tried before it is needed
BUCKETS = (1, 2, 4, 8, 16, 32)
OUTPUTS = ("probabilities", "logits")


class Session:
    """A loaded model file. Safe to run from several threads.

    Raises ArtifactError if the file does not load; DeviceError if `device` is "cuda" and it does not run on a GPU.
    """

    def __init__(self, model: Path, device: Device = "auto", threads: int | None = None) -> None:
        self._model = model
        self._session = _open(model, device, threads)
        self.provider: str = self._session.get_providers()[0]
        if device == "cuda" and self.provider != CUDA:
            raise DeviceError(f"expected {CUDA}, the session runs on {self.provider}: use device=cpu or auto")

    @property
    def device(self) -> Literal["cuda", "cpu"]:
        return "cuda" if self.provider == CUDA else "cpu"

    def inputs(self) -> dict[str, tuple[str, list[Any]]]:
        """Type and shape without the batch dimension, by name."""
        return {value.name: (value.type, value.shape[1:]) for value in self._session.get_inputs()}

    def outputs(self) -> dict[str, tuple[str, list[Any]]]:
        """Type and shape without the batch dimension, by name."""
        return {value.name: (value.type, value.shape[1:]) for value in self._session.get_outputs()}

    def run(self, pixels: Pixels) -> tuple[Scores, Scores]:
        """`probabilities` and `logits`, float32 [N, C], for pixels uint8 [N, H, W, 3] with N from 1 to 32."""
        padded = pad_to_bucket(pixels) if self.provider == CUDA else pixels
        binding = self._session.io_binding()
        binding.bind_cpu_input("images", padded)
        for name in OUTPUTS:
            binding.bind_output(name)  # on the host: onnxruntime copies it there once, when the batch is done
        self._session.run_with_iobinding(binding)
        probabilities, logits = (values[: len(pixels)] for values in binding.copy_outputs_to_cpu())
        return probabilities, logits

    def warm(self, side: int) -> None:
        """Runs every batch size once, so that the first clients do not pay for it. Raises ArtifactError."""
        try:
            for size in BUCKETS if self.provider == CUDA else (1,):
                self.run(np.zeros((size, side, side, 3), np.uint8))
        except Exception as error:
            raise ArtifactError(f"expected {self._model} to run, onnxruntime says: {_one_line(error)}") from None


def pad_to_bucket(pixels: Pixels) -> Pixels:
    """The same pictures, followed by black ones up to the next size in `BUCKETS`.

    >>> pad_to_bucket(np.ones((3, 8, 8, 3), np.uint8)).shape
    (4, 8, 8, 3)
    """
    size = next(bucket for bucket in BUCKETS if bucket >= len(pixels))
    if size == len(pixels):
        return pixels
    return np.concatenate([pixels, np.zeros((size - len(pixels), *pixels.shape[1:]), np.uint8)])


def gpu_count() -> int:
    """How many GPUs the CUDA driver offers this process; 0 without a driver. Loads nothing else."""
    try:
        driver = ctypes.CDLL("libcuda.so.1" if os.name != "nt" else "nvcuda.dll")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    usable = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if usable else 0


def _open(model: Path, device: Device, threads: int | None) -> ort.InferenceSession:
    gpus = gpu_count() if device != "cpu" else 0
    if device == "cuda" and gpus == 0:
        raise DeviceError("expected a GPU for device=cuda, the CUDA driver offers none here: use device=cpu or auto")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    # a waiting session must not burn the cores that decode pictures
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = [CPU]
    if gpus:
        ort.preload_dlls()
        # HEURISTIC: EXHAUSTIVE tunes again for each new batch size; float32 means float32, or parity would not hold
        providers = [
            (CUDA, {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}),
            *([] if device == "cuda" else [CPU]),
        ]
    if device == "cuda":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        return ort.InferenceSession(str(model), options, providers)
    except Exception as error:  # onnxruntime raises its own family of pybind exceptions
        if device == "cuda":
            raise DeviceError(f"expected a session on the GPU, onnxruntime says: {_one_line(error)}") from None
        raise ArtifactError(f"expected {model} to load, onnxruntime says: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
