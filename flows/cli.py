"""The `thaw` command.

Each command imports what it needs when it runs: predict and serve load neither torch nor prefect.

Exit status: 0 done; 2 bad input or configuration; 3 REJECTED, or `audit` found what blocks; 4 INCONCLUSIVE;
1 anything else.
"""

from __future__ import annotations

import io
import json
import os
import sys

import typer
from typer.exceptions import TyperException

from flows import cli_audit, cli_models, cli_platform, cli_runs, cli_split, quiet
from flows.options import err, escaped
from serving.errors import ThawError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Retrain, gate and serve image classifiers.",
)
for command in (
    cli_runs.demo,
    cli_runs.retrain,
    cli_audit.audit,
    cli_models.serve,
    cli_models.predict,
    cli_models.show,
    cli_runs.gate,
    cli_runs.verify,
    cli_models.promote,
    cli_models.rollback,
    cli_split.split,
    cli_models.gc,
    cli_platform.init,
    cli_platform.schedule,
    cli_platform.up,
    cli_platform.doctor,
):
    app.command()(command)


def main() -> None:
    """Runs the command line; every error Thaw raises on purpose is one line and a stable exit status."""
    quiet.set_defaults()
    if isinstance(sys.stdout, io.TextIOWrapper):  # as stderr is: a file name need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = app(standalone_mode=False)
    except ThawError as error:
        message = str(getattr(error, "details", error))  # a person here may read the names of pictures
        _tell(error.code, message)
        err.print(f"[bold red]error:[/] {escaped(message)}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_status)
    except typer.Abort:
        _tell("interrupted", "interrupted")
        sys.exit(1)
    except TyperException as error:  # a word of the command line that does not exist, or makes no sense
        _tell("usage", error.format_message())
        error.show()  # type: ignore[attr-defined]  # the public class does not declare it
        sys.exit(error.exit_code)
    sys.exit(status if isinstance(status, int) else 0)


def _tell(code: str, message: str) -> None:
    if "--json" in sys.argv:
        print(json.dumps({"error": {"code": code, "message": message}}))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
