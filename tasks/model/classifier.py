"""The network that is trained and exported: normalise, backbone, dropout, head."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from serving import sealed
from serving.errors import BadInput
from serving.preprocess import Preprocessing
from tasks.model.backbone import build_backbone, feature_size, load_backbone
from tasks.model.spec import ModelSpec

WEIGHTS = "weights.safetensors"


class Normalize(nn.Module):
    """Pixels to the backbone's input: uint8 [N, H, W, 3], 0-255 -> float [N, 3, H, W], channels_last.

    The only normalisation there is: training runs it, and it is exported into the ONNX graph.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std


class Classifier(nn.Module):
    """uint8 [N, H, W, 3] -> logits float [N, C]. `body` is the backbone, `head` the linear layer on its features."""

    def __init__(
        self, body: nn.Module, features: int, classes: int, preprocessing: Preprocessing, dropout: float
    ) -> None:
        super().__init__()
        self.normalize = Normalize(preprocessing)
        self.body = body
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, classes)

    def features(self, pixels: Tensor) -> Tensor:
        """float [N, F]."""
        out: Tensor = self.body(self.normalize(pixels))
        return out

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.features(pixels)))
        return logits


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Names a complete directory with a classifier's weights and, in its manifest, how they came about."""

    path: Path
    phase: str  # train_head or finetune
    key: str
    reused: bool


def new_classifier(model: ModelSpec, preprocessing: Preprocessing, classes: int, seed: int) -> Classifier:
    """A pretrained backbone with a head of zeros (every class equally likely)."""
    body = load_backbone(model, preprocessing.image_size, seed)
    network = Classifier(body, feature_size(body, preprocessing.image_size), classes, preprocessing, model.dropout)
    nn.init.zeros_(network.head.weight)
    nn.init.zeros_(network.head.bias)
    return network.to(memory_format=torch.channels_last)


def save_classifier(directory: Path, network: Classifier) -> None:
    """Writes `weights.safetensors`."""
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    save_file(state, directory / WEIGHTS)


def load_classifier(checkpoint: Checkpoint) -> Classifier:
    """The network a checkpoint names, on the CPU, channels_last, in eval mode."""
    about = manifest_of(checkpoint)
    preprocessing = Preprocessing.model_validate(about["preprocessing"])
    state = load_file(checkpoint.path / WEIGHTS)
    classes, features = state["head.weight"].shape
    if classes != len(about["classes"]):
        raise BadInput(f"expected a head of {len(about['classes'])} classes in {checkpoint.path}, found {classes}")
    body = build_backbone(about["backbone"], preprocessing.image_size)
    network = Classifier(body, features, classes, preprocessing, float(about["dropout"]))
    network.load_state_dict(state)
    network.eval()
    return network.to(memory_format=torch.channels_last)


def manifest_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The checkpoint's manifest: backbone, preprocessing, classes, trainable counts, epochs."""
    about = sealed.about(checkpoint.path)
    assert about is not None, f"{checkpoint.path} is not a complete checkpoint"
    return about


def weights_digest(module: nn.Module) -> str:
    """sha256 over every tensor, buffers included, by name: equal networks, equal digests."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def trainable(module: nn.Module) -> dict[str, int]:
    """How many tensors and values a phase trains."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return {"tensors": len(parameters), "values": sum(p.numel() for p in parameters)}
