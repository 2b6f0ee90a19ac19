"""train_head: the head alone, on cached features. The backbone is not run, so it cannot change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from serving import sealed
from serving.preprocess import Preprocessing
from tasks.data.dataset import Dataset, Subset, subset
from tasks.model.classifier import Checkpoint, new_classifier, save_classifier, trainable
from tasks.model.spec import ModelSpec
from tasks.progress import Progress, silent
from tasks.training.embed import Features, read_features
from tasks.training.fit import Recipe, balanced_weights, fit
from tasks.training.reuse import find_checkpoint
from tasks.training.spec import HeadSpec
from tasks.training.table import as_table, best_epoch, log_loss, row

FloatArray = npt.NDArray[np.float64]
_FORMAT = 3  # of the result: raise it when the same inputs would give another head
# inverse weight decay tried by `solve`, on standardised features; spaced by about 3
_STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


def train_head(
    dataset: Dataset,
    features: Features,
    run: Path,
    model: ModelSpec,
    preprocessing: Preprocessing,
    head: HeadSpec,
    seed: int,
    progress: Progress = silent,
) -> Checkpoint:
    """A classifier with the pretrained backbone as it is and a trained head.

    Writes `run/train_head/`: weights, and a manifest with the trainable counts and the epochs. The same inputs
    trained in an earlier run are used again. Raises TrainingError, and ArtifactError: `run/train_head/` was made of
    something else.
    """
    made_of = [_FORMAT, features.key, dataset.key, model.dropout, head.model_dump(mode="json"), seed]
    key = sealed.digest_of(made_of)[:16]
    found = find_checkpoint(run, "train_head", key)
    if found is not None:
        return found
    network = new_classifier(model, preprocessing, len(dataset.classes), seed)
    network.body.requires_grad_(False)
    train, validation = subset(dataset, "train"), subset(dataset, "validation")
    values = read_features(features)
    x, xv = values[train.rows].astype(np.float64), values[validation.rows].astype(np.float64)
    mean, scale = x.mean(axis=0), np.where(x.std(axis=0) > 1e-8, x.std(axis=0), 1.0)
    x, xv = (x - mean) / scale, (xv - mean) / scale
    if head.method == "solve":
        weight, bias, about = _solve(x, train, xv, validation, head, progress)
    else:
        weight, bias, about = _adam(x, train, xv, validation, head, len(dataset.classes), model.dropout, seed, progress)
    _fold(network.head, weight, bias, mean, scale)
    body = {
        "phase": "train_head",
        "key": key,
        "backbone": model.backbone,
        "preprocessing": preprocessing.model_dump(mode="json"),
        "dropout": model.dropout,
        "classes": list(dataset.classes),
        "trainable": trainable(network),
        **about,
    }
    place = run / "train_head"
    with sealed.sealing(place, body) as directory:
        save_classifier(directory, network)
    return Checkpoint(place, "train_head", key, reused=False)


def _solve(
    x: FloatArray,
    train: Subset,
    xv: FloatArray,
    validation: Subset,
    head: HeadSpec,
    progress: Progress,
) -> tuple[FloatArray, FloatArray, dict[str, Any]]:
    """Multinomial logistic regression; the weight decay with the lowest validation loss."""
    balance, weights = None, None
    if head.class_weights == "balanced":
        balance, weights = "balanced", balanced_weights(train.labels, len(np.unique(train.labels))).double().numpy()
    best: tuple[float, float, FloatArray, FloatArray] | None = None
    for i, strength in enumerate(_STRENGTHS):
        solver = LogisticRegression(C=strength, max_iter=3000, class_weight=balance).fit(x, train.labels)
        weight, bias = _both_classes(solver.coef_, solver.intercept_)
        loss = log_loss(xv @ weight.T + bias, validation.labels, weights)
        progress(i + 1, len(_STRENGTHS), f"weight decay {1 / strength:g}: validation loss {loss:.4f}")
        if best is None or loss < best[0]:
            best = (loss, strength, weight, bias)
    assert best is not None
    loss, strength, weight, bias = best
    progress(len(_STRENGTHS), len(_STRENGTHS), f"weight decay {1 / strength:g} chosen: validation loss {loss:.4f}")
    logits, logits_v = x @ weight.T + bias, xv @ weight.T + bias
    fitted = log_loss(logits, train.labels, weights), float((logits.argmax(1) == train.labels).mean())
    line = row(1, fitted, (logits_v, validation.labels), 0.0, class_weights=weights)
    return weight, bias, {"weight_decay": 1 / strength, "epochs": as_table([line]), "best_epoch": 1}


def _adam(
    x: FloatArray,
    train: Subset,
    xv: FloatArray,
    validation: Subset,
    head: HeadSpec,
    classes: int,
    dropout: float,
    seed: int,
    progress: Progress,
) -> tuple[FloatArray, FloatArray, dict[str, Any]]:
    """AdamW for a number of epochs, the rate falling along a cosine; dropout before the head."""
    layer = nn.Linear(x.shape[1], classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    module = nn.Sequential(nn.Dropout(dropout), layer)
    inputs, inputs_v = torch.from_numpy(x.astype(np.float32)), torch.from_numpy(xv.astype(np.float32))
    labels = torch.from_numpy(train.labels)

    def batches(epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(len(train)))
        for rows in torch.split(order, head.batch_size)[first:]:
            yield inputs[rows], labels[rows]

    def outputs(module: nn.Module) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        module.eval()
        with torch.inference_mode():
            return module(inputs_v).double().numpy(), validation.labels

    def train_mode(_epoch: int) -> None:
        module.train()

    recipe = Recipe(
        epochs=head.epochs,
        steps_per_epoch=-(-len(train) // head.batch_size),
        warmup=0.0,
        clip_norm=1e9,
        label_smoothing=0.0,
        patience=head.epochs,
        train_mode=train_mode,
        seed=seed,
    )
    weights = balanced_weights(train.labels, classes) if head.class_weights == "balanced" else None
    group = {"params": list(layer.parameters()), "lr": head.learning_rate, "weight_decay": 0.0}
    rows = fit(module, [group], batches, outputs, recipe, weights, progress)
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    return weight, bias, {"epochs": as_table(rows), "best_epoch": best_epoch(rows)}


def _both_classes(weight: FloatArray, bias: FloatArray) -> tuple[FloatArray, FloatArray]:
    """scikit-learn gives one row for two classes: the difference of the two logits."""
    if len(bias) > 1:
        return weight, bias
    return np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])


def _fold(layer: nn.Linear, weight: FloatArray, bias: FloatArray, mean: FloatArray, scale: FloatArray) -> None:
    """Puts the features' standardisation into the head: w.(f - mean)/scale + b = (w/scale).f + (b - w.mean/scale)."""
    folded = weight / scale
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(folded))
        layer.bias.copy_(torch.from_numpy(bias - folded @ mean))
