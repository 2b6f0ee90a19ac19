"""Artifacts small enough to make dozens of: a linear model on the mean colour, in the real format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from serving import artifact as artifacts
from serving import sealed
from serving.artifact import Artifact, Rule
from serving.predictor import Predictor
from serving.preprocess import Preprocessing

SIDE = 8
CLASSES = ("red", "green", "blue")
PREPROCESSING = Preprocessing(image_size=SIDE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def write_model(path: Path, classes: int = 3, bias: float = 0.0, side: int = SIDE, names: str = "") -> Path:
    """`bias` is added to the first class: NaN breaks the model, another number makes another version."""
    weights = np.zeros((3, classes), np.float32)
    np.fill_diagonal(weights, 1 / 50)
    offset = np.zeros(classes, np.float32)
    offset[0] = bias
    nodes = [
        helper.make_node("Cast", ["images"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["real", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["product"]),
        helper.make_node("Add", ["product", "offset"], ["logits" + names]),
        helper.make_node("Softmax", ["logits" + names], ["probabilities"], axis=1),
    ]
    constants: dict[str, Any] = {"axes": np.array([1, 2], np.int64), "weights": weights, "offset": offset}
    _save(path, nodes, constants, classes, side, names)
    return path


def _save(path: Path, nodes: list[Any], constants: dict[str, Any], classes: int, side: int, names: str = "") -> None:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", side, side, 3])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", classes])
            for name in ("probabilities", "logits" + names)
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)


def write_looking_model(path: Path, seed: int = 0) -> Path:
    """A linear model on every pixel, with random weights: unlike the mean colour, it sees what is where."""
    weights = np.random.default_rng(seed).normal(0, 0.002, (SIDE * SIDE * 3, len(CLASSES))).astype(np.float32)
    weights -= weights.mean(axis=0)  # flat pictures say nothing
    nodes = [
        helper.make_node("Cast", ["images"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["real"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    _save(path, nodes, {"weights": weights}, len(CLASSES), SIDE)
    return path


def about(name: str, verdict: str = "PASSED", rule: Rule | None = None) -> dict[str, Any]:
    """What `artifact.json` says beside schema and files."""
    return {
        "name": name,
        "classes": CLASSES,
        "preprocessing": PREPROCESSING.model_dump(mode="json"),
        "rule": (rule or Rule()).model_dump(mode="json"),
        "temperature": 1.0,
        "metrics": {},
        "checks": [],
        "verdict": verdict,
        "champion_generation": None,
        "dataset": {},
        "configuration": {},
        "provenance": {},
    }


def make_artifact(
    place: Path,
    name: str = "colours",
    bias: float = 0.0,
    verdict: str = "PASSED",
    rule: Rule | None = None,
    looking: bool = False,
) -> Artifact:
    """A certified artifact as `certify` leaves one; `looking`: of the model that sees what is where."""
    with sealed.sealing(place, about(name, verdict, rule), artifacts.MANIFEST) as directory:
        if looking:
            write_looking_model(directory / artifacts.MODEL)
        else:
            write_model(directory / artifacts.MODEL, bias=bias)
        write_golden(directory)
        (directory / artifacts.SPLIT).write_text("picture,unit,split\n")
        (directory / artifacts.CARD).write_text(f"# {name}\n")
    return artifacts.read(place)


def write_golden(directory: Path, **instead: Any) -> None:
    """The model's own answers; `instead` puts other arrays in their place."""
    predictor = Predictor(directory / artifacts.MODEL, CLASSES, PREPROCESSING, Rule(), "cpu")
    images = artifacts.golden_inputs(SIDE)
    probabilities, logits = predictor.scores(images)
    arrays = {"images": images, "probabilities": probabilities, "logits": logits, **instead}
    np.savez_compressed(
        directory / artifacts.GOLDEN, **{name: value for name, value in arrays.items() if value is not None}
    )


def reseal(place: Path, **changes: Any) -> Artifact:
    """The artifact after its files were altered and every digest made to fit again, as an intruder would."""
    manifest = place / artifacts.MANIFEST
    body = json.loads(manifest.read_text()) | changes
    body["files"] = {name: sealed.sha256_of(place / name) for name in body["files"]}
    manifest.write_text(json.dumps(body))
    return artifacts.read(place)
