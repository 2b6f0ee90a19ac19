"""What can be chosen in fine-tuning: each option does what it says, alone and in a real fine-tuning on real digits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from flows.parameters import checked
from serving.errors import BadInput
from tasks.data.dataset import PIXELS, Dataset, pixels, subset
from tasks.model.classifier import Checkpoint, load_classifier, manifest_of, weights_digest
from tasks.progress import Progress, silent
from tasks.training import memory
from tasks.training.finetune import finetune
from tasks.training.fit import Recipe, fit
from tasks.training.interpolate import SHARES, interpolate
from tasks.training.layers import thaw
from tasks.training.pictures import Pictures, Source, logits_of
from tasks.training.rates import RATES
from tasks.training.spec import FinetuneSpec
from tasks.training.table import Epoch, best_epoch, log_loss
from tests.conftest import Pipeline

State = dict[str, Tensor]
STEPS = 4  # of an epoch: 120 pictures in batches of 30


def spec(**changes: Any) -> FinetuneSpec:
    return FinetuneSpec.model_validate({"epochs": 1, "batch_size": 30, "augmentation": "none", **changes})


def tune(
    p: Pipeline, place: Path, progress: Progress = silent, start: Checkpoint | None = None, **changes: Any
) -> Checkpoint:
    return finetune(start or p.head, p.dataset, place / "runs" / "r", spec(**changes), "none", 0, progress=progress)


def state_of(checkpoint: Checkpoint) -> State:
    return load_classifier(checkpoint).state_dict()


def validation_loss(p: Pipeline, checkpoint: Checkpoint) -> float:
    validation = subset(p.dataset, "validation")
    return log_loss(logits_of(load_classifier(checkpoint), p.dataset, validation), validation.labels)


def best_loss(checkpoint: Checkpoint) -> float:
    return float(min(row["validation_loss"] for row in manifest_of(checkpoint)["epochs"]))


# --- the moving average of the weights ---------------------------------------------------------------

INPUTS = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))
LABELS = (INPUTS[:, 0] + INPUTS[:, 1] > 0).long()


def test_what_is_validated_and_kept_is_the_average_that_the_formula_gives() -> None:
    torch.manual_seed(0)
    layer, decay = nn.Linear(4, 2), 0.6
    weights, judged = [layer.weight.detach().clone()], []

    def batches(_epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield from list(zip(torch.split(INPUTS, 12), torch.split(LABELS, 12), strict=True))[first:]

    def outputs(module: nn.Module) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        judged.append(module.get_parameter("weight").detach().clone())
        with torch.inference_mode():
            return module(INPUTS).double().numpy(), LABELS.numpy()

    def progress(done: int, total: int, text: str = "") -> None:
        if text.startswith("loss"):
            weights.append(layer.weight.detach().clone())

    recipe = Recipe(3, 5, 0.0, 5.0, 0.0, 99, lambda _epoch: None, decay)
    rows = fit(layer, [{"params": list(layer.parameters()), "lr": 0.1}], batches, outputs, recipe, None, progress)

    average, ends = weights[1].double(), []
    for taken, current in enumerate(weights[1:]):
        if taken:
            kept = min(decay, (1 + taken) / (10 + taken))
            average = kept * average + (1 - kept) * current.double()
        ends.append(average)
    torch.testing.assert_close(judged[0], weights[0])
    for epoch in (1, 2, 3):
        torch.testing.assert_close(judged[epoch].double(), ends[5 * epoch - 1], atol=1e-6, rtol=1e-6)
        assert not torch.allclose(judged[epoch], weights[5 * epoch], atol=1e-4), "the weights themselves are elsewhere"
    assert best_epoch(rows) > 0
    assert torch.equal(layer.weight, judged[best_epoch(rows)])
    logits = layer(INPUTS).detach().double().numpy()
    assert log_loss(logits, LABELS.numpy()) == pytest.approx(rows[best_epoch(rows)].validation_loss, rel=1e-6)


def test_a_finetuning_keeps_its_average(pipeline: Pipeline, tmp_path: Path) -> None:
    plain = tune(pipeline, tmp_path / "plain", batch_size=15, interpolate=False)
    averaged = tune(pipeline, tmp_path / "ema", batch_size=15, interpolate=False, ema=0.9)
    assert manifest_of(averaged)["best_epoch"] == 1
    losses = [manifest_of(made)["epochs"][1]["train_loss"] for made in (plain, averaged)]
    assert losses[0] == losses[1], "it is trained as without"
    assert validation_loss(pipeline, averaged) == pytest.approx(best_loss(averaged), rel=1e-5)
    before, after, between = state_of(pipeline.head), state_of(plain), state_of(averaged)
    key = "head.weight"
    assert torch.norm(between[key] - before[key]) < torch.norm(after[key] - before[key]), "it lags behind"


# --- gradual unfreezing ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(4, [5, 10, 10, 10]), (5, [4, 7, 10, 10, 10]), (2, [10, 10]), (1, [10]), (8, [3, 5, 8, 10, 10, 10, 10, 10])],
)
def test_the_last_tensors_learn_first(epochs: int, expected: list[int]) -> None:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(10)]
    for epoch, many in enumerate(expected, start=1):
        thaw(parameters, epoch, epochs)
        assert [p.requires_grad for p in parameters] == [False] * (10 - many) + [True] * many


class StopAfter:
    """A progress callback that presses Ctrl-C when an epoch has ended."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def __call__(self, done: int, total: int, text: str = "") -> None:
        if text.startswith(f"epoch {self.epoch}:"):
            raise KeyboardInterrupt


def stopped(p: Pipeline, place: Path, epoch: int, **changes: Any) -> tuple[State, set[int]]:
    """What a fine-tuning has in memory after an epoch, and which of its tensors have had gradients."""
    with pytest.raises(KeyboardInterrupt):
        tune(p, place, StopAfter(epoch), **changes)
    (newest,) = place.glob(f"checkpoints/*/epoch-{epoch + 1:06}-step-000000000")
    saved = torch.load(newest / "state.pt", weights_only=True)
    return saved["module"], set(saved["optimiser"]["state"])


def test_gradual_unfreezing_leaves_early_tensors_alone_at_first(pipeline: Pipeline, tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 4, "unfreeze": "gradual", "learning_rate": 1e-3, "ema": 0.0}
    start = state_of(pipeline.head)
    names = [name for name, _ in load_classifier(pipeline.head).named_parameters()]
    early, late = names[: len(names) // 2], names[len(names) // 2 :]

    first, with_gradients = stopped(pipeline, tmp_path, 1, **options)
    assert with_gradients == set(range(len(early), len(names)))
    assert all(torch.equal(first[name], start[name]) for name in early)
    assert all(not torch.equal(first[name], start[name]) for name in late)

    second, with_gradients = stopped(pipeline, tmp_path, 2, **options)
    assert with_gradients == set(range(len(names)))
    assert all(not torch.equal(second[name], start[name]) for name in names)

    done = tune(pipeline, tmp_path, **options)
    assert manifest_of(done)["trainable"]["tensors"] == len(names), "the end counts, not the first epoch"
    for state in (first, second, state_of(done)):
        assert all(torch.equal(state[name], start[name]) for name in start if "running_" in name)


def test_without_it_all_move_at_once(pipeline: Pipeline, tmp_path: Path) -> None:
    """The control of the case above."""
    start = state_of(pipeline.head)
    names = [name for name, _ in load_classifier(pipeline.head).named_parameters()]
    first, with_gradients = stopped(pipeline, tmp_path, 1, epochs=4, learning_rate=1e-3)
    assert with_gradients == set(range(len(names)))
    assert all(not torch.equal(first[name], start[name]) for name in names)


# --- pictures, mixed or not --------------------------------------------------------------------------


def pictures(p: Pipeline, **changes: Any) -> Pictures:
    train = subset(p.dataset, "train")
    return Pictures(Source(p.dataset, train, "cpu"), train.labels, 3, spec(**changes), 0, "cpu")


@pytest.mark.parametrize("changes", [{}, {"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0}])
@pytest.mark.parametrize("augmentation", ["natural", "industrial"])
def test_batches_depend_on_seed_epoch_and_step_only(
    pipeline: Pipeline, changes: dict[str, float], augmentation: str
) -> None:
    made = pictures(pipeline, augmentation=augmentation, **changes)
    whole = list(made.batches(2, 0))
    assert len(whole) == made.steps == STEPS
    for (images, targets), (same_images, same_targets) in zip(whole[2:], made.batches(2, 2), strict=True):
        assert torch.equal(images, same_images) and torch.equal(targets, same_targets)
    first, targets = whole[0]
    assert first.shape == (30, 32, 32, 3)
    assert (targets.dtype, targets.ndim) == ((torch.float32, 2) if changes else (torch.int64, 1))
    if changes:
        torch.testing.assert_close(targets.sum(1), torch.ones(30))
    assert not torch.equal(next(made.batches(1, 0))[0], first)


def test_an_epoch_shows_every_picture_once(pipeline: Pipeline) -> None:
    made = pictures(pipeline)
    train = subset(pipeline.dataset, "train")
    seen = np.concatenate([images.numpy() for images, _ in made.batches(1, 0)])
    labels = np.concatenate([labels.numpy() for _, labels in made.batches(1, 0)])

    def pairs(images: npt.NDArray[np.uint8], of: npt.NDArray[np.int64]) -> list[tuple[bytes, int]]:
        return sorted((image.tobytes(), int(label)) for image, label in zip(images, of, strict=True))

    assert pairs(seen, labels) == pairs(pixels(pipeline.dataset)[train.rows], train.labels)


@pytest.mark.parametrize("changes", [{"mixup": 0.4}, {"cutmix": 1.0}])
def test_a_finetuning_with_mixed_pictures_learns(pipeline: Pipeline, tmp_path: Path, changes: dict[str, Any]) -> None:
    tuned = tune(pipeline, tmp_path, epochs=4, learning_rate=3e-4, batch_size=15, interpolate=False, **changes)
    rows = manifest_of(tuned)["epochs"]
    assert rows[-1]["train_loss"] < rows[1]["train_loss"] - 0.02
    assert min(row["validation_loss"] for row in rows[1:]) < rows[0]["validation_loss"]
    assert max(row["train_accuracy"] for row in rows[1:]) > 0.5, "against the larger share, of three classes"


# --- between the start and the tuned weights ---------------------------------------------------------


class Two(nn.Module):
    """Two vectors, a statistic and a counter."""

    statistic: Tensor
    counter: Tensor

    def __init__(self, value: float, counter: int) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.full((3,), value)), nn.Parameter(torch.full((4,), -2 * value))
        self.register_buffer("statistic", torch.tensor([value]))
        self.register_buffer("counter", torch.tensor(counter))


def distance_to(share: float) -> Any:
    """A quadratic loss with its minimum at a share of the way from 0 to 8."""

    def loss(module: nn.Module) -> float:
        a, b = module.get_parameter("a").detach(), module.get_parameter("b").detach()
        return float(((a - 8 * share) ** 2).sum() + ((b + 16 * share) ** 2).sum())

    return loss


@pytest.mark.parametrize(
    ("minimum", "share"),
    [(0.75, 0.75), (0.5, 0.5), (0.25, 0.25), (0.6, 0.5), (0.65, 0.75), (0.9, 1.0), (1.0, 1.0), (2.0, 1.0), (-1, 0.25)],
)
def test_the_best_share_is_found_and_left_in_the_network(minimum: float, share: float) -> None:
    start, network, loss = Two(0.0, 3).state_dict(), Two(8.0, 70), distance_to(minimum)
    found = interpolate(network, start, loss(network), loss)
    assert found == (share, loss(network))
    expected = Two(8.0 * share, 70).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())
    assert loss(network) <= loss(Two(8.0, 70))


def test_of_equal_losses_the_tuned_weights_stay() -> None:
    network, tried = Two(8.0, 70), []

    def flat(module: nn.Module) -> float:
        tried.append(float(module.get_parameter("a").detach()[0]))
        return 1.0

    assert interpolate(network, Two(0.0, 3).state_dict(), 1.0, flat) == (1.0, 1.0)
    assert tried == [8 * share for share in SHARES]
    assert torch.equal(network.a, torch.full((3,), 8.0))


def test_a_loss_that_is_not_a_number_is_never_chosen() -> None:
    network = Two(8.0, 70)
    assert interpolate(network, Two(0.0, 3).state_dict(), 1.0, lambda _network: float("nan")) == (1.0, 1.0)


@pytest.mark.parametrize("rate", [1e-4, 3e-4])
def test_a_finetuning_ends_on_the_line_from_its_start(pipeline: Pipeline, tmp_path: Path, rate: float) -> None:
    whole = tune(pipeline, tmp_path / "whole", epochs=2, batch_size=10, learning_rate=rate, interpolate=False)
    done = tune(pipeline, tmp_path / "done", epochs=2, batch_size=10, learning_rate=rate)
    assert [Epoch(**row) for row in manifest_of(done)["epochs"]] == [
        Epoch(**row) for row in manifest_of(whole)["epochs"]
    ]
    assert manifest_of(whole)["share"] == 1.0, "asked not to, it stays at the end of the line"
    assert validation_loss(pipeline, whole) == pytest.approx(best_loss(whole), rel=1e-4)
    assert validation_loss(pipeline, done) <= best_loss(done) * (1 + 1e-4)
    start, tuned, share = state_of(pipeline.head), state_of(whole), manifest_of(done)["share"]
    assert share in (1.0, *SHARES)
    for name, value in state_of(done).items():
        expected = torch.lerp(start[name], tuned[name], share) if value.is_floating_point() else tuned[name]
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)


def test_a_training_that_only_worsens_ends_at_its_start(pipeline: Pipeline, tmp_path: Path) -> None:
    done = tune(pipeline, tmp_path, learning_rate=0.1, warmup=0.0)
    about = manifest_of(done)
    assert (about["best_epoch"], about["share"]) == (0, 0.0)
    assert weights_digest(load_classifier(done)) == weights_digest(load_classifier(pipeline.head))
    assert [text for text in about["signs"] if text.startswith("no better than the head alone")]


# --- learning_rate: auto -----------------------------------------------------------------------------


def values(**changes: Any) -> dict[str, Any]:
    return {"name": "digits", "data": {"root": "/pictures"}, "finetune": changes}


@pytest.mark.parametrize(("given", "read"), [(1e-4, 1e-4), ("auto", "auto"), ("5e-4", 5e-4), (1, 1.0)])
def test_a_learning_rate_is_a_number_or_auto(given: object, read: object) -> None:
    found = checked(values(learning_rate=given)).finetune.learning_rate
    assert found == read
    assert isinstance(found, type(read))


@pytest.mark.parametrize("given", [0, -1e-4, 2, "fast", "2", None])
def test_any_other_learning_rate_is_refused_in_a_sentence(given: object) -> None:
    with pytest.raises(BadInput) as caught:
        checked(values(learning_rate=given))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("finetune.learning_rate: expected ")
    assert message.count("finetune.learning_rate") == 1, message
    assert "constrained" not in message and "function-" not in message


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_auto_is_the_same_as_giving_the_number_it_chose(pipeline: Pipeline, tmp_path: Path, dropout: float) -> None:
    """Dropout draws from torch's random numbers, which the trials draw from too."""
    start = pipeline.head if not dropout else with_dropout(pipeline, tmp_path / "head", dropout)
    told: list[str] = []
    chosen = tune(
        pipeline, tmp_path / "auto", lambda done, total, text="": told.append(text), start, learning_rate="auto"
    )
    about = manifest_of(chosen)
    assert about["learning_rate"] in RATES
    assert f"learning rate {about['learning_rate']:g} chosen" in told
    assert sum("tried" in text for text in told) >= 2
    again = tune(pipeline, tmp_path / "again", start=start, learning_rate="auto")
    assert not again.reused and weights_digest(load_classifier(again)) == weights_digest(load_classifier(chosen))
    given = tune(pipeline, tmp_path / "given", start=start, learning_rate=about["learning_rate"])
    assert given.key != chosen.key
    assert [Epoch(**row) for row in manifest_of(given)["epochs"]] == [Epoch(**row) for row in about["epochs"]]
    assert weights_digest(load_classifier(given)) == weights_digest(load_classifier(chosen))


def test_auto_tries_nothing_where_nothing_is_trained(pipeline: Pipeline, tmp_path: Path) -> None:
    told: list[str] = []
    kept = tune(pipeline, tmp_path, lambda done, total, text="": told.append(text), epochs=0, learning_rate="auto")
    assert not [text for text in told if "learning rate" in text]
    assert manifest_of(kept)["learning_rate"] == 0
    assert weights_digest(load_classifier(kept)) == weights_digest(load_classifier(pipeline.head))


@pytest.mark.parametrize(
    ("changes", "processes", "found"),
    [
        ({"batch_size": 1, "batchnorm": "train"}, 1, "expected 2 or more .* found 1 for all"),
        ({"batch_size": 7, "batchnorm": "train"}, 4, "expected 2 or more .* found 7 for all"),
        ({"batch_size": 3}, 4, "expected 1 or more .*runtime.processes: 4.* found 3 for all"),
        ({"batch_size": 4096}, 121, "expected 1 or more .* found 120 for all"),
    ],
)
def test_too_few_pictures_in_a_step_are_refused_before_training(
    pipeline: Pipeline, tmp_path: Path, changes: dict[str, Any], processes: int, found: str
) -> None:
    told: list[str] = []
    with pytest.raises(BadInput, match=f"finetune.batch_size: {found}: give more"):
        finetune(
            pipeline.head, pipeline.dataset, tmp_path / "runs" / "r", spec(**changes), "none", 0, processes=processes,
            progress=lambda done, total, text="": told.append(text),
        )  # fmt: skip
    assert not told


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"batch_size": 2, "batchnorm": "train"}])
def test_the_smallest_steps_train(pipeline: Pipeline, tmp_path: Path, changes: dict[str, Any]) -> None:
    """The control of the case above."""
    with pytest.raises(KeyboardInterrupt):
        tune(pipeline, tmp_path, StopAfterSteps(3), **changes)


class StopAfterSteps:
    """A progress callback that presses Ctrl-C after some steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, done: int, total: int, text: str = "") -> None:
        if text.startswith("loss") and done == self.steps:
            raise KeyboardInterrupt


def with_dropout(p: Pipeline, run: Path, dropout: float) -> Checkpoint:
    from tasks.training.head import train_head
    from tasks.training.spec import HeadSpec

    model = p.model.model_copy(update={"dropout": dropout})
    return train_head(p.dataset, p.features, run / "runs" / "r", model, p.preprocessing, HeadSpec(), seed=0)


# --- reading pictures --------------------------------------------------------------------------------


@pytest.fixture
def copied(pipeline: Pipeline, tmp_path: Path) -> Dataset:
    """The shared pictures in a file that only this test has mapped."""
    place = tmp_path / "dataset"
    place.mkdir()
    for file in pipeline.dataset.path.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    return replace(pipeline.dataset, path=place)


def resident(path: Path) -> int:
    """KiB of a mapped file in this process's memory."""
    found, of_it = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.split(maxsplit=1)[0].endswith(":"):
            found += int(line.split()[1]) if of_it and line.startswith("Rss:") else 0
        else:
            of_it = line.endswith(str(path))
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux what is in memory")
@pytest.mark.parametrize(("limit", "given_back"), [(1, True), (2**29, False)])
def test_pages_that_were_read_are_given_back_and_read_again(
    copied: Dataset, monkeypatch: pytest.MonkeyPatch, limit: int, given_back: bool
) -> None:
    monkeypatch.setattr(memory, "TOUCHED", limit)
    train = subset(copied, "train")
    expected = np.load(copied.path / PIXELS)[train.rows]
    source, random = Source(copied, train, "cpu"), np.random.default_rng(0)
    for _ in range(5):
        chosen = random.integers(0, len(train), 30)
        assert np.array_equal(source.take(chosen).numpy(), expected[chosen])
    assert (resident(copied.path / PIXELS) == 0) == given_back


def test_the_limit_counts_what_was_read_since(copied: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    each = 32 * 32 * 3
    monkeypatch.setattr(memory, "TOUCHED", 10 * each)
    mapped = memory.Mapped(copied)
    touched = []
    for _ in range(5):
        mapped.read(np.arange(4))
        touched.append(mapped.touched // each)
    assert touched == [4, 8, 0, 4, 8]
