"""One self-contained ONNX file from a classifier: pixels in, probabilities and logits out."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from tasks.model.classifier import Classifier

OPSET = 20
_EXAMPLE_BATCH = 2  # at 1 the exporter may take the batch for a constant


class Served(nn.Module):
    """uint8 [N, H, W, 3] -> (probabilities, logits), float32 [N, C]; the logits are those before the temperature."""

    def __init__(self, network: Classifier, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(images)
        return torch.softmax(logits / self.temperature, dim=1), logits


def write_onnx(path: Path, network: Classifier, temperature: float, image_size: int) -> None:
    """Writes `path`, weights inside. The network is left in eval mode, on the CPU."""
    network = network.cpu().eval()
    example = torch.zeros(_EXAMPLE_BATCH, image_size, image_size, 3, dtype=torch.uint8)
    with warnings.catch_warnings(), _Quiet("torch.onnx"), _Quiet("onnxscript"):
        warnings.simplefilter("ignore")  # the exporter warns about its own deprecations
        torch.onnx.export(
            Served(network, temperature).eval(),
            (example,),
            str(path),
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["probabilities", "logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )


class _Quiet:
    """Raises a logger's level for the duration: the exporter reports every pass."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def __enter__(self) -> None:
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)
