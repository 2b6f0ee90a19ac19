"""The command around a name's held-out pictures: split."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.options import Json
from serving.errors import BadInput
from serving.ledger import opened
from serving.settings import existing_home, load_settings

_MEANING = (
    "The next retrain draws other held-out pictures and trains on the old ones. A new comparison history starts: "
    "versions from before were trained on what is held out then, so that the champion can be compared on none or few "
    "pictures. The next verdict may be INCONCLUSIVE for that alone; a person promotes it: "
    "thaw promote NAME:VERSION --override REASON"
)


def split(
    name: Annotated[str, typer.Argument(help="Model name.")],
    fresh: Annotated[bool, typer.Option("--fresh", help="Draw a fresh held-out set at the next retrain.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Kept in the history; needed with --fresh.")] = "",
    as_json: Json = False,
) -> None:
    """How a model's pictures are divided, and how often its held-out ones decided; or draw fresh ones."""
    from serving.store import parse_reference

    home = existing_home()
    if parse_reference(name)[1] is not None:
        raise BadInput(f"expected NAME, found {name!r}: the split belongs to all versions of a name")
    if reason and not fresh:
        raise BadInput("expected --fresh with --reason, found none: nothing else keeps a reason")
    body = _describe(name, home)
    if fresh:
        body |= _draw(name, home, reason, body["decisions"])
    if as_json:
        print(json.dumps(body))
        return
    counts = ", ".join(f"{count} {kind}" for kind, count in body["pictures"].items())
    print(f"{name}: {counts or 'no table yet'}")
    print(f"decisions on the held-out pictures: {body['decisions']}{' (worn)' if body['worn'] else ''}")
    if fresh:
        print(f"the old table is now {body['archived']}\n{body['meaning']}")


def _describe(name: str, home: Path) -> dict[str, Any]:
    from tasks.certification.certify import WORN_AFTER
    from tasks.data.draws import TABLE, current_draw
    from tasks.data.source import SPLITS
    from tasks.data.split import read_table
    from tasks.release.release import judged_since_draw

    folder = home / "datasets" / name
    counts = Counter(place.split for place in read_table(folder / TABLE).values())
    with opened(load_settings().ledger or home, create=False) as book:
        decisions = judged_since_draw(book, name)
        known = {*book.names(), *(path.parent.name for path in (home / "datasets").glob("*/split*.csv"))}
    if name not in known:
        raise BadInput(f"expected the name of a model, found {name!r}: known are {', '.join(sorted(known)) or 'none'}")
    return {
        "name": name,
        "table": str(folder / TABLE),
        "pictures": {kind: counts[kind] for kind in SPLITS if counts},
        "decisions": decisions,
        "worn": decisions > WORN_AFTER,
        "draw": current_draw(folder).number,
    }


def _draw(name: str, home: Path, reason: str, decisions: int) -> dict[str, Any]:
    """Archives the table, then records it: killed between the two, the counter goes on, which errs on the safe side.

    Pictures that the user divided are looked at first: Thaw draws no others in their place.
    """
    from datetime import UTC, datetime

    from serving.store import whoami
    from tasks.data.draws import archive_table, current_draw
    from tasks.release.release import DRAW

    if not reason.strip():
        raise BadInput("expected a reason with --fresh, found none: it is kept in the history (--reason TEXT)")
    if decisions == 0:
        raise BadInput(f"expected decisions on the held-out pictures of {name}, found none: they are fresh already")
    _check_given(name, home)
    archived = archive_table(name, home, datetime.now(UTC).date().isoformat())
    with opened(load_settings().ledger or home, create=False) as book:
        last = book.versions(name)[0].version
        book.note(name, last, DRAW, whoami(), reason)
    draw = current_draw(archived.parent).number
    meaning = _MEANING.replace("NAME", name)
    return {"archived": str(archived), "draw": draw, "decisions": 0, "worn": False, "pictures": {}, "meaning": meaning}


def _check_given(name: str, home: Path) -> None:
    """Best told before the table is put aside; where the pictures are not here, the next run tells."""
    from flows.begun import last_parameters
    from tasks.data.draws import TABLE, current_draw
    from tasks.data.source import find_pictures
    from tasks.data.split import check_unworn, read_table
    from tasks.data.verified import digest_of

    folder = home / "datasets" / name
    try:
        pictures = find_pictures(last_parameters(home, name).data)
    except BadInput:
        return
    worn = {digest for digest, place in read_table(folder / TABLE).items() if place.split == "test"}
    given = (digest_of(picture) for picture in pictures if picture.split == "test")
    check_unworn(given, worn | current_draw(folder).worn.keys())
