"""From a network that has learnt its few pictures by heart to one that generalises. On photos of solar cells.

    uv run python -m benchmarks.overfit [--seeds 3] [--train 128] [--size 128] [--write]

The start is a common mistake, made for real: EfficientNet-Lite0 from random weights, without augmentation, on few
pictures, until it knows them. Beside it Thaw's strategy on the same splits: the pretrained backbone frozen, its head
trained, then everything fine-tuned with augmentation and averaged weights. Each seed draws other pictures.

Four classes: a cell's kind (mono- or polycrystalline) and state (functional or defective). Two classes, the state
alone, were measured first and did not meet the requirement (TWO_CLASSES): always `functional` is right for 69 % there.

Training accuracy is that of the kept weights on the training pictures as they are: in eval mode, without augmentation.
Thaw chooses its weight decay, epoch and share on the validation pictures, so the test pictures, on which nothing is
chosen, are decided too.

Required, in the median of the seeds: the start overfits (training accuracy at least 97 %, validation at most 75 %);
Thaw gains at least 10 points of validation accuracy with training accuracy below 95 %; and on the test pictures it is
better beyond chance: the lower end of the 95 % paired interval lies above 0. About 2 minutes a seed on 2 cores.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.coverage import conclude, rows
from benchmarks.recipe import SPLITS, lay_out
from serving.preprocess import Preprocessing
from tasks.data.dataset import Dataset, subset
from tasks.data.prepare import prepare
from tasks.data.spec import DataSpec
from tasks.evaluation.intervals import tango
from tasks.model.backbone import describe
from tasks.model.classifier import Checkpoint, Classifier, load_classifier, manifest_of, new_classifier
from tasks.model.device import torch_device
from tasks.model.spec import ModelSpec
from tasks.training.embed import embed
from tasks.training.finetune import finetune
from tasks.training.head import train_head
from tasks.training.pictures import Source, logits_of
from tasks.training.spec import FinetuneSpec, HeadSpec

VALIDATION, TEST = 256, 512  # pictures
BATCH, RATE = 32, 1e-3  # of the start
START_EPOCHS, TUNE_EPOCHS = 20, 30
KNOWN, UNKNOWN = 0.97, 0.75  # the start's training accuracy at least, its validation accuracy at most
GAIN, TRAINED = 0.10, 0.95
CONFIDENCE = 0.95
TWO_CLASSES = (
    "The four classes were taken after two, the cells' state alone, had given less than is required: with the same "
    "three seeds +7.0, +8.2 and +14.5 points, at 89 % training accuracy in the median."
)
FIRST_SEED = 10  # none of those on which TUNING was chosen
# the demo's, in smaller batches, since so few pictures make few steps. Their validation loss jumps from epoch to epoch;
# the average of 20 steps' weights does not (chosen on the validation pictures of seeds 1 and 2)
TUNING = FinetuneSpec(learning_rate=5e-4, augmentation="industrial", batch_size=16, ema=0.95)

Figures = dict[str, Any]
Decisions = dict[str, npt.NDArray[np.bool_]]  # of each split, whether each picture was decided rightly


def measure(
    place: Path,
    train: int,
    size: int,
    start_epochs: int = START_EPOCHS,
    tune_epochs: int = TUNE_EPOCHS,
    counts: tuple[int, int] = (VALIDATION, TEST),
    seed: int = 0,
) -> Figures:
    """One draw of the pictures, and both networks on it. `counts`: of the validation and of the test pictures."""
    counted = dict(zip(SPLITS, (train, *counts), strict=True))
    pictures = lay_out(place / "pictures", counted, seed, columns=("type", "label"))
    device, model = torch_device("auto"), ModelSpec(image_size=size)
    pre = describe(model)
    # these photos look alike, and are of different cells
    dataset = prepare("cells", place, DataSpec(root=pictures, near_duplicates=False), pre)
    began = time.perf_counter()
    start = overfitted(dataset, pre, start_epochs, device, seed)
    clock = [time.perf_counter() - began]
    head, tuned = strategy(dataset, place, model, pre, tune_epochs, device, seed)
    clock.append(time.perf_counter() - began - clock[0])
    right = {
        "start": decisions(start, dataset, device),
        "head": decisions(load_classifier(head).to(device), dataset, device),
        "thaw": decisions(load_classifier(tuned).to(device), dataset, device),
    }
    about = manifest_of(tuned)
    return {
        "seed": seed,
        "size": size,
        "device": device,
        "counts": {split: len(subset(dataset, split)) for split in SPLITS},
        "majority": {s: float(np.bincount(subset(dataset, s).labels).max() / len(subset(dataset, s))) for s in SPLITS},
        "accuracy": {name: {split: float(one[split].mean()) for split in SPLITS} for name, one in right.items()},
        "difference": difference(right["thaw"]["test"], right["start"]["test"]),
        "seconds": {"start": clock[0], "thaw": clock[1]},
        "kept": {"epoch": about["best_epoch"], "of": len(about["epochs"]) - 1, "share": about["share"]},
        "epochs": start_epochs,
    }


def over_seeds(runs: Sequence[Figures]) -> Figures:
    """The figures of the first, with the medians of what is decided by; `runs` has each."""
    medians = {name: _medians([run[name] for run in runs]) for name in ("accuracy", "difference", "seconds")}
    return runs[0] | medians | {"runs": list(runs), "gain": statistics.median(_gain(run) for run in runs)}


def _medians(found: Sequence[Any]) -> Any:
    """Of numbers; of dicts of them key by key."""
    if isinstance(found[0], dict):
        return {key: _medians([one[key] for one in found]) for key in found[0]}
    return statistics.median(found)


def _gain(run: Figures) -> float:
    return float(run["accuracy"]["thaw"]["validation"] - run["accuracy"]["start"]["validation"])


def overfitted(dataset: Dataset, pre: Preprocessing, epochs: int, device: str, seed: int) -> Classifier:
    """A network trained from random weights on the training pictures as they are; its last weights."""
    torch.manual_seed(seed)
    model = ModelSpec(image_size=pre.image_size, weights="none")
    network = new_classifier(model, pre, len(dataset.classes), seed).to(device)
    part = subset(dataset, "train")
    source, labels = Source(dataset, part, device), torch.from_numpy(part.labels).to(device)
    steps = max(1, len(part) // BATCH)
    optimiser = torch.optim.Adam(network.parameters(), RATE)
    # rates that fall let BatchNorm's running statistics catch up with the weights
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=epochs * steps)
    random = np.random.default_rng(seed)
    network.train()
    for _ in range(epochs):
        for chosen in np.array_split(random.permutation(len(part)), steps):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(network(source.take(chosen)), labels[torch.from_numpy(chosen)])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            rates.step()
    return network.eval()


def strategy(
    dataset: Dataset, home: Path, model: ModelSpec, pre: Preprocessing, epochs: int, device: str, seed: int
) -> tuple[Checkpoint, Checkpoint]:
    """Thaw's two phases: the head's checkpoint, and the fine-tuned one."""
    run = home / "runs" / "thaw"
    features = embed(dataset, home, model, pre, seed, device)
    head = train_head(dataset, features, run, model, pre, HeadSpec(), seed)
    spec = TUNING.model_copy(update={"epochs": epochs, "patience": max(1, epochs)})
    return head, finetune(head, dataset, run, spec, "none", seed, device)


def decisions(network: Classifier, dataset: Dataset, device: str) -> Decisions:
    """In eval mode, on the pictures as they are."""
    parts = {split: subset(dataset, split) for split in SPLITS}
    return {split: logits_of(network, dataset, one, device).argmax(1) == one.labels for split, one in parts.items()}


def difference(ours: npt.NDArray[np.bool_], start: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Of the two accuracies on the same pictures, with its paired interval."""
    gained, lost = int((ours & ~start).sum()), int((start & ~ours).sum())
    low, high = tango(gained, lost, len(ours), CONFIDENCE)
    return {"points": (gained - lost) / len(ours), "low": low, "high": high}


def requirements(f: Figures) -> list[tuple[bool, str]]:
    start, ours, gain = f["accuracy"]["start"], f["accuracy"]["thaw"], f["gain"]
    return [
        (start["train"] >= KNOWN, f"a start that knows its pictures (>= {KNOWN}), found {start['train']:.4f}"),
        (
            start["validation"] <= UNKNOWN,
            f"a start that does not generalise (<= {UNKNOWN}), found {start['validation']:.4f}",
        ),
        (gain >= GAIN, f"validation accuracy {GAIN} above the start's, found {gain:+.4f}"),
        (ours["train"] < TRAINED, f"training accuracy below {TRAINED}, found {ours['train']:.4f}"),
        (
            f["difference"]["low"] > 0,
            f"better on the test pictures beyond chance, found a lower end of {f['difference']['low']:+.4f}",
        ),
    ]


def table(f: Figures) -> str:
    c, difference_ = f["counts"], f["difference"]
    names = {
        "majority": "always the most frequent class",
        "start": "from random weights, no augmentation",
        "head": "Thaw: pretrained, frozen, head trained",
        "thaw": "Thaw: then fine-tuned with augmentation",
    }
    shown = {"majority": f["majority"], **f["accuracy"]}
    body = [(text, *(f"{100 * shown[name][split]:.1f}" for split in SPLITS)) for name, text in names.items()]
    told = (
        f"EfficientNet-Lite0 at {f['size']} px on {c['train']} training, {c['validation']} validation and {c['test']} "
        f"test pictures; {f['device']}; medians over {len(f['runs'])} draws of the pictures. The start: {f['epochs']} "
        f"epochs in {f['seconds']['start']:.0f} s. Thaw: {f['seconds']['thaw']:.0f} s."
    )
    gained = (
        f"On the validation pictures {100 * f['gain']:+.1f} points. On the test pictures "
        f"{100 * difference_['points']:+.1f} points, 95 % interval {100 * difference_['low']:+.1f} to "
        f"{100 * difference_['high']:+.1f}."
    )
    each = [
        (
            str(run["seed"]),
            *(f"{100 * run['accuracy'][name][split]:.1f}" for name in ("start", "thaw") for split in SPLITS),
            f"{100 * _gain(run):+.1f}",
            f"{run['kept']['epoch']} of {run['kept']['of']}, {run['kept']['share']:.0%}",
        )
        for run in f["runs"]
    ]
    columns = ("seed", *(f"{name}, {split}" for name in ("start", "Thaw") for split in SPLITS), "gain", "epoch, share")
    header = ("accuracy in %", "training", "validation", "test")
    tables = [rows(header, body), gained, TWO_CLASSES, "## By seed", rows(columns, each)]
    return "\n\n".join(["# From overfitting to generalising", told, *tables]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=128, help="training pictures")
    parser.add_argument("--size", type=int, default=128, help="side of the pictures in pixels")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    arguments = parser.parse_args()
    runs = []
    for seed in range(FIRST_SEED, FIRST_SEED + arguments.seeds):
        with tempfile.TemporaryDirectory(prefix="thaw-overfit-") as folder:
            runs.append(measure(Path(folder), arguments.train, arguments.size, seed=seed))
    figures = over_seeds(runs)
    conclude("overfit", figures, table(figures), requirements(figures), arguments.write)


if __name__ == "__main__":
    main()
