"""Evaluations made by hand: real figures and a real verdict of invented outputs, so that any odd case is one call."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from serving.artifact import Rule, Watch
from tasks.data.dataset import PIXELS, Dataset, Slice, Subset
from tasks.evaluation import figures
from tasks.evaluation.evidence import Evidence, Machine, Pairs
from tasks.evaluation.judgement import judge_all
from tasks.evaluation.sample import Sample
from tasks.evaluation.spec import DecisionSpec, GateSpec, WatchSpec

SIDE = 24


def evidence_of(
    classes: tuple[str, ...], each: int = 30, without: str = "", absent: str | None = None, seed: int = 0
) -> Evidence:
    """`each` pictures a class and split, mostly right; `without`: a split left empty; `absent`: a class not in test."""
    draw = np.random.default_rng(seed)

    def sample(split: str) -> Sample:
        labels = [i for i, name in enumerate(classes) if not (split == "test" and name == absent)]
        truth = np.repeat(np.array(labels, np.int64), 0 if split == without else each)
        logits = draw.normal(size=(len(truth), len(classes)))
        logits[np.arange(len(truth)), truth] += 2.0
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        digests = tuple(hashlib.sha256(f"{split}{i}".encode()).hexdigest() for i in range(len(truth)))
        sites = (Slice("site", tuple("north" if i % 3 else "south" for i in range(len(truth)))),)
        return Sample(truth, probabilities.astype(np.float32), truth.copy(), digests, digests, sites).at_argmax()

    samples = {split: sample(split) for split in ("train", "validation", "test")}
    head = np.full((len(samples["test"]), len(classes)), 1 / len(classes))
    return Evidence(classes, False, samples, head, None, 13_685_696, Machine(1e-6, 1e-5, (6.0, 7.0)))


def watching(evidence: Evidence, *labels: str, threshold: float = 0.2) -> tuple[Evidence, Rule]:
    """The evidence decided with one threshold for each of these classes."""
    steps = tuple(Watch(label=label, threshold=threshold, metric="recall", wanted=0.9) for label in labels)
    rule = Rule(watch=steps)
    return evidence.at(rule), rule


def against_champion(evidence: Evidence) -> Evidence:
    """The same evidence beside a champion that says the first class of everything."""
    n = len(evidence.test)
    pairs = Pairs(3, 7, "c" * 64, evidence.classes, np.zeros(n, np.int64), np.ones(n, bool))
    return replace(evidence, champion=pairs)


def evaluation_of(
    evidence: Evidence, rule: Rule = Rule(), gate: GateSpec = GateSpec(min_accuracy=0.5)
) -> dict[str, Any]:
    """What `certify` writes as `evaluation.json`, from the same functions."""
    decision = DecisionSpec(watch=tuple(WatchSpec(label=w.label, recall=0.9) for w in rule.watch))
    judgement, pairs = judge_all(evidence, decision, gate, "fp32"), evidence.champion
    epochs = [_epoch(0, None), _epoch(1, 0.5), _epoch(2, 0.3)]
    counts = {
        split: {label: int((sample.truth == i).sum()) for i, label in enumerate(evidence.classes)}
        for split, sample in evidence.samples.items()
    }
    return {
        "name": "solar-cells",
        "verdict": judgement.verdict,
        "verdict_digest": judgement.digest,
        "checks": [check.as_json() for check in judgement.checks],
        "metrics": figures.by_split(evidence, 1.3, 0.95),
        "baselines": figures.baselines(evidence, 0.95),
        "slices": figures.slices(evidence, decision, 0.95),
        "champion": {
            "generation": pairs.generation if pairs else 0,
            "version": pairs.version if pairs else None,
            "digest": pairs.digest if pairs else None,
            "mcnemar": judgement.comparison.mcnemar,
            "notes": judgement.comparison.notes,
        },
        "held_out": {"decisions": 51, "worn": True},
        "rule": rule.text(),
        "thresholds": {step.label: step.threshold for step in rule.watch},
        "temperature": 1.3,
        "precision": "fp32",
        "size_mb": 13.7,
        "latency_ms": 6.5,
        "phases": {
            "train_head": {"trainable": {"tensors": 2, "values": 2562}, "epochs": [_epoch(1, 0.4)], "best_epoch": 1},
            "finetune": {"trainable": {"tensors": 149, "values": 3_373_570}, "epochs": epochs, "best_epoch": 2}
            | {"learning_rate": 1e-4, "share": 0.75, "signs": ["overfitting: <validation> loss rose"]},
        },
        "classes": evidence.classes,
        "counts": counts,
        "data": {"fingerprint": "67b4fec66d21c70a", "grouped": False, "units": 90, "unreadable": 1, "bridges": 2},
        "configuration": {
            "name": "solar-cells",
            "data": {"root": "secret-folder", "slices": ["site"], "near_duplicates": True},
            "model": {"backbone": "timm/tf_efficientnet_lite0", "weights": "imagenet"},
            "decision": decision.model_dump(mode="json"),
            "gate": gate.model_dump(mode="json"),
        },
        "provenance": {"run_id": "20261122-070057-777a93", "libraries": {"torch": "2.15.0"}},
        "seconds": {"prepare": 5.8, "finetune": 500.0},
        "provider": "CPUExecutionProvider",
    }


def dataset_of(evidence: Evidence, folder: Path) -> tuple[Dataset, Subset]:
    """Prepared test pictures, each of one colour, whose files are called patient-<row>.png."""
    n = len(evidence.test)
    colours = np.arange(n, dtype=np.uint8)[:, None, None, None]
    np.save(folder / PIXELS, np.broadcast_to(colours, (n, SIDE, SIDE, 3)))
    paths = tuple(folder / f"patient-{i}.png" for i in range(n))
    test = Subset(np.arange(n), evidence.test.truth, evidence.test.digests, evidence.test.units, paths)
    return Dataset(folder, "key", "solar-cells", evidence.classes, SIDE, "stretch", False, False), test


def _epoch(epoch: int, train_loss: float | None) -> dict[str, Any]:
    accuracy = None if train_loss is None else 1 - train_loss
    validation = {"validation_loss": 0.45, "validation_accuracy": 0.85, "learning_rate": 0.0}
    means = {"validation_precision": 0.86, "validation_recall": 0.84, "validation_f1": 0.849}
    speed = {"pictures_per_second": None if train_loss is None else 31.4}
    return {"epoch": epoch, "train_loss": train_loss, "train_accuracy": accuracy, **validation, **means, **speed}
