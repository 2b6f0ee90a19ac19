"""Is it one model? The same test pictures through PyTorch, the predictor and HTTP.

    uv run python -m benchmarks.parity HOME RUN_ID [--data ROOT] [--write]

HOME and RUN_ID: of a finished run whose version is the champion, ROOT its pictures (default: the demo's). Reads
BENTOML_HOME as that run did. The whole test split goes through the tuned checkpoint (the prepared pictures, the
exported temperature and rule) and the predictor (the original bytes), in batches of 1, 7 and 32 each, and one by one
through a real `thaw serve`. Required: every label equal and no probability further apart than 1e-4, between any two.
Exits 1 with what was not met. Two to six minutes on 2 cores, most of it PyTorch.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.coverage import conclude, rows
from benchmarks.served import served
from flows.demo import MANIFEST
from flows.parameters import checked
from serving import artifact as artifacts
from serving.artifact import SPLIT, Artifact, Labels, Scores
from serving.predictor import load_predictor
from tasks.data.dataset import Dataset, Subset, subset
from tasks.data.prepare import prepare
from tasks.data.split import read_table
from tasks.evaluation.outputs import from_files, original_bytes
from tasks.model.backbone import describe
from tasks.model.classifier import Checkpoint, load_classifier, manifest_of
from tasks.training.pictures import logits_of

BATCHES = (1, 7, 32)
CLOSE = 1e-4
REQUEST_SECONDS = 30
CLIENTS = 4
Answers = tuple[Labels, Scores]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path, help="Thaw home of the run")
    parser.add_argument("run_id", help="directory below HOME/runs")
    parser.add_argument("--data", type=Path, help="the run's data.root; default: the demo's manifest in HOME")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    arguments = parser.parse_args()
    home = arguments.home.resolve()
    figures = measure(home, arguments.run_id, arguments.data or home / MANIFEST, os.environ)
    conclude("parity", figures, table(figures), requirements(figures), arguments.write)


def measure(home: Path, run_id: str, data: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Every way of asking compared with every other. `environment`: of the server, with the run's BENTOML_HOME."""
    run = home / "runs" / run_id
    artifact = artifacts.read(sorted(run.glob("artifact-*"))[-1])
    dataset, tuned = prepared(home, artifact, data), checkpoint(run, "finetune")
    test = subset(dataset, "test")
    ways = {("PyTorch", size): by_network(artifact, dataset, tuned, test, size) for size in BATCHES}
    ways |= {("predictor", size): by_predictor(artifact, test, size) for size in BATCHES}
    store = {key: value for key, value in environment.items() if key == "BENTOML_HOME"}
    with served(store | {"THAW_HOME": str(home), "THAW_NAME": artifact.contents.name}) as server:
        ways[("HTTP", 1)] = by_http(server.url, artifact, test)
    return {
        "pictures": len(test),
        "precision": artifact.contents.precision,
        "pairs": [_compared(first, second, ways[first], ways[second]) for first, second in combinations(ways, 2)],
    }


def prepared(home: Path, artifact: Artifact, data: Path) -> Dataset:
    """The run's dataset, used again."""
    values = checked(artifact.contents.configuration)
    dataset = prepare(values.name, home, values.data.model_copy(update={"root": data}), describe(values.model))
    held_out = {digest for digest, place in read_table(artifact.path / SPLIT).items() if place.split == "test"}
    if held_out != set(subset(dataset, "test").digests):
        raise SystemExit(f"expected the pictures the run was made of at {data}, found another test split: name --data")
    return dataset


def checkpoint(run: Path, phase: str) -> Checkpoint:
    """What a phase of the run left."""
    found = Checkpoint(run / phase, phase, "", reused=True)
    return replace(found, key=str(manifest_of(found)["key"]))


def by_network(artifact: Artifact, dataset: Dataset, tuned: Checkpoint, test: Subset, size: int) -> Answers:
    """The trained network itself, with the artifact's temperature and rule."""
    network = load_classifier(tuned)
    logits = np.concatenate([logits_of(network, dataset, part) for part in parts(test, size)])
    scaled = logits / artifact.contents.temperature
    probabilities = np.exp(scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)).astype(np.float32)
    return artifact.contents.rule.decide(probabilities, artifact.classes), probabilities


def by_predictor(artifact: Artifact, test: Subset, size: int) -> Answers:
    predictor = load_predictor(artifact, "cpu")
    samples = [from_files(predictor, part).sample for part in parts(test, size)]
    return np.concatenate([s.decided for s in samples]), np.concatenate([s.probabilities for s in samples])


def by_http(address: str, artifact: Artifact, test: Subset) -> Answers:
    """One request a picture."""
    classes = artifact.classes
    with httpx.Client(base_url=address, timeout=REQUEST_SECONDS, trust_env=False) as client:

        def ask(row: int) -> tuple[int, list[float]]:
            response = client.post("/v1/predict", params={"top_k": len(classes)}, content=original_bytes(test, row))
            body = response.raise_for_status().json()
            if body["model"]["digest"] != artifact.digest:
                raise SystemExit(f"not met: the run's own artifact served, found {body['model']}")
            scores = {score["label"]: score["probability"] for score in body["scores"]}
            return classes.index(body["label"]), [scores[label] for label in classes]

        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = list(pool.map(ask, range(len(test))))
    return np.array([label for label, _ in answers]), np.array([scores for _, scores in answers], np.float32)


def parts(test: Subset, size: int) -> Iterator[Subset]:
    """The same pictures, `size` at a time."""
    for start in range(0, len(test), size):
        at = slice(start, start + size)
        yield Subset(test.rows[at], test.labels[at], test.digests[at], test.units[at], test.paths[at])


def _compared(first: tuple[str, int], second: tuple[str, int], ours: Answers, theirs: Answers) -> dict[str, Any]:
    return {
        "first": first[0],
        "first_batch": first[1],
        "second": second[0],
        "second_batch": second[1],
        "equal_labels": int((ours[0] == theirs[0]).sum()),
        "largest_difference": float(np.abs(ours[1] - theirs[1]).max()),
    }


def requirements(f: dict[str, Any]) -> list[tuple[bool, str]]:
    found = []
    for row in f["pairs"]:
        pair = f"{row['first']} {row['first_batch']} and {row['second']} {row['second_batch']}"
        equal, apart = row["equal_labels"], row["largest_difference"]
        found.append((equal == f["pictures"], f"{f['pictures']} equal labels of {pair}, found {equal}"))
        found.append((apart <= CLOSE, f"probabilities of {pair} at most {CLOSE} apart, found {apart:.3g}"))
    return found


def table(f: dict[str, Any]) -> str:
    body = [
        (
            f"{row['first']}, {row['second']}",
            f"{row['first_batch']}, {row['second_batch']}",
            f"{row['equal_labels']} of {f['pictures']}",
            f"{row['largest_difference']:.1e}",
        )
        for row in f["pairs"]
    ]
    title = f"# {f['pictures']} test pictures through PyTorch, the predictor and HTTP ({f['precision']})\n"
    return "\n".join([title, rows(("pair", "batch sizes", "equal labels", "largest difference"), body), ""])


if __name__ == "__main__":
    main()
