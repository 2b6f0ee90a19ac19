"""What a run directory already holds is used if it is the verified result of these inputs, and never otherwise."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from serving import sealed
from serving.errors import ArtifactError
from tasks.data.dataset import Dataset
from tasks.data.prepare import prepare
from tasks.data.spec import DataSpec
from tasks.model.classifier import WEIGHTS, Checkpoint, load_classifier, manifest_of, weights_digest
from tasks.training.embed import embed
from tasks.training.finetune import finetune
from tasks.training.head import train_head
from tasks.training.spec import FinetuneSpec, HeadSpec
from tests.conftest import Pipeline, write_digits

SPEC = FinetuneSpec(epochs=1, batch_size=30, augmentation="none")
OTHERS = "made with another configuration or other pictures"


def tune(p: Pipeline, run: Path, dataset: Dataset | None = None) -> Checkpoint:
    return finetune(p.head, dataset or p.dataset, run, SPEC, "none", seed=0)


def files(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.iterdir()}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1000] ^= 0x40
    path.write_bytes(data)


def test_pictures_added_before_a_run_is_resumed_are_an_error(pipeline: Pipeline, tmp_path: Path) -> None:
    """Otherwise the old weights would be published as trained on the new pictures."""
    p, run = pipeline, tmp_path / "runs" / "r"
    done = tune(p, run)
    before = files(done.path)
    more = write_digits(tmp_path / "more", (0, 1, 7), 90)
    dataset = prepare("digits", tmp_path, p.data.model_copy(update={"root": more}), p.preprocessing)
    told: list[str] = []
    with pytest.raises(ArtifactError, match=OTHERS):
        finetune(
            p.head, dataset, run, SPEC, "none", 0, progress=lambda done, total, text="": told.append(text)
        )  # fmt: skip
    assert not told, "nothing is trained"
    assert files(done.path) == before
    assert not tune(p, tmp_path / "runs" / "new", dataset).reused, "a new run takes them"


def test_a_class_added_before_a_run_is_resumed_is_an_error(pipeline: Pipeline, tmp_path: Path) -> None:
    p, run = pipeline, tmp_path / "runs" / "r"
    old = train_head(p.dataset, p.features, run, p.model, p.preprocessing, HeadSpec(), seed=0)
    data = DataSpec(root=write_digits(tmp_path / "four", (0, 1, 4, 7), 12), train=0.5, validation=0.25, test=0.25)
    dataset = prepare("digits", tmp_path, data, p.preprocessing)
    features = embed(dataset, tmp_path, p.model, p.preprocessing, seed=0)
    with pytest.raises(ArtifactError, match=OTHERS):
        train_head(dataset, features, run, p.model, p.preprocessing, HeadSpec(), seed=0)
    assert manifest_of(old)["classes"] == ["digit-0", "digit-1", "digit-7"]
    new = train_head(dataset, features, tmp_path / "runs" / "new", p.model, p.preprocessing, HeadSpec(), seed=0)
    assert manifest_of(new)["classes"] == list(dataset.classes)


def test_a_damaged_result_is_trained_again_and_replaced(
    pipeline: Pipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "runs" / "r"
    sound = weights_digest(load_classifier(tune(pipeline, run)))
    flip(run / "finetune" / WEIGHTS)
    with caplog.at_level(logging.WARNING):
        again = tune(pipeline, run)
    assert not again.reused and again.path == run / "finetune"
    assert sealed.verify(again.path)["key"] == again.key
    assert weights_digest(load_classifier(again)) == sound
    assert "training again what is damaged" in caplog.text
    assert sorted(path.name for path in run.iterdir()) == ["finetune"]
    assert tune(pipeline, run).reused


def test_a_damaged_head_is_trained_again_and_replaced(pipeline: Pipeline, tmp_path: Path) -> None:
    p, run = pipeline, tmp_path / "runs" / "r"
    for _ in range(2):
        head = train_head(p.dataset, p.features, run, p.model, p.preprocessing, HeadSpec(), seed=0)
        assert not head.reused
        assert weights_digest(load_classifier(head)) == weights_digest(load_classifier(p.head))
        flip(head.path / WEIGHTS)


def test_a_damaged_result_of_another_run_is_passed_over(pipeline: Pipeline, tmp_path: Path) -> None:
    first = tune(pipeline, tmp_path / "runs" / "a")
    flip(first.path / WEIGHTS)
    before = files(first.path)
    second = tune(pipeline, tmp_path / "runs" / "b")
    assert not second.reused and second.path == tmp_path / "runs" / "b" / "finetune"
    assert files(first.path) == before


def test_a_manifest_that_cannot_be_read_says_what_to_remove(pipeline: Pipeline, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "r"
    manifest = tune(pipeline, run).path / sealed.MANIFEST
    body = json.loads(manifest.read_text())
    manifest.write_text("{half")
    with pytest.raises(ArtifactError, match="is not JSON .* remove .* and run again"):
        tune(pipeline, run)
    manifest.write_text(json.dumps(body))
    assert tune(pipeline, run).reused
