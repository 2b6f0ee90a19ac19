"""Float32 that is float32. The flags can be read without a GPU; only there do they change anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tasks.data.dataset import subset
from tasks.model.classifier import Classifier, load_classifier
from tasks.model.device import full_float32
from tasks.training.embed import embed
from tasks.training.finetune import finetune
from tasks.training.pictures import logits_of
from tasks.training.spec import FinetuneSpec
from tests.conftest import Pipeline


def flags() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(params=[(True, False), (True, True), (False, False)])
def before(request: pytest.FixtureRequest) -> Iterator[tuple[bool, bool]]:
    """Torch's default, and what else a program may have set."""
    default = flags()
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = request.param
    yield request.param
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = default


def test_no_tf32_inside_and_as_before_afterwards(before: tuple[bool, bool]) -> None:
    with full_float32():
        assert flags() == (False, False)
        assert torch.get_float32_matmul_precision() == "highest"
    assert flags() == before
    with pytest.raises(KeyboardInterrupt), full_float32():
        raise KeyboardInterrupt
    assert flags() == before


def test_features_training_and_logits_are_computed_so(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    p, features, seen = pipeline, Classifier.features, []

    def noted(network: Classifier, pixels: Tensor) -> Tensor:
        seen.append((network.training, flags()))
        return features(network, pixels)

    default = flags()
    monkeypatch.setattr(Classifier, "features", noted)
    embed(p.dataset, tmp_path, p.model, p.preprocessing, seed=0)
    spec = FinetuneSpec(epochs=1, batch_size=60, augmentation="none")
    finetune(p.head, p.dataset, tmp_path / "runs" / "r", spec, "none", seed=0)
    logits_of(load_classifier(p.head), p.dataset, subset(p.dataset, "test"))
    assert set(seen) == {(False, (False, False)), (True, (False, False))}
    assert flags() == default != (False, False), "else this test says nothing"
