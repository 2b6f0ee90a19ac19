"""publish and promote: from a certified artifact to the champion that servers answer with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from serving import artifact as artifacts
from serving.errors import Conflict
from serving.ledger import Ledger, opened
from serving.store import Store
from tasks.certification.certify import Candidate, Certified
from tasks.progress import Progress, silent
from tasks.release.spec import ReleaseSpec

DRAW = "draw"  # the ledger's event of a fresh held-out set; its version is the last that the old one judged


@dataclass(frozen=True, slots=True)
class Published:
    """A version in the store, recorded in the ledger."""

    name: str
    version: int
    digest: str


@dataclass(frozen=True, slots=True)
class Promotion:
    """Whether a version became champion, and why. `stale`: the champion is no longer the one certified against;
    `waiting`: for a person's word.
    """

    promoted: bool
    stale: bool
    reason: str
    waiting: bool = False


def find_champion(name: str, home: Path, ledger: str | None) -> Candidate | None:
    """The present champion, verified, or None where there is none yet."""
    with opened(ledger or home) as book:
        champion = book.champion(name)
        if champion.version is None:
            return None
        artifact = Store(home, book).open(name, champion.version)
        return Candidate(artifact.path, artifact.digest, champion.version, champion.generation)


def decisions_made(name: str, home: Path, ledger: str | None) -> int:
    """How many versions of this name were judged on its present held-out pictures so far."""
    with opened(ledger or home) as book:
        return judged_since_draw(book, name)


def judged_since_draw(book: Ledger, name: str) -> int:
    """Versions published after the last fresh held-out set was drawn, or all of them."""
    drawn = max((event.version or 0 for event in book.history(name) if event.kind == DRAW), default=0)
    return sum(entry.version > drawn for entry in book.versions(name))


def publish(
    certified: Certified, home: Path, ledger: str | None, who: str, why: str, progress: Progress = silent
) -> Published:
    """Stores a certified artifact, whatever its verdict, as the name's next version and records it.

    Writes the model store and the ledger, both complete or not at all; nothing, if it was published before. Raises
    ArtifactError if the artifact, or what was stored of it before, was altered.
    """
    with opened(ledger or home) as book:
        entry = Store(home, book).publish(artifacts.read(certified.artifact, certified.digest), who, why)
    progress(1, 1, f"{entry.name}:{entry.version}, {entry.verdict}")
    return Published(entry.name, entry.version, entry.digest)


def promote(
    published: Published,
    certified: Certified,
    home: Path,
    ledger: str | None,
    release: ReleaseSpec,
    who: str,
    why: str,
    progress: Progress = silent,
) -> Promotion:
    """Makes the version champion if it PASSED, the name is not on hold, and the champion it met is still champion.

    Writes the ledger; nothing, if the version is the champion already.
    """
    promotion = _promote(published, certified, home, ledger, release, who, why)
    progress(1, 1, promotion.reason)
    return promotion


def _promote(
    published: Published, certified: Certified, home: Path, ledger: str | None, release: ReleaseSpec, who: str, why: str
) -> Promotion:
    label = f"{published.name}:{published.version}"
    if certified.verdict != "PASSED":
        return Promotion(False, False, f"{label} is {certified.verdict}: the champion stays")
    with opened(ledger or home) as book:
        champion = book.champion(published.name)
        if champion.version == published.version:  # promoted by this run before it was killed, or meanwhile by hand
            return Promotion(True, False, f"{label} is the champion")
        if release.promote != "auto":
            return Promotion(False, False, f"published; to serve it: thaw promote {label}")
        if champion.hold:
            return Promotion(False, False, f"{published.name} is on hold: thaw promote {label} --release-hold")
        try:
            book.promote(published.name, published.version, who=who, why=why, expected_generation=certified.generation)
        except Conflict as conflict:
            return Promotion(False, True, str(conflict))
    return Promotion(True, False, f"{label} is the champion")
