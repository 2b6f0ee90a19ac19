"""A convolution and the BatchNorm behind it as one operation, while the BatchNorm's statistics are frozen.

With running mean m and deviation s fixed, g (w * x - m) / s + b is a convolution with the weights w g / s and the bias
b - m g / s: the same function of the same parameters, with the same gradients, without two passes over every
activation. The parameters, and with them checkpoints, stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_TOLERANCE = 1e-3  # of the largest output, between the folded network and the plain one


class _Folded(nn.Conv2d):
    """A convolution that does its BatchNorm's work too. `norm` is no submodule: a tuple hides it from `modules()`."""

    norm: tuple[nn.modules.batchnorm._BatchNorm]
    pads: bool  # by itself, as TensorFlow does: timm's Conv2dSame

    def forward(self, input: Tensor) -> Tensor:
        (norm,) = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        bias = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            bias = bias + self.bias * scale
        if self.pads:
            from timm.layers import pad_same  # here: timm takes as long to import as torch

            input = pad_same(input, self.weight.shape[-2:], self.stride, self.dilation)
        out: Tensor = self._conv_forward(input, self.weight * scale.view(-1, 1, 1, 1), bias)
        return out


class _Passed(nn.Identity):
    """A plain BatchNorm whose convolution does its work. Never in training mode, where its statistics would move."""

    def train(self, _mode: bool = True) -> _Passed:
        return super().train(False)


class _Activation(_Passed):
    """timm's BatchNorm, of which dropout and activation are left."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = self.act(self.drop(input))
        return out


@contextmanager
def folded(network: nn.Module, example: Tensor) -> Iterator[int]:
    """Inside, `network` computes with folded pairs. Gives how many there are: 0 where folding would change it.

    A pair is a BatchNorm in eval mode, with scale and shift, that is given a convolution's output itself; which ones
    are is seen on `example`, an input. Copies that are made inside are folded too.
    """
    with torch.no_grad():
        wanted = network(example)
        pairs = _pairs(network, example)
        before = {module: type(module) for pair in pairs for module in pair}
        try:
            for conv, norm in pairs:
                conv.norm, conv.pads = (norm,), type(conv) is not nn.Conv2d
                conv.__class__ = _Folded
                norm.__class__ = _Activation if hasattr(norm, "act") else _Passed
            same = bool((network(example) - wanted).abs().max() <= _TOLERANCE * wanted.abs().max())
        except BaseException:
            _restore(before)
            raise
        if not same:  # e.g. somebody else reads the convolution's output too
            _restore(before)
            pairs = []
    try:
        yield len(pairs)
    finally:
        _restore(before)


def _pairs(network: nn.Module, example: Tensor) -> list[tuple[Any, Any]]:
    from timm.layers import Conv2dSame

    kinds = (nn.Conv2d, Conv2dSame)  # others may do more than their names say
    made: dict[int, nn.Conv2d] = {}
    kept: list[Tensor] = []  # so that no later tensor gets the id of one that is gone
    pairs: list[tuple[Any, Any]] = []

    def convolved(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        kept.append(output)
        assert isinstance(module, nn.Conv2d)
        made[id(output)] = module

    def normalised(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        conv = made.pop(id(inputs[0]), None)
        if conv is not None and _can_fold(module):
            pairs.append((conv, module))

    hooks = []
    for module in network.modules():
        if type(module) in kinds:
            hooks.append(module.register_forward_hook(convolved))
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            hooks.append(module.register_forward_pre_hook(normalised))
    try:
        network(example)
    finally:
        for hook in hooks:
            hook.remove()
    often = [conv for conv, _ in pairs]
    return [(conv, norm) for conv, norm in pairs if often.count(conv) == 1]


def _can_fold(norm: Any) -> bool:
    return not norm.training and norm.weight is not None and norm.running_mean is not None


def _restore(before: dict[Any, type]) -> None:
    for module, kind in before.items():
        module.__class__ = kind
        for name in ("norm", "pads"):
            module.__dict__.pop(name, None)
