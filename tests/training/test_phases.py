"""The two phases on a real network and real digits: what changes, what must not, and what joins them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as oracle_log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tasks.data.dataset import Subset, pixels, subset
from tasks.data.prepare import prepare
from tasks.export.temperature import fit_temperature
from tasks.model.classifier import Checkpoint, load_classifier, manifest_of, new_classifier, weights_digest
from tasks.progress import silent
from tasks.training.augment import DRAWS, augment, draws
from tasks.training.embed import embed, read_features
from tasks.training.finetune import finetune
from tasks.training.fit import balanced_weights
from tasks.training.head import _STRENGTHS, FloatArray, _solve, train_head
from tasks.training.pictures import logits_of
from tasks.training.spec import FinetuneSpec, HeadSpec
from tasks.training.table import log_loss
from tests.conftest import Pipeline, write_digits

QUIET = FinetuneSpec(epochs=1, batch_size=16, augmentation="none", label_smoothing=0.0)


def test_head_phase_leaves_backbone_and_statistics_bit_identical(pipeline: Pipeline) -> None:
    fresh = new_classifier(pipeline.model, pipeline.preprocessing, 3, seed=0)
    assert weights_digest(load_classifier(pipeline.head).body) == weights_digest(fresh.body)
    assert manifest_of(pipeline.head)["trainable"]["tensors"] == 2


def test_finetuning_changes_weights_everywhere_but_not_frozen_statistics(pipeline: Pipeline) -> None:
    before, after = (load_classifier(c).state_dict() for c in (pipeline.head, pipeline.tuned))
    if manifest_of(pipeline.tuned)["best_epoch"] == 0:
        pytest.fail("the shared pipeline kept its start: choose other data, or this test says nothing")
    statistics = [key for key in before if "running_" in key]
    assert statistics and all(torch.equal(before[key], after[key]) for key in statistics)
    weights = [key for key, value in before.items() if key.endswith("weight") and value.ndim > 1]
    assert all(not torch.equal(before[key], after[key]) for key in weights)
    assert manifest_of(pipeline.tuned)["trainable"]["tensors"] > 100


def test_solve_is_logistic_regression_on_standardised_features(pipeline: Pipeline) -> None:
    train, test = subset(pipeline.dataset, "train"), subset(pipeline.dataset, "test")
    features = read_features(pipeline.features).astype(np.float64)
    strength = 1 / manifest_of(pipeline.head)["weight_decay"]
    oracle = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=3000))
    oracle.fit(features[train.rows], train.labels)
    layer = load_classifier(pipeline.head).head
    logits = torch.nn.functional.linear(
        torch.from_numpy(features[test.rows]), layer.weight.double(), layer.bias.double()
    )
    ours = torch.softmax(logits, 1).detach().numpy()
    np.testing.assert_allclose(ours, oracle.predict_proba(features[test.rows]), atol=2e-3)


def test_features_are_those_of_the_network(pipeline: Pipeline) -> None:
    network = load_classifier(pipeline.head)
    with torch.inference_mode():
        here = network.features(torch.from_numpy(pixels(pipeline.dataset)[:7].copy())).numpy()
    np.testing.assert_allclose(here, read_features(pipeline.features)[:7], atol=1e-4)


def test_finetuning_starts_where_the_head_ended(pipeline: Pipeline) -> None:
    """Augmentation and dropout off: the first validation loss is the head phase's, within 1 %."""
    head, tuned = manifest_of(pipeline.head)["epochs"][-1], manifest_of(pipeline.tuned)["epochs"][0]
    assert tuned["epoch"] == 0
    assert tuned["validation_loss"] == pytest.approx(head["validation_loss"], rel=0.01)


def test_the_same_inputs_give_the_same_weights_bitwise(pipeline: Pipeline, tmp_path: Path) -> None:
    runs = [finetune(pipeline.head, pipeline.dataset, tmp_path / n / "run", QUIET, "none", seed=0) for n in ("a", "b")]
    first, second = (weights_digest(load_classifier(run)) for run in runs)
    assert not runs[1].reused
    assert first == second
    other = finetune(pipeline.head, pipeline.dataset, tmp_path / "c" / "run", QUIET, "none", seed=1)
    assert weights_digest(load_classifier(other)) != first


def test_what_was_trained_before_is_used_again(pipeline: Pipeline) -> None:
    p = pipeline
    assert embed(p.dataset, p.home, p.model, p.preprocessing, seed=0).reused
    again = train_head(p.dataset, p.features, p.home / "runs" / "later", p.model, p.preprocessing, HeadSpec(), seed=0)
    assert again.reused and again.path == p.head.path


def test_adam_learns_the_head_in_epochs(pipeline: Pipeline, tmp_path: Path) -> None:
    spec = HeadSpec(method="adam", batch_size=16)
    p = pipeline
    head = train_head(p.dataset, p.features, tmp_path / "runs" / "adam", p.model, p.preprocessing, spec, seed=0)
    epochs = manifest_of(head)["epochs"]
    assert [row["epoch"] for row in epochs] == list(range(11))
    assert epochs[-1]["train_accuracy"] > epochs[1]["train_accuracy"] + 0.1
    assert min(row["validation_loss"] for row in epochs) < epochs[0]["validation_loss"] / 1.5
    validation = subset(p.dataset, "validation")
    loss = log_loss(logits_of(load_classifier(head), p.dataset, validation), validation.labels)
    assert loss == pytest.approx(min(row["validation_loss"] for row in epochs), rel=0.01)


def test_balanced_weight_decay_is_chosen_by_the_balanced_loss() -> None:
    """19 in 20 of the first class: what is best for the mean picture is not what is best for the mean class."""
    random = np.random.default_rng(0)
    direction = random.normal(size=200)
    direction *= 2.2 / np.linalg.norm(direction)

    def drawn(common: int, rare: int) -> tuple[FloatArray, Subset]:
        labels = np.repeat([0, 1], [common, rare])
        several = ("",) * len(labels)
        x = random.normal(size=(len(labels), 200)) + labels[:, None] * direction
        return x, Subset(np.arange(len(labels)), labels, several, several, ())

    (x, train), (xv, validation) = drawn(760, 40), drawn(190, 10)
    _, _, about = _solve(x, train, xv, validation, HeadSpec(class_weights="balanced"), silent)
    losses: dict[bool, list[float]] = {True: [], False: []}
    for strength in _STRENGTHS:
        oracle = LogisticRegression(C=strength, max_iter=3000, class_weight="balanced").fit(x, train.labels)
        for balanced, found in losses.items():
            weights = np.where(validation.labels, 10.0, 10 / 19) if balanced else None
            found.append(oracle_log_loss(validation.labels, oracle.predict_proba(xv), sample_weight=weights))
    by_class, by_picture = (int(np.argmin(losses[balanced])) for balanced in (True, False))
    assert by_class != by_picture, "else this test says nothing"
    assert about["weight_decay"] == 1 / _STRENGTHS[by_class]
    assert about["epochs"][0]["validation_loss"] == pytest.approx(losses[True][by_class], rel=1e-6)


def test_both_phases_choose_by_the_balanced_loss(pipeline: Pipeline, tmp_path: Path) -> None:
    """A rare class, which the shared pictures do not have."""
    p = pipeline
    folder = write_digits(write_digits(tmp_path / "pictures", (0, 1), 48), (8,), 12)
    dataset = prepare("digits", tmp_path, p.data.model_copy(update={"root": folder}), p.preprocessing)
    features = embed(dataset, tmp_path, p.model, p.preprocessing, seed=0)
    run, validation = tmp_path / "runs" / "r", subset(dataset, "validation")
    weights = balanced_weights(subset(dataset, "train").labels, 3).double().numpy()
    head = train_head(
        dataset, features, run, p.model, p.preprocessing, HeadSpec(class_weights="balanced"), seed=0
    )  # fmt: skip
    tuned = finetune(head, dataset, run, QUIET.model_copy(update={"epochs": 2}), "balanced", seed=0)
    ends, lines = manifest_of(head)["epochs"][-1]["validation_loss"], manifest_of(tuned)["epochs"]
    assert lines[0]["validation_loss"] == pytest.approx(ends, rel=0.01)

    def losses(checkpoint: Checkpoint) -> tuple[float, float]:
        logits = logits_of(load_classifier(checkpoint), dataset, validation)
        return log_loss(logits, validation.labels), log_loss(logits, validation.labels, weights)

    plain, weighted = losses(head)
    assert ends == pytest.approx(weighted, rel=0.01) and ends != pytest.approx(plain, rel=0.02)
    best = min(row["validation_loss"] for row in lines)
    assert losses(tuned)[1] <= best * (1 + 1e-4), "weights between the start's and the tuned ones are chosen likewise"


def test_a_resnet18_head_is_two_tensors(pipeline: Pipeline) -> None:
    model = pipeline.model.model_copy(update={"backbone": "torchvision/resnet18", "weights": "none"})
    network = new_classifier(model, pipeline.preprocessing, 3, seed=0)
    network.body.requires_grad_(False)
    assert [p.shape for p in network.parameters() if p.requires_grad] == [(3, 512), (3,)]


def test_batchnorm_statistics_move_when_asked_to(pipeline: Pipeline, tmp_path: Path) -> None:
    """The control of the frozen case above."""
    spec = QUIET.model_copy(update={"batchnorm": "train"})
    tuned = finetune(pipeline.head, pipeline.dataset, tmp_path / "runs" / "bn", spec, "none", seed=0)
    epochs = manifest_of(tuned)["epochs"]
    assert len(epochs) == 2
    frozen = manifest_of(pipeline.tuned)["epochs"]
    assert epochs[1]["validation_loss"] != frozen[1]["validation_loss"]


@pytest.mark.parametrize("preset", ["natural", "industrial", "none"])
def test_augmentation_depends_on_seed_epoch_and_picture_only(preset: str) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8))
    draw = torch.from_numpy(draws(0, 1, 6))
    whole, reversed_ = augment(images, draw, preset), augment(images.flip(0), draw.flip(0), preset).flip(0)
    assert torch.equal(whole, reversed_)
    assert whole.shape == images.shape
    assert whole.min() >= 0 and whole.max() <= 255
    if preset != "none":
        assert not torch.equal(whole, augment(images, torch.from_numpy(draws(0, 2, 6)), preset))
        # the same picture six times: the draws differ, so the results do
        same = augment(images[:1].expand(6, -1, -1, -1), draw, preset)
        assert len({row.numpy().tobytes() for row in same}) > 1


def test_industrial_takes_the_colours_of_a_fifth_and_leaves_grey_pictures_as_they_are() -> None:
    many = 500
    draw = torch.from_numpy(draws(0, 1, many))
    colour = torch.randint(256, (1, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = augment(colour.expand(many, -1, -1, -1), draw, "industrial")
    without = (seen == seen[..., :1]).all(3).all(2).all(1)
    assert without.float().mean().item() == pytest.approx(0.2, abs=0.05)
    luminance = np.asarray(Image.fromarray(colour[0].numpy()).convert("L"))
    assert sorted(seen[without][0, ..., 0].flatten().tolist()) == pytest.approx(sorted(luminance.ravel()), abs=1)
    every = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(many, -1, -1, 3)
    assert all(sorted(one.flatten().tolist()) == list(range(256)) for one in augment(every, draw, "industrial")[..., 0])


def test_draws_are_uniform() -> None:
    values = draws(3, 4, 5000)
    assert values.shape == (5000, DRAWS)
    assert values.mean() == pytest.approx(0.5, abs=0.01)


def test_temperature_recovers_what_was_applied() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(20_000, 3)) * 2
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([random.choice(3, p=row) for row in shares])
    assert fit_temperature(logits * 3, labels) == pytest.approx(3, rel=0.05)
    assert fit_temperature(logits, labels) == pytest.approx(1, rel=0.05)
