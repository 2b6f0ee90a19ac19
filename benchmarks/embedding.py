"""Which route gives a frozen backbone's features soonest on a CPU: torch, or onnxruntime on an export of it?

    uv run python -m benchmarks.embedding [--pictures 256] [--sizes 160 224] [--rounds 3] [--write]

EfficientNet-Lite0 with its ImageNet weights, seeded random pictures, batches of 64, both routes in turn in one process
with all its threads. Told: pictures per second of each, what the export costs once, the number of pictures from which
on it pays, and the largest difference of a feature against the largest feature. The rule that follows stands in
tasks/training/embed.py. About 2 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.coverage import conclude, rows

MOST_DIFFERENT = 1e-4  # of the largest feature


def measure(place: Path, size: int, pictures: int, rounds: int) -> dict[str, Any]:
    from tasks.model.backbone import describe
    from tasks.model.classifier import new_classifier
    from tasks.model.spec import ModelSpec
    from tasks.training.embed import through_onnxruntime, through_torch

    model = ModelSpec(image_size=size)
    network = new_classifier(model, describe(model), 2, seed=0).eval()
    images = np.random.default_rng(0).integers(0, 256, (pictures, size, size, 3), dtype=np.uint8)
    began = time.perf_counter()
    runtime = through_onnxruntime(network, size, place / f"{size}.onnx")
    exported = time.perf_counter() - began
    routes = {"torch": through_torch(network, "cpu"), "onnxruntime": runtime}
    found: dict[str, list[float]] = {name: [] for name in routes}
    made: dict[str, npt.NDArray[np.float32]] = {}
    for number in range(rounds):
        for name in list(routes)[:: 1 if number % 2 else -1]:
            began = time.perf_counter()
            made[name] = np.concatenate([routes[name](images[i : i + 64]) for i in range(0, pictures, 64)])
            found[name].append(time.perf_counter() - began)
    each = {name: statistics.median(spent) / pictures for name, spent in found.items()}
    different = float(np.abs(made["torch"] - made["onnxruntime"]).max() / np.abs(made["torch"]).max())
    saved = each["torch"] - each["onnxruntime"]
    return {
        "size": size,
        "export_seconds": exported,
        "pictures_per_second": {name: 1 / value for name, value in each.items()},
        "pays_from": exported / saved if saved > 0 else None,
        "different": different,
    }


def requirements(f: Mapping[str, Any]) -> list[tuple[bool, str]]:
    return [
        (
            one["different"] <= MOST_DIFFERENT,
            f"{one['size']} pixels: the same features, found {one['different']:.1e} apart",
        )
        for one in f["sizes"]
    ]


def table(f: Mapping[str, Any]) -> str:
    body = [
        (
            one["size"],
            f"{one['pictures_per_second']['torch']:.0f}",
            f"{one['pictures_per_second']['onnxruntime']:.0f}",
            f"{one['export_seconds']:.1f}",
            "never" if one["pays_from"] is None else f"{one['pays_from']:.0f}",
            f"{one['different']:.1e}",
        )
        for one in f["sizes"]
    ]
    header = ("pixels", "torch, pictures/s", "onnxruntime", "export, s", "pays from", "largest difference")
    return "\n".join(["# Features of a frozen backbone\n", rows(header, body), "", str(f["note"]).strip(), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--sizes", type=int, nargs="+", default=[160, 224])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--note", default="", help="a sentence for the table, e.g. what else the machine did")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thaw-embedding-") as folder:
        found = [measure(Path(folder), size, arguments.pictures, arguments.rounds) for size in arguments.sizes]
    figures: dict[str, Any] = {"sizes": found, "note": arguments.note}
    conclude("embedding", figures, table(figures), requirements(figures), arguments.write)


if __name__ == "__main__":
    main()
