"""Small models for the drills: some that work and answer differently, and one broken in each way a candidate can be."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from serving.artifact import MODEL
from serving.predictor import load_predictor
from serving.store import Store
from tests.serving import tiny

NAME = "colours"
GOOD = 8  # versions that work
PICTURES = 12
Expected = dict[tuple[int, int], tuple[str, float]]  # (version, picture): label and probability


def made_pictures() -> Iterator[bytes]:
    random = np.random.default_rng(0)
    for _ in range(PICTURES):
        out = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(out, "PNG")
        yield out.getvalue()


def publish_all(place: Path, store: Store, pictures: list[bytes]) -> Expected:
    """Versions 1 to GOOD work; those after it are broken, each in its way. Returns the good ones' offline answers."""
    expected: Expected = {}
    for version in range(1, GOOD + 1):
        artifact = tiny.make_artifact(place / f"good-{version}", NAME, bias=0.3 * version)
        assert store.publish(artifact, "drill", "good").version == version
        predictor = load_predictor(artifact, "cpu", threads=1)
        for which, data in enumerate(pictures):
            answer = predictor.answer([predictor.read(data)])[0]
            expected[version, which] = (answer.label, answer.probability)
    for breaking in BROKEN.values():
        breaking(place, store)
    return expected


def _publish(place: Path, store: Store, change: Callable[[Path], object] = lambda _: None) -> int:
    number = len(list(place.glob("broken-*"))) + 1
    source = tiny.make_artifact(place / f"broken-{number}", NAME, bias=-0.3 * number)  # each another artifact
    change(source.path)
    return store.publish(tiny.reseal(source.path), "drill", "broken").version


def _stored_model(store: Store, version: int) -> Path:
    return store.open(NAME, version).path / MODEL


def truncated(place: Path, store: Store) -> None:
    model = _stored_model(store, _publish(place, store))
    model.write_bytes(model.read_bytes()[:-100])


def wrong_digest(place: Path, store: Store) -> None:
    card = _stored_model(store, _publish(place, store)).with_name("card.md")
    card.write_text("another card")


def nan_weights(place: Path, store: Store) -> None:
    _publish(place, store, lambda artifact: tiny.write_model(artifact / MODEL, bias=float("nan")))


def wrong_classes(place: Path, store: Store) -> None:
    _publish(place, store, lambda artifact: tiny.write_model(artifact / MODEL, classes=2))


def wrong_input(place: Path, store: Store) -> None:
    _publish(place, store, lambda artifact: tiny.write_model(artifact / MODEL, side=2 * tiny.SIDE))


BROKEN: dict[str, Callable[[Path, Store], None]] = {
    found.__name__: found for found in (truncated, wrong_digest, nan_weights, wrong_classes, wrong_input)
}
