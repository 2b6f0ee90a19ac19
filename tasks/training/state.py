"""Everything that training changes, as one object that can be written down between two steps and taken up again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tasks.training.table import Epoch, as_table

Tensors = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Position:
    """How far training is. Replaced as a whole, so that an interruption meets the old one or the new one."""

    epoch: int = 1  # being trained; one past the last when all are done
    step: int = 0  # steps of that epoch that are done
    loss_sum: float = 0.0  # of the pictures in those steps
    right: float = 0.0  # how many of them were classified correctly
    seen: float = 0.0  # how many they are
    rows: tuple[Epoch, ...] = ()  # finished epochs, the start included


class TrainingState:
    """A module, its AdamW optimiser and schedule, the average of its weights, the best so far, and the position.

    A step is forward, backward, `update`, `move`. Until `update`, a step changes only BatchNorm statistics, of which
    `move` keeps small copies: interrupted there, the state before the step can still be written. From `update` to the
    end of `move` it can not: `stepping` says so. Weights are not copied for this. What torch draws is no part of it:
    `fit` seeds every step.
    """

    def __init__(
        self, module: nn.Module, groups: Sequence[dict[str, Any]], share: Callable[[int], float], ema: float = 0.0
    ) -> None:
        """`groups`: parameter groups, each with its peak `lr`; `share`: the part of it that holds at a step.

        `ema`: the decay of an exponential moving average of the weights, 0 for none.
        """
        self.module = module
        self.average = AveragedModel(module, multi_avg_fn=partial(_average, ema)) if ema else None
        self.most_at_once: int | None = None  # pictures in one forward pass, once more did not fit into memory
        self.optimiser = torch.optim.AdamW(groups, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, share)
        self.position = Position()
        self.best: Tensors = {}  # until the start is validated
        self.stepping = False
        self._device = next(module.parameters()).device
        self._statistics = _statistics(module)

    @property
    def judged(self) -> nn.Module:
        """What is validated and kept: the average where there is one, else the module itself."""
        return self.module if self.average is None else self.average.module

    def update(self) -> None:
        """Changes the weights by the gradients, and the rates by the schedule. `move` must follow."""
        self.stepping = True
        self.optimiser.step()
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.module)

    def move(self, **changes: Any) -> None:
        """Replaces these fields of the position. What is in memory now belongs to the new one."""
        self.stepping = True
        self._statistics = _statistics(self.module)
        self.position = replace(self.position, **changes)
        self.stepping = False

    def end_epoch(self, row: Epoch) -> None:
        """Moves to the next epoch's start; keeps the weights if their validation loss is the lowest so far."""
        improved = row.validation_loss < min((r.validation_loss for r in self.position.rows), default=float("inf"))
        best = _weights_of(self.judged) if improved else self.best
        self.stepping = True
        self.best = best
        self.move(epoch=row.epoch + 1, step=0, loss_sum=0.0, right=0.0, seen=0.0, rows=(*self.position.rows, row))

    def state_dict(self) -> dict[str, Any]:
        """Tensors (not copied), numbers, and lists of them: what `torch.load(weights_only=True)` reads."""
        p = self.position
        return {
            "module": {name: self._statistics.get(name, value) for name, value in self.module.state_dict().items()},
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "best": self.best,
            "average": {} if self.average is None else self.average.state_dict(),
            "most_at_once": self.most_at_once,
            "position": {name: getattr(p, name) for name in ("epoch", "step", "loss_sum", "right", "seen")},
            "rows": as_table(p.rows),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continues where `state_dict` was called."""
        self.module.load_state_dict(saved["module"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.schedule.load_state_dict(saved["schedule"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        self.most_at_once = saved["most_at_once"]
        self.best = {name: value.to(self._device) for name, value in saved["best"].items()}
        self.move(**saved["position"], rows=tuple(Epoch(**row) for row in saved["rows"]))


def _average(decay: float, averaged: list[Tensor], current: list[Tensor], taken: Tensor) -> None:
    """In place. Early on a smaller decay, (1 + n) / (10 + n) after n updates, so that the start is soon forgotten."""
    number = float(taken)
    torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + number) / (10 + number)))


def _weights_of(module: nn.Module) -> Tensors:
    """A copy of all tensors of a module, buffers included, on its device."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _statistics(module: nn.Module) -> Tensors:
    """Copies of the buffers that the next forward pass may change: those of parts in training mode."""
    parts = ((f"{name}." if name else "", part) for name, part in module.named_modules() if part.training)
    return {prefix + name: value.clone() for prefix, part in parts for name, value in part.named_buffers(recurse=False)}
