"""finetune: everything unfrozen, at small rates, from the trained head."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from serving import sealed
from tasks.data.dataset import Dataset, Subset, pixels, subset
from tasks.model.classifier import Checkpoint, Classifier, load_classifier, manifest_of, save_classifier, trainable
from tasks.progress import Progress, silent
from tasks.training.augment import augment, draws
from tasks.training.checkpoint import EVERY_SECONDS, TrainingCheckpoints
from tasks.training.fit import Recipe, TrainingError, balanced_weights, fit
from tasks.training.reuse import find_checkpoint
from tasks.training.spec import FinetuneSpec
from tasks.training.table import Epoch, as_table, best_epoch

BATCH = 64  # pictures per evaluation step


def finetune(
    start: Checkpoint,
    dataset: Dataset,
    run: Path,
    spec: FinetuneSpec,
    class_weights: str,
    seed: int,
    device: str = "cpu",
    progress: Progress = silent,
    checkpoint_seconds: float = EVERY_SECONDS,
) -> Checkpoint:
    """Trains all weights from `start`; keeps the epoch with the best validation loss, the start included.

    Writes `run/finetune/`: weights, and a manifest with the trainable counts, the epochs and the one kept. The same
    inputs trained in an earlier run are used again; where one was interrupted, this one goes on from its newest
    checkpoint in `checkpoints/<key>/` beside `runs/` (at least one every `checkpoint_seconds`; removed when
    `run/finetune/` is complete). Raises TrainingError.
    """
    key = sealed.digest_of([start.key, dataset.key, spec.model_dump(mode="json"), class_weights, seed, device])[:16]
    checkpoints = TrainingCheckpoints(run.parent.parent, "finetune", key, checkpoint_seconds)
    found = find_checkpoint(run.parent, "finetune", key)
    if found is not None:
        checkpoints.discard()  # a kill may have come between the result and the line that removes them
        return found
    torch.manual_seed(seed)
    network = load_classifier(start).to(device)
    network.requires_grad_(True)
    network.normalize.requires_grad_(False)
    try:
        rows = _train(network, dataset, spec, class_weights, seed, device, progress, checkpoints)
    except TrainingError:
        checkpoints.discard()  # they lead to the same error
        raise
    place = run / "finetune"
    with sealed.sealing(place, _about(start, key, network, rows)) as directory:
        save_classifier(directory, network)
    checkpoints.discard()
    return Checkpoint(place, "finetune", key, reused=False)


def logits_of(network: Classifier, dataset: Dataset, part: Subset, device: str = "cpu") -> npt.NDArray[np.float64]:
    """Logits float64 [n, C] of a subset's pictures, in eval mode."""
    network.eval()
    images = pixels(dataset)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(part), BATCH):
            batch = torch.from_numpy(images[part.rows[start : start + BATCH]]).to(device)
            parts.append(network(batch).double().cpu().numpy())
    return np.concatenate(parts)


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


def _about(start: Checkpoint, key: str, network: Classifier, rows: tuple[Epoch, ...]) -> dict[str, Any]:
    """The manifest of the result."""
    before = manifest_of(start)
    return {name: before[name] for name in ("backbone", "preprocessing", "dropout", "classes")} | {
        "phase": "finetune",
        "key": key,
        "start": start.key,
        "trainable": trainable(network),
        "epochs": as_table(rows),
        "best_epoch": best_epoch(rows),
    }


def _train(
    network: Classifier,
    dataset: Dataset,
    spec: FinetuneSpec,
    class_weights: str,
    seed: int,
    device: str,
    progress: Progress,
    checkpoints: TrainingCheckpoints,
) -> tuple[Epoch, ...]:
    train, validation = subset(dataset, "train"), subset(dataset, "validation")
    steps = max(1, len(train) // spec.batch_size)

    def train_mode() -> None:
        network.train()
        if spec.batchnorm == "frozen":
            freeze_statistics(network)

    recipe = Recipe(
        epochs=spec.epochs,
        steps_per_epoch=steps,
        warmup=spec.warmup,
        clip_norm=spec.clip_norm,
        label_smoothing=spec.label_smoothing,
        patience=spec.patience,
        train_mode=train_mode,
    )
    weights = balanced_weights(train.labels, len(dataset.classes)).to(device) if class_weights == "balanced" else None
    groups = layer_groups(network, spec.learning_rate, spec.layer_decay, spec.weight_decay)
    return fit(
        network,
        groups,
        lambda epoch, first: _batches(dataset, train, spec, seed, epoch, range(first, steps), device),
        lambda: (logits_of(network, dataset, validation, device), validation.labels),
        recipe,
        weights,
        progress,
        checkpoints,
    )


def freeze_statistics(network: nn.Module) -> None:
    """BatchNorm keeps its running statistics; its scale and shift still learn."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _batches(
    dataset: Dataset, train: Subset, spec: FinetuneSpec, seed: int, epoch: int, steps: range, device: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """These whole batches of an order drawn from (seed, epoch); the remainder sits this epoch out."""
    images = pixels(dataset)
    draw = torch.from_numpy(draws(seed, epoch, len(train)))
    order = np.random.default_rng((seed, epoch, 1)).permutation(len(train))
    size = min(spec.batch_size, len(train))
    for step in steps:
        chosen = order[step * size : (step + 1) * size]
        # sorted: reading a memory-mapped file in order; the batch is a set
        chosen.sort()
        batch = torch.from_numpy(images[train.rows[chosen]])
        changed = augment(batch.to(device), draw[chosen].to(device), spec.augmentation)
        yield changed, torch.from_numpy(train.labels[chosen]).to(device)
