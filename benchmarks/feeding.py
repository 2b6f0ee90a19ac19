"""What do reading and augmenting the pictures cost a step of fine-tuning, and what Thaw keeps count of beside it?

    uv run python -m benchmarks.feeding [--pictures 1024] [--size 224] [--batch 32] [--rounds 3] [--write]

JPEGs of noise, prepared as any others; EfficientNet-Lite0 from random weights, augmentation `industrial`, the precision
that Thaw takes on this device. In turn, in one process: `finetune` itself, at the speed that its table tells of its
second epoch; and the same step, bare, as often, on one batch of tensors that already are on the device: forward,
backward, clipped gradients, AdamW with the same groups; nothing read, augmented or counted, no loss looked at. Medians.
Required: at least 90 % of the bare step's pictures per second. About 4 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.coverage import conclude, rows
from benchmarks.memory import write_pictures
from tasks.data.dataset import Dataset, subset
from tasks.data.prepare import prepare
from tasks.data.spec import DataSpec
from tasks.model.backbone import describe
from tasks.model.classifier import Checkpoint, load_classifier, manifest_of
from tasks.model.device import full_float32, torch_device, training_precision
from tasks.model.spec import ModelSpec
from tasks.training.embed import embed
from tasks.training.finetune import finetune
from tasks.training.folding import folded
from tasks.training.head import train_head
from tasks.training.layers import freeze_statistics, layer_groups
from tasks.training.memory import kept
from tasks.training.spec import FinetuneSpec, HeadSpec

LEAST = 0.90
WARM_STEPS = 3
RATE = 1e-4


def measure(place: Path, pictures: int, size: int, batch: int, rounds: int, device: str) -> dict[str, Any]:
    model, precision = ModelSpec(weights="none", image_size=size), training_precision("auto", device)
    pre, spec = (
        describe(model),
        FinetuneSpec(epochs=2, learning_rate=RATE, batch_size=batch, augmentation="industrial", interpolate=False),
    )
    data = DataSpec(root=write_pictures(place / "pictures", pictures), near_duplicates=False)
    dataset = prepare("noise", place, data, pre)
    features = embed(dataset, place, model, pre, 0, device)
    head = train_head(dataset, features, place / "runs" / "head", model, pre, HeadSpec(method="adam", epochs=1), 0)
    steps = max(1, len(subset(dataset, "train")) // batch)
    found: dict[str, list[float]] = {"fed": [], "bare": []}
    for number in range(rounds):
        for name in sorted(found, reverse=number % 2 == 0):
            if name == "fed":
                speed = fed(head, dataset, place / "runs" / f"fed-{number}", spec, number, device, precision)
            else:
                speed = bare(head, size, spec, steps, device, precision)
            found[name].append(speed)
            print(f"{name} {speed:.1f} pictures/s", flush=True)
    speeds = {name: statistics.median(values) for name, values in found.items()}
    share = statistics.median(a / b for a, b in zip(found["fed"], found["bare"], strict=True))
    told = {"device": device, "precision": precision, "pictures": steps * batch, "size": size, "batch": batch}
    return told | {"speeds": speeds, "share": share, "rounds": found}


def fed(
    head: Checkpoint, dataset: Dataset, run: Path, spec: FinetuneSpec, seed: int, device: str, precision: str
) -> float:
    """Pictures per second of the second epoch, as the table of the run tells it; `seed` makes it a new training."""
    tuned = finetune(head, dataset, run, spec, "none", seed, device, precision)
    return float(manifest_of(tuned)["epochs"][-1]["pictures_per_second"])


def bare(head: Checkpoint, size: int, spec: FinetuneSpec, steps: int, device: str, precision: str) -> float:
    """Pictures per second of the same step on one batch that stays where it is."""
    network = load_classifier(head).to(device)
    network.requires_grad_(True)
    network.normalize.requires_grad_(False)
    shape = (spec.batch_size, size, size, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(device)
    labels = (torch.arange(spec.batch_size) % 2).to(device)
    groups = layer_groups(network, RATE, spec.layer_decay, spec.weight_decay)
    optimiser = torch.optim.AdamW(groups, fused=True)
    with folded(network.eval(), images[:2]), kept(), full_float32():
        network.train()
        freeze_statistics(network)
        for step in range(WARM_STEPS + steps):
            if step == WARM_STEPS:
                began = now(device)
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
                logits = network(images)
            loss = nn.functional.cross_entropy(logits.float(), labels, label_smoothing=spec.label_smoothing)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), spec.clip_norm)
            optimiser.step()
        return steps * spec.batch_size / (now(device) - began)


def now(device: str) -> float:
    """Seconds of a clock, once the device has done all it was told."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def requirements(f: Mapping[str, Any]) -> list[tuple[bool, str]]:
    return [(f["share"] >= LEAST, f"at least {LEAST:.0%} of the bare step's speed, found {f['share']:.1%}")]


def table(f: Mapping[str, Any]) -> str:
    fed_, bare_ = f["speeds"]["fed"], f["speeds"]["bare"]
    body = [("fine-tuning", f"{fed_:.1f}"), ("the bare step, tensors on the device", f"{bare_:.1f}")]
    told = (
        f"EfficientNet-Lite0, {f['size']} px, batches of {f['batch']}, {f['pictures']} pictures an epoch, "
        f"{f['device']}, {f['precision']}; medians of {len(f['rounds']['fed'])}. Share: {f['share']:.1%}. {f['note']}"
    )
    return "\n".join(
        ["# What feeding costs a training\n", rows(("pictures per second", ""), body), "", told.strip(), ""]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1024)
    parser.add_argument("--size", type=int, default=224, help="side of the pictures in pixels")
    parser.add_argument("--batch", type=int, default=32, help="pictures per step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--note", default="", help="a sentence for the table, e.g. what else the machine did")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thaw-feeding-") as folder:
        device = torch_device(given.device)
        figures = measure(Path(folder), given.pictures, given.size, given.batch, given.rounds, device)
    figures["note"] = given.note
    name = "feeding" if figures["device"] == "cpu" else "feeding_gpu"
    conclude(name, figures, table(figures), requirements(figures), given.write)


if __name__ == "__main__":
    main()
