"""Does every family of backbones go the whole way? Embedded, head trained, fine-tuned, exported: seconds, and parity.

    uv run python -m benchmarks.backbones [--only timm/resnet10t ...] [--write]

A small member of each family with random weights, on two dozen pictures of digits at the smallest size it takes: each
step meets the family's own layers, and no accuracy is measured. A backbone that fails is a row with its error. Required
of each: no step fails, and the exported file's logits, in onnxruntime, differ from the network's by at most 0.001. All
in one process, one after the other; the first row also pays for imports. About 6 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.coverage import conclude, rows
from serving.artifact import MODEL, Rule
from serving.predictor import Predictor
from tasks.data.dataset import Dataset, pixels, subset
from tasks.data.prepare import prepare
from tasks.data.spec import DataSpec
from tasks.evaluation.spec import DecisionSpec
from tasks.export.export import Exported, export
from tasks.model.backbone import describe
from tasks.model.classifier import Checkpoint, load_classifier
from tasks.model.spec import ModelSpec
from tasks.training.embed import embed
from tasks.training.finetune import finetune
from tasks.training.head import train_head
from tasks.training.pictures import logits_of
from tasks.training.spec import FinetuneSpec, HeadSpec

# the family's name is its member's; the side in pixels: what it takes, and cheap
BACKBONES = {
    "timm/resnet10t": 32,
    "torchvision/resnet18": 32,
    "timm/mobilenetv3_small_050": 32,
    "torchvision/mobilenet_v3_small": 32,
    "timm/efficientnet_lite0": 32,
    "timm/tf_efficientnet_lite0": 32,
    "torchvision/efficientnet_b0": 32,
    "timm/convnext_atto": 32,
    "torchvision/convnext_tiny": 32,
    "timm/vit_tiny_patch16_224": 32,
    "torchvision/vit_b_32": 32,
    "timm/swin_tiny_patch4_window7_224": 64,
    "torchvision/swin_t": 64,
}
STEPS = ("embed", "head", "finetune", "export")
LARGEST = 1e-3  # difference of a logit
SPEC = FinetuneSpec(epochs=1, batch_size=6, interpolate=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BACKBONES, metavar="BACKBONE", help="these, not all")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thaw-backbones-") as folder:
        figures = measure(Path(folder), arguments.only or tuple(BACKBONES))
    conclude("backbones", figures, table(figures), requirements(figures), arguments.write)


def measure(place: Path, backbones: Sequence[str], way: Callable[..., None] | None = None) -> dict[str, Any]:
    """A row each. `way`: what is done with a backbone (default: all the steps)."""
    from tests.conftest import write_digits

    pictures, found = write_digits(place / "pictures", (0, 1, 7), 8), []
    for backbone in backbones:
        row: dict[str, Any] = {"backbone": backbone, "side": BACKBONES[backbone], "error": None}
        try:
            (way or whole_way)(row, pictures, place / "home")
        except Exception as error:  # whatever a library raises: it is this backbone's answer
            row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        found.append(row)
        print(backbone, row["error"] or "done", flush=True)
    return {"pictures": 24, "backbones": found}


def whole_way(row: dict[str, Any], pictures: Path, home: Path) -> None:
    """Writes seconds of each step, parameters and parity into `row`, as far as it comes."""
    model = ModelSpec(backbone=row["backbone"], weights="none", image_size=row["side"])
    preprocessing, run = describe(model), home / "runs" / row["backbone"].replace("/", "-")
    data = DataSpec(root=pictures, train=0.5, validation=0.25, test=0.25)
    dataset = prepare("backbones", home, data, preprocessing)
    with timed(row, "embed"):
        features = embed(dataset, home, model, preprocessing, seed=0)
    with timed(row, "head"):
        head = train_head(dataset, features, run, model, preprocessing, HeadSpec(), seed=0)
    with timed(row, "finetune"):
        tuned = finetune(head, dataset, run, SPEC, "none", seed=0)
    row["millions"] = sum(p.numel() for p in load_classifier(tuned).parameters()) / 1e6
    with timed(row, "export"):
        exported = export(tuned, dataset, run, DecisionSpec())
    row["difference"] = difference(tuned, exported, dataset)


def difference(tuned: Checkpoint, exported: Exported, dataset: Dataset) -> float:
    """The largest, of a logit, between the file and the network, over the training pictures."""
    part = subset(dataset, "train")
    predictor = Predictor(exported.path / MODEL, dataset.classes, exported.preprocessing, Rule(), "cpu")
    _, logits = predictor.scores(pixels(dataset)[part.rows])
    return float(np.abs(logits - logits_of(load_classifier(tuned), dataset, part)).max())


@contextmanager
def timed(row: dict[str, Any], step: str) -> Iterator[None]:
    """Seconds of a step that ends."""
    began = time.perf_counter()
    yield
    row[step] = time.perf_counter() - began


def requirements(f: Mapping[str, Any]) -> list[tuple[bool, str]]:
    found = []
    for row in f["backbones"]:
        found.append((row["error"] is None, f"{row['backbone']} to go the whole way, found {row['error']}"))
        if row["error"] is None:
            apart = row["difference"]
            text = f"{row['backbone']}'s file within {LARGEST} of the network, found {apart:.2g}"
            found.append((bool(apart <= LARGEST), text))
    return [*found, (bool(f["backbones"]), "at least one backbone")]


def table(f: Mapping[str, Any]) -> str:
    def cell(row: Mapping[str, Any], name: str, form: str) -> str:
        return format(row[name], form) if name in row else "-"

    header = ("backbone", "pixels", "million weights", *(f"{step}, s" for step in STEPS), "largest difference", "error")
    body = [
        (
            row["backbone"],
            row["side"],
            cell(row, "millions", ".1f"),
            *(cell(row, step, ".1f") for step in STEPS),
            cell(row, "difference", ".1e"),
            (row["error"] or "").replace("|", "/"),
        )
        for row in f["backbones"]
    ]
    title = f"# Families of backbones, from pictures to an exported file: {f['pictures']} pictures, random weights\n"
    return "\n".join([title, rows(header, body), ""])


if __name__ == "__main__":
    main()
