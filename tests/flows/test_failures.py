"""What stops a command from outside: one `error:` line, one JSON document, a stable code; and Ctrl-C at any moment."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.failures import TRACEBACK, explained
from flows.serve import known_name
from serving.database import FILE
from tests.conftest import write_digits
from tests.flows.conftest import Ran, command, errors, promote, publish, thaw

ROOT = Path(__file__).parents[2]


def failed(ran: Ran, status: int, code: str) -> str:
    """The message, after checking both streams."""
    (line,) = errors(ran.err)
    assert ran.err.endswith(f"{line}\n"), "the error is the last thing said"
    assert (ran.status, ran.document["error"]["code"]) == (status, code)
    message: str = ran.document["error"]["message"]
    assert line == f"error: {message}"
    return message


@pytest.fixture
def closed() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that something listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


# --- the home and the ledger ------------------------------------------------------------------------


@pytest.mark.parametrize("home", ["file", "file/home"])
@pytest.mark.parametrize(
    "arguments", [("up",), ("demo",), ("retrain", "pictures"), ("audit", "pictures")], ids=" ".join
)
def test_a_home_that_cannot_be_made(
    arguments: tuple[str, ...], home: str, closed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("THAW_HOME", str(tmp_path / home))
    write_digits(tmp_path / "pictures", (0, 1), 8)
    more = {"up": ("--no-serve", "--prefect-port", closed), "retrain": ("--name", "digits")}.get(arguments[0], ())
    message = failed(thaw(*arguments, *more, "--json"), 2, "bad_input")
    assert message.startswith(f"expected a folder at {tmp_path / home}, or room to make it, found neither (")
    assert "THAW_HOME" in message


@pytest.mark.parametrize("arguments", [("show",), ("gc",), ("serve", "--port")], ids=" ".join)
def test_a_damaged_ledger(arguments: tuple[str, ...], closed: int, home: Path) -> None:
    (home / FILE).write_bytes(b"no database" * 100)
    words = (*arguments, closed) if arguments[-1] == "--port" else arguments
    message = failed(thaw(*words, "--json"), 1, "ledger")
    assert "file is not a database" in message
    assert "backup" in message


def test_a_database_that_does_not_answer(closed: int, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAW_LEDGER", f"postgresql://u:s3cret@127.0.0.1:{closed}/x")
    message = failed(thaw("show", "--json"), 1, "ledger")
    assert str(closed) in message
    assert "s3cret" not in message


# --- what nobody foresaw ----------------------------------------------------------------------------


def test_the_unforeseen_is_one_line_and_its_place_only_on_request(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "datasets").touch()
    ran = thaw("demo", "--json")
    message = failed(ran, 1, "internal")
    assert message.startswith("FileExistsError: ")
    assert message.endswith(f"({TRACEBACK}=1 shows where)")
    assert "Traceback" not in ran.err
    monkeypatch.setenv(TRACEBACK, "1")
    ran = thaw("demo", "--json")
    failed(ran, 1, "internal")
    assert "Traceback (most recent call last)" in ran.err
    assert "write_manifest" in ran.err


def test_an_error_without_words_has_its_kind() -> None:
    assert str(explained(AssertionError())) == f"AssertionError ({TRACEBACK}=1 shows where)"
    assert str(explained(OSError(5, "I/O error", 3))).startswith("OSError: [Errno 5] I/O error")
    cut_short = RuntimeError()
    cut_short.__cause__ = EOFError("no data left")
    assert str(explained(cut_short)).startswith("EOFError: no data left")


def test_a_step_that_breaks_is_one_short_line(home: Path, tmp_path: Path) -> None:
    """The folder of prepared pictures is taken by a file."""
    root = write_digits(tmp_path / "pictures", (0, 1), 8)
    (home / "datasets").touch()
    ran = thaw("retrain", root, "--name", "broken", "--json", "--set", "model.image_size=32")
    (kept,) = home.glob("runs/*/error.txt")
    message = failed(ran, 1, "step_failed")
    assert message.endswith(f"Error in prepare (details: {kept})")
    assert "Traceback (most recent call last)" in kept.read_text()


# --- Ctrl-C -----------------------------------------------------------------------------------------


def interrupted(ran: Ran) -> None:
    assert (ran.status, ran.err) == (1, "error: interrupted\n")
    assert ran.document == {"error": {"code": "interrupted", "message": "interrupted"}}


def test_ctrl_c_before_the_work_begins(tmp_path: Path) -> None:
    """The command waits for its configuration, from a pipe that nobody writes to."""
    pipe = tmp_path / "config.yaml"
    os.mkfifo(pipe)
    # a shell's background programs inherit the signal as ignored
    begin = "import signal; signal.signal(2, signal.default_int_handler); from flows.cli import main; main()"
    words = [sys.executable, "-c", begin, "retrain", "pictures", "--config", str(pipe), "--json"]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with pipe.open("w"):  # once it reads
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    interrupted(Ran(process.returncode, out, err))


def test_ctrl_c_while_modules_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, signal; signal.signal(2, signal.default_int_handler); os.kill(os.getpid(), signal.SIGINT)"
    (tmp_path / "typer.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    interrupted(command("show", "--json", cwd=tmp_path))


# --- thaw serve -------------------------------------------------------------------------------------


def test_serve_says_nothing_of_a_port_that_is_taken(home: Path, taken_port: int) -> None:
    message = failed(thaw("serve", "--port", taken_port, "--json"), 2, "bad_input")
    assert f"expected port {taken_port} of 127.0.0.1 to be free, found it taken" in message
    assert message.endswith("choose another with --port")


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in the home", "elsewhere"])
def test_serve_knows_the_models_of_the_ledger(
    elsewhere: bool, home: Path, bentoml_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(home, 1)
    promote(home, 1)
    if elsewhere:
        (home / FILE).rename(tmp_path / "books.db")
        monkeypatch.setenv("THAW_LEDGER", f"sqlite:///{tmp_path / 'books.db'}")
    message = failed(thaw("serve", "--name", "nosuch", "--json"), 2, "bad_input")
    assert "nosuch" in message
    assert "colours" in message


def test_serve_starts_before_there_is_a_ledger_and_while_its_database_is_down(closed: int, tmp_path: Path) -> None:
    """It waits for the first model, and asks the database again."""
    for place in (tmp_path, f"sqlite:///{tmp_path / 'books.db'}", f"postgresql://u@127.0.0.1:{closed}/x"):
        assert known_name(place, "cells") == "cells"
    assert not list(tmp_path.iterdir())
