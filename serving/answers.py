"""The JSON that clients get, as types: what the routes build, what the OpenAPI document says."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from serving.artifact import Rule
from serving.live import Loaded
from serving.predictor import Answer
from serving.refusal import Error


class Score(TypedDict):
    label: str
    probability: float


class ModelName(TypedDict):
    name: str
    version: int
    digest: str


class Prediction(TypedDict):
    """`label` is the decided one, `rule` how it was decided (null: argmax); `scores` are the likeliest classes."""

    label: str
    probability: float
    scores: list[Score]
    rule: str | None
    model: ModelName
    provider: str
    request_id: str


class Item(TypedDict):
    """One picture of a batch."""

    label: str
    probability: float
    scores: list[Score]


class Batch(TypedDict):
    """One result per picture, in the order of the request; each is an answer or an error."""

    results: list[Item | Error]
    rule: str | None
    model: ModelName
    provider: str
    request_id: str


class Swap(TypedDict):
    """When the model was loaded, and why the last attempt to load another failed."""

    at: str
    error: str | None


class Model(TypedDict):
    name: str
    version: int
    digest: str
    classes: list[str]
    rule: str | None
    metrics: dict[str, Any]
    verdict: Literal["PASSED", "REJECTED", "INCONCLUSIVE"]
    precision: Literal["fp32", "fp16", "int8"]
    provider: str
    device: Literal["cuda", "cpu"]
    generation: int
    last_swap: Swap


class Status(TypedDict):
    status: Literal["alive", "ready"]


def item(answer: Answer, top_k: int) -> Item:
    scores: list[Score] = [{"label": label, "probability": p} for label, p in answer.scores[:top_k]]
    return {"label": answer.label, "probability": answer.probability, "scores": scores}


def model_name(loaded: Loaded) -> ModelName:
    return {"name": loaded.name, "version": loaded.version, "digest": loaded.artifact.digest}


def prediction(loaded: Loaded, answer: Answer, top_k: int, request_id: str) -> Prediction:
    return {
        **item(answer, top_k),
        "rule": rule_text(loaded),
        "model": model_name(loaded),
        "provider": loaded.predictor.provider,
        "request_id": request_id,
    }


def batch(loaded: Loaded, results: list[Item | Error], request_id: str) -> Batch:
    return {
        "results": results,
        "rule": rule_text(loaded),
        "model": model_name(loaded),
        "provider": loaded.predictor.provider,
        "request_id": request_id,
    }


def model(loaded: Loaded, last_error: str | None) -> Model:
    contents = loaded.artifact.contents
    return {
        **model_name(loaded),
        "classes": list(contents.classes),
        "rule": rule_text(loaded),
        "metrics": contents.metrics,
        "verdict": contents.verdict,
        "precision": contents.precision,
        "provider": loaded.predictor.provider,
        "device": loaded.predictor.device,
        "generation": loaded.generation,
        "last_swap": {"at": loaded.since, "error": last_error},
    }


def rule_text(loaded: Loaded) -> str | None:
    rule: Rule = loaded.predictor.rule
    return rule.text()
