"""How much memory does fine-tuning take when there are many pictures?

    uv run python -m benchmarks.memory [--pictures 100000] [--size 128] [--write]

Pictures drawn at random are written as JPEG files and go through prepare, embed, train_head and finetune, one whole
epoch with its validation; each step in a process of its own, whose peak resident memory (ru_maxrss, mapped pages
included) is told. Their pixels alone, 4.9 GB, are more than the limit. A small backbone reads all of them in minutes;
what the default one needs more for a batch does not depend on the number of pictures, and is measured apart: the same
on 512 pictures at 224 pixels with both.

Required of fine-tuning on the CPU: the peak, plus what the default backbone needs more than the small one, stays below
4 GB. About 15 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.coverage import conclude, rows

SMALL, DEFAULT = "timm/mobilenetv3_small_050", "timm/tf_efficientnet_lite0"
STEPS = ("prepare", "embed", "train_head", "finetune")
FEW, FEW_SIZE = 512, 224
LIMIT = 4.0  # GB
SIDE = 64  # of the files
Figures = dict[str, Any]


def write_pictures(folder: Path, many: int) -> Path:
    """`many` JPEG files of coarse colour noise in two classes, which differ in brightness."""
    random = np.random.default_rng(0)
    for number in range(many):
        label = ("bright", "dark")[number % 2]
        place = folder / label / f"{number // 2 // 1000:03d}"
        place.mkdir(parents=True, exist_ok=True)
        noise = random.integers(0, 200, (8, 8, 3)) + (55 if label == "bright" else 0)
        image = Image.fromarray(noise.astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        image.save(place / f"{number}.jpg", quality=80)
    return folder


def child(step: str, job: Mapping[str, Any]) -> Figures:
    """One step in this process; those before it are found on disk."""
    from tasks.data.prepare import prepare
    from tasks.data.spec import DataSpec
    from tasks.model.backbone import describe
    from tasks.model.spec import ModelSpec
    from tasks.training.embed import embed
    from tasks.training.finetune import finetune
    from tasks.training.head import train_head
    from tasks.training.spec import FinetuneSpec, HeadSpec

    home, model = Path(job["home"]), ModelSpec(backbone=job["backbone"], weights="none", image_size=job["size"])
    pre, run = describe(model), home / "runs" / "memory"
    data = DataSpec(root=Path(job["pictures"]), near_duplicates=False)
    before, began = peak(), time.perf_counter()
    dataset = prepare("noise", home, data, pre)
    if step != "prepare":
        features = embed(dataset, home, model, pre, 0)
    if step in ("train_head", "finetune"):
        head = train_head(dataset, features, run, model, pre, HeadSpec(method="adam", epochs=2), 0)
    if step == "finetune":
        spec = FinetuneSpec(epochs=1, augmentation="industrial", interpolate=False)
        finetune(head, dataset, run, spec, "none", 0)
    return {"seconds": time.perf_counter() - began, "peak": peak(), "imports": before}


def peak() -> float:
    """GB resident at most so far, of this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def whole(place: Path, pictures: Path, backbone: str, size: int, steps: tuple[str, ...] = STEPS) -> dict[str, Figures]:
    job = {"home": str(place), "pictures": str(pictures), "backbone": backbone, "size": size}
    found = {}
    for step in steps:
        command = [sys.executable, "-m", "benchmarks.memory", "--child", step]
        done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{step} failed:\n{done.stderr[-3000:]}")
        found[step] = json.loads(done.stdout.splitlines()[-1])
        print(backbone, step, found[step], flush=True)
    return found


def measure(place: Path, many: int, size: int) -> Figures:
    pictures, few = write_pictures(place / "many", many), write_pictures(place / "few", FEW)
    found = {
        "many": whole(place / "home", pictures, SMALL, size),
        "small": whole(place / "small", few, SMALL, FEW_SIZE),
        "default": whole(place / "default", few, DEFAULT, FEW_SIZE),
    }
    pixels = many * size * size * 3 / 1e9
    more = found["default"]["finetune"]["peak"] - found["small"]["finetune"]["peak"]
    return {"pictures": many, "size": size, "pixels": pixels, "more": more} | found


def requirements(f: Figures) -> list[tuple[bool, str]]:
    both = f["many"]["finetune"]["peak"] + max(0.0, f["more"])
    return [(both < LIMIT, f"fine-tuning below {LIMIT:g} GB with the default backbone, found {both:.2f}")]


def table(f: Figures) -> str:
    names = {
        "many": (f["pictures"], f["size"], "small"),
        "small": (FEW, FEW_SIZE, "small"),
        "default": (FEW, FEW_SIZE, "default"),
    }
    body = [
        (str(n), str(size), backbone, *(f"{f[key][s]['peak']:.2f} ({f[key][s]['seconds']:.0f} s)" for s in STEPS))
        for key, (n, size, backbone) in names.items()
    ]
    told = (
        f"Peak resident memory in GB (and seconds) of each step in a process of its own. The pixels of "
        f"{f['pictures']} pictures at {f['size']} px: {f['pixels']:.2f} GB. Imports alone: "
        f"{f['many']['finetune']['imports']:.2f} GB. Small backbone: {SMALL}; default: {DEFAULT}. {f['note']}"
    )
    header = ("pictures", "pixels", "backbone", *STEPS)
    return "\n".join(["# Memory of training\n", rows(header, body), "", told.strip(), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=128, help="side of the prepared pictures in pixels")
    parser.add_argument("--note", default="", help="a sentence for the table, e.g. what else the machine did")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    parser.add_argument("--child", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(arguments.child, json.load(sys.stdin))))
        return
    with tempfile.TemporaryDirectory(prefix="thaw-memory-") as folder:
        figures = measure(Path(folder), arguments.pictures, arguments.size) | {"note": arguments.note}
    conclude("memory", figures, table(figures), requirements(figures), arguments.write)


if __name__ == "__main__":
    main()
