"""Errors without the names of pictures.

The orchestrator stores and logs what a step raises, and others read that. What names a picture, and any error that
nobody foresaw (its text can hold anything), goes to `runs/<run-id>/error.txt` under the home instead.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.exc import OperationalError

from serving import sealed
from serving.errors import ThawError

FILE = "error.txt"
_DETAILS = "details"  # of an error


class StepFailed(ThawError):
    """A step ended with an error that nobody foresaw. `transient`: a database did not answer, a retry can help."""

    code = "step_failed"
    transient = False


class _Details(str):
    """Text that stays in this process: the orchestrator pickles errors into its result storage."""

    __slots__ = ()

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (f"the details stand in {FILE} of the run",)


def details_of(error: ThawError) -> str:
    """The whole message with the names of pictures; of an error that nobody foresaw, its traceback."""
    return str(getattr(error, _DETAILS, error))


def message_of(error: ThawError) -> str:
    """For the person who ran the command: names of pictures too, but a traceback stays in its file."""
    return str(error) if isinstance(error, StepFailed) else details_of(error)


def discreet(step: Callable[..., Any]) -> Callable[..., Any]:
    """The step, raising errors whose text may be shared; `details_of` has the rest."""

    @functools.wraps(step)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return step(*arguments, **options)
        except ThawError as error:
            if error.shared != str(error):
                setattr(error, _DETAILS, _Details(error))
                error.args = (error.shared,)
            raise error from None
        except Exception as error:  # the orchestrator's own signals, time-outs included, are none
            failed = StepFailed(f"{type(error).__name__} in {step.__name__}")
            setattr(failed, _DETAILS, _Details(traceback.format_exc()))
            failed.transient = isinstance(error, OperationalError)
            raise failed from None

    return run


@contextmanager
def details_kept(run: Path) -> Iterator[None]:
    """Writes the details of an error that leaves into the run's directory, and says so in its message."""
    try:
        yield
    except ThawError as error:
        if hasattr(error, _DETAILS):
            run.mkdir(parents=True, exist_ok=True)
            # a file name need not be UTF-8
            sealed.write_text(run / FILE, details_of(error).encode("utf-8", "backslashreplace").decode())
            error.args = (f"{error} (details: {run / FILE})",)
        raise
