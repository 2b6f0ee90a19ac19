"""All commands of `thaw`, in the order of its help.

Each command imports what it needs when it runs: predict and serve load neither torch nor prefect.
"""

from __future__ import annotations

import typer

from flows import cli_audit, cli_models, cli_platform, cli_runs, cli_split

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
