"""What a step raises: to a person whole, to the orchestrator without the names of pictures."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State, TaskRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import TerminationSignal
from prefect.states import Failed
from sqlalchemy.exc import IntegrityError, OperationalError

from flows.private import FILE, StepFailed, details_kept, details_of, discreet, message_of
from flows.steps import CERTIFY, PROMOTE, PUBLISH, _is_transient
from serving.errors import BadInput, Conflict
from tests.conftest import write_digits
from tests.flows.conftest import errors, thaw

PICTURE = "anna-müller.png"


def names_a_picture() -> None:
    raise BadInput(f"found {PICTURE} broken", shared="found one broken")


def names_none() -> None:
    raise Conflict("another champion")


def breaks() -> None:
    raise ValueError(f"no such {PICTURE}")


def times_out() -> None:
    """As a network drive does; this is not the orchestrator's own."""
    raise TimeoutError(110, "Connection timed out", f"/data/{PICTURE}")


def hangs() -> None:
    for _ in range(600):
        time.sleep(0.1)


def is_restarted() -> None:
    raise OperationalError(f"INSERT '{PICTURE}'", {}, Exception("server closed the connection"))


def raised(step: Callable[[], None]) -> Any:
    with pytest.raises(Exception) as caught:
        discreet(step)()
    return caught.value


# --- the error itself -------------------------------------------------------------------------------


def test_one_of_ours_is_shared_without_the_name() -> None:
    error = raised(names_a_picture)
    assert (type(error), str(error), error.exit_status) == (BadInput, "found one broken", 2)
    assert details_of(error) == f"found {PICTURE} broken"
    assert str(raised(names_none)) == details_of(raised(names_none)) == "another champion"


@pytest.mark.parametrize("step", [breaks, times_out, is_restarted])
def test_one_that_nobody_foresaw_is_shared_by_its_kind(step: Callable[[], None]) -> None:
    error = raised(step)
    assert isinstance(error, StepFailed)
    assert str(error).endswith(f"Error in {step.__name__}")
    assert PICTURE not in repr(error)
    assert PICTURE in details_of(error)
    assert "Traceback (most recent call last)" in details_of(error)
    assert step.__name__ in details_of(error)


def test_the_person_gets_names_but_no_traceback() -> None:
    assert message_of(raised(names_a_picture)) == f"found {PICTURE} broken"
    assert message_of(raised(breaks)) == "ValueError in breaks"


def test_only_a_database_that_does_not_answer_is_worth_a_retry() -> None:
    assert raised(is_restarted).transient is True
    assert raised(breaks).transient is False

    def twice() -> None:
        raise IntegrityError("INSERT", {}, Exception("twice"))

    assert raised(twice).transient is False
    for error, retried in ((raised(is_restarted), True), (raised(breaks), False), (raised(names_a_picture), False)):
        assert _is_transient(PUBLISH, None, Failed(data=error)) is retried  # type: ignore[arg-type]
    assert (PUBLISH.retries, PROMOTE.retries, CERTIFY.retries) == (3, 3, 0)


def test_what_is_pickled_has_no_name() -> None:
    """Prefect keeps the errors of flows in its result storage, which may be anywhere."""
    for step in (names_a_picture, breaks):
        with pytest.raises((BadInput, StepFailed)) as caught, details_kept(Path("run")):
            discreet(step)()
        kept = pickle.dumps(caught.value)
        assert PICTURE.encode() not in kept
        assert b"anna" not in kept
        again = pickle.loads(kept)
        assert str(again) == str(caught.value)
        assert FILE in details_of(again)


@pytest.mark.parametrize(
    "signal", [KeyboardInterrupt(), SystemExit(1), asyncio.CancelledError(), TerminationSignal(15)], ids=repr
)
def test_signals_pass_untouched(signal: BaseException, tmp_path: Path) -> None:
    def step() -> None:
        raise signal

    with pytest.raises(type(signal)) as caught, details_kept(tmp_path / "run"):
        discreet(step)()
    assert caught.value is signal
    assert not (tmp_path / "run").exists()


def test_a_step_keeps_its_name_and_its_answer() -> None:
    def double(number: int, *, progress: int = 0) -> int:
        """Twice."""
        return 2 * number + progress

    wrapped = discreet(double)
    assert (wrapped.__name__, wrapped.__doc__, wrapped(4, progress=1)) == ("double", "Twice.", 9)


# --- error.txt --------------------------------------------------------------------------------------


def test_details_go_to_a_file_that_the_message_names(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "1"
    with pytest.raises(BadInput) as caught, details_kept(run):
        discreet(names_a_picture)()
    assert str(caught.value) == f"found one broken (details: {run / FILE})"
    assert (run / FILE).read_text() == f"found {PICTURE} broken"


def test_without_details_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match=r"^another champion$"), details_kept(tmp_path / "run"):
        discreet(names_none)()
    assert not (tmp_path / "run").exists()


def test_a_name_that_is_not_utf_8_is_kept_in_another_form(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.png")

    def step() -> None:
        raise ValueError(f"no such {name}")

    with pytest.raises(StepFailed), details_kept(tmp_path):
        discreet(step)()
    assert "ValueError: no such \\udcff.png" in (tmp_path / FILE).read_text()


# --- what Prefect keeps and logs ----------------------------------------------------------------------


class Listening(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record)


@pytest.fixture
def logged() -> Iterator[Callable[[], str]]:
    """Everything that Prefect's loggers say, tracebacks too."""
    handler = Listening()
    loggers = [logging.getLogger(name) for name in ("prefect", "prefect.flow_runs", "prefect.task_runs")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield lambda: "\n".join(map(logging.Formatter().format, handler.heard))
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


def told(state: State[Any]) -> str:
    """What the server keeps of a flow run and its task runs."""
    run = state.state_details.flow_run_id
    assert run is not None
    with get_client(sync_client=True) as client:
        flow_run, tasks = client.read_flow_run(run), tasks_of(client, run)
    assert len(tasks) == 1
    return "\n".join(one.model_dump_json() for one in (flow_run, *tasks))


def tasks_of(client: SyncPrefectClient, run: UUID) -> list[TaskRun]:
    return client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])))


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (names_a_picture, "BadInput: found one broken (details: "),
        (breaks, "StepFailed: ValueError in breaks (details: "),
        (times_out, "StepFailed: TimeoutError in times_out (details: "),
    ],
)
def test_prefect_hears_no_name(step: Callable[[], None], words: str, tmp_path: Path, logged: Callable[[], str]) -> None:
    policy: Any = task(persist_result=False, timeout_seconds=60)

    @flow(name=f"private-{step.__name__}", persist_result=False)
    def one_step() -> None:
        with details_kept(tmp_path):
            policy(discreet(step))()

    state = one_step(return_state=True)
    assert (state.name, words in str(state.message)) == ("Failed", True), state.message
    kept, said = told(state), logged()
    assert words in kept
    assert "Traceback" in said, "this would be where a name is found"
    for text in (kept, said):
        assert "anna" not in text.replace(str(tmp_path), "")
    for file in Path(os.environ["PREFECT_HOME"], "storage").glob("*"):
        assert "anna" not in stored(file.read_bytes())
    assert PICTURE in (tmp_path / FILE).read_text()


def stored(content: bytes) -> str:
    """What a pickled result holds: Prefect writes it in base 64."""
    return base64.b64decode(content.replace(b"\n", b"")).decode("utf-8", "replace")


def test_prefects_own_time_out_is_a_time_out(tmp_path: Path) -> None:
    policy: Any = task(persist_result=False, timeout_seconds=1)

    @flow(name="private-hangs", persist_result=False)
    def one_step() -> None:
        with details_kept(tmp_path):
            policy(discreet(hangs))()

    start = time.monotonic()
    assert one_step(return_state=True).name == "TimedOut"
    assert time.monotonic() - start < 50
    assert not (tmp_path / FILE).exists()


def test_a_retrain_tells_the_person_and_nobody_else(home: Path, tmp_path: Path, logged: Callable[[], str]) -> None:
    root = write_digits(tmp_path / "pictures", (0, 1), 8)
    (root / "digit-0" / PICTURE).write_bytes(b"broken")
    ran = thaw("retrain", root, "--name", "private", "--json", "--set", "model.image_size=32")
    assert ran.status == 2
    (line,) = errors(ran.err)
    assert PICTURE in line
    assert PICTURE in ran.document["error"]["message"]
    (kept,) = home.glob(f"runs/*/{FILE}")
    assert PICTURE in kept.read_text()
    with get_client(sync_client=True) as client:
        newest = client.read_flow_runs(limit=20, sort=FlowRunSort.START_TIME_DESC)
        (run,) = [one for one in newest if one.parameters.get("name") == "private"]
        tasks = tasks_of(client, run.id)
    assert run.state is not None
    assert f"found 1 of 17. Repair or remove them, or raise data.max_unreadable (details: {kept})" in str(
        run.state.message
    )
    assert [one.name.partition("-")[0] for one in tasks] == ["prepare"]
    for text in (logged(), run.model_dump_json(), *(one.model_dump_json() for one in tasks)):
        assert "anna" not in text
