"""What the depth of a layer decides in fine-tuning: its rate, when it thaws, whether its statistics move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from tasks.model.classifier import Classifier


def layer_groups(network: Classifier, rate: float, decay: float, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW groups with smaller rates for earlier layers.

    Depth is the order in which a backbone registers its parameters, which is the order of its layers in timm and
    torchvision alike. The first tensor gets `rate * decay`, the head `rate`, geometric in between.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    last = max(1, len(parameters) - 1)
    return [
        {"params": [p], "lr": rate * decay ** (1 - i / last), "weight_decay": weight_decay if p.ndim > 1 else 0.0}
        for i, p in enumerate(parameters)
    ]


def freeze_statistics(network: nn.Module) -> None:
    """BatchNorm keeps its running statistics; its scale and shift still learn."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def thaw(parameters: Sequence[nn.Parameter], epoch: int, epochs: int) -> None:
    """Gradual unfreezing (Howard & Ruder 2018): the last tensors first, all from the middle of the epochs on.

    `parameters` in the order of depth; `epoch` from 1.
    """
    share = min(1.0, epoch / max(1, math.ceil(epochs / 2)))
    first = len(parameters) - math.ceil(share * len(parameters))
    for number, parameter in enumerate(parameters):
        parameter.requires_grad_(number >= first)
