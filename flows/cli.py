"""The `thaw` command: runs a command line, and says what went wrong.

Exit status: 0 done; 2 bad input or configuration; 3 REJECTED, or `audit` found what blocks; 4 INCONCLUSIVE;
1 anything else.
"""

from __future__ import annotations

import io
import json
import os
import sys
from typing import NoReturn

from flows import quiet
from serving.errors import ThawError

_CTRL_C = 130  # Typer's status where a KeyboardInterrupt ends a command


def main() -> None:
    """Runs the command line; every error is one line, one document under --json, and a stable exit status."""
    quiet.set_defaults()
    if isinstance(sys.stdout, io.TextIOWrapper):  # as stderr is: a file name need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _run()
    except KeyboardInterrupt:  # while modules are imported, or an error is told
        status = _CTRL_C
    if status == _CTRL_C:
        _tell("interrupted", "interrupted")
        print("error: interrupted", file=sys.stderr)
        status = 1
    sys.exit(status)


def _run() -> int:
    """The exit status. Imports everything else, so that Ctrl-C is told from the first moment."""
    from typer.exceptions import TyperException

    from flows.commands import app

    try:
        status = app(standalone_mode=False)
    except ThawError as error:
        _end(error)
    except TyperException as error:  # a word of the command line that does not exist, or makes no sense
        _tell("usage", error.format_message())
        error.show()  # type: ignore[attr-defined]  # the public class does not declare it
        return error.exit_code
    except Exception as error:  # the contract holds for what nobody foresaw, too
        from flows.failures import explained

        _end(explained(error))
    return status if isinstance(status, int) else 0


def _end(error: ThawError) -> NoReturn:
    from flows.options import err, escaped
    from flows.private import message_of

    message = message_of(error)
    _tell(error.code, message)
    err.print(f"[bold red]error:[/] {escaped(message)}", highlight=False, soft_wrap=True)
    sys.exit(error.exit_status)


def _tell(code: str, message: str) -> None:
    if "--json" in sys.argv:
        print(json.dumps({"error": {"code": code, "message": message}}))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
