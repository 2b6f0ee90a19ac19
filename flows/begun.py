"""The parameters that runs keep, and what a command line means beside them. Loads neither torch nor prefect."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from flows.parameters import Parameters, read_parameters
from serving import sealed
from serving.errors import BadInput
from serving.settings import find_home
from tasks.release.unchanged import RESULT

PARAMETERS = "parameters.json"


def check_root(root: Path) -> None:
    """Raises BadInput for a relative root: which pictures it means depends on where the worker was started."""
    if not root.is_absolute() and not str(root).startswith("~"):
        raise BadInput(
            f"data.root: expected an absolute path on the worker's machine, found {str(root)!r}: write it so"
        )


def keep_parameters(run: Path, parameters: Parameters) -> None:
    """Writes `parameters.json`. Raises BadInput if the run was begun with others."""
    kept, text = run / PARAMETERS, parameters.model_dump_json(indent=1)
    if kept.is_file():
        begun = read_run(run)
        if begun != parameters:
            changed = [key for key in Parameters.model_fields if getattr(begun, key) != getattr(parameters, key)]
            raise BadInput(
                f"expected the parameters that run {run.name} was begun with, found other {', '.join(changed)}: "
                "resume it without them, or start a new run"
            )
        return
    run.mkdir(parents=True, exist_ok=True)
    sealed.write_text(kept, text)


def read_run(run: Path) -> Parameters:
    """The parameters of a run. Raises BadInput where there is no such run, or another version of Thaw began it."""
    kept = run / PARAMETERS
    if not kept.is_file():
        known = ", ".join(path.parent.name for path in sorted(run.parent.glob(f"*/{PARAMETERS}"))[-3:]) or "none"
        raise BadInput(f"expected a run that was begun, found no {run.name} in {run.parent}: the latest are {known}")
    try:
        return Parameters.model_validate_json(kept.read_text(encoding="utf-8"))
    except ValueError:
        raise BadInput(
            f"expected parameters that this version of Thaw knows in {kept}, found others: start a new run"
        ) from None


def last_parameters(home: Path, name: str, hint: str = "give the folder, and --name") -> Parameters:
    """The parameters of the newest run of a name that came to a verdict. Raises BadInput where it has none."""
    for result in sorted((home / "runs").glob(f"*/{RESULT}"), reverse=True):
        with suppress(BadInput):  # one damaged old run must not stop every new one
            parameters = read_run(result.parent)
            if parameters.name == name:
                return parameters
    raise BadInput(
        f"expected pictures, or the name of a model that was retrained before, found {name!r}, which is neither here "
        f"nor in {home}: {hint}"
    )


def choose(
    data: str | None, name: str | None, config: Path | None, settings: Sequence[str], resume: str | None
) -> tuple[Parameters, Path | None]:
    """What the command line means, and the directory of the run it goes on with. Raises BadInput.

    `data` is where the pictures lie, or the name of a model whose last run's parameters hold; what stands on the
    command line wins over the file.
    """
    home = find_home()
    run = None if resume is None else home / "runs" / resume
    base: dict[str, Any] = {}
    given: dict[str, Any] = {} if name is None else {"name": name}
    if run is not None:
        base = read_run(run).model_dump(mode="json")
    elif data is not None and name is None and config is None and not Path(data).expanduser().exists():
        return read_parameters(last_parameters(home, data).model_dump(mode="json"), None, settings), None
    if data is not None:
        given["data"] = {"root": data}
    return read_parameters(base, config, settings, given), run
