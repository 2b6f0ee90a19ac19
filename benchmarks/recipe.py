"""Two trainings of the same network on the same pictures: as tutorials teach it, and by Thaw's steps.

The recipe, written out plainly: pictures are opened, resized and mirrored at random in two loader processes, again in
every epoch. The frozen backbone is run again in every epoch of the head's training (10 epochs, Adam 1e-3); then
everything is unfrozen (5 epochs, Adam 1e-4). Validation after each epoch; a phase ends with the weights of its best
validation accuracy. float32, contiguous, BatchNorm's statistics as pretrained in both phases, no dropout.
"""

from __future__ import annotations

import csv
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from flows.demo import MANIFEST, write_manifest
from tasks.data.dataset import subset
from tasks.data.prepare import prepare
from tasks.data.spec import DataSpec
from tasks.model.backbone import describe
from tasks.model.classifier import load_classifier, manifest_of
from tasks.model.device import torch_device
from tasks.model.spec import ModelSpec
from tasks.model.weights import LITE0, lite0_state
from tasks.training.embed import embed
from tasks.training.finetune import finetune
from tasks.training.head import train_head
from tasks.training.pictures import logits_of
from tasks.training.spec import FinetuneSpec, HeadSpec

SIDES = ("recipe", "thaw")
SPLITS = ("train", "validation", "test")
BATCH, WORKERS = 32, 2
HEAD_EPOCHS, HEAD_RATE = 10, 1e-3
TUNE_EPOCHS, TUNE_RATE = 5, 1e-4

Figures = dict[str, Any]
Ints = npt.NDArray[np.int64]
Loaders = Mapping[str, "DataLoader[Any]"]


def child(side: str, job: Mapping[str, Any]) -> Figures:
    """One side's run in this process: its seconds by step, its decisions on the test pictures, and what it read."""
    device = torch_device("auto")
    torch.zeros(1, device=device)  # what a GPU needs once is part of neither side's time
    made_by = run if side == "recipe" else thaw
    found = made_by(Path(job["pictures"]), job["size"], job["seed"], device)
    return found | {"device": device, "threads": torch.get_num_threads()}


def lay_out(folder: Path, counts: Mapping[str, int], seed: int = 0, columns: Sequence[str] = ("label",)) -> Path:
    """Copies photos into `folder/<split>/<class>/`: each split with the classes' natural shares, drawn with `seed`.

    `columns`: of the demo's manifest, whose values together name a photo's class.
    """
    with tempfile.TemporaryDirectory() as home:
        write_manifest(Path(home))
        with (Path(home) / MANIFEST).open(newline="", encoding="utf-8") as file:
            photos = [(Path(row["path"]), "-".join(row[name] for name in columns)) for row in csv.DictReader(file)]
    if sum(counts.values()) > len(photos):
        raise SystemExit(f"expected at most {len(photos)} pictures, found {sum(counts.values())} wanted: lower --train")
    left: dict[str, list[Path]] = {label: [] for label in sorted({label for _, label in photos})}
    for number in np.random.default_rng(seed).permutation(len(photos)):
        photo, label = photos[number]
        left[label].append(photo)
    ends = np.cumsum([len(found) for found in left.values()]) / len(photos)
    for split, many in counts.items():
        # rounded ends add up to `many`, as rounded shares need not
        for (label, found), wanted in zip(left.items(), np.diff(np.rint(ends * many), prepend=0), strict=True):
            target = folder / split / label
            target.mkdir(parents=True)
            for photo in [found.pop() for _ in range(int(wanted))]:
                shutil.copyfile(photo, target / photo.name)
    return folder


# --- as tutorials teach it ---------------------------------------------------------------------------


def run(pictures: Path, size: int, seed: int, device: str) -> Figures:
    """Both phases on `pictures` (train, validation and test, each with a folder a class).

    Gives the seconds of each step, the validation accuracies, and labels and decisions on the test pictures.
    """
    torch.manual_seed(seed)
    clock = [time.perf_counter()]
    found = make_loaders(pictures, size)
    network = load_network(len(found["train"].dataset.classes)).to(device)  # type: ignore[attr-defined]
    clock.append(time.perf_counter())
    freeze(network)
    accuracies = train(network, found, HEAD_EPOCHS, HEAD_RATE, device)
    clock.append(time.perf_counter())
    network.requires_grad_(True)
    accuracies += train(network, found, TUNE_EPOCHS, TUNE_RATE, device)
    clock.append(time.perf_counter())
    labels, decided = decide(network, found["test"], device)
    clock.append(time.perf_counter())
    steps = ("load", "head", "finetune", "test")
    return {
        "seconds": dict(zip(steps, np.diff(clock).tolist(), strict=True)),
        "validation_accuracy": accuracies,
        "labels": labels.tolist(),
        "decided": decided.tolist(),
        "pictures": {split: sorted(path for path, _ in found[split].dataset.samples) for split in SPLITS},  # type: ignore[attr-defined]
    }


def make_loaders(pictures: Path, size: int) -> dict[str, DataLoader[Any]]:
    """One of each split; only training pictures are mirrored and shuffled."""
    tensor = [transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)]
    resize = transforms.Resize((size, size))

    def loader(split: str) -> DataLoader[Any]:
        mirror = [transforms.RandomHorizontalFlip()] if split == "train" else []
        folder = datasets.ImageFolder(str(pictures / split), transforms.Compose([resize, *mirror, *tensor]))
        gpu = torch.cuda.is_available()
        return DataLoader(folder, BATCH, shuffle=split == "train", num_workers=WORKERS, pin_memory=gpu)

    return {split: loader(split) for split in SPLITS}


def load_network(classes: int) -> nn.Module:
    """The backbone with its ImageNet weights, and a new head."""
    network: nn.Module = timm.create_model(LITE0.removeprefix("timm/"), num_classes=classes)
    pretrained = {key: value for key, value in lite0_state().items() if not key.startswith("classifier.")}
    network.load_state_dict(pretrained, strict=False)
    return network


def freeze(network: nn.Module) -> None:
    """All but the head."""
    network.requires_grad_(False)
    network.get_submodule("classifier").requires_grad_(True)


def train(network: nn.Module, found: Loaders, epochs: int, rate: float, device: str) -> list[float]:
    """Trains what is not frozen; leaves the weights of the best epoch. Validation accuracy of each."""
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], rate)
    accuracies: list[float] = []
    best: dict[str, torch.Tensor] = {}
    network.eval()  # BatchNorm keeps the pretrained statistics
    for _ in range(epochs):
        for images, labels in found["train"]:
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(network(images.to(device)), labels.to(device))
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        right, decided = decide(network, found["validation"], device)
        accuracies.append(float((right == decided).mean()))
        if accuracies[-1] > max(accuracies[:-1], default=-1.0):
            best = {key: value.clone() for key, value in network.state_dict().items()}
    network.load_state_dict(best)
    return accuracies


def decide(network: nn.Module, loader: DataLoader[Any], device: str) -> tuple[Ints, Ints]:
    """Labels and decisions."""
    network.eval()
    labels, decided = [], []
    with torch.no_grad():
        for images, wanted in loader:
            labels.append(wanted.numpy())
            decided.append(network(images.to(device)).argmax(1).cpu().numpy())
    return np.concatenate(labels), np.concatenate(decided)


# --- by Thaw's steps ---------------------------------------------------------------------------------


def thaw(pictures: Path, size: int, seed: int, device: str) -> Figures:
    """Thaw's steps; what they write goes into a folder beside the pictures."""
    spent: dict[str, float] = {}

    def timed(name: str, step: Any, *arguments: Any) -> Any:
        began = time.perf_counter()
        made = step(*arguments)
        spent[name] = time.perf_counter() - began
        return made

    home = Path(tempfile.mkdtemp(prefix="home-", dir=pictures.parent))
    model = ModelSpec(image_size=size)
    pre, run = describe(model), home / "runs" / "whole"
    data = DataSpec(root=pictures, near_duplicates=False)  # these photos look alike, and are of different cells
    dataset = timed("prepare", prepare, "cells", home, data, pre)
    features = timed("embed", embed, dataset, home, model, pre, seed, device)
    head = timed("train_head", train_head, dataset, features, run, model, pre, HeadSpec(), seed)
    spec = FinetuneSpec(epochs=TUNE_EPOCHS)
    tuned = timed("finetune", finetune, head, dataset, run, spec, "none", seed, device)
    test = subset(dataset, "test")
    logits = timed("test", lambda: logits_of(load_classifier(tuned).to(device), dataset, test, device))
    adam = HeadSpec(method="adam", epochs=HEAD_EPOCHS, learning_rate=HEAD_RATE, batch_size=BATCH)
    timed("adam", train_head, dataset, features, home / "runs" / "adam", model, pre, adam, seed)
    return {
        "seconds": spent,
        "validation_accuracy": [one["validation_accuracy"] for one in manifest_of(tuned)["epochs"]],
        "labels": test.labels.tolist(),
        "decided": logits.argmax(1).tolist(),
        "pictures": {split: sorted(map(str, subset(dataset, split).paths)) for split in SPLITS},
    }
