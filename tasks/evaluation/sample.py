"""What one model says of the pictures of one split: the input of every metric."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tasks.data.dataset import Slice
from tasks.evaluation.metrics import Ints


@dataclass(frozen=True, slots=True)
class Sample:
    """`truth` and `decided` are class indices [N], `probabilities` [N, C], `units` the pictures' groups."""

    truth: Ints
    probabilities: npt.NDArray[np.floating]
    decided: Ints
    digests: tuple[str, ...]
    units: tuple[str, ...]
    slices: tuple[Slice, ...] = ()

    def __len__(self) -> int:
        return len(self.truth)

    def take(self, rows: Ints) -> Sample:
        return Sample(
            self.truth[rows],
            self.probabilities[rows],
            self.decided[rows],
            tuple(self.digests[i] for i in rows),
            tuple(self.units[i] for i in rows),
            tuple(Slice(s.column, tuple(s.values[i] for i in rows)) for s in self.slices),
        )

    def where(self, column: str, value: str) -> Sample:
        """The pictures of one slice; none if there is no such column."""
        values = next((s.values for s in self.slices if s.column == column), ("",) * 0)
        return self.take(np.array([i for i, found in enumerate(values) if found == value], np.int64))

    def at_argmax(self) -> Sample:
        """The same pictures with the likeliest class decided."""
        likeliest = self.probabilities.argmax(axis=1) if len(self) else self.decided
        return replace(self, decided=likeliest.astype(np.int64))
