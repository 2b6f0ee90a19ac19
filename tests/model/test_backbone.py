"""Backbones by name give one feature vector a picture, at the size asked for; what cannot work says so in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from serving.errors import BadInput
from serving.preprocess import Preprocessing
from tasks.model.backbone import build_backbone, describe, feature_size, load_backbone
from tasks.model.classifier import Classifier, new_classifier, trainable
from tasks.model.spec import ModelSpec
from tasks.training.layers import LEVELS, freeze_statistics, layer_groups


def random_model(backbone: str, **changes: object) -> ModelSpec:
    return ModelSpec.model_validate({"backbone": backbone, "weights": "none", **changes})


@pytest.mark.parametrize(
    ("backbone", "size", "features"),
    [
        ("timm/tf_efficientnet_lite0", 64, 1280),
        ("timm/resnet18", 64, 512),
        ("timm/resnet18.a1_in1k", 64, 512),
        ("timm/vit_tiny_patch16_224", 224, 192),
        ("timm/vit_tiny_patch16_224", 96, 192),
        ("timm/deit_tiny_distilled_patch16_224", 64, 192),
        ("timm/convnext_atto", 64, 320),
        ("torchvision/resnet18", 64, 512),
        ("torchvision/mobilenet_v3_small", 64, 1024),
        ("torchvision/efficientnet_b0", 64, 1280),
        ("torchvision/densenet121", 64, 1024),
        ("torchvision/shufflenet_v2_x0_5", 64, 1024),
        ("torchvision/swin_t", 64, 768),
        ("torchvision/vit_b_32", 64, 768),
    ],
)
def test_a_backbone_gives_one_vector_a_picture(backbone: str, size: int, features: int) -> None:
    body = build_backbone(backbone, size)
    assert feature_size(body, size) == features
    with torch.inference_mode():
        out = body.eval()(torch.rand(3, 3, size, size))
    assert out.shape == (3, features)
    assert 1000 not in {layer.out_features for layer in body.modules() if isinstance(layer, nn.Linear)}, (
        "a head is left"
    )


def test_mean_std_and_size_are_the_backbones_own() -> None:
    lite0 = describe(ModelSpec())
    assert lite0 == Preprocessing(image_size=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    resnet = describe(random_model("torchvision/resnet18"))
    assert (resnet.mean, resnet.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert describe(random_model("timm/vit_tiny_patch16_224")).mean == (0.5, 0.5, 0.5)
    assert describe(random_model("timm/vit_base_patch16_384")).image_size == 384
    assert describe(random_model("torchvision/efficientnet_b4")).image_size == 380


def test_size_and_resize_can_be_chosen() -> None:
    chosen = describe(random_model("timm/vit_tiny_patch16_224", image_size=96, resize="pad"))
    assert (chosen.image_size, chosen.resize) == (96, "pad")


def test_dropout_inside_the_backbone_is_off() -> None:
    """Swin drops whole blocks for single pictures in training; here equal pictures must give equal vectors."""
    body = build_backbone("torchvision/swin_t", 64).train()
    with torch.inference_mode():
        out = body(torch.rand(1, 3, 64, 64).repeat(8, 1, 1, 1))
    assert out.abs().max() > 0.1
    assert torch.allclose(out, out[:1].expand_as(out), atol=1e-4)


# --- what cannot work -------------------------------------------------------------------------------


def message_of(error: BadInput) -> str:
    assert error.exit_status == 2
    assert "\n" not in str(error)
    assert str(error).startswith("expected ")
    return str(error)


@pytest.mark.parametrize(
    ("backbone", "hint"),
    [
        ("timm/tf_eficientnet_lite0", "did you mean tf_efficientnet_lite0"),
        ("torchvision/resnet81", "did you mean resnet18"),
        ("timm/resnet18.no_such_tag", "did you mean resnet18"),
        ("torchvision/fasterrcnn_resnet50_fpn", "torchvision.models.list_models()"),
        ("torchvision/qqqqqqqqqq", "torchvision.models.list_models()"),
        ("timm/squeezenet", "did you mean"),
    ],
)
def test_an_unknown_backbone_is_refused_with_a_suggestion(backbone: str, hint: str) -> None:
    with pytest.raises(BadInput) as caught:
        describe(random_model(backbone))
    message = message_of(caught.value)
    assert repr(backbone) in message
    assert hint in message


@pytest.mark.parametrize("backbone", ["resnet18", "huggingface/x", "timm/", "timm/hf-hub:some/one", "timm/../x"])
def test_other_sources_are_refused(backbone: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        ModelSpec(backbone=backbone)


@pytest.mark.parametrize("name", ["squeezenet1_0", "inception_v3", "googlenet"])
def test_networks_without_one_linear_head_are_refused(name: str) -> None:
    with pytest.raises(BadInput) as caught:
        build_backbone(f"torchvision/{name}", 299)
    assert "choose another backbone" in message_of(caught.value)


@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        ("torchvision/alexnet", 32),  # pooled away
        ("torchvision/vit_b_16", 100),  # not a multiple of its patch
        ("timm/inception_v3", 32),
        ("torchvision/maxvit_t", 96),  # not a multiple of its window
    ],
)
def test_a_size_that_a_backbone_does_not_take(backbone: str, size: int) -> None:
    spec = random_model(backbone, image_size=size)
    with pytest.raises(BadInput) as caught:
        new_classifier(spec, describe(spec), 2, seed=0)
    message = message_of(caught.value)
    assert f"{size} pixels" in message
    assert "choose another model.image_size" in message


def test_weights_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no network here, and no cache: what a user on a closed network sees."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(BadInput) as caught:
        load_backbone(ModelSpec(backbone="torchvision/resnet18"), 64, seed=0)
    message = message_of(caught.value)
    assert "fetch ImageNet weights of torchvision/resnet18" in message
    assert "model.weights a local file" in message
    assert "timm/tf_efficientnet_lite0" in message
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# --- what a phase trains ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> Classifier:
    spec = random_model("torchvision/resnet18", image_size=64)
    return new_classifier(spec, describe(spec), 3, seed=0)


def test_a_new_head_knows_nothing(network: Classifier) -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8))
    with torch.inference_mode():
        assert torch.equal(network.eval()(pixels), torch.zeros(2, 3))
        assert network.features(pixels).shape == (2, 512)


def test_with_the_body_frozen_only_the_head_trains(network: Classifier) -> None:
    network.requires_grad_(True)
    assert trainable(network)["tensors"] == 62
    network.body.requires_grad_(False)
    assert trainable(network) == {"tensors": 2, "values": 512 * 3 + 3}
    network.requires_grad_(False)
    assert trainable(network) == {"tensors": 0, "values": 0}


def test_frozen_statistics_stand_still_while_scale_and_shift_learn(network: Classifier) -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8))
    network.requires_grad_(True)

    def moved(frozen: bool) -> dict[str, bool]:
        network.train()
        if frozen:
            freeze_statistics(network)
        before = {key: value.clone() for key, value in network.body.named_buffers()}
        network.features(pixels).sum().backward()
        return {key: not torch.equal(value, before[key]) for key, value in network.body.named_buffers()}

    assert not any(moved(frozen=True).values())
    norm = network.body.get_submodule("bn1")
    assert norm.weight.grad is not None
    assert norm.weight.requires_grad
    assert all(moved(frozen=False).values()), "without it every statistic moves"


def test_earlier_layers_learn_more_slowly(network: Classifier) -> None:
    network.requires_grad_(True)
    groups = layer_groups(network, rate=1e-3, decay=0.2, weight_decay=0.05)
    parameters = list(network.named_parameters())
    rate_of = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(rate_of) == len(parameters), "each in one group"
    rates = [rate_of[id(p)] for _, p in parameters]
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(2e-4)
    assert rates[-1] == pytest.approx(1e-3)
    steps = np.unique(rates)
    assert len(steps) == LEVELS
    assert np.allclose(np.diff(np.log(steps)), np.log(5) / (LEVELS - 1)), "geometric in between"
    sizes = [rates.count(step) for step in steps]
    assert max(sizes) - min(sizes) <= 1, "equally many tensors"
    assert len(groups) <= 2 * LEVELS


@pytest.mark.parametrize("tensors", [1, 2, 5])
def test_few_tensors_have_a_rate_each(tensors: int) -> None:
    network = nn.ParameterList([nn.Parameter(torch.zeros(2)) for _ in range(tensors)])
    rates = [group["lr"] for group in layer_groups(network, rate=1e-3, decay=0.2, weight_decay=0.0)]  # type: ignore[arg-type]
    assert len(set(rates)) == tensors
    assert rates[0] == pytest.approx(2e-4)
    assert rates[-1] == pytest.approx(1e-3 if tensors > 1 else 2e-4)


def test_biases_and_norms_are_not_decayed(network: Classifier) -> None:
    network.requires_grad_(True)
    for group in layer_groups(network, rate=1e-3, decay=0.2, weight_decay=0.05):
        assert {0.05 if p.ndim > 1 else 0.0 for p in group["params"]} == {group["weight_decay"]}
