"""What makes a step of fine-tuning on the CPU faster, without changing what it computes?

    uv run python -m benchmarks.training_step [--sizes 160 224] [--rounds 3] [--write]

EfficientNet-Lite0, batches of 32, frozen BatchNorm statistics, AdamW, channels_last, all threads. In turn, in one
process: as torch does it; with convolution and BatchNorm as one operation (tasks/training/folding.py); with freed
memory kept for the next step (tasks/training/memory.py); with both, as Thaw trains. Medians. Required: both are faster
than neither. About 2 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.coverage import conclude, rows
from tasks.model.backbone import describe
from tasks.model.classifier import Classifier, new_classifier
from tasks.model.spec import ModelSpec
from tasks.training.folding import folded
from tasks.training.layers import freeze_statistics
from tasks.training.memory import kept

BATCH, STEPS = 32, 4
VARIANTS = {"as torch does it": (False, False), "folded": (True, False), "kept": (False, True), "both": (True, True)}


def pictures_per_second(network: Classifier, images: Tensor, fold: bool, keep: bool) -> float:
    labels = torch.arange(BATCH) % 2
    optimiser = torch.optim.AdamW(network.parameters(), 1e-5, fused=True)
    with folded(network.eval(), images[:2]) if fold else nullcontext(), kept() if keep else nullcontext():
        network.train()
        freeze_statistics(network)
        for step in range(1 + STEPS):
            if step == 1:
                began = time.perf_counter()
            optimiser.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        return STEPS * BATCH / (time.perf_counter() - began)


def measure(size: int, rounds: int) -> dict[str, Any]:
    model = ModelSpec(image_size=size)
    network = new_classifier(model, describe(model), 2, seed=0)
    network.requires_grad_(True)
    images = torch.randint(
        0, 256, (BATCH, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    found: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(rounds):
        for name in list(VARIANTS)[:: 1 if number % 2 else -1]:
            found[name].append(pictures_per_second(network, images, *VARIANTS[name]))
    return {"size": size, "speeds": {name: statistics.median(speeds) for name, speeds in found.items()}}


def requirements(f: Mapping[str, Any]) -> list[tuple[bool, str]]:
    return [
        (
            one["speeds"]["both"] > one["speeds"]["as torch does it"],
            f"{one['size']} pixels: both faster than neither, found {one['speeds']}",
        )
        for one in f["sizes"]
    ]


def table(f: Mapping[str, Any]) -> str:
    body = []
    for one in f["sizes"]:
        plain = one["speeds"]["as torch does it"]
        body.append((one["size"], *(f"{speed:.1f} ({speed / plain:.2f}x)" for speed in one["speeds"].values())))
    told = f"Pictures trained per second. {f['note']}".strip()
    return "\n".join(["# A step of fine-tuning\n", rows(("pixels", *VARIANTS), body), "", told, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[160, 224])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--note", default="", help="a sentence for the table, e.g. what else the machine did")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    arguments = parser.parse_args()
    found = [measure(size, arguments.rounds) for size in arguments.sizes]
    figures: dict[str, Any] = {"sizes": found, "note": arguments.note}
    conclude("training_step", figures, table(figures), requirements(figures), arguments.write)


if __name__ == "__main__":
    main()
