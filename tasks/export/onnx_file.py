"""One self-contained ONNX file from a classifier: pixels in, probabilities and logits out.

Written in three steps, so that every precision is calibrated on its own outputs: the network in float32, the same in
reduced precision if asked for, then temperature and softmax behind it.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

OPSET = 20
_EXAMPLE_BATCH = 2  # at 1 the exporter may take the batch for a constant


def write_network(path: Path, network: nn.Module, image_size: int) -> None:
    """Writes uint8 [N, H, W, 3] -> `logits` float32 [N, C] (of a backbone alone: features), weights inside.

    Leaves the network on the CPU, in eval mode.
    """
    network = network.cpu().eval()
    example = torch.zeros(_EXAMPLE_BATCH, image_size, image_size, 3, dtype=torch.uint8)
    with warnings.catch_warnings(), _Quiet("torch.onnx"), _Quiet("onnxscript"):
        warnings.simplefilter("ignore")  # the exporter warns about its own deprecations
        torch.onnx.export(
            network,
            (example,),
            str(path),
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )


def add_probabilities(path: Path, temperature: float) -> None:
    """Adds the output `probabilities` = softmax(`logits` / temperature), in float32 whatever the rest is."""
    model = onnx.load(path)
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array(temperature, np.float32), "temperature"))
    graph.node.append(helper.make_node("Div", ["logits", "temperature"], ["scaled_logits"]))
    graph.node.append(helper.make_node("Softmax", ["scaled_logits"], ["probabilities"], axis=1))
    logits = graph.output[0]
    shape = [d.dim_param or d.dim_value for d in logits.type.tensor_type.shape.dim]
    graph.output.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, shape))
    onnx.checker.check_model(model)
    onnx.save(model, path)


class _Quiet:
    """Raises a logger's level for the duration: the exporter reports every pass."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def __enter__(self) -> None:
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)
