"""One training loop for both phases.

It knows neither pictures nor features: a module, batches of (inputs, labels), an optimiser, a schedule, and
a way to ask for validation outputs. Keeps the weights of the best validation loss, stops when that stalls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from serving.errors import ThawError
from tasks.progress import Progress
from tasks.training.checkpoint import TrainingCheckpoints
from tasks.training.state import TrainingState
from tasks.training.table import Epoch, best_epoch, describe

Batches = Callable[[int, int], Iterator[tuple[Tensor, Tensor]]]  # of an epoch, from one of its steps on
Outputs = Callable[[], tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]]


class TrainingError(ThawError):
    """Training cannot give a model: nothing to train, a loss that is not a number, weights that stand still."""

    code = "training_failed"


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
    checkpoints: TrainingCheckpoints | None = None,
) -> tuple[Epoch, ...]:
    """Trains `module` in place and leaves it with the weights of the best validation loss (the start included).

    `groups` are AdamW parameter groups, each with its peak `lr`. With `checkpoints`, goes on from the newest one,
    to the same weights and table as without the interruption, and writes one at every epoch's end, after
    `checkpoints.every` seconds, and when interrupted. Raises TrainingError.
    """
    groups = [group for group in groups if any(p.requires_grad for p in group["params"])]
    if not groups:
        raise TrainingError("expected parameters to train, found none: nothing is unfrozen")
    steps = recipe.epochs * recipe.steps_per_epoch
    state = TrainingState(module, groups, lambda step: cosine_with_warmup(step, steps, recipe.warmup))
    if checkpoints is not None and checkpoints.restore(state):
        epoch = min(state.position.epoch, recipe.epochs)
        progress(_steps_done(state, recipe), steps, f"resumed at epoch {epoch} of {recipe.epochs}")
    else:
        state.end_epoch(_row(0, None, None, validation(), 0.0))
    with nullcontext() if checkpoints is None else checkpoints.guarding(state):
        while not _finished(state, recipe):
            _train_epoch(state, batches, recipe, class_weights, progress, checkpoints)
            _validate(state, validation, recipe, progress)
            if checkpoints is not None:
                checkpoints.save(state)
    module.load_state_dict(state.best)
    return state.position.rows


def log_loss(logits: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
    """Mean negative log likelihood of softmax(logits [N, C]), natural log."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return float((log_sum - shifted[np.arange(len(labels)), labels]).mean())


def balanced_weights(labels: npt.NDArray[np.int64], classes: int) -> Tensor:
    """float [C]: N / (C * n_c), so that each class has the same total weight in the loss."""
    counts = np.bincount(labels, minlength=classes)
    return torch.from_numpy((len(labels) / (classes * np.maximum(counts, 1))).astype(np.float32))


def _finished(state: TrainingState, recipe: Recipe) -> bool:
    """All epochs are done, or validation has stalled."""
    last = state.position.epoch - 1
    return last >= recipe.epochs or last - best_epoch(state.position.rows) >= recipe.patience


def _steps_done(state: TrainingState, recipe: Recipe) -> int:
    return (state.position.epoch - 1) * recipe.steps_per_epoch + state.position.step


def _train_epoch(
    state: TrainingState,
    batches: Batches,
    recipe: Recipe,
    class_weights: Tensor | None,
    progress: Progress,
    checkpoints: TrainingCheckpoints | None,
) -> None:
    """The steps of the epoch that are not done yet."""
    recipe.train_mode()
    state.move()  # BatchNorm's statistics may change from here on
    for inputs, labels in batches(state.position.epoch, state.position.step):
        loss, right = _step(state, inputs, labels, recipe, class_weights)
        before = state.position
        state.move(
            step=before.step + 1,
            loss_sum=before.loss_sum + loss * len(labels),
            right=before.right + right,
            seen=before.seen + len(labels),
        )
        mean = state.position.loss_sum / state.position.seen
        progress(_steps_done(state, recipe), recipe.epochs * recipe.steps_per_epoch, f"loss {mean:.4f}")
        if checkpoints is not None and checkpoints.due():
            checkpoints.save(state)


def _step(
    state: TrainingState, inputs: Tensor, labels: Tensor, recipe: Recipe, class_weights: Tensor | None
) -> tuple[float, float]:
    """One update of the weights: the batch's mean loss, and how many of its pictures were right."""
    logits = state.module(inputs)
    loss = nn.functional.cross_entropy(logits, labels, weight=class_weights, label_smoothing=recipe.label_smoothing)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingError(f"expected a finite training loss, found {value}: lower learning_rate")
    right = float((logits.detach().argmax(1) == labels).sum())
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = [p for group in state.optimiser.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
    state.update()
    return value, right


def _validate(state: TrainingState, validation: Outputs, recipe: Recipe, progress: Progress) -> None:
    """Ends the epoch with its line in the table."""
    at, rates = state.position, state.schedule
    state.module.eval()
    rate = float(max(rates.base_lrs) * rates.get_last_lr()[0] / rates.base_lrs[0])
    row = _row(at.epoch, at.loss_sum / at.seen, at.right / at.seen, validation(), rate)
    if at.epoch == 1 and _same(state.module, state.best):
        raise TrainingError("expected the first epoch to change the weights, found them unchanged: raise learning_rate")
    state.end_epoch(row)
    progress(_steps_done(state, recipe), recipe.epochs * recipe.steps_per_epoch, describe(row))


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


def _same(module: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
