"""One process that trains, or several that train one network together.

`Alone` is the common case. `Group` is what `torchrun` starts: every process draws the same batches, takes its slice of
each, and torch's DistributedDataParallel adds up the gradients. The first process (rank 0) evaluates and writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import nn

_HOURS = timedelta(hours=6)  # the others wait at a collective while rank 0 validates


class Processes(Protocol):
    """What training asks of the processes it shares a network with."""

    rank: int
    size: int

    def wrap(self, module: nn.Module) -> nn.Module:
        """What to call for logits whose gradients are to be shared."""

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each value added up over all processes."""

    def same(self, value: Any) -> Any:
        """Rank 0's value, in every process. What the others give does not matter."""


class Alone:
    """One process."""

    rank, size = 0, 1

    def wrap(self, module: nn.Module) -> nn.Module:
        return module

    def sums(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def same(self, value: Any) -> Any:
        return value


ALONE = Alone()


class Group:
    """The processes of a `torchrun`, each on the GPU of its local rank, or on the CPU."""

    def __init__(self, device: str) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._device = device

    def wrap(self, module: nn.Module) -> nn.Module:
        # which parameters take part may change between epochs (unfreeze: gradual); buffers are frozen or rank 0's
        return nn.parallel.DistributedDataParallel(module, find_unused_parameters=False, gradient_as_bucket_view=True)

    def sums(self, values: Sequence[float]) -> list[float]:
        together = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.all_reduce(together)
        return [float(value) for value in together]

    def same(self, value: Any) -> Any:
        held = [value if self.rank == 0 else None]
        dist.broadcast_object_list(held, src=0)
        return held[0]


@contextmanager
def joined(wanted: str) -> Iterator[tuple[Group, str]]:
    """The group this process was started into by `torchrun`, and the device it computes on (`wanted`: cpu or cuda)."""
    device = "cpu"
    if wanted == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if wanted == "cuda" else "gloo", timeout=_HOURS)
    yield Group(device), device
    dist.destroy_process_group()  # not after an error: it would wait for others that may be gone


def slice_of(chosen: npt.NDArray[np.int64], processes: Processes) -> npt.NDArray[np.int64]:
    """This process's part of a batch: every size-th of it, so that the parts differ by one picture at most."""
    return chosen[processes.rank :: processes.size]
