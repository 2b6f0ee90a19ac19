"""A home with a ledger and a store, what a user does with them, and how a server that follows them is told apart."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.ledger import Ledger
from serving.live import Live
from serving.store import Store
from tests.serving.tiny import SIDE, make_artifact

GREY = np.full((1, SIDE, SIDE, 3), 100, np.uint8)


@dataclass
class World:
    """A home with a ledger and a store, and what a user does with them."""

    place: Path
    ledger: Ledger
    bentoml_home: Path

    @property
    def home(self) -> Path:
        return self.place / "home"

    def publish(self, name: str = "colours") -> int:
        """The next version; each adds its own number to the first class's logit."""
        number = len(self.ledger.versions(name)) + 1
        source = make_artifact(self.place / f"{name}-{number}", name, bias=float(number))
        return Store(self.home, self.ledger).publish(source, "test", "").version

    def promote(self, version: int, name: str = "colours") -> None:
        self.ledger.promote(name, version, who="test", why="", release_hold=True)

    def damage(self, version: int, file: str = "model.onnx", name: str = "colours") -> None:
        path = self.bentoml_home / "models" / name / f"{self.ledger.id}-{version}" / file
        path.write_bytes(b"broken")

    def live(self, name: str | None = None) -> Live:
        return Live(self.home, name=name, device="cpu", poll_seconds=0.02)


def answering(live: Live) -> int | None:
    """The version that answers, told by what it computes, not by what it says."""
    loaded = live.current  # read once, as a request does: the next swap may come at any moment
    if loaded is None:
        return None
    _, logits = loaded.predictor.scores(GREY)
    computed = round(float(logits[0, 0] - logits[0, 1]))
    assert computed == loaded.version
    return computed


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "expected it within 10 seconds"
        time.sleep(0.01)
