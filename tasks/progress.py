"""How steps say how far they are: a callback, so that they know neither a terminal nor an orchestrator."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    def __call__(self, done: int, total: int, text: str = "") -> None:
        """`done` of `total` units of the step's work are finished; `text` says the latest in words."""


def silent(done: int, total: int, text: str = "") -> None:
    """The callback of a caller who does not want to know."""
