"""Smaller numbers in the exported file: float16, or 8-bit integers calibrated on training pictures."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from serving.preprocess import Pixels
from tasks.data.dataset import Dataset, pixels, subset

CALIBRATION_PICTURES = 256
_BATCH = 32


def to_float16(path: Path) -> None:
    """Converts the file in place: weights and arithmetic in float16, inputs and outputs as they were."""
    model = convert_float_to_float16(onnx.load(path), keep_io_types=True)
    onnx.save(model, path)


def to_int8(path: Path, dataset: Dataset, seed: int = 0) -> None:
    """Quantises the file in place: static, per channel, signed weights, ranges from training pictures.

    Static (Jacob et al. 2018) because activations' ranges found once cost nothing per picture; QDQ nodes because
    every execution provider reads them.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared, quantised = Path(folder, "prepared.onnx"), Path(folder, "int8.onnx")
        # folds BatchNorm into the convolutions first: otherwise they would be quantised apart
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        # the head stays float32: the standardisation folded into it spreads its weights over orders of magnitude, and
        # 8 bits for them cost 7 points of accuracy (docs/decisions/0004-int8.md); it is 0.1 % of the weights
        head = [node.name for node in onnx.load(prepared).graph.node if "logits" in node.output]
        quantize_static(
            str(prepared),
            str(quantised),
            _Reader(calibration_pictures(dataset, seed)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=head,
        )
        path.write_bytes(quantised.read_bytes())


def calibration_pictures(dataset: Dataset, seed: int) -> Pixels:
    """Up to 256 training pictures, drawn by the seed."""
    rows = subset(dataset, "train").rows
    chosen = np.random.default_rng(seed).permutation(rows)[:CALIBRATION_PICTURES]
    return pixels(dataset)[np.sort(chosen)]


class _Reader(CalibrationDataReader):
    def __init__(self, images: Pixels) -> None:
        self._batches = iter([{"images": images[i : i + _BATCH]} for i in range(0, len(images), _BATCH)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)
