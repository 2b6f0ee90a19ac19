"""The champion a server answers with, kept up to date from the ledger.

A thread asks the ledger for the champion's generation; a new one is opened, verified, warmed and proven beside the old
one, then becomes current by one assignment; the old one is released when its last request ends. Whatever fails, the old
one stays and the error is shown. The thread also tells the ledger what this server answers with.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving import database, servers
from serving.artifact import Artifact
from serving.batching import Batcher, batcher_of
from serving.errors import BadInput, ThawError
from serving.ledger import Champion, Ledger
from serving.predictor import Predictor, load_predictor
from serving.servers import REPORT_SECONDS, Server
from serving.settings import Device
from serving.store import Store, resolve_name

RETRY_SECONDS = 30.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A champion in memory. A request reads the reference once and uses only it."""

    predictor: Predictor
    batcher: Batcher
    artifact: Artifact
    name: str
    version: int
    generation: int
    since: str


class Live:
    """`current` is None until there is a champion to load. `last_error` is that of the last attempt, or None.

    `swaps` counts the champions that were loaded, `failures` the attempts that failed.
    """

    def __init__(
        self,
        home: Path,
        ledger: str | None = None,
        name: str | None = None,
        device: Device = "auto",
        threads: int = 1,
        poll_seconds: float = 1.0,
    ) -> None:
        self.current: Loaded | None = None
        self.last_error: str | None = None
        self.swaps = self.failures = 0
        self._home = home
        self._ledger_place: Path | str = ledger or home
        self._name = name
        self._device: Device = device
        self._threads = threads
        self._poll_seconds = poll_seconds
        self._ledger: Ledger | None = None
        self._file: tuple[int, int] | None = None  # which file the ledger is, of SQLite's
        self._failed: int | None = None  # generation that did not load
        self._retry_at = 0.0  # and when it is tried again: a disk may come back
        self._reported: Server | None = None
        self._id = uuid.uuid4().hex
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="thaw-follow", daemon=True)

    def start(self) -> None:
        """Loads the champion if there is one, then follows the ledger in the background."""
        self.refresh()
        self.report()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        if self._ledger is not None:
            if self._reported is not None:
                self._quietly(servers.leave, self._ledger, self._id)
            self._ledger.close()

    def report(self) -> None:
        """Tells the ledger what this server answers with: at once when that changed, else every few seconds."""
        name = self._name or (self.current.name if self.current else None)
        if self._ledger is None or name is None:
            return
        loaded = self.current
        now = Server(
            id=self._id,
            name=name,
            place=f"{socket.gethostname()}:{os.getpid()}",
            version=loaded.version if loaded else None,
            generation=loaded.generation if loaded else 0,
            provider=loaded.predictor.provider if loaded else None,
            error=self.last_error,
            seen_at=time.time(),
        )
        before = self._reported
        if before and now == replace(before, seen_at=now.seen_at) and now.seen_at < before.seen_at + REPORT_SECONDS:
            return
        self._reported = now
        self._quietly(servers.report, self._ledger, now)

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
        ledger = self._opened()
        if ledger is None:
            self.last_error = None
            return  # nothing was ever published here; wait for the first
        name = self._followed(ledger)
        champion = ledger.champion(name) if name else None
        if champion is None or champion.version is None or self._is_current(ledger, champion):
            self.last_error = None  # e.g. of a ledger that could not be read for a while
            return
        if champion.generation == self._failed and time.monotonic() < self._retry_at:
            return
        self._failed, self._retry_at = champion.generation, time.monotonic() + RETRY_SECONDS
        try:
            self._load(ledger, champion, champion.version)
        except Exception:
            self.failures += 1
            raise
        self.last_error = self._failed = None
        self.swaps += 1

    def _opened(self) -> Ledger | None:
        """The ledger; anew if another file was put in its place, as a restored backup is. None if there is none yet.

        Raises BadInput: it is gone, while something is served.
        """
        file = database.file_identity(self._ledger_place)
        if self._ledger is not None and file != self._file:
            if file is not None:
                logger.warning("the ledger's file was replaced: following the new one")
            self._ledger.close()
            self._ledger = self._reported = self._failed = None
        if self._ledger is None:
            try:
                self._ledger = Ledger(self._ledger_place, create=False)
            except BadInput:
                if self.current is None:
                    return None
                raise BadInput(
                    f"expected the ledger at {database.file_of(self._ledger_place)}, found none: going on with version "
                    f"{self.current.version}; bring it back, or restore a backup"
                ) from None
            self._file = file
        return self._ledger

    def _is_current(self, ledger: Ledger, champion: Champion) -> bool:
        """By digest, too: a ledger that was restored counts the same generations and versions once more."""
        ours = self.current
        if ours is None or (ours.generation, ours.version) != (champion.generation, champion.version):
            return False
        return ledger.version(champion.name, ours.version).digest == ours.artifact.digest

    def _load(self, ledger: Ledger, champion: Champion, version: int) -> None:
        artifact = Store(self._home, ledger).open(champion.name, version)
        predictor = load_predictor(artifact, self._device, self._threads)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        identity = (champion.name, version, champion.generation, since)
        self.current = Loaded(predictor, batcher_of(predictor, self._threads), artifact, *identity)
        logger.info("answering with %s:%d on %s", champion.name, version, predictor.provider)

    def _followed(self, ledger: Ledger) -> str | None:
        """The name to answer with: given, or the one answered with already, or the only one there is."""
        if self._name is not None:
            return self._name
        if self.current is not None:
            return self.current.name
        return resolve_name(ledger, None) if ledger.names() else None

    def _quietly(self, tell: Callable[..., None], *arguments: Any) -> None:
        """A ledger that cannot be written to must not stop a server from answering."""
        try:
            tell(*arguments)
        except Exception as error:
            logger.warning("the ledger was not told about this server: %s", type(error).__name__)

    def _complain(self, message: str) -> None:
        if message != self.last_error:
            logger.error("%s", message)
        self.last_error = message

    def _follow(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            self.refresh()
            self.report()
