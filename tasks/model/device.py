"""Which device torch trains on, and how precisely. The only place that asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from serving.errors import DeviceError


def torch_device(wanted: str) -> str:
    """`cuda` or `cpu`. Raises DeviceError if cuda was asked for and torch cannot use it: no silent fallback."""
    usable = torch.cuda.is_available()
    if wanted == "cuda" and not usable:
        raise DeviceError("expected a GPU for runtime.device=cuda, torch can use none here: use cpu or auto")
    return "cuda" if usable and wanted != "cpu" else "cpu"


def training_precision(wanted: str, device: str) -> str:
    """`fp32` or `bf16` of the forward pass.

    bf16 needs no loss scaling, and halves the time on a GPU; on the CPU, where it is no faster (measured: 0.93 times
    the pictures per second), only who asks for it gets it.
    """
    if wanted == "auto":
        return "bf16" if device == "cuda" else "fp32"
    return wanted


@contextmanager
def full_float32() -> Iterator[None]:
    """Inside, float32 on a GPU is float32: convolutions and matrix products take no TF32, as they take none in serving.

    torch's own default takes it in convolutions. What is asked for in bf16 stays so.
    """
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32 = products.allow_tf32 = False
    try:
        yield
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before
