"""Artifacts at rest: Thaw's entries in the BentoML model store, and the order that makes publishing safe.

BentoML creates an entry's final directory first and copies into it, so a kill would leave a half model that blocks its
tag for ever. Thaw therefore builds the entry in a staging store beside it, under the name's lock, and renames it into
place; it counts only once the ledger names it. An entry that the ledger does not name is what a kill between the two
left, and the next publish removes it. Look-ups are by exact tag.
"""

from __future__ import annotations

import getpass
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore

from serving import artifact as artifacts
from serving import sealed
from serving.artifact import Artifact
from serving.errors import ArtifactError, BadInput
from serving.ledger import Ledger, Version
from serving.locks import locked

LABEL = "thaw-ledger"

_PUBLISH_SECONDS = 600.0

logger = logging.getLogger(__name__)


class Store:
    """The artifacts of one ledger. `home` holds the locks."""

    def __init__(self, home: Path, ledger: Ledger) -> None:
        self._home = home
        self._ledger = ledger

    def publish(self, source: Artifact, who: str, why: str) -> Version:
        """Stores a copy of a certified artifact as the name's next version and records it.

        Durable before it is visible: files and directories are flushed and read back before the ledger says so. An
        artifact that is a stored version already is not published twice: that version is the answer, and nothing is
        written. Raises ArtifactError if its files were altered.
        """
        name = source.contents.name
        with self._locked(name):
            published = self._published(source)
            if published is not None:
                artifacts.read(_place_of(published.tag), published.digest)
                return published
            number = max((entry.version for entry in self._ledger.versions(name)), default=0) + 1
            tag = f"{name}:{self._ledger.id}-{number}"
            self._remove_unrecorded(tag)
            self._write(tag, source)
            artifacts.read(_place_of(tag), source.digest)
            return self._ledger.publish(name, number, source.digest, tag, source.contents.verdict, who, why)

    def open(self, name: str, version: int) -> Artifact:
        """A published version, verified. Raises BadInput (never published) or ArtifactError (lost, altered)."""
        entry = self._ledger.version(name, version)
        place = _place_of(entry.tag)
        if not place.is_dir() and version in self._ledger.removed(name):
            raise BadInput(
                f"expected {name}:{version} in the model store, found it removed by `thaw gc`: see `thaw show`"
            )
        if not place.is_dir():
            raise ArtifactError(
                f"expected {name}:{version} in the model store as {entry.tag}, found no such entry at {place}: "
                "check BENTOML_HOME, or restore it"
            )
        return artifacts.read(place, entry.digest)

    def champion(self, name: str) -> Artifact:
        """The champion's artifact. Raises BadInput where there is none."""
        champion = self._ledger.champion(name)
        if champion.version is None:
            raise BadInput(f"expected a champion of {name}, found none: `thaw promote {name}:VERSION`")
        return self.open(name, champion.version)

    def remove(self, name: str, version: int, who: str, why: str) -> None:
        """Takes a version's files away; its row and history stay. Recorded first: what is half gone is known to be."""
        entry = self._ledger.version(name, version)
        with self._locked(name):
            self._ledger.record_removal(entry, who, why)
            place = _place_of(entry.tag)
            if place.exists():
                doomed = self._staging(name)
                shutil.rmtree(doomed, ignore_errors=True)
                place.rename(doomed)
                shutil.rmtree(doomed)

    def is_stored(self, entry: Version) -> bool:
        return _place_of(entry.tag).exists()

    def names(self) -> tuple[str, ...]:
        """Names with entries of this ledger, whole or not, recorded or left by an interrupted first publish."""
        home, ours = _bentoml_home(), self._ledger.id
        staged = {path.name.removeprefix(self._staging("").name) for path in home.glob(f"{self._staging('').name}*")}
        return tuple(sorted(staged | {path.parent.name for path in (home / "models").glob(f"*/{ours}-*")}))

    def leftovers(self, name: str) -> tuple[Path, ...]:
        """What interrupted publishes left of a name: entries the ledger does not know, and a half-written one."""
        recorded = {_place_of(entry.tag) for entry in self._ledger.versions(name)}
        ours = (_bentoml_home() / "models" / name).glob(f"{self._ledger.id}-*")
        staging = self._staging(name)
        return (*sorted(place for place in ours if place not in recorded), *([staging] if staging.exists() else []))

    def remove_leftovers(self, name: str) -> tuple[Path, ...]:
        """Removes them, while nobody publishes, and says what they were."""
        with self._locked(name):
            found = self.leftovers(name)
            for place in found:
                shutil.rmtree(place)
            return found

    def _published(self, source: Artifact) -> Version | None:
        """The stored version that this artifact already is: a run that is resumed publishes again."""
        name = source.contents.name
        removed = self._ledger.removed(name)  # recorded before the files go: they may still be there
        stored = (entry for entry in self._ledger.versions(name) if entry.version not in removed)
        return next((entry for entry in stored if entry.digest == source.digest and self.is_stored(entry)), None)

    def _staging(self, name: str) -> Path:
        """Where a name's entry is written, or taken apart, under its lock."""
        return _bentoml_home() / f".thaw-{self._ledger.id}-{name}"

    def _remove_unrecorded(self, tag: str) -> None:
        """Clears what a kill left under a tag that the ledger does not know."""
        place = _place_of(tag)
        if place.exists():
            logger.warning("removing %s, left incomplete by an interrupted publish", tag)
            shutil.rmtree(place)

    def _write(self, tag: str, source: Artifact) -> None:
        staging = self._staging(source.contents.name)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            labels = {LABEL: self._ledger.id}
            with bentoml.models.create(tag, labels=labels, _model_store=ModelStore(staging)) as entry:
                for name in (*source.contents.files, artifacts.MANIFEST):
                    shutil.copyfile(source.path / name, entry.path_of(name))
            complete = staging / Path(*tag.split(":"))
            for path in (*complete.rglob("*"), complete):
                sealed.sync(path)
            place = _place_of(tag)
            place.parent.mkdir(parents=True, exist_ok=True)
            complete.rename(place)
            for directory in (place.parent, place.parent.parent):  # the second: the name's directory may be new
                sealed.sync(directory)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """One publisher per name; the lock goes with the process that holds it."""
        with locked(self._home, f"publish-{name}", _PUBLISH_SECONDS), self._ledger.locked(name):
            yield


def resolve_name(ledger: Ledger, name: str | None) -> str:
    """The name given, or the only one there is. Raises BadInput where that is not clear."""
    names = ledger.names()
    if name is None and len(names) == 1:
        return names[0]
    if name is None or name not in names:
        found = ", ".join(names) or "none"
        wanted = "one model name" if name is None else f"a model named {name}"
        raise BadInput(f"expected {wanted}, found {found}: give --name, or publish one with `thaw retrain`")
    return name


def parse_reference(reference: str) -> tuple[str, int | None]:
    """`NAME` or `NAME:VERSION`.

    >>> parse_reference("solar-cells:3")
    ('solar-cells', 3)
    """
    name, colon, version = reference.partition(":")
    if colon and not re.fullmatch(r"[1-9][0-9]{0,8}", version):
        raise BadInput(f"expected NAME or NAME:VERSION with a number from 1, found {reference!r}")
    return name, int(version) if colon else None


def _place_of(tag: str) -> Path:
    """Where BentoML keeps, or would keep, the entry with exactly this tag; its `get` also takes a unique prefix."""
    return _bentoml_home() / "models" / Path(*tag.split(":"))


def _bentoml_home() -> Path:
    return Path(BentoMLContainer.bentoml_home.get())


def whoami() -> str:
    """The account an event is recorded for."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user id without a name
        return "unknown"
