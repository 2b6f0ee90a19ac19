"""A run that was interrupted, killed or robbed of its newest checkpoint ends with the weights of one that was not."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tasks.model.classifier import Checkpoint, Classifier, load_classifier, manifest_of, weights_digest
from tasks.progress import Progress, silent
from tasks.training import pictures as pictures_module
from tasks.training import state as state_module
from tasks.training import tuning as tuning_module
from tasks.training.augment import augment
from tasks.training.checkpoint import TrainingCheckpoints
from tasks.training.errors import TooLarge, TrainingError
from tasks.training.finetune import finetune
from tasks.training.fit import Recipe, fit
from tasks.training.parallel import ALONE, Alone, Processes
from tasks.training.spec import FinetuneSpec
from tasks.training.table import Epoch, best_epoch
from tasks.training.tuning import Job
from tests.conftest import Pipeline

EPOCHS, STEPS, SIZE = 3, 4, 32
NEVER = 1e9  # seconds: no checkpoint within an epoch
_DIGITS = load_digits()
INPUTS = torch.from_numpy(_DIGITS.data[:192].astype(np.float32) / 16)
LABELS = torch.from_numpy(_DIGITS.target[:192].astype(np.int64))

Result = tuple[str, tuple[Epoch, ...]]


class Small:
    """A network with all that makes resuming hard: dropout, BatchNorm that learns, momentum, a schedule."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        hidden = nn.Linear(64, 16)
        self.module = nn.Sequential(hidden, nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10))
        self.drawn: list[tuple[int, int]] = []  # (epoch, step) of the batches that were made

    def batches(self, epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = np.random.default_rng((0, epoch)).permutation(STEPS * SIZE)
        for step in range(first, STEPS):
            self.drawn.append((epoch, step))
            rows = order[step * SIZE : (step + 1) * SIZE]
            yield INPUTS[rows], LABELS[rows]

    def outputs(self, module: nn.Module) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        module.eval()
        with torch.inference_mode():
            return module(INPUTS[128:]).double().numpy(), LABELS[128:].numpy()

    def train(
        self,
        checkpoints: TrainingCheckpoints | None,
        progress: Progress = silent,
        patience: int = 99,
        ema: float = 0.0,
        processes: Processes = ALONE,
        seed: int = 0,
    ) -> Result:
        def train_mode(_epoch: int) -> None:
            self.module.train()

        recipe = Recipe(EPOCHS, STEPS, 0.1, 5.0, 0.05, patience, train_mode, ema, seed=seed)
        groups = [{"params": [p], "lr": 0.01 / (i + 1)} for i, p in enumerate(self.module.parameters())]
        rows = fit(self.module, groups, self.batches, self.outputs, recipe, None, progress, checkpoints, processes)
        return weights_digest(self.module), rows


class Interrupt:
    """A progress callback that presses Ctrl-C at its n-th call, and keeps the texts."""

    def __init__(self, at: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.at, self.error = at, error
        self.texts: list[str] = []

    def __call__(self, done: int, total: int, text: str = "") -> None:
        self.texts.append(text)
        if len(self.texts) == self.at:
            raise self.error


@pytest.fixture(scope="module")
def uninterrupted() -> Result:
    return Small().train(None)


def store(home: Path, every: float = NEVER, key: str = "k") -> TrainingCheckpoints:
    return TrainingCheckpoints(home, "finetune", key, every)


def kept(home: Path) -> list[str]:
    return sorted(path.name for path in home.glob("checkpoints/*/*"))


def interrupt(home: Path, at: int, every: float = NEVER) -> None:
    with pytest.raises(KeyboardInterrupt):
        Small().train(store(home, every), Interrupt(at))


def test_it_does_not_depend_on_checkpoints_being_written(uninterrupted: Result, tmp_path: Path) -> None:
    assert Small().train(store(tmp_path, every=0)) == uninterrupted
    assert len(kept(tmp_path)) == 2


# each epoch reports its 4 steps and its end
@pytest.mark.parametrize("at", range(1, EPOCHS * (STEPS + 1) + 1))
def test_ctrl_c_anywhere_loses_nothing(uninterrupted: Result, tmp_path: Path, at: int) -> None:
    interrupt(tmp_path, at)
    small, again = Small(), Interrupt(at=0)
    assert small.train(store(tmp_path), again) == uninterrupted
    epoch, step = divmod(at, STEPS + 1)
    first = (epoch + 1, step)
    assert small.drawn == [(e, s) for e in range(1, EPOCHS + 1) for s in range(STEPS) if (e, s) >= first]
    assert again.texts[0] == f"resumed at epoch {min(epoch + 1, EPOCHS)} of {EPOCHS}"


def test_interrupted_again_and_again_it_ends_all_the_same(uninterrupted: Result, tmp_path: Path) -> None:
    for _ in range(EPOCHS * (STEPS + 1)):
        try:
            assert Small().train(store(tmp_path), Interrupt(at=2)) == uninterrupted
            break
        except KeyboardInterrupt:
            assert len(kept(tmp_path)) <= 2
    else:
        pytest.fail("it never ended")


def test_an_interruption_within_the_forward_pass_is_undone(uninterrupted: Result, tmp_path: Path) -> None:
    """BatchNorm has moved and dropout has drawn when Ctrl-C comes: both are written as they were before the step."""
    small, seen = Small(), []

    def stop(_module: nn.Module, _inputs: object, _outputs: object) -> None:
        seen.append(small.module.training)
        if sum(seen) == 6:
            raise KeyboardInterrupt

    small.module[4].register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        small.train(store(tmp_path))
    assert kept(tmp_path)[-1].endswith("epoch-000002-step-000000001")
    assert Small().train(store(tmp_path)) == uninterrupted


def test_a_half_applied_update_is_never_written(
    uninterrupted: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C when the weights have changed and the schedule has not: the previous checkpoint stays the newest."""
    small, steps = Small(), []
    real = torch.optim.lr_scheduler.LambdaLR.step

    def stop(schedule: torch.optim.lr_scheduler.LambdaLR, epoch: int | None = None) -> None:
        steps.append(1)
        if len(steps) == 1 + 7:  # the constructor's own, then the third of the second epoch
            raise KeyboardInterrupt
        real(schedule, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.lr_scheduler.LambdaLR, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            small.train(store(tmp_path))
    assert kept(tmp_path) == ["epoch-000002-step-000000000"]
    assert Small().train(store(tmp_path)) == uninterrupted


def test_an_interruption_while_validating_keeps_the_epoch(uninterrupted: Result, tmp_path: Path) -> None:
    small = Small()
    real, calls = small.outputs, []

    def stop(module: nn.Module) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        calls.append(1)
        if len(calls) == 3:
            raise SystemExit
        return real(module)

    small.outputs = stop  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        small.train(store(tmp_path))
    again = Small()
    assert again.train(store(tmp_path)) == uninterrupted
    assert again.drawn == [(3, step) for step in range(STEPS)]


def test_an_error_is_no_interruption(tmp_path: Path) -> None:
    """Nothing is written where an error came up, which would come again; the periodic one stays."""
    with pytest.raises(OSError):
        Small().train(store(tmp_path), Interrupt(at=7, error=OSError))
    assert kept(tmp_path) == ["epoch-000002-step-000000000"]


def test_early_stop_is_kept_across_a_resume(tmp_path: Path) -> None:
    """Interrupted after the epoch that ended training, it does not train on."""
    contradicted = 9 - LABELS[128:].numpy()

    def small() -> Small:
        made = Small()
        made.outputs = lambda module: (Small.outputs(made, module)[0], contradicted)  # type: ignore[method-assign]
        return made

    expected = small().train(None, patience=1)
    ends = len(expected[1])
    if ends == 1 + EPOCHS:
        pytest.fail("training did not stop early: this test says nothing")
    with pytest.raises(KeyboardInterrupt):
        small().train(store(tmp_path), Interrupt(at=(ends - 1) * (STEPS + 1)), patience=1)
    again = small()
    assert again.train(store(tmp_path), patience=1) == expected
    assert not again.drawn


# --- what else must be carried over ------------------------------------------------------------------

DECAY = 0.8


@pytest.fixture(scope="module")
def averaged(uninterrupted: Result) -> Result:
    found = Small().train(None, ema=DECAY)
    if found[0] == uninterrupted[0] or best_epoch(found[1]) == 0:
        pytest.fail("the average changes nothing here: the tests of it say nothing")
    return found


@pytest.mark.parametrize("at", [1, 2, 4, 5, 7, 10, 13, 15])  # after steps and after epochs
def test_the_moving_average_goes_on_where_it_was(averaged: Result, tmp_path: Path, at: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        Small().train(store(tmp_path), Interrupt(at), ema=DECAY)
    assert Small().train(store(tmp_path), ema=DECAY) == averaged


def test_an_interruption_of_the_averaging_is_undone(
    averaged: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C when the weights are the next step's and their average is not: nothing of that step is written."""
    real, calls = AveragedModel.update_parameters, []

    def stop(average: AveragedModel, module: nn.Module) -> None:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        real(average, module)

    with monkeypatch.context() as patch:
        patch.setattr(AveragedModel, "update_parameters", stop)
        with pytest.raises(KeyboardInterrupt):
            Small().train(store(tmp_path, every=0), ema=DECAY)
    assert kept(tmp_path)[-1] == "epoch-000002-step-000000001"
    assert Small().train(store(tmp_path), ema=DECAY) == averaged


class Second(Alone):
    """The second of two processes, as far as it can be told without the first."""

    rank, size = 1, 2

    def __init__(self, epoch: int = 0) -> None:
        self.told = count(epoch)

    def same(self, value: object) -> Epoch:
        """The first one's line of the next epoch."""
        return Epoch(next(self.told), None, None, 1.0, 0.5, 0.5, 0.5, 0.5, 0.0)


def drawn(processes: Processes = ALONE, checkpoints: TrainingCheckpoints | None = None, seed: int = 0) -> list[float]:
    """What torch draws first, which dropout would get, in each step that is trained."""
    small, numbers = Small(), []

    def draw(module: nn.Module, _inputs: object) -> None:
        if module.training:
            numbers.append(float(torch.rand(())))

    small.module.register_forward_pre_hook(draw)
    small.train(checkpoints, processes=processes, seed=seed)
    return numbers


def test_every_process_drops_out_others_and_the_same_after_a_resume(tmp_path: Path) -> None:
    first, second = drawn(), drawn(Second())
    assert len(first) == len(second) == EPOCHS * STEPS
    assert len({*first, *second, *drawn(seed=1)}) == 3 * EPOCHS * STEPS, "another in each step, process and seed"
    interrupt(tmp_path, at=3)
    assert drawn(Second(epoch=1), store(tmp_path)) == second[3:], "only the first process writes checkpoints"


def narrow(most: int) -> tuple[Small, list[int]]:
    """One that runs out of memory when it trains on more than `most` pictures at once, and what it was given."""
    small, given = Small(), []

    def limit(module: nn.Module, inputs: tuple[Tensor]) -> None:
        if module.training:
            given.append(len(inputs[0]))
            if given[-1] > most:
                raise torch.OutOfMemoryError("CUDA out of memory.")

    small.module.register_forward_pre_hook(limit)
    return small, given


@pytest.mark.parametrize("at", [3, 8])  # the first reports are of the two halvings
def test_how_many_pictures_fit_is_not_tried_out_again(tmp_path: Path, at: int) -> None:
    whole, _ = narrow(10)
    expected = whole.train(None)
    first, _ = narrow(10)
    with pytest.raises(KeyboardInterrupt):
        first.train(store(tmp_path), Interrupt(at))
    second, given = narrow(10)
    assert second.train(store(tmp_path)) == expected
    assert set(given) == {8}


def test_checkpoints_come_at_epochs_ends_and_when_due(tmp_path: Path) -> None:
    names: list[list[str]] = []
    Small().train(store(tmp_path / "rare"), lambda *_: names.append(kept(tmp_path / "rare")))
    assert names[STEPS] == [] and names[STEPS + 1] == ["epoch-000002-step-000000000"]
    assert kept(tmp_path / "rare") == ["epoch-000003-step-000000000", "epoch-000004-step-000000000"]
    names.clear()
    Small().train(store(tmp_path / "often", every=0), lambda *_: names.append(kept(tmp_path / "often")))
    assert names[2] == ["epoch-000001-step-000000001", "epoch-000001-step-000000002"]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("file", ["state.pt", "manifest.json"])
def test_a_damaged_newest_one_falls_back_to_the_older(
    uninterrupted: Result, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], file: str
) -> None:
    interrupt(tmp_path, at=8)  # after step 3 of epoch 2
    assert kept(tmp_path) == ["epoch-000002-step-000000000", "epoch-000002-step-000000003"]
    damage(tmp_path / "checkpoints" / "k" / "epoch-000002-step-000000003" / file)
    small, left = Small(), []
    with caplog.at_level(logging.WARNING):
        assert small.train(store(tmp_path), lambda *_: left.append(kept(tmp_path))) == uninterrupted
    assert small.drawn[0] == (2, 0)
    assert left[0] == ["epoch-000002-step-000000000"], "its name must be free for a sound one"
    assert [r.getMessage().count("not resuming from") for r in caplog.records] == [1]


def test_both_damaged_starts_from_scratch(
    uninterrupted: Result, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    interrupt(tmp_path, at=8)
    for path in tmp_path.glob("checkpoints/k/*/state.pt"):
        flip(path)
    small = Small()
    with caplog.at_level(logging.WARNING):
        assert small.train(store(tmp_path)) == uninterrupted
    assert small.drawn[0] == (1, 0)
    assert "starts from scratch" in caplog.records[-1].getMessage()


def test_another_configurations_checkpoint_is_never_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, uninterrupted: Result
) -> None:
    interrupt(tmp_path, at=8)
    other = Small()
    other.train(store(tmp_path, key="other"))
    assert other.drawn[0] == (1, 0) and not caplog.records
    # not even where somebody put it in this one's place
    store(tmp_path, key="other").discard()
    (tmp_path / "checkpoints" / "k").rename(tmp_path / "checkpoints" / "other")
    misplaced = Small()
    assert misplaced.train(store(tmp_path, key="other")) == uninterrupted
    assert misplaced.drawn[0] == (1, 0)
    assert "expected key other, found k" in caplog.text


def test_what_a_kill_left_of_a_write_is_removed(uninterrupted: Result, tmp_path: Path) -> None:
    interrupt(tmp_path, at=8)
    place = tmp_path / "checkpoints" / "k"
    torn = place / ".tmp-epoch-000002-step-000000004-abcdef12-1"
    torn.mkdir()
    (torn / "state.pt").write_bytes(b"half")
    assert Small().train(store(tmp_path)) == uninterrupted
    assert not list(place.glob(".tmp-*")) and len(kept(tmp_path)) == 2


def test_a_disk_that_is_full_costs_the_checkpoint_only(
    uninterrupted: Result, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "checkpoints").write_text("a file where the directory should be")
    with caplog.at_level(logging.WARNING):
        assert Small().train(store(tmp_path)) == uninterrupted
    assert caplog.text.count("no checkpoint at epoch") == EPOCHS


SPEC = FinetuneSpec(epochs=2, batch_size=30)


@pytest.fixture(scope="module")
def tuned(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Two epochs of four steps, with augmentation, never interrupted."""
    run = tmp_path_factory.mktemp("whole") / "runs" / "whole"
    return finetune(pipeline.head, pipeline.dataset, run, SPEC, "none", seed=0)


def same(a: Checkpoint, b: Checkpoint) -> bool:
    """The speed of an epoch is no part of what was learnt, which `Epoch` knows."""
    tables = [[Epoch(**row) for row in manifest_of(checkpoint)["epochs"]] for checkpoint in (a, b)]
    return weights_digest(load_classifier(a)) == weights_digest(load_classifier(b)) and tables[0] == tables[1]


def test_another_run_of_the_same_configuration_goes_on(
    pipeline: Pipeline, tuned: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = pipeline
    with pytest.raises(KeyboardInterrupt):
        finetune(p.head, p.dataset, tmp_path / "runs" / "first", SPEC, "none", seed=0, progress=Interrupt(at=3))
    assert not (tmp_path / "runs" / "first" / "finetune").exists()
    made = []

    def counting(pixels: Tensor, draw: Tensor, preset: str) -> Tensor:
        made.append(len(pixels))
        return augment(pixels, draw, preset)

    monkeypatch.setattr(pictures_module, "augment", counting)
    progress = Interrupt(at=0)
    second = finetune(p.head, p.dataset, tmp_path / "runs" / "second", SPEC, "none", seed=0, progress=progress)
    assert progress.texts[0] == "resumed at epoch 1 of 2"
    assert len(made) == 8 - 3, "the pictures of steps already done must not be made again"
    assert same(second, tuned)
    assert not kept(tmp_path) and not list((tmp_path / "checkpoints").iterdir())


def test_what_a_finished_phase_left_is_removed_when_its_result_is_found(pipeline: Pipeline, tmp_path: Path) -> None:
    """A kill between the result and the removal of its checkpoints."""
    p, runs = pipeline, tmp_path / "runs"
    spec = SPEC.model_copy(update={"epochs": 0})
    done = finetune(p.head, p.dataset, runs / "a", spec, "none", seed=0)
    left = tmp_path / "checkpoints" / done.key / "epoch-000001-step-000000000"
    left.mkdir(parents=True)
    assert finetune(p.head, p.dataset, runs / "b", spec, "none", seed=0).reused
    assert not left.parent.exists()


def test_a_training_that_cannot_succeed_leaves_none(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    p, before = pipeline, []

    def poisoned(pixels: Tensor, draw: Tensor, preset: str) -> Tensor:
        before.append(len(kept(tmp_path)))
        return pixels * float("nan" if len(before) == 3 else 1)

    monkeypatch.setattr(pictures_module, "augment", poisoned)
    with pytest.raises(TrainingError, match="finite training loss"):
        finetune(p.head, p.dataset, tmp_path / "runs" / "a", SPEC, "none", seed=0, checkpoint_seconds=0)
    assert before == [0, 1, 2] and not kept(tmp_path)


def test_trials_of_rates_that_do_not_fit_keep_the_checkpoints(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier run of the same configuration had got past them, with more memory."""
    p, spec = pipeline, SPEC.model_copy(update={"learning_rate": "auto"})
    key = Job(p.head, p.dataset, tmp_path / "runs" / "a", spec, "none", 0, "cpu", "fp32", 1, NEVER).key
    left = tmp_path / "checkpoints" / key / "epoch-000001-step-000000003"
    left.mkdir(parents=True)

    forward = Classifier.forward

    def scarce(network: Classifier, pixels: Tensor) -> Tensor:
        if network.training:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(network, pixels)

    monkeypatch.setattr(Classifier, "forward", scarce)
    with pytest.raises(TooLarge, match="fit into the GPU's memory"):
        finetune(p.head, p.dataset, tmp_path / "runs" / "a", spec, "none", seed=0)
    assert left.exists()


def test_a_resumed_run_tries_no_rate_again(pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    p, spec, tried = pipeline, SPEC.model_copy(update={"learning_rate": "auto"}), []

    def choosing(rate: float) -> Callable[[object, object], float]:
        return lambda _trial, _progress: tried.append(rate) or rate

    def stopping(done: int, total: int, text: str = "") -> None:
        if done == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(tuning_module, "choose_rate", choosing(3e-4))
    with pytest.raises(KeyboardInterrupt):
        finetune(p.head, p.dataset, tmp_path / "runs" / "a", spec, "none", seed=0, progress=stopping)
    monkeypatch.setattr(tuning_module, "choose_rate", choosing(1e-3))
    progress = Interrupt(at=0)
    resumed = finetune(p.head, p.dataset, tmp_path / "runs" / "b", spec, "none", seed=0, progress=progress)
    assert progress.texts[0].startswith("resumed at epoch 2") and tried == [3e-4]
    assert manifest_of(resumed)["learning_rate"] == 3e-4
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_a_rate_that_is_damaged_takes_the_checkpoints_with_it(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """They may be of another than is chosen then."""
    checkpoints = store(tmp_path)
    checkpoints.keep_rate(3e-4)
    interrupt(tmp_path, at=8)
    assert store(tmp_path).rate() == 3e-4 and store(tmp_path, key="other").rate() is None
    place = tmp_path / "checkpoints" / "k" / "rate" / "rate.json"
    place.write_text(place.read_text() + " " * 200)
    damage(place)
    assert checkpoints.rate() is None
    checkpoints.keep_rate(1e-3)
    assert checkpoints.rate() == 1e-3 and kept(tmp_path) == ["rate"]


def test_what_does_not_fit_into_the_memory_today_may_go_on_tomorrow(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    p, steps = pipeline, []
    forward = Classifier.forward

    def scarce(network: Classifier, pixels: Tensor) -> Tensor:
        steps.append(network.training)
        if sum(steps) > 2 and network.training:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(network, pixels)

    monkeypatch.setattr(Classifier, "forward", scarce)
    with pytest.raises(TooLarge, match="lower finetune.batch_size or model.image_size"):
        finetune(p.head, p.dataset, tmp_path / "runs" / "a", SPEC, "none", seed=0, checkpoint_seconds=0)
    assert len(kept(tmp_path)) == 2


@pytest.mark.parametrize("place", ["AdamW.step", "augment", "AveragedModel"])
def test_too_little_memory_outside_the_passes_says_what_to_lower(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def scarce(*_given: object, **_named: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    module = {"AdamW.step": torch.optim.AdamW, "augment": pictures_module, "AveragedModel": state_module}[place]
    monkeypatch.setattr(module, place.removeprefix("AdamW."), scarce)
    p, spec = pipeline, SPEC.model_copy(update={"ema": 0.9})
    with pytest.raises(TooLarge, match="steps of 30 pictures .* lower finetune.batch_size or model.image_size"):
        finetune(p.head, p.dataset, tmp_path / "runs" / "a", spec, "none", seed=0)


CHILD = """
    import json, sys
    from pathlib import Path
    from tasks.data.dataset import Dataset
    from tasks.model.classifier import Checkpoint
    from tasks.training.finetune import finetune
    from tasks.training.spec import FinetuneSpec

    head, dataset, spec, run = json.loads(sys.argv[1])
    head["path"], dataset["path"] = Path(head["path"]), Path(dataset["path"])
    dataset["classes"] = tuple(dataset["classes"])

    def progress(done: int, total: int, text: str = "") -> None:
        print(done, flush=True)

    finetune(Checkpoint(**head), Dataset(**dataset), Path(run), FinetuneSpec(**spec), "none", seed=0,
             progress=progress, checkpoint_seconds=0)
"""


def test_kill_minus_nine(pipeline: Pipeline, tuned: Checkpoint, tmp_path: Path) -> None:
    """A real process, killed after step 5 of 8 while it writes a checkpoint, as it does after every step."""
    p = pipeline
    values = [asdict(p.head), asdict(p.dataset), SPEC.model_dump(), tmp_path / "runs" / "killed"]
    command = [sys.executable, "-c", textwrap.dedent(CHILD), json.dumps(values, default=str)]
    root = Path(__file__).parent.parent.parent
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line == "5\n":
                break
        child.kill()
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / "runs" / "killed" / "finetune").exists()
    progress = Interrupt(at=0)
    resumed = finetune(p.head, p.dataset, tmp_path / "runs" / "later", SPEC, "none", seed=0, progress=progress)
    assert progress.texts[0] == "resumed at epoch 2 of 2"
    assert same(resumed, tuned)
    assert not kept(tmp_path)
