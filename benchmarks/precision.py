"""What a smaller number format costs and saves: one trained network as float32, float16 and int8 files.

    uv run python -m benchmarks.precision HOME RUN_ID [--data ROOT] [--write] [--repeats 100]

HOME and RUN_ID: of a finished run, ROOT its pictures (default: the demo's). Each file gets its own temperature and
threshold by the real `export` and is judged on the test split by the real `certify`, in a temporary folder; nothing is
published. Speeds are medians of alternating repeats in this process: `--repeats` single pictures (bytes to answer, all
cores) and a fifth as many batches of 32. Required: see `requirements`. Exits 1 with what was not met. About 5 minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from benchmarks.coverage import conclude, rows
from benchmarks.parity import checkpoint, prepared
from flows.demo import MANIFEST
from flows.parameters import Parameters, checked
from serving import artifact as artifacts
from serving.predictor import Predictor, load_predictor
from serving.session import BATCH
from tasks.certification.certify import Certified, Record, certify, read_evaluation
from tasks.certification.gather import Trained
from tasks.data.dataset import Dataset, Subset, subset
from tasks.evaluation import evidence as evidences
from tasks.evaluation.lines import PARITY
from tasks.evaluation.outputs import original_bytes
from tasks.export.export import export
from tasks.export.spec import ExportSpec
from tasks.model.backbone import describe
from tasks.training.embed import embed

Precision = Literal["fp32", "fp16", "int8"]
REPEATS = 100
MOST_LOST = 0.02  # of accuracy at argmax, against float32
LARGEST_INT8 = 1 / 3  # of the float32 file


@dataclass(frozen=True, slots=True)
class Judged:
    """One precision's file, certified."""

    precision: Precision
    certified: Certified
    predictor: Predictor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path, help="Thaw home of the run")
    parser.add_argument("run_id", help="directory below HOME/runs")
    parser.add_argument("--data", type=Path, help="the run's data.root; default: the demo's manifest in HOME")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="single pictures timed a precision")
    arguments = parser.parse_args()
    home = arguments.home.resolve()
    figures = measure(home, arguments.run_id, arguments.data or home / MANIFEST, arguments.repeats)
    conclude("precision", figures, table(figures), requirements(figures), arguments.write)


def measure(home: Path, run_id: str, data: Path, repeats: int) -> dict[str, Any]:
    """A row a precision. Reads HOME; at most its caches grow."""
    run = home / "runs" / run_id
    artifact = artifacts.read(sorted(run.glob("artifact-*"))[-1])
    values, dataset = checked(artifact.contents.configuration), prepared(home, artifact, data)
    test = subset(dataset, "test")
    with tempfile.TemporaryDirectory(prefix="thaw-precision-") as folder:
        files = [judged(name, home, run, values, dataset, Path(folder)) for name in get_args(Precision)]
        speeds = timed([file.predictor for file in files], test, repeats)
        first = evidences.load(files[0].certified.evaluation).test
        found = [_row(file, values, first) | speed for file, speed in zip(files, speeds, strict=True)]
    return {
        "pictures": len(test),
        "watched": _watched(values, dataset.classes),
        "run": {"precision": artifact.contents.precision, "verdict": artifact.contents.verdict},
        "repeats": repeats,
        "files": found,
    }


def judged(precision: Precision, home: Path, run: Path, values: Parameters, dataset: Dataset, folder: Path) -> Judged:
    """The run's tuned checkpoint as a file of this precision, through export and certify."""
    features = embed(dataset, home, values.model, describe(values.model), values.runtime.seed)
    tuned, place = checkpoint(run, "finetune"), folder / precision
    exported = export(tuned, dataset, place, values.decision, ExportSpec(precision=precision))
    trained = Trained(values.name, dataset, features, checkpoint(run, "train_head"), tuned, exported)
    record = Record(json.dumps(values.model_dump(mode="json")), "{}")
    certified = certify(trained, None, place, values.decision, values.gate, record, device="cpu")
    return Judged(precision, certified, load_predictor(artifacts.read(certified.artifact, certified.digest), "cpu"))


def timed(predictors: list[Predictor], test: Subset, repeats: int) -> list[dict[str, float]]:
    """Medians; the files take turns, so that whatever else the machine does hits all of them alike."""
    pictures = [original_bytes(test, row) for row in range(min(BATCH, len(test)))]
    batch = np.stack([predictors[0].read(data) for data in pictures])
    single: list[list[float]] = [[] for _ in predictors]
    batches: list[list[float]] = [[] for _ in predictors]
    for predictor in predictors:  # warm up
        predictor.scores(batch)
    for repeat in range(repeats):
        data = pictures[repeat % len(pictures)]
        for predictor, times in zip(predictors, single, strict=True):
            start = time.perf_counter()
            predictor.answer([predictor.read(data)])
            times.append(time.perf_counter() - start)
    for _ in range(max(1, repeats // 5)):
        for predictor, times in zip(predictors, batches, strict=True):
            start = time.perf_counter()
            predictor.scores(batch)
            times.append(time.perf_counter() - start)
    return [
        {"latency_ms": 1000 * float(np.median(one)), "pictures_per_second": len(batch) / float(np.median(many))}
        for one, many in zip(single, batches, strict=True)
    ]


def _row(file: Judged, values: Parameters, first: Any) -> dict[str, Any]:
    body, test = read_evaluation(file.certified), evidences.load(file.certified.evaluation).test
    label = _watched(values, file.predictor.classes)
    parity = {check["metric"]: check["value"] for check in body["checks"] if check["metric"].startswith("parity")}
    watch = file.predictor.rule.watch
    return {
        "precision": file.precision,
        "verdict": body["verdict"],
        "served": _figures(body["metrics"], label),
        "argmax": _figures(body["metrics"]["argmax"], label),
        "temperature": body["temperature"],
        "threshold": watch[0].threshold if watch else None,
        "size_mb": body["size_mb"],
        "largest_difference": parity["parity"],
        "largest_difference_logits": parity["parity_logits"],
        "labels_as_fp32": float((test.decided == first.decided).mean()),
        "argmax_as_fp32": float((test.at_argmax().decided == first.at_argmax().decided).mean()),
    }


def _figures(metrics: dict[str, Any], label: str) -> dict[str, Any]:
    ends = metrics["intervals"]
    return {
        "accuracy": [metrics["accuracy"], *ends["accuracy"]],
        "recall": [metrics["recall"][label], *ends["recall"][label]],
    }


def _watched(values: Parameters, classes: tuple[str, ...]) -> str:
    return values.decision.watch[0].label if values.decision.watch else classes[0]


def requirements(f: dict[str, Any]) -> list[tuple[bool, str]]:
    """float32 is the network; the run's own verdict comes out again; nothing loses much; int8 is small."""
    files = {row["precision"]: row for row in f["files"]}
    exact, limit = files["fp32"], PARITY["fp32"][0]
    again, own = files[f["run"]["precision"]]["verdict"], f["run"]["verdict"]
    share = files["int8"]["size_mb"] / exact["size_mb"]
    apart = exact["largest_difference"]
    kept = {name: row["argmax"]["accuracy"][0] - exact["argmax"]["accuracy"][0] for name, row in files.items()}
    return [
        (apart <= limit, f"fp32 within {limit} of PyTorch, found {apart:.3g}"),
        (again == own, f"the run's verdict {own} again, found {again}"),
        (share <= LARGEST_INT8, f"an int8 file at most a third of fp32's, found {share:.2f}"),
        *(
            (lost >= -MOST_LOST, f"{name} at most {MOST_LOST} less accurate, found {lost:.4f}")
            for name, lost in kept.items()
        ),
    ]


def table(f: dict[str, Any]) -> str:
    """A column a precision."""
    files = f["files"]

    def line(name: str, texts: list[str]) -> tuple[str, ...]:
        return name, *texts

    def figure(name: str, point: str, metric: str) -> tuple[str, ...]:
        return line(name, ["{:.3f} ({:.3f}-{:.3f})".format(*row[point][metric]) for row in files])

    def plain(name: str, key: str, form: str) -> tuple[str, ...]:
        return line(name, ["-" if row[key] is None else format(row[key], form) for row in files])

    body = [
        plain("verdict", "verdict", ""),
        figure("accuracy at argmax", "argmax", "accuracy"),
        figure(f"recall of {f['watched']} at argmax", "argmax", "recall"),
        figure("accuracy as served", "served", "accuracy"),
        figure(f"recall of {f['watched']} as served", "served", "recall"),
        plain("temperature", "temperature", ".3f"),
        plain("threshold", "threshold", ".4f"),
        plain("file, MB", "size_mb", ".1f"),
        plain("one picture, bytes to answer, ms", "latency_ms", ".1f"),
        plain("pictures a second, batches of 32", "pictures_per_second", ".0f"),
        plain("largest difference to PyTorch, probability", "largest_difference", ".1e"),
        plain("labels as fp32's, as served", "labels_as_fp32", ".4f"),
        plain("labels as fp32's, at argmax", "argmax_as_fp32", ".4f"),
    ]
    title = f"# One network in three precisions, {f['pictures']} test pictures\n"
    note = (
        f"\n95 % intervals. Speeds on a shared machine, median of {f['repeats']} and {max(1, f['repeats'] // 5)} "
        "alternating repeats: read them as ratios.\n"
    )
    return "\n".join([title, rows(("", *(row["precision"] for row in files)), body), note])


if __name__ == "__main__":
    main()
