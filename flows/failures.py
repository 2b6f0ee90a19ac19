"""Errors that nobody raised on purpose, in one sentence for the person who typed the command."""

from __future__ import annotations

import os
import traceback
from contextlib import suppress
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from serving.errors import BadInput, ThawError
from serving.settings import find_home

_LONGEST = 400  # characters of a library's message
TRACEBACK = "THAW_TRACEBACK"


class Unforeseen(ThawError):
    """A library's error, or a defect of ours."""

    code = "internal"


class LedgerError(ThawError):
    """The ledger's database does not answer, or its file is damaged."""

    code = "ledger"


def explained(error: Exception) -> ThawError:
    """The error as one of ours; with the variable THAW_TRACEBACK set, first prints on stderr where it came from."""
    if isinstance(error.__cause__, EOFError):  # Typer takes it for the end of a person's input
        error = error.__cause__
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    with suppress(ThawError, OSError, RuntimeError):  # where the home itself cannot be told
        home = find_home()
        if isinstance(error, OSError) and not home.is_dir() and _is_of(home, error):
            return BadInput(
                f"expected a folder at {home}, or room to make it, found neither ({error.strerror}): "
                "set THAW_HOME to a folder that you may write to"
            )
    if isinstance(error, DBAPIError):
        return LedgerError(
            f"expected the ledger's database to answer, found {_sentence(error.orig or error)}: start it, correct "
            "THAW_LEDGER, or restore ledger.db from a backup (docs/operating.md)"
        )
    return Unforeseen(f"{_sentence(error)} ({TRACEBACK}=1 shows where)")


def _is_of(home: Path, error: OSError) -> bool:
    """Whether it happened to the home, something in it, or a folder that it would be made in."""
    if not isinstance(error.filename, str | bytes):
        return False
    place = Path(os.fsdecode(error.filename))
    return place.is_relative_to(home) or home.is_relative_to(place)


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_LONGEST]}" if text else type(error).__name__
