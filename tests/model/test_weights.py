"""Pretrained weights land where they belong: the installed package tensor by tensor, local files of every usual form.

What does not fit is refused with names and shapes; code hidden in a weights file is not run.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torchvision.models import resnet18, resnet34

from serving.errors import BadInput
from serving.preprocess import Preprocessing, to_pixels
from tasks.model.backbone import build_backbone, describe, load_backbone
from tasks.model.classifier import Normalize, weights_digest
from tasks.model.spec import ModelSpec
from tasks.model.weights import fit_state, lite0_state

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """ResNet-18 with random weights, its 1,000-class head included."""
    torch.manual_seed(0)
    built: nn.Module = resnet18(weights=None)
    return built.state_dict()


def loaded(path: Path | str, backbone: str = "torchvision/resnet18") -> nn.Module:
    return load_backbone(ModelSpec(backbone=backbone, weights=str(path)), 64, seed=1)


def same(body: nn.Module, state: State) -> bool:
    """Every tensor of the body is the state's."""
    return all(torch.equal(value, state[key]) for key, value in body.state_dict().items())


# --- the installed package --------------------------------------------------------------------------


def test_every_tensor_of_the_package_is_one_of_timms() -> None:
    state = lite0_state()
    own = timm.create_model("tf_efficientnet_lite0").state_dict()
    weights = {key for key in own if not key.endswith("num_batches_tracked")}
    assert len(weights) == 247
    assert {key for key in state if not key.endswith("num_batches_tracked")} == weights
    assert {key: state[key].shape for key in weights} == {key: own[key].shape for key in weights}


def test_the_backbone_is_the_packages_without_its_head() -> None:
    state = lite0_state()
    body = load_backbone(ModelSpec(), 64, seed=0)
    assert same(body, {**body.state_dict(), **state})
    assert set(state) - set(body.state_dict()) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(("photo", "classes"), [("flower.jpg", {985}), ("china.jpg", {442, 449, 663})])
def test_real_photos_are_what_they_show(photo: str, classes: set[int]) -> None:
    """Daisy; bell cote, boathouse or monastery. Stretched to 224 pixels, through our own normalisation."""
    samples = load_sample_images()
    names = [Path(name).name for name in samples.filenames]
    preprocessing = describe(ModelSpec())
    assert preprocessing == Preprocessing(image_size=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    pixels = to_pixels(Image.fromarray(samples.images[names.index(photo)]), preprocessing)
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(lite0_state())
    with torch.inference_mode():
        logits = network(Normalize(preprocessing)(torch.from_numpy(pixels.copy())[None]))
    assert int(logits.argmax()) in classes


# --- local files ------------------------------------------------------------------------------------


def test_a_file_without_wrappers(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "plain.pth")
    save_file(state, tmp_path / "plain.safetensors")
    for path in tmp_path.iterdir():
        assert same(loaded(path), state), path.name


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_checkpoint_of_a_training_script(state: State, tmp_path: Path, wrapper: str) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 3, wrapper: state, "optimizer": {"lr": 0.1}}, path)
    assert same(loaded(path), state)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_network_saved_from_data_parallel(state: State, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"parallel{suffix}"
    prefixed = {f"module.{key}": value for key, value in state.items()}
    if suffix == ".pth":
        torch.save({"state_dict": prefixed}, path)
    else:
        save_file(prefixed, path)
    assert same(loaded(path), state)


@pytest.mark.parametrize("classes", [2, 7, None])
def test_the_heads_size_does_not_matter(state: State, tmp_path: Path, classes: int | None) -> None:
    path = tmp_path / "other.pth"
    other = {key: value for key, value in state.items() if not key.startswith("fc.")}
    if classes:
        other |= {"fc.weight": torch.ones(classes, 512), "fc.bias": torch.ones(classes)}
    torch.save(other, path)
    assert same(loaded(path), state)


def test_a_timm_file_with_another_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("resnet18", num_classes=3)
    torch.save(network.state_dict(), tmp_path / "timm.pth")
    assert same(loaded(tmp_path / "timm.pth", "timm/resnet18"), network.state_dict())


def test_half_precision_weights_become_float32(state: State, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_file({key: value.half() if value.is_floating_point() else value for key, value in state.items()}, path)
    body = loaded(path)
    assert {value.dtype for value in body.parameters()} == {torch.float32}
    assert torch.allclose(body.state_dict()["conv1.weight"], state["conv1.weight"], atol=1e-3)


def test_older_files_without_counters_fit(state: State, tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}, path)
    assert same(loaded(path), state)


def test_a_path_in_the_users_home(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(state, tmp_path / "mine.pth")
    assert same(loaded("~/mine.pth"), state)


def test_no_weights_are_drawn_from_the_seed() -> None:
    spec = ModelSpec(backbone="torchvision/resnet18", weights="none")
    digests = [weights_digest(load_backbone(spec, 64, seed)) for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


# --- what does not fit ------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        loaded(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert "expected" in message
    assert "found" in message
    return message


def test_another_architecture_is_named_key_by_key(tmp_path: Path) -> None:
    path = tmp_path / "resnet34.pth"
    torch.save(resnet34(weights=None).state_dict(), path)
    message = refused(path)
    assert "unknown (e.g. layer1.2.bn1.bias" in message
    assert "missing" not in message
    assert "choose the matching model.backbone" in message


def test_missing_keys_are_named(state: State, tmp_path: Path) -> None:
    path = tmp_path / "part.pth"
    torch.save({key: value for key, value in state.items() if key not in ("conv1.weight", "bn1.bias")}, path)
    assert "2 missing (e.g. bn1.bias, conv1.weight)" in refused(path)


def test_other_shapes_are_named(state: State, tmp_path: Path) -> None:
    path = tmp_path / "grey.pth"
    torch.save({**state, "conv1.weight": torch.zeros(64, 1, 7, 7)}, path)
    assert "1 of another shape (e.g. conv1.weight (64, 1, 7, 7) != (64, 3, 7, 7))" in refused(path)


def test_a_backbone_that_does_not_fit_is_left_as_it_was(state: State) -> None:
    body = build_backbone("torchvision/resnet18", 64)
    before = weights_digest(body)
    with pytest.raises(BadInput):
        fit_state(body, {**state, "surplus": torch.zeros(1)}, ("fc.",), "a file")
    assert weights_digest(body) == before


@pytest.mark.parametrize(
    "content", [[1, 2, 3], {"state_dict": "none"}, {"a": 1.0}, {0: torch.zeros(1)}, torch.zeros(3), "text"]
)
def test_not_a_state_dict(tmp_path: Path, content: object) -> None:
    path = tmp_path / "odd.pth"
    torch.save(content, path)
    assert "names -> tensors" in refused(path)


def test_an_empty_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "empty.pth"
    torch.save({}, path)
    assert "missing" in refused(path)


@pytest.mark.parametrize("name", ["text.pth", "text.safetensors"])
def test_not_a_weights_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("these are no weights")
    assert "a .safetensors or .pth state dict" in refused(path)


def test_no_such_file(tmp_path: Path) -> None:
    assert "correct the path" in refused(tmp_path / "gone.pth")
    assert "correct the path" in refused(tmp_path), "a folder is no file"


class _Bomb:
    """Unpickled, it would create a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.place),)


def test_code_in_a_pickle_is_not_run(tmp_path: Path, state: State) -> None:
    place, path = tmp_path / "boom", tmp_path / "bomb.pth"
    torch.save({**state, "bomb": _Bomb(place)}, path)
    refused(path)
    path.write_bytes(pickle.dumps(_Bomb(place)))
    refused(path)
    assert not place.exists()
    pickle.loads(path.read_bytes())
    assert place.exists(), "the bomb works where pickles are trusted"
