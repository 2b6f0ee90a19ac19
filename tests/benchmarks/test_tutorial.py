"""The tutorial's recipe on a few real photos, and what the comparison makes of both sides' figures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import recipe, tutorial
from benchmarks.recipe import SIDES, child, lay_out
from benchmarks.tutorial import SCORES, condense, requirements, scores, summary, table
from tasks.model.classifier import weights_digest
from tests.benchmarks.spoiled import spoiled, unmet

COUNTS = {"train": 12, "validation": 6, "test": 9}
SIZE = 32


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(tmp_path_factory.mktemp("tutorial") / "pictures", COUNTS)


@pytest.fixture(autouse=True)
def _no_loader_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forked loader would inherit whatever threads and handlers other tests have left in this process."""
    monkeypatch.setattr(recipe, "WORKERS", 0)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "HEAD_EPOCHS", 2)
    monkeypatch.setattr(recipe, "TUNE_EPOCHS", 1)


# --- pictures ---------------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))


def test_each_split_has_the_natural_shares_and_no_photo_stands_in_two(pictures: Path) -> None:
    found = names(pictures)
    assert {split: sum(name.startswith(split) for name in found) for split in COUNTS} == COUNTS
    assert sum(name.startswith("train/defective/") for name in found) == 4  # 31 % of 12
    assert len({Path(name).name for name in found}) == len(found)


def test_the_draw_is_the_seed_s(pictures: Path, tmp_path: Path) -> None:
    assert names(lay_out(tmp_path / "same", COUNTS)) == names(pictures)
    assert names(lay_out(tmp_path / "other", COUNTS, seed=1)) != names(pictures)


def test_more_pictures_than_there_are_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="at most 2624 pictures, found 2625"):
        lay_out(tmp_path, {"train": 2625})


# --- the recipe -------------------------------------------------------------------------------------


def body(network: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return ((key, value) for key, value in network.state_dict().items() if not key.startswith("classifier."))


def test_the_frozen_phase_trains_the_head_alone_and_the_next_one_everything(pictures: Path) -> None:
    torch.manual_seed(0)
    network, found = recipe.load_network(2), recipe.make_loaders(pictures, SIZE)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    recipe.freeze(network)
    assert len(recipe.train(network, found, 1, recipe.HEAD_RATE, "cpu")) == 1
    assert all(torch.equal(value, before[key]) for key, value in body(network))  # running statistics too
    assert not torch.equal(network.get_parameter("classifier.weight"), before["classifier.weight"])
    network.requires_grad_(True)
    recipe.train(network, found, 1, recipe.TUNE_RATE, "cpu")
    moved = dict(network.named_parameters())
    assert not any(torch.equal(value, before[key]) for key, value in moved.items())
    assert all(torch.equal(value, before[key]) for key, value in network.named_buffers())


def test_a_phase_ends_with_its_best_epoch(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first epoch decides rightly and the second wrongly, by fiat: the first one's weights come back."""
    network, found = recipe.load_network(2), recipe.make_loaders(pictures, SIZE)
    recipe.freeze(network)
    seen: list[str] = []
    real = recipe.decide

    def decide(*arguments: Any) -> Any:
        seen.append(weights_digest(network))
        labels, _ = real(*arguments)
        return labels, labels if len(seen) == 1 else 1 - labels

    monkeypatch.setattr(recipe, "decide", decide)
    assert recipe.train(network, found, 2, recipe.HEAD_RATE, "cpu") == [1.0, 0.0]
    assert weights_digest(network) == seen[0] != seen[1]


def test_both_sides_start_from_the_same_weights() -> None:
    from serving.preprocess import Preprocessing
    from tasks.model.classifier import new_classifier
    from tasks.model.spec import ModelSpec

    half = (0.5, 0.5, 0.5)
    pre = Preprocessing(image_size=SIZE, resize="stretch", mean=half, std=half)
    ours = new_classifier(ModelSpec(), pre, 2, 0).eval()
    theirs = recipe.load_network(2).eval()
    pixels = torch.randint(0, 256, (2, SIZE, SIZE, 3), dtype=torch.uint8)
    images = (pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.inference_mode():
        features = theirs.forward_features(images)  # type: ignore[operator]
        theirs_features = theirs.forward_head(features, pre_logits=True)  # type: ignore[operator]
        assert torch.allclose(ours.features(pixels), theirs_features, atol=1e-4)


@pytest.mark.usefixtures("short")
def test_a_short_run_of_both_sides_sees_the_same_pictures(pictures: Path) -> None:
    job = {"pictures": str(pictures), "size": SIZE, "seed": 0}
    found: dict[str, list[dict[str, Any]]] = {side: [condense(child(side, job), pictures)] for side in SIDES}
    figures: dict[str, Any] = {"size": SIZE, "counts": COUNTS, "cores": 1, "note": ""} | found | summary(found)
    assert len(figures["pictures"]) == 1
    assert len(found["recipe"][0]["validation_accuracy"]) == 3
    assert len(found["thaw"][0]["validation_accuracy"]) == 2  # the head's, and an epoch's
    assert set(tutorial.STEPS["thaw"]) | {"adam", "test"} == set(found["thaw"][0]["seconds"])
    assert "at least 3 seeds, found 1" in unmet(requirements(figures))
    assert "| whole run |" in table(figures)


# --- what is made of the figures --------------------------------------------------------------------


def one(seconds: dict[str, float], accuracy: float) -> dict[str, Any]:
    each = dict.fromkeys(SCORES, accuracy)
    return {"device": "cpu", "threads": 2, "seconds": seconds, "scores": each, "pictures": "abc"}


RUNS = {
    "recipe": [one({"load": 1, "head": 650, "finetune": 649, "test": 50}, a) for a in (0.82, 0.84, 0.83)],
    "thaw": [
        one({"prepare": 5, "embed": 60, "train_head": 5, "finetune": 190, "test": 30, "adam": 2}, a)
        for a in (0.85, 0.82, 0.83)
    ],
}
FIGURES: dict[str, Any] = (
    {"size": 224, "counts": {"train": 512, "validation": 128, "test": 512}, "cores": 2, "note": ""}
    | RUNS
    | summary(RUNS)
)


def test_scores_are_those_of_a_hand_count() -> None:
    found = scores([0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0])
    assert found == pytest.approx({"accuracy": 4 / 6, "macro_recall": (1 / 2 + 3 / 4) / 2, "recall_defective": 1 / 2})


def test_the_summary_counts_what_it_says() -> None:
    assert FIGURES["medians"]["recipe"]["whole"] == 1300  # the test pictures are in neither
    assert FIGURES["medians"]["thaw"]["whole"] == 260
    assert FIGURES["whole_times"] == 5
    assert FIGURES["head_times"] == pytest.approx({"epochs": 325, "and_pass": 650 / 62, "and_read": 650 / 67})
    assert FIGURES["scores"]["recipe"]["accuracy"] == {"median": 0.83, "low": 0.82, "high": 0.84}


def test_good_figures_meet_every_requirement() -> None:
    assert unmet(requirements(FIGURES)) == []
    assert "| whole run | 1300.0 | 260.0 | 5.0 |" in table(FIGURES)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("whole_times", 2.9, "the whole run 3 times faster, found 2.90"),
        ("head_times/and_pass", 7.9, "the head's 10 epochs and their pass 8 times faster, found 7.90"),
        ("scores/thaw/accuracy/median", 0.81, "accuracy at least the recipe's lowest, 0.8200, found 0.8100"),
        ("scores/thaw/macro_recall/median", 0.81, "macro_recall at least the recipe's lowest, 0.8200, found 0.8100"),
        (
            "scores/thaw/recall_defective/median",
            0.5,
            "recall_defective at least the recipe's lowest, 0.8200, found 0.5",
        ),
        ("pictures", ["abc", "abd"], "the same pictures on both sides, found 2 sets"),
        ("thaw", RUNS["thaw"][:2], "at least 3 seeds, found 2"),
    ],
)
def test_each_requirement_notices_its_figure(place: str, value: Any, words: str) -> None:
    problems = unmet(requirements(spoiled(FIGURES, place, value)))
    assert len(problems) == 1
    assert problems[0].startswith(words)


def test_a_gpu_must_gain_more() -> None:
    on_gpu = spoiled(FIGURES, "device", "cuda")
    assert unmet(requirements(on_gpu)) == []
    assert unmet(requirements(spoiled(on_gpu, "whole_times", 4.9))) == ["the whole run 5 times faster, found 4.90"]
    assert "required 5." in table(on_gpu)
