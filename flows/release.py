"""Moving the champion pointer by hand."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from serving.errors import BadInput
from serving.ledger import opened
from serving.settings import existing_home, load_settings
from serving.store import Store, parse_reference, whoami


def promote_version(reference: str, override: str | None, release_hold: bool) -> dict[str, Any]:
    """Makes NAME:VERSION champion after its files were verified.

    `override`: the reason for a version that did not pass.
    """
    home = existing_home()
    name, version = parse_reference(reference)
    if override is not None and not override.strip():
        raise BadInput("expected a reason for --override, found none: it is kept in the history")
    if version is None:
        raise BadInput(f"expected NAME:VERSION, found {reference!r}: see `thaw show {name}`")
    with opened(_ledger() or home, create=False) as ledger:
        contents = Store(home, ledger).open(name, version).contents
        # the champion itself may be promoted again, to end its hold
        free = override is not None or ledger.champion(name).version == version
        champion = ledger.promote(
            name,
            version,
            who=whoami(),
            why=f"override: {override}" if override else "thaw promote",
            expected_generation=None if free else contents.champion_generation,
            override=override is not None,
            release_hold=release_hold,
        )
    return asdict(champion)


def rollback_version(name: str, to: int | None, why: str) -> dict[str, Any]:
    """Back to an earlier champion, whose files are verified first; the name is on hold afterwards."""
    home = existing_home()
    with opened(_ledger() or home, create=False) as ledger:
        version = ledger.rollback_target(name, to)
        Store(home, ledger).open(name, version)
        champion = ledger.rollback(name, to=version, who=whoami(), why=why or "thaw rollback")
    return asdict(champion)


def _ledger() -> str | None:
    return load_settings().ledger
