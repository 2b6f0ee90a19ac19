"""Backbones by name, from timm and torchvision, without their heads: pictures in, one feature vector each out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from serving.errors import BadInput
from serving.preprocess import Preprocessing
from tasks.model.spec import ModelSpec
from tasks.model.weights import LITE0, file_state, fit_state, lite0_state

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How a named backbone is built: native size, normalisation, and the head's name in published state dicts."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    build: Callable[..., nn.Module]  # (pretrained: bool, **size) -> module without head
    size_argument: str


def describe(spec: ModelSpec) -> Preprocessing:
    """How pictures must be prepared for this backbone. Raises BadInput if there is no such backbone."""
    recipe = _recipe(spec.backbone)
    size = spec.image_size or recipe.image_size
    return Preprocessing(image_size=size, resize=spec.resize, mean=recipe.mean, std=recipe.std)


def build_backbone(backbone: str, image_size: int) -> nn.Module:
    """The architecture with random weights, head removed: float [N, 3, H, W] -> [N, F].

    Dropout and stochastic depth inside it are off: Thaw's own dropout stands before the head. Raises BadInput if
    there is no such backbone, or not for this size.
    """
    try:
        return _quiet(_sized(_recipe(backbone), image_size, pretrained=False))
    except (AssertionError, RuntimeError, ValueError) as error:  # the libraries' own checks
        raise _unfit(backbone, image_size, error) from None


def load_backbone(spec: ModelSpec, image_size: int, seed: int) -> nn.Module:
    """The backbone with the weights the spec asks for. Raises BadInput: they do not fit or cannot be fetched."""
    torch.manual_seed(seed)
    body = build_backbone(spec.backbone, image_size)
    if spec.weights == "none":
        return body
    if spec.weights != "imagenet":
        path = Path(spec.weights).expanduser()
        fit_state(body, file_state(path), _head_prefixes(spec.backbone), str(path))
        return body
    if spec.backbone == LITE0:
        fit_state(body, lite0_state(), _head_prefixes(spec.backbone), "the installed weight package")
        return body
    try:
        return _quiet(_sized(_recipe(spec.backbone), image_size, pretrained=True))
    except BadInput:
        raise
    except Exception as error:  # whatever the library's download raises
        text = " ".join(str(error).split())[:120]
        raise BadInput(
            f"expected to fetch ImageNet weights of {spec.backbone}, could not ({type(error).__name__}: {text}): "
            f"give model.weights a local file, or use {LITE0}, whose weights are installed"
        ) from None


def feature_size(body: nn.Module, image_size: int) -> int:
    """F of the backbone's output [N, F]. Raises BadInput if it gives anything else, or takes no such size."""
    body.eval()
    try:
        with torch.inference_mode():
            out = body(torch.zeros(2, 3, image_size, image_size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _unfit(type(body).__name__, image_size, error) from None
    if not (isinstance(out, torch.Tensor) and out.ndim == 2):
        raise BadInput(
            "expected a backbone that gives one feature vector a picture, found another output: choose another"
        )
    return out.shape[1]


# timm and torchvision are imported where they are used: they take as long as torch itself, and whoever only wants the
# flow, its parameters or its form (deploying it, resuming it) does not need them
def _recipe(backbone: str) -> _Recipe:
    library, _, name = backbone.partition("/")
    recipe = _timm(name) if library == "timm" else _torchvision(name) if library == "torchvision" else None
    if recipe is None:
        import timm
        import torchvision

        known = timm.list_models() if library == "timm" else torchvision.models.list_models(module=torchvision.models)
        near = _nearest(name, known)
        raise BadInput(f"expected a classification backbone of timm/ or torchvision/, found {backbone!r}: {near}")
    return recipe


def _nearest(name: str, known: list[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name.partition(".")[0], known, n=3)
    return f"did you mean {', '.join(close)}?" if close else "see timm.list_models(), torchvision.models.list_models()"


def _unfit(backbone: str, image_size: int, error: Exception) -> BadInput:
    text = " ".join(str(error).split())[:150]
    return BadInput(
        f"expected a backbone that takes pictures of {image_size} pixels, found that {backbone} does not ({text}): "
        "choose another model.image_size"
    )


def _timm(name: str) -> _Recipe | None:
    import timm

    if not timm.is_model(name):
        return None
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # NAME.TAG with a tag that this architecture does not have
        return None
    size = config.input_size[-1] if config else 224

    def build(pretrained: bool, **size_option: Any) -> nn.Module:
        module: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, **size_option)
        return module

    mean, std = (config.mean, config.std) if config else (_IMAGENET_MEAN, _IMAGENET_STD)
    return _Recipe(size, _three(mean), _three(std), build, "img_size")


def _torchvision(name: str) -> _Recipe | None:
    import torchvision

    if name not in torchvision.models.list_models(module=torchvision.models):
        return None
    weights = torchvision.models.get_model_weights(name)
    transforms = weights["DEFAULT"].transforms() if "DEFAULT" in weights.__members__ else None
    size = transforms.crop_size[0] if transforms else 224
    mean, std = (transforms.mean, transforms.std) if transforms else (_IMAGENET_MEAN, _IMAGENET_STD)

    def build(pretrained: bool, **size_option: Any) -> nn.Module:
        chosen = weights["DEFAULT"] if pretrained else None
        module: nn.Module = torchvision.models.get_model(name, weights=chosen, **size_option)
        _remove_head(module)
        return module

    return _Recipe(size, _three(mean), _three(std), build, "image_size")


def _sized(recipe: _Recipe, image_size: int, *, pretrained: bool) -> nn.Module:
    """Transformers must be told their input size; convolutional networks take any and refuse the argument."""
    if image_size == recipe.image_size:
        return recipe.build(pretrained)
    try:
        return recipe.build(pretrained, **{recipe.size_argument: image_size})
    except TypeError:
        return recipe.build(pretrained)


def _remove_head(module: nn.Module) -> None:
    """Replaces torchvision's last linear layer by identity, wherever the family keeps it."""
    name = _head_name(module)
    parent, _, child = name.rpartition(".")
    owner = module.get_submodule(parent) if parent else module
    setattr(owner, child, nn.Identity())


def _head_prefixes(backbone: str) -> tuple[str, ...]:
    """Where published state dicts of this backbone keep the head that is left out."""
    library, _, name = backbone.partition("/")
    if library == "timm":
        import timm

        config = timm.get_pretrained_cfg(name)
        classifier = (config.classifier if config else None) or ("head", "fc", "classifier")
        return tuple(f"{prefix}." for prefix in ([classifier] if isinstance(classifier, str) else classifier))
    import torchvision

    return (f"{_head_name(torchvision.models.get_model(name, weights=None))}.",)


def _head_name(module: nn.Module) -> str:
    """The path of a torchvision classifier's last linear layer."""
    linear = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    if not linear or getattr(module, "aux_logits", False):
        raise BadInput(
            f"expected a backbone with one linear head, found {type(module).__name__}, which has none or auxiliary "
            "ones: choose another backbone"
        )
    return linear[-1]


def _quiet(body: nn.Module) -> nn.Module:
    import timm.layers
    import torchvision

    for module in body.modules():
        if isinstance(module, nn.Dropout | torchvision.ops.StochasticDepth):
            module.p = 0.0
        elif isinstance(module, timm.layers.DropPath):
            module.drop_prob = 0.0
    return body


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
