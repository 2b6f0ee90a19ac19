"""Which device torch trains on. The only place that asks."""

from __future__ import annotations

import torch

from serving.errors import DeviceError


def torch_device(wanted: str) -> str:
    """`cuda` or `cpu`. Raises DeviceError if cuda was asked for and torch cannot use it: no silent fallback."""
    usable = torch.cuda.is_available()
    if wanted == "cuda" and not usable:
        raise DeviceError("expected a GPU for runtime.device=cuda, torch can use none here: use cpu or auto")
    return "cuda" if usable and wanted != "cpu" else "cpu"
