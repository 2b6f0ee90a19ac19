"""Pictures as batches on a device: what validation does when they do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tasks.data.dataset import subset
from tasks.training.errors import TooLarge
from tasks.training.pictures import Source, outputs
from tests.conftest import Pipeline


class Narrow(nn.Module):
    """The mean of each picture's first row; out of memory for more than `most` at once."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.sizes = most, list[int]()

    def forward(self, pixels: Tensor) -> Tensor:
        self.sizes.append(len(pixels))
        if len(pixels) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return pixels[:, 0].float().mean(1)


def test_validation_takes_what_fits(pipeline: Pipeline) -> None:
    train = subset(pipeline.dataset, "train")
    source, narrow = Source(pipeline.dataset, train, "cpu"), Narrow(20)
    found = outputs(narrow, source, 70)
    assert narrow.sizes == [64, 32, 16, 16, 16, 16, 6]
    np.testing.assert_array_equal(found, outputs(Narrow(64), source, 70))
    with pytest.raises(TooLarge, match="lower model.image_size"):
        outputs(Narrow(0), source, 70)
