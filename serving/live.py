"""The champion a server answers with, kept up to date from the ledger.

A thread asks the ledger for the champion's generation; a new one is opened, verified and proven beside the old
one, then becomes current by one assignment. Whatever fails, the old one stays and the error is shown.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from serving.artifact import Artifact
from serving.errors import BadInput, ThawError
from serving.ledger import Ledger
from serving.predictor import Predictor, load_predictor
from serving.settings import Device
from serving.store import Store, resolve_name

RETRY_SECONDS = 30.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A champion in memory. A request reads the reference once and uses only it."""

    predictor: Predictor
    artifact: Artifact
    name: str
    version: int
    generation: int
    since: str


class Live:
    """`current` is None until there is a champion to load. `last_error` is that of the last attempt, or None."""

    def __init__(
        self,
        home: Path,
        ledger: str | None = None,
        name: str | None = None,
        device: Device = "auto",
        threads: int | None = None,
        poll_seconds: float = 1.0,
    ) -> None:
        self.current: Loaded | None = None
        self.last_error: str | None = None
        self._home = home
        self._ledger_place: Path | str = ledger or home
        self._name = name
        self._device: Device = device
        self._threads = threads
        self._poll_seconds = poll_seconds
        self._ledger: Ledger | None = None
        self._failed: int | None = None  # generation that did not load
        self._retry_at = 0.0  # and when it is tried again: a disk may come back
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="thaw-follow", daemon=True)

    def start(self) -> None:
        """Loads the champion if there is one, then follows the ledger in the background."""
        self.refresh()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        if self._ledger is not None:
            self._ledger.close()

    def refresh(self) -> None:
        """Loads the ledger's champion if it is another one than ours. Never raises: see `last_error`."""
        try:
            self._refresh()
        except ThawError as error:
            self._complain(str(error))
        # a server must outlive anything a half-restored disk or a database restart can raise here
        except Exception as error:
            self._complain(f"{type(error).__name__}: {error}")

    def _refresh(self) -> None:
        if self._ledger is None:
            try:
                self._ledger = Ledger(self._ledger_place, create=False)
            except BadInput:
                self.last_error = None
                return  # nothing was ever published here; wait for the first
        name = self._followed(self._ledger)
        champion = self._ledger.champion(name) if name else None
        ours = self.current.generation if self.current else 0
        if champion is None or champion.version is None or champion.generation == ours:
            self.last_error = None  # e.g. of a ledger that could not be read for a while
            return
        if champion.generation == self._failed and time.monotonic() < self._retry_at:
            return
        self._failed, self._retry_at = champion.generation, time.monotonic() + RETRY_SECONDS
        artifact = Store(self._home, self._ledger).open(champion.name, champion.version)
        predictor = load_predictor(artifact, self._device, self._threads)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        self.current = Loaded(predictor, artifact, champion.name, champion.version, champion.generation, since)
        self.last_error = self._failed = None
        logger.info("answering with %s:%d on %s", champion.name, champion.version, predictor.provider)

    def _followed(self, ledger: Ledger) -> str | None:
        """The name to answer with: given, or the one answered with already, or the only one there is."""
        if self._name is not None:
            return self._name
        if self.current is not None:
            return self.current.name
        return resolve_name(ledger, None) if ledger.names() else None

    def _complain(self, message: str) -> None:
        if message != self.last_error:
            logger.error("%s", message)
        self.last_error = message

    def _follow(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            self.refresh()
