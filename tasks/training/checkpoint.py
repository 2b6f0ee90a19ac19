"""Checkpoints of a phase that is under way, so that a killed run's work is not lost.

Not the phase's result, which is a `tasks.model.classifier.Checkpoint` in the run's directory: these lie beside the
runs, by configuration, so that any later run of the same configuration goes on from them.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from serving import sealed
from serving.errors import ArtifactError
from tasks.training.state import TrainingState

logger = logging.getLogger(__name__)

EVERY_SECONDS = 120.0
KEPT = 2  # the newest, and one to fall back on
_FILE = "state.pt"
_RATE, _RATE_FILE = "rate", "rate.json"  # beside the checkpoints
_FORMAT = 3  # of the state inside; raise it when `TrainingState.state_dict` changes


@dataclass(slots=True)
class TrainingCheckpoints:
    """The checkpoints of one configuration (`key`), in `home/checkpoints/<key>/`.

    Two processes that train the same configuration at once may share the directory: their states are equal, so
    each may use or remove what the other wrote; a writer whose directory vanishes only loses that checkpoint.
    """

    home: Path
    phase: str
    key: str
    every: float = EVERY_SECONDS  # seconds between checkpoints within an epoch
    _saved: float = field(init=False, default_factory=time.monotonic)

    @property
    def place(self) -> Path:
        return self.home / "checkpoints" / self.key

    def due(self) -> bool:
        """Whether the last checkpoint is `every` seconds old."""
        return time.monotonic() - self._saved >= self.every

    def save(self, state: TrainingState) -> None:
        """Writes `epoch-<e>-step-<s>/`: `state.pt`, and a manifest with its sha256; then removes all but two.

        Complete or absent, and flushed to disk. A full disk costs the checkpoint (a warning), not the training.
        """
        position = state.position
        place = self.place / f"epoch-{position.epoch:06}-step-{position.step:09}"
        try:
            if not place.exists():  # else it was written or read at this very position: the same content
                with sealed.sealing(place, self._identity()) as directory:
                    torch.save(state.state_dict(), directory / _FILE)
            for old in self._newest_first()[KEPT:]:
                _remove(old)
        except (OSError, RuntimeError) as error:  # torch's own writer says RuntimeError when a disk is full
            logger.warning("no checkpoint at epoch %d, step %d: %s", position.epoch, position.step, error)
        self._saved = time.monotonic()

    def restore(self, state: TrainingState) -> bool:
        """Puts `state` where the newest usable checkpoint is; False where there is none.

        Each is verified by sha256. A damaged one is removed, with a warning, and the next older one taken.
        """
        for leftover in self.place.glob(".tmp-*"):  # of a writer that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        places = self._newest_first()
        for place in places:
            try:
                saved = self._read(place)
            except (ArtifactError, OSError, RuntimeError, pickle.UnpicklingError) as error:
                logger.warning("not resuming from %s: %s", place, error)
                _remove(place)  # or the name would stay taken
                continue
            state.load_state_dict(saved)
            return True
        if places:
            logger.warning("no usable checkpoint in %s: the phase %s starts from scratch", self.place, self.phase)
        return False

    def rate(self) -> float | None:
        """The learning rate that trials chose for these checkpoints; None where none is kept, or a damaged one."""
        place = self.place / _RATE
        try:
            self._check(place)
            return float(json.loads((place / _RATE_FILE).read_text(encoding="utf-8")))
        except (ArtifactError, OSError):
            return None

    def keep_rate(self, rate: float) -> None:
        """Writes `rate/`, complete or absent; checkpoints that were there are removed: theirs may be another.

        A full disk costs the rate (a warning), not the training.
        """
        self.discard()
        try:
            with sealed.sealing(self.place / _RATE, self._identity()) as directory:
                (directory / _RATE_FILE).write_text(json.dumps(rate), encoding="utf-8")
        except OSError as error:
            logger.warning("the chosen learning rate is not kept: %s", error)

    @contextmanager
    def guarding(self, state: TrainingState) -> Iterator[None]:
        """Saves when the body is interrupted (Ctrl-C, a termination, a cancellation), and raises on.

        Interrupted in the middle of an update, the previous checkpoint stays the newest. An `Exception` is no
        interruption: it would come again from a checkpoint taken where it happened.
        """
        try:
            yield
        except Exception:
            raise
        except BaseException:
            if not state.stepping:
                self.save(state)
            raise

    def discard(self) -> None:
        """Removes all of them: the phase's result is there, or can never be."""
        for old in self._newest_first():
            _remove(old)
        shutil.rmtree(self.place, ignore_errors=True)

    def _newest_first(self) -> list[Path]:
        """By position, which the zero-padded names sort by."""
        return sorted(self.place.glob("epoch-*"), reverse=True)

    def _check(self, place: Path) -> None:
        found = sealed.verify(place)
        for name, expected in self._identity().items():
            if found.get(name) != expected:
                raise ArtifactError(f"{place}: expected {name} {expected}, found {found.get(name)}")

    def _read(self, place: Path) -> dict[str, Any]:
        self._check(place)
        saved: dict[str, Any] = torch.load(place / _FILE, map_location="cpu", weights_only=True)
        return saved

    def _identity(self) -> dict[str, str | int]:
        """What a checkpoint must agree with. Another torch may compute other bits, or keep other state."""
        return {"format": _FORMAT, "phase": self.phase, "key": self.key, "torch": str(torch.__version__)}


def _remove(place: Path) -> None:
    """Under a temporary name first: killed halfway, no directory looks like a checkpoint and is none."""
    with suppress(OSError):
        leaving = place.rename(place.with_name(f".tmp-{place.name}-{os.getpid()}"))
        shutil.rmtree(leaving, ignore_errors=True)
