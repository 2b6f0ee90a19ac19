"""The loop both phases share: schedule, guards, the best epoch kept, early stop."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.metrics import log_loss as oracle_log_loss
from torch import Tensor, nn

from tasks.progress import Progress, silent
from tasks.training.errors import TrainingError
from tasks.training.fit import Batches, Recipe, balanced_weights, cosine_with_warmup, fit
from tasks.training.table import Epoch, best_epoch, log_loss

INPUTS = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))
LABELS = (INPUTS[:, 0] > 0).long()


def batches(_epoch: int, _first: int) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(torch.split(INPUTS, 20), torch.split(LABELS, 20), strict=True)


def run(
    layer: nn.Linear, rate: float = 0.1, epochs: int = 8, patience: int = 99, labels: Tensor = LABELS
) -> tuple[Epoch, ...]:
    def outputs(module: nn.Module) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        with torch.inference_mode():
            return module(INPUTS).double().numpy(), labels.numpy()

    def train_mode(_epoch: int) -> None:
        layer.train()

    recipe = Recipe(epochs, 3, 0.1, 5.0, 0.0, patience, train_mode)
    return fit(layer, [{"params": list(layer.parameters()), "lr": rate}], batches, outputs, recipe, None, silent)


def test_it_learns_and_keeps_the_best_epoch() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 2)
    rows = run(layer)
    kept = log_loss(layer(INPUTS).detach().double().numpy(), LABELS.numpy())
    assert kept == min(row.validation_loss for row in rows)
    assert kept < rows[0].validation_loss / 2


def test_a_start_that_training_only_worsens_is_given_back() -> None:
    """Validation labels contradict the training labels, so every epoch is worse than the start."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 2)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    rows = run(layer, labels=1 - LABELS)
    assert best_epoch(rows) == 0
    assert not layer.weight.any()


def test_it_stops_when_validation_stalls() -> None:
    assert len(run(nn.Linear(4, 2), labels=1 - LABELS, epochs=50, patience=3)) == 1 + 3


def test_nothing_trainable_is_an_error() -> None:
    layer = nn.Linear(4, 2).requires_grad_(False)
    with pytest.raises(TrainingError, match="nothing is unfrozen"):
        run(layer)


def test_a_loss_that_is_not_a_number_is_an_error() -> None:
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight[0, 0] = float("nan")
    with pytest.raises(TrainingError, match="finite validation loss"):
        run(layer)
    layer = nn.Linear(4, 2)

    def poisoned(_epoch: int, _first: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield INPUTS * float("inf"), LABELS

    recipe = Recipe(1, 1, 0.0, 5.0, 0.0, 9, lambda _epoch: None)
    start = lambda _module: (np.zeros((2, 2)), np.array([0, 1]))  # noqa: E731
    with pytest.raises(TrainingError, match="finite training loss"):
        fit(layer, [{"params": list(layer.parameters()), "lr": 0.1}], poisoned, start, recipe, None, silent)


def test_weights_that_stand_still_are_an_error() -> None:
    with pytest.raises(TrainingError, match="unchanged"):
        run(nn.Linear(4, 2), rate=1e-30)


def test_the_schedule_rises_then_falls_to_zero() -> None:
    shares = [cosine_with_warmup(step, 100, 0.1) for step in range(101)]
    assert shares[:10] == sorted(shares[:10]) and shares[9] == 1.0
    assert shares[10:] == sorted(shares[10:], reverse=True) and shares[100] < 1e-9


def test_log_loss_agrees_with_scikit_learn() -> None:
    logits = np.random.default_rng(1).normal(size=(40, 3)) * 5
    labels = np.random.default_rng(2).integers(0, 3, 40)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert log_loss(logits, labels) == pytest.approx(oracle_log_loss(labels, shares, labels=[0, 1, 2]), abs=1e-9)


def test_a_weighted_log_loss_agrees_with_scikit_learn() -> None:
    logits = np.random.default_rng(1).normal(size=(40, 3)) * 5
    labels, weights = np.random.default_rng(2).integers(0, 3, 40), np.array([0.3, 2.0, 1.2])
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = oracle_log_loss(labels, shares, labels=[0, 1, 2], sample_weight=weights[labels])
    assert log_loss(logits, labels, weights) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("weights", "best"), [(None, 1), (torch.tensor([0.55, 5.0]), 0)])
def test_the_best_epoch_is_chosen_by_the_loss_that_is_trained(weights: Tensor | None, best: int) -> None:
    """Nine pictures of the first class get better in the epoch, the one of the second gets worse."""
    labels = np.array([0] * 9 + [1])
    before, after = np.tile([1.0, 0.0], (10, 1)), np.tile([2.0, 0.0], (10, 1))
    before[9], after[9] = (0.0, 0.0), (1.0, 0.0)
    epochs = iter((before, after))
    recipe = Recipe(1, 3, 0.0, 5.0, 0.0, 9, lambda _epoch: None)
    layer = nn.Linear(4, 2)
    groups = [{"params": list(layer.parameters()), "lr": 0.1}]
    rows = fit(layer, groups, batches, lambda _module: (next(epochs), labels), recipe, weights, silent)
    assert best_epoch(rows) == best
    shares = np.exp(after) / np.exp(after).sum(1, keepdims=True)
    of_each = None if weights is None else weights.numpy()[labels]
    assert rows[1].validation_loss == pytest.approx(oracle_log_loss(labels, shares, sample_weight=of_each))


def test_balanced_weights_give_each_class_the_same_total() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    totals = balanced_weights(labels, 2).numpy() * np.bincount(labels)
    assert totals == pytest.approx([50, 50])


# --- the loss of a batch ----------------------------------------------------------------------------

CLASSES = 3
THREE = torch.from_numpy(np.random.default_rng(1).choice(CLASSES, 60, p=[0.7, 0.2, 0.1]))
WEIGHTS = torch.tensor([0.3, 2.0, 1.2])  # whose mean over the pictures is not 1, as that of balanced ones is
SHARES = torch.softmax(torch.from_numpy(np.random.default_rng(2).normal(size=(60, CLASSES)).astype(np.float32)), 1)


def three() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, CLASSES)


def fit_three(
    module: nn.Module,
    targets: Tensor = THREE,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
    size: int = 20,
    epochs: int = 2,
    told: Progress = silent,
) -> tuple[Epoch, ...]:
    def outputs(judged: nn.Module) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        judged.eval()
        with torch.inference_mode():
            return judged(INPUTS).double().numpy(), THREE.numpy()

    def train_mode(_epoch: int) -> None:
        module.train()

    recipe = Recipe(epochs, 60 // size, 0.0, 5.0, smoothing, 99, train_mode)
    groups = [{"params": list(module.parameters()), "lr": 0.05}]
    return fit(module, groups, in_batches(targets, size), outputs, recipe, weights, told)


def in_batches(targets: Tensor, size: int) -> Batches:
    def made(_epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield from list(zip(torch.split(INPUTS, size), torch.split(targets, size), strict=True))[first:]

    return made


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("as_shares", [False, True])
def test_a_batchs_loss_is_torchs_weighted_mean(weights: Tensor | None, smoothing: float, as_shares: bool) -> None:
    """One step over all pictures: its loss is that of the start, which torch gives too."""
    logits = three()(INPUTS).detach()
    expected = nn.functional.cross_entropy(logits, THREE, weights, label_smoothing=smoothing, reduction="mean")
    targets = nn.functional.one_hot(THREE, CLASSES).float() if as_shares else THREE
    rows = fit_three(three(), targets, weights, smoothing, size=60, epochs=1)
    assert rows[1].train_loss == pytest.approx(float(expected), rel=1e-6)


def test_accuracy_counts_the_class_with_the_larger_share() -> None:
    expected = float((three()(INPUTS).argmax(1) == SHARES.argmax(1)).double().mean())
    assert fit_three(three(), SHARES, size=60, epochs=1)[1].train_accuracy == pytest.approx(expected)


# --- more pictures than fit into memory --------------------------------------------------------------


class Narrow(nn.Module):
    """A linear layer that really runs out of memory when it trains on more than `most` rows at once."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.layer, self.most = three(), most
        self.sizes: list[int] = []
        self.failed: list[weakref.ref[Tensor]] = []  # what passes that did not fit had in memory
        self.still_held: list[int] = []  # how much of that there still is when the next one begins

    def forward(self, rows: Tensor) -> Tensor:
        if self.training:
            self.sizes.append(len(rows))
            self.still_held.append(sum(tensor() is not None for tensor in self.failed))
            activations = rows * 2
            if len(rows) > self.most:
                self.failed.append(weakref.ref(activations))
                raise torch.OutOfMemoryError("CUDA out of memory.")
        made: Tensor = self.layer(rows)
        return made


@pytest.mark.parametrize("most", [19, 7, 1])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("targets", [THREE, SHARES])
def test_in_halves_it_learns_the_same(most: int, smoothing: float, weights: Tensor | None, targets: Tensor) -> None:
    whole, narrow = Narrow(60), Narrow(most)
    expected = fit_three(whole, targets, weights, smoothing)
    found = fit_three(narrow, targets, weights, smoothing)
    torch.testing.assert_close(narrow.layer.weight, whole.layer.weight, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(narrow.layer.bias, whole.layer.bias, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-5)
        assert ours.train_accuracy == theirs.train_accuracy
        assert ours.validation_loss == pytest.approx(theirs.validation_loss, rel=1e-5)


def test_what_did_not_fit_is_not_tried_again() -> None:
    narrow, told = Narrow(7), []
    fit_three(narrow, told=lambda done, total, text="": told.append(text))
    assert narrow.sizes == [20, 10, *[5] * 4 * 3 * 2]
    assert [text for text in told if "memory" in text] == [
        "out of memory: 10 pictures at once",
        "out of memory: 5 pictures at once",
    ]


def test_the_memory_of_what_did_not_fit_is_free_for_the_next_try() -> None:
    """An error that is still being handled keeps the frames it came through, and with them their tensors."""
    narrow = Narrow(7)
    fit_three(narrow)
    assert len(narrow.failed) == 2 and not any(narrow.still_held)


def test_when_it_happens_after_some_parts_their_gradients_are_not_counted_twice() -> None:
    """Memory gets scarce in the middle of a batch: the second half of the second batch does not fit."""
    whole, narrow = Narrow(60), Narrow(10)
    calls = []

    def scarce(_module: nn.Module, _inputs: object) -> None:
        calls.append(narrow.training)
        if sum(calls) == 1 + 2 + 2:
            narrow.most = 5

    expected = fit_three(whole, THREE, WEIGHTS)
    narrow.register_forward_pre_hook(scarce)
    found = fit_three(narrow, THREE, WEIGHTS)
    assert narrow.sizes[:7] == [20, 10, 10, 10, 10, 5, 5]
    torch.testing.assert_close(narrow.layer.weight, whole.layer.weight, atol=1e-5, rtol=1e-5)
    assert found[1].train_loss == pytest.approx(expected[1].train_loss, rel=1e-5)


def test_not_even_one_picture_fits() -> None:
    with pytest.raises(TrainingError, match=r"1 pictures to fit .* lower finetune.batch_size or model.image_size"):
        fit_three(Narrow(0))
