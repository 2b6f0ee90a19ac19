"""Every family of backbones goes the whole way: embedded, its head trained, fine-tuned, and the slow part, exported.

Random weights and two dozen tiny pictures: nothing is learnt that counts, but each step meets the family's own layers.
`benchmarks/backbones.py` exports them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from serving.artifact import MODEL, Rule
from serving.predictor import Predictor
from tasks.data.dataset import Dataset, pixels, subset
from tasks.data.prepare import prepare
from tasks.data.spec import DataSpec
from tasks.evaluation.spec import DecisionSpec
from tasks.export.export import export
from tasks.model.backbone import build_backbone, describe
from tasks.model.classifier import Checkpoint, load_classifier, manifest_of
from tasks.model.spec import ModelSpec
from tasks.training.embed import embed, read_features
from tasks.training.finetune import finetune
from tasks.training.head import train_head
from tasks.training.layers import freeze_statistics
from tasks.training.pictures import logits_of
from tasks.training.spec import FinetuneSpec, HeadSpec
from tests.conftest import write_digits

FAMILIES = {
    "torchvision/resnet18": 32,
    "torchvision/mobilenet_v3_small": 32,
    "torchvision/efficientnet_b0": 32,
    "torchvision/convnext_tiny": 32,
    "torchvision/swin_t": 64,
    "timm/resnet10t": 32,
    "timm/mobilenetv3_small_050": 32,
    "timm/efficientnet_lite0": 32,
    "timm/convnext_atto": 32,
    "timm/vit_tiny_patch16_224": 32,
    "timm/swin_tiny_patch4_window7_224": 64,
}
# of a transformer with windows the export takes a minute: benchmarks/backbones.py does it
EXPORTED = {"timm/resnet10t", "timm/convnext_atto", "timm/vit_tiny_patch16_224"}
SPEC = FinetuneSpec(epochs=1, batch_size=6, learning_rate=1e-3, interpolate=False, patience=1)


@dataclass(frozen=True)
class Place:
    """Where the pictures are, and a home that all backbones share."""

    pictures: Path
    home: Path

    def dataset(self, model: ModelSpec) -> Dataset:
        data = DataSpec(root=self.pictures, train=0.5, validation=0.25, test=0.25)
        return prepare("families", self.home, data, describe(model))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """3 classes x 8 pictures."""
    folder = tmp_path_factory.mktemp("families")
    return Place(write_digits(folder / "pictures", (0, 1, 7), 8), folder / "home")


def model_of(backbone: str) -> ModelSpec:
    return ModelSpec(backbone=backbone, weights="none", image_size=FAMILIES[backbone])


def tuned(place: Place, backbone: str) -> tuple[Checkpoint, Checkpoint, Dataset, Path]:
    model, run = model_of(backbone), place.home / "runs" / backbone.replace("/", "-")
    preprocessing, dataset = describe(model), place.dataset(model)
    features = embed(dataset, place.home, model, preprocessing, seed=0)
    head = train_head(dataset, features, run, model, preprocessing, HeadSpec(), seed=0)
    network = load_classifier(head)
    with torch.inference_mode():
        here = network.features(torch.from_numpy(pixels(dataset)[:5].copy())).numpy()
    np.testing.assert_allclose(here, read_features(features)[:5], atol=1e-3, rtol=1e-3)
    return head, finetune(head, dataset, run, SPEC, "none", seed=0), dataset, run


@pytest.mark.parametrize("backbone", FAMILIES)
def test_it_goes_the_whole_way(place: Place, backbone: str) -> None:
    head, checkpoint, dataset, run = tuned(place, backbone)
    about, network = manifest_of(checkpoint), load_classifier(checkpoint)
    assert [row["epoch"] for row in about["epochs"]] == [0, 1]
    assert about["trainable"]["tensors"] == len(list(network.parameters()))
    assert all(np.isfinite(row["validation_loss"]) for row in about["epochs"])
    started = manifest_of(head)["epochs"][-1]["validation_loss"]
    assert about["epochs"][0]["validation_loss"] == pytest.approx(started, rel=1e-2), "it starts where the head ended"
    if backbone in EXPORTED:
        exported = export(checkpoint, dataset, run, DecisionSpec())
        predictor = Predictor(exported.path / MODEL, dataset.classes, exported.preprocessing, Rule(), "cpu")
        part = subset(dataset, "train")
        _, logits = predictor.scores(pixels(dataset)[part.rows])
        np.testing.assert_allclose(logits, logits_of(network, dataset, part), atol=1e-3)
        assert np.ptp(logits, axis=0).max() > 1e-3, "the pictures make a difference"


@pytest.mark.parametrize("backbone", FAMILIES)
def test_no_backbone_draws_random_numbers_in_training(backbone: str) -> None:
    """Thaw's own dropout stands before the head; inside, dropout and stochastic depth are off, in both libraries."""
    body = build_backbone(backbone, FAMILIES[backbone]).train()
    freeze_statistics(body)
    pictures = torch.rand(4, 3, FAMILIES[backbone], FAMILIES[backbone])
    before = torch.get_rng_state()
    with torch.inference_mode():
        body(pictures)
    assert torch.equal(torch.get_rng_state(), before)
