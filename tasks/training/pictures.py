"""The pictures of a phase as batches on its device, augmented there. No Python runs for a single picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tasks.data.dataset import Dataset, Subset
from tasks.model.classifier import Classifier
from tasks.model.device import full_float32
from tasks.training.augment import augment, draws, mix
from tasks.training.memory import Mapped, in_halves
from tasks.training.parallel import ALONE, Processes, slice_of
from tasks.training.spec import FinetuneSpec

BATCH = 64  # pictures per evaluation step
_SHARE = 0.5  # of the GPU's free memory that one subset's pictures may take


class Source:
    """A subset's pixels, uint8 [n, H, W, 3]: in the GPU's memory if they fit there, else mapped from disk."""

    def __init__(self, dataset: Dataset, part: Subset, device: str) -> None:
        self._mapped, self._rows, self._device = Mapped(dataset), part.rows, device
        self._resident: Tensor | None = None
        each, shape = self._mapped.images[0].nbytes, self._mapped.images.shape[1:]
        if device != "cpu" and len(part) * each < _SHARE * torch.cuda.mem_get_info(device)[0]:
            self._resident = torch.empty((len(part), *shape), dtype=torch.uint8, device=device)
            for start in range(0, len(part), BATCH):
                self._resident[start : start + BATCH] = self._read(np.arange(start, min(start + BATCH, len(part))))

    def take(self, chosen: npt.NDArray[np.int64]) -> Tensor:
        """Those of the subset, uint8 [k, H, W, 3], on the device."""
        if self._resident is not None:
            return self._resident[torch.from_numpy(chosen).to(self._device)]
        batch = self._read(chosen)
        return batch if self._device == "cpu" else batch.pin_memory().to(self._device, non_blocking=True)

    def _read(self, chosen: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self._mapped.read(self._rows[chosen]))


@dataclass(frozen=True, slots=True)
class Pictures:
    """The training split as augmented batches."""

    source: Source
    labels: npt.NDArray[np.int64]
    classes: int
    spec: FinetuneSpec
    seed: int
    device: str
    processes: Processes = ALONE

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return max(1, len(self.labels) // self.spec.batch_size)

    def batches(self, epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Whole batches of an order drawn from (seed, epoch), from step `first` on; the remainder sits this epoch out.

        Of several processes each gets its slice.
        """
        draw = torch.from_numpy(draws(self.seed, epoch, len(self.labels)))
        order = np.random.default_rng((self.seed, epoch, 1)).permutation(len(self.labels))
        size = min(self.spec.batch_size, len(self.labels))
        for step in range(first, self.steps):
            chosen = order[step * size : (step + 1) * size]
            chosen.sort()  # reads a mapped file in its order; the batch is a set
            mine = slice_of(chosen, self.processes)
            changed = augment(self.source.take(mine), draw[mine].to(self.device), self.spec.augmentation)
            yield self._mixed(changed, torch.from_numpy(self.labels[mine]).to(self.device), (self.seed, epoch, step))

    def _mixed(self, images: Tensor, labels: Tensor, seed: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        if not (self.spec.mixup or self.spec.cutmix):
            return images, labels
        shares = nn.functional.one_hot(labels, self.classes).float()
        return mix(images, shares, seed, self.spec.mixup, self.spec.cutmix)


def logits_of(network: Classifier, dataset: Dataset, part: Subset, device: str = "cpu") -> npt.NDArray[np.float64]:
    """Logits float64 [n, C] of a subset's pictures, in eval mode."""
    with full_float32():
        return outputs(network, Source(dataset, part, device), len(part))


def outputs(network: nn.Module, source: Source, many: int) -> npt.NDArray[np.float64]:
    """The same of the first `many` pictures of a source; in smaller batches where the GPU's memory wants it."""
    network.eval()

    def logits(size: int) -> npt.NDArray[np.float64]:
        with torch.inference_mode():
            starts = range(0, many, size)
            parts = [network(source.take(np.arange(start, min(start + size, many)))) for start in starts]
            return np.concatenate([part.double().cpu().numpy() for part in parts])

    return in_halves(logits, BATCH)
