"""One training loop for both phases.

It knows neither pictures nor features: a module, batches of (inputs, labels), an optimiser, a schedule, and
a way to ask for validation outputs. Keeps the weights of the best validation loss, stops when that stalls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from serving.errors import ThawError
from tasks.progress import Progress

Batches = Callable[[int], Iterator[tuple[Tensor, Tensor]]]
Outputs = Callable[[], tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]]


class TrainingError(ThawError):
    """Training cannot give a model: nothing to train, a loss that is not a number, weights that stand still."""

    code = "training_failed"


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of the table a run shows. Train figures are means over the epoch's own steps; epoch 0 is the start."""

    epoch: int
    train_loss: float | None
    train_accuracy: float | None
    validation_loss: float
    validation_accuracy: float
    learning_rate: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """How `fit` trains. `warmup` is a share of all steps."""

    epochs: int
    steps_per_epoch: int
    warmup: float
    clip_norm: float
    label_smoothing: float
    patience: int
    train_mode: Callable[[], None]  # puts the module into training mode, statistics as the phase wants them


def cosine_with_warmup(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate at a step: linear rise, then half a cosine to zero (Loshchilov & Hutter 2017).

    >>> [round(cosine_with_warmup(s, 10, 0.2), 2) for s in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    rising = round(steps * warmup)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def fit(
    module: nn.Module,
    groups: Sequence[dict[str, Any]],
    batches: Batches,
    validation: Outputs,
    recipe: Recipe,
    class_weights: Tensor | None,
    progress: Progress,
) -> tuple[Epoch, ...]:
    """Trains `module` in place and leaves it with the weights of the best validation loss (the start included).

    `groups` are AdamW parameter groups, each with its peak `lr`. Raises TrainingError.
    """
    groups = [group for group in groups if any(p.requires_grad for p in group["params"])]
    if not groups:
        raise TrainingError("expected parameters to train, found none: nothing is unfrozen")
    peak = max(group["lr"] for group in groups)  # before the schedule scales it
    optimiser = torch.optim.AdamW(groups)
    steps = recipe.epochs * recipe.steps_per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: cosine_with_warmup(s, steps, recipe.warmup))
    rows = [_row(0, None, None, validation(), 0.0)]
    best, best_state = rows[0].validation_loss, _copy(module)
    for epoch in range(1, recipe.epochs + 1):
        recipe.train_mode()
        done = (epoch - 1) * recipe.steps_per_epoch
        loss, accuracy = _one_epoch(
            module,
            batches(epoch),
            optimiser,
            schedule,
            recipe,
            class_weights,
            partial(_shifted, progress, done, steps),
        )
        module.eval()
        rows.append(_row(epoch, loss, accuracy, validation(), peak * schedule.get_last_lr()[0] / schedule.base_lrs[0]))
        progress(epoch * recipe.steps_per_epoch, steps, describe(rows[-1]))
        if epoch == 1 and _same(module, best_state):
            raise TrainingError(
                "expected the first epoch to change the weights, found them unchanged: raise learning_rate"
            )
        if rows[-1].validation_loss < best:
            best, best_state = rows[-1].validation_loss, _copy(module)
        elif epoch - min(rows, key=lambda row: row.validation_loss).epoch >= recipe.patience:
            break
    module.load_state_dict(best_state)
    return tuple(rows)


def best_epoch(rows: Sequence[Epoch]) -> int:
    """The epoch whose weights `fit` kept."""
    return min(rows, key=lambda row: row.validation_loss).epoch


def describe(row: Epoch) -> str:
    """One epoch in words."""
    train = "" if row.train_loss is None else f"train loss {row.train_loss:.4f} acc {row.train_accuracy:.4f}, "
    return f"epoch {row.epoch}: {train}validation loss {row.validation_loss:.4f} acc {row.validation_accuracy:.4f}"


def as_table(rows: Sequence[Epoch]) -> list[dict[str, float | None]]:
    return [asdict(row) for row in rows]


def log_loss(logits: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
    """Mean negative log likelihood of softmax(logits [N, C]), natural log."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return float((log_sum - shifted[np.arange(len(labels)), labels]).mean())


def balanced_weights(labels: npt.NDArray[np.int64], classes: int) -> Tensor:
    """float [C]: N / (C * n_c), so that each class has the same total weight in the loss."""
    counts = np.bincount(labels, minlength=classes)
    return torch.from_numpy((len(labels) / (classes * np.maximum(counts, 1))).astype(np.float32))


def _one_epoch(
    module: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    recipe: Recipe,
    class_weights: Tensor | None,
    progress: Callable[[int, str], None],
) -> tuple[float, float]:
    """Mean loss and accuracy over the epoch's pictures."""
    total = right = seen = 0.0
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for k, (inputs, labels) in enumerate(batches, start=1):
        logits = module(inputs)
        loss = nn.functional.cross_entropy(logits, labels, weight=class_weights, label_smoothing=recipe.label_smoothing)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(f"expected a finite training loss, found {value}: lower learning_rate")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        optimiser.step()
        schedule.step()
        total += value * len(labels)
        right += float((logits.detach().argmax(1) == labels).sum())
        seen += len(labels)
        progress(k, f"loss {total / seen:.4f}")
    return total / seen, right / seen


def _shifted(progress: Progress, before: int, total: int, step: int, text: str) -> None:
    progress(before + step, total, text)


def _row(
    epoch: int,
    loss: float | None,
    accuracy: float | None,
    outputs: tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]],
    rate: float,
) -> Epoch:
    logits, labels = outputs
    validation_loss = log_loss(logits, labels)
    if not math.isfinite(validation_loss):
        raise TrainingError(f"expected a finite validation loss, found {validation_loss}: lower learning_rate")
    return Epoch(epoch, loss, accuracy, validation_loss, float((logits.argmax(1) == labels).mean()), rate)


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def _same(module: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
