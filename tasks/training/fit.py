"""One training loop for both phases.

It knows neither pictures nor features: a module, batches of (inputs, targets), an optimiser, a schedule, and
a way to ask for validation outputs. Keeps the weights of the best validation loss, stops when that stalls.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tasks.progress import Progress
from tasks.training.checkpoint import TrainingCheckpoints
from tasks.training.errors import TooLarge, TrainingError
from tasks.training.parallel import ALONE, Processes
from tasks.training.state import TrainingState
from tasks.training.table import Epoch, best_epoch, describe, row

# of an epoch, from one of its steps on: inputs, and targets as class indices int64 [n] or shares float [n, C]
Batches = Callable[[int, int], Iterator[tuple[Tensor, Tensor]]]
Outputs = Callable[[nn.Module], tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How `fit` trains. `warmup` is a share of all steps."""

    epochs: int
    steps_per_epoch: int
    warmup: float
    clip_norm: float
    label_smoothing: float
    patience: int
    train_mode: Callable[[int], None]  # puts the module into training mode for an epoch, as the phase wants it
    ema: float = 0.0  # decay of the weights' moving average, 0 for none
    autocast: torch.dtype | None = None  # of the forward pass; None: float32
    seed: int = 0  # of what torch draws: dropout

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch


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
    processes: Processes = ALONE,
) -> tuple[Epoch, ...]:
    """Trains `module` in place and leaves it with the weights of the best validation loss (the start included).

    `groups` are AdamW parameter groups, each with its peak `lr`; `class_weights` [C] weight both losses. With
    `checkpoints`, goes on from the newest one, to the same weights and table as without the interruption, and writes
    one at every epoch's end, after `checkpoints.every` seconds, and when interrupted. A batch too large for the GPU's
    memory is taken in halves. Raises TrainingError.
    """
    groups = [group for group in groups if any(p.requires_grad for p in group["params"])]
    if not groups:
        raise TrainingError("expected parameters to train, found none: nothing is unfrozen")
    state = TrainingState(
        module, groups, lambda step: cosine_with_warmup(step, recipe.steps, recipe.warmup), recipe.ema
    )
    loop = _Loop(state, batches, validation, recipe, class_weights, progress, checkpoints, processes)
    if checkpoints is not None and checkpoints.restore(state):
        epoch = min(state.position.epoch, recipe.epochs)
        progress(loop.steps_done, recipe.steps, f"resumed at epoch {epoch} of {recipe.epochs}")
    else:
        state.end_epoch(loop.validated(0, None, 0.0))
    with nullcontext() if checkpoints is None or processes.rank else checkpoints.guarding(state):
        while not loop.finished:
            loop.train_epoch()
            loop.validate()
            loop.save()
    module.load_state_dict(state.best)
    return state.position.rows


def balanced_weights(labels: npt.NDArray[np.int64], classes: int) -> Tensor:
    """float [C]: N / (C * n_c), so that each class has the same total weight in the loss."""
    counts = np.bincount(labels, minlength=classes)
    return torch.from_numpy((len(labels) / (classes * np.maximum(counts, 1))).astype(np.float32))


@dataclass(slots=True)
class _Loop:
    state: TrainingState
    batches: Batches
    validation: Outputs
    recipe: Recipe
    class_weights: Tensor | None
    progress: Progress
    checkpoints: TrainingCheckpoints | None
    processes: Processes
    speed: float | None = None  # of the latest epoch, pictures per second

    @property
    def finished(self) -> bool:
        """All epochs are done, or validation has stalled."""
        last = self.state.position.epoch - 1
        return last >= self.recipe.epochs or last - best_epoch(self.state.position.rows) >= self.recipe.patience

    @property
    def steps_done(self) -> int:
        position = self.state.position
        return (position.epoch - 1) * self.recipe.steps_per_epoch + position.step

    def train_epoch(self) -> None:
        """The steps of the epoch that are not done yet."""
        state = self.state
        self.recipe.train_mode(state.position.epoch)
        state.move()  # BatchNorm's statistics may change from here on
        forward = self.processes.wrap(state.module)
        began, seen = time.perf_counter(), state.position.seen
        for inputs, targets in self.batches(state.position.epoch, state.position.step):
            loss, right, pictures = self.processes.sums(self._step(forward, inputs, targets))
            if not math.isfinite(loss):
                raise TrainingError(f"expected a finite training loss, found {loss}: lower learning_rate")
            state.update()
            before = state.position
            state.move(
                step=before.step + 1,
                loss_sum=before.loss_sum + loss * pictures,
                right=before.right + right,
                seen=before.seen + pictures,
            )
            mean = state.position.loss_sum / state.position.seen
            self.progress(self.steps_done, self.recipe.steps, f"loss {mean:.4f}")
            if self.checkpoints is not None and self.checkpoints.due():
                self.save()
        self.speed = (state.position.seen - seen) / (time.perf_counter() - began)

    def validate(self) -> None:
        """Ends the epoch with its line in the table."""
        state, at, rates = self.state, self.state.position, self.state.schedule
        rate = float(max(rates.base_lrs) * rates.get_last_lr()[0] / rates.base_lrs[0])
        line = self.validated(at.epoch, (at.loss_sum / at.seen, at.right / at.seen), rate)
        if at.epoch == 1 and _same(state.module, state.best):
            raise TrainingError(
                "expected the first epoch to change the weights, found them unchanged: raise learning_rate"
            )
        state.end_epoch(line)
        self.progress(self.steps_done, self.recipe.steps, describe(line))

    def validated(self, epoch: int, train: tuple[float, float] | None, rate: float) -> Epoch:
        """The line of an epoch, from rank 0's validation."""
        self.state.judged.eval()
        line = None
        if self.processes.rank == 0:
            weights = None if self.class_weights is None else self.class_weights.double().cpu().numpy()
            line = row(epoch, train, self.validation(self.state.judged), rate, self.speed, weights)
        made: Epoch = self.processes.same(line)
        if not math.isfinite(made.validation_loss):
            raise TrainingError(f"expected a finite validation loss, found {made.validation_loss}: lower learning_rate")
        return made

    def save(self) -> None:
        if self.checkpoints is not None and self.processes.rank == 0:
            self.checkpoints.save(self.state)

    def _step(self, forward: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[float, float, float]:
        """The gradients of one batch, clipped. This process's share of its mean loss; pictures right, and seen."""
        state = self.state
        _seed_torch(self.recipe.seed, state.position.epoch, state.position.step, self.processes.rank)
        state.optimiser.zero_grad(set_to_none=True)
        weight = self.processes.sums([float(_weights(targets, self.class_weights).sum())])[0]
        try:
            done: tuple[float, float] | None = self._gradients(forward, inputs, targets, weight)
        except torch.OutOfMemoryError:
            done = None  # tried again outside: the error's frames hold what the failed pass had in memory
        if done is None:
            self._halve(len(inputs))
            return self._step(forward, inputs, targets)
        nn.utils.clip_grad_norm_([p for p in state.module.parameters() if p.grad is not None], self.recipe.clip_norm)
        return *done, len(inputs)

    def _halve(self, pictures: int) -> None:
        """Half as many pictures in one forward pass as did not fit. Raises TrainingError: a single one did not."""
        at_once = self.state.most_at_once or pictures
        if at_once == 1 or self.processes.size > 1:
            raise TooLarge(
                f"expected {at_once} pictures to fit into the GPU's memory, found them not to: lower "
                "finetune.batch_size or model.image_size"
            )
        self.state.most_at_once = at_once // 2
        torch.cuda.empty_cache()
        self.progress(self.steps_done, self.recipe.steps, f"out of memory: {at_once // 2} pictures at once")

    def _gradients(self, forward: nn.Module, inputs: Tensor, targets: Tensor, weight: float) -> tuple[float, float]:
        """Adds up those of the batch's parts. `weight`: of the whole batch, in all processes, for its mean."""
        at_once = self.state.most_at_once or len(inputs)
        total, right = 0.0, 0.0
        for part, wanted in zip(torch.split(inputs, at_once), torch.split(targets, at_once), strict=True):
            with torch.autocast(part.device.type, self.recipe.autocast, enabled=self.recipe.autocast is not None):
                logits = forward(part)
            loss = self._loss(logits.float(), wanted) / weight
            # torch averages over processes what is to be added up
            (loss * self.processes.size).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
            right += float((logits.detach().argmax(1) == _class_of(wanted)).sum())
        return total, right

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(
            logits, targets, self.class_weights, label_smoothing=self.recipe.label_smoothing, reduction="sum"
        )


def _seed_torch(seed: int, epoch: int, step: int, rank: int) -> None:
    """So that dropout in a step is the same after a resume, and another in each process."""
    torch.manual_seed(int(np.random.SeedSequence((seed, epoch, step, rank)).generate_state(1, np.uint64)[0]))


def _weights(targets: Tensor, class_weights: Tensor | None) -> Tensor:
    """What each picture counts, [n]."""
    if class_weights is None:
        return torch.ones(len(targets))
    return class_weights[targets] if targets.ndim == 1 else targets @ class_weights


def _class_of(targets: Tensor) -> Tensor:
    return targets if targets.ndim == 1 else targets.argmax(1)


def _same(module: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
