"""`thaw up` before anything starts, and how other commands find it (benchmarks/platform.py runs the real platform)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import Timeout

from flows import up
from flows.platform import Options, Platform, PlatformError, _environment
from flows.quiet import ADDRESS, use_platform
from serving.errors import BadInput
from serving.locks import lock
from tests.flows.conftest import errors, promote, publish, thaw

API = "http://127.0.0.1:4321/api"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that something listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def refused(*arguments: object) -> str:
    ran = thaw("up", *arguments)
    assert (ran.status, ran.out) == (2, "")
    (line,) = errors(ran.err)
    assert "Traceback" not in ran.err
    return line


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--port", "--prefect-port"])
def test_a_taken_port_names_the_option(option: str, taken: int, home: Path) -> None:
    ports = {"--port": free_port(), "--prefect-port": free_port()} | {option: taken}
    line = refused(*(word for pair in ports.items() for word in pair))
    assert f"expected port {taken} of 127.0.0.1 to be free, found it taken" in line
    assert line.endswith(f"choose another with {option}")
    assert not list(home.iterdir())


def test_the_services_port_is_not_wanted_without_it(taken: int) -> None:
    up._check(Options("127.0.0.1", taken, free_port(), False, None, None, 1))
    with pytest.raises(BadInput, match="choose another with --port"):
        up._check(Options("127.0.0.1", taken, free_port(), True, None, None, 1))


def test_one_port_for_both(home: Path) -> None:
    port = free_port()
    assert f"expected two ports, found {port} for" in refused("--port", port, "--prefect-port", port)
    up._check(Options("127.0.0.1", port, port, False, None, None, 1))


@pytest.mark.parametrize(
    ("given", "options", "missing"),
    [
        ((), (), "PREFECT_SERVER_API_AUTH_STRING and THAW_API_TOKEN"),
        (("THAW_API_TOKEN",), (), "PREFECT_SERVER_API_AUTH_STRING"),
        (("PREFECT_SERVER_API_AUTH_STRING",), (), "THAW_API_TOKEN"),
        ((), ("--no-serve",), "PREFECT_SERVER_API_AUTH_STRING"),
    ],
    ids=str,
)
def test_beyond_loopback_only_with_secrets(
    given: tuple[str, ...], options: tuple[str, ...], missing: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in given:
        monkeypatch.setenv(name, "s3cret")
    line = refused("--host", "0.0.0.0", *options)
    assert f"expected {missing} for the address 0.0.0.0, found none: set a secret" in line
    assert "s3cret" not in line
    assert not list(home.iterdir())


def test_beyond_loopback_with_secrets_the_ports_are_looked_at(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAW_API_TOKEN", "s3cret")
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "user:s3cret")
    assert "choose another with --port" in refused("--host", "0.0.0.0", "--port", taken, "--prefect-port", free_port())


def test_an_address_of_another_machine(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "user:s3cret")
    line = refused("--host", "192.0.2.1", "--no-serve")
    assert "of 192.0.2.1 to be free, found it taken or out of reach" in line
    assert not list(home.iterdir())


def test_a_second_one_of_a_home(home: Path) -> None:
    (home / ADDRESS).write_text("the first one's")
    with lock(home, "up"):
        line = refused("--port", free_port(), "--prefect-port", free_port())
    assert f"expected no other `thaw up` for {home}, found one running: stop it first" in line
    assert (home / ADDRESS).read_text() == "the first one's"
    with up._only_one(home):
        pass


def test_another_locks_time_out_is_not_taken_for_a_second_one(home: Path) -> None:
    with pytest.raises(Timeout), up._only_one(home):
        raise Timeout("another.lock")
    with up._only_one(home):
        pass


@pytest.mark.parametrize("arguments", [("--port", 0), ("--port", 70000), ("--runs", 0), ("--device", "tpu")], ids=str)
def test_nonsense(arguments: tuple[object, ...], home: Path) -> None:
    assert thaw("up", *arguments).status == 2
    assert not list(home.iterdir())


@pytest.mark.usefixtures("bentoml_home")
def test_two_models_and_no_name_is_told_before_anything_starts(home: Path) -> None:
    for name in ("cells", "colours"):
        publish(home, 1, name)
    ports = ("--port", free_port(), "--prefect-port", free_port())
    line = refused(*ports)
    assert "expected one model name, found cells, colours: give --name" in line
    assert "expected a model named belts, found cells, colours" in refused("--name", "belts", *ports)
    assert not (home / "logs").exists()


@pytest.mark.usefixtures("bentoml_home")
def test_the_only_model_is_served_whatever_is_published_meanwhile(home: Path) -> None:
    assert up._name_to_serve(options(), home) is None
    publish(home, 1)
    promote(home, 1)
    assert up._name_to_serve(options(), home) == "colours"


# --- what its components are given ------------------------------------------------------------------


def options(prefect_port: int = 4321) -> Options:
    return Options("127.0.0.1", 3000, prefect_port, True, None, None, 1)


def test_the_servers_password_is_everybodys(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "PREFECT_API_AUTH_STRING" not in _environment(options(), home)
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "anna:s3cret")
    assert _environment(options(), home)["PREFECT_API_AUTH_STRING"] == "anna:s3cret"
    write(home, os.getpid())
    use_platform(home)
    assert os.environ["PREFECT_API_AUTH_STRING"] == "anna:s3cret"


def test_another_server_is_not_told_the_password(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "anna:s3cret")
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")
    write(home, os.getpid())
    use_platform(home)
    assert "PREFECT_API_AUTH_STRING" not in os.environ


def test_relative_places_are_made_absolute(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_HOME", "bento")
    monkeypatch.setenv("THAW_LEDGER", "sqlite:///x.db")
    given = _environment(options(), home)
    assert given["BENTOML_HOME"] == str(tmp_path / "bento")
    assert given["THAW_LEDGER"] == f"sqlite:///{tmp_path / 'x.db'}"


def test_an_ipv6_address_stands_in_brackets() -> None:
    assert Options("::1", 3000, 4321, True, None, None, 1).api == "http://[::1]:4321/api"


def test_ctrl_c_while_the_deployments_are_created_is_no_error(home: Path) -> None:
    platform = Platform(options(free_port()), home, print)
    platform._configure(lambda: platform._configuration.starts > 0)
    assert platform._configuration.ended() == -signal.SIGTERM


def test_why_there_are_no_deployments_is_told_line_by_line(home: Path) -> None:
    told: list[str] = []
    chosen = options(free_port())
    with pytest.raises(PlatformError, match=r"they were not: see .*configure\.log$"):
        Platform(chosen, home, told.append)._configure(lambda: False)
    assert any(line.startswith(f"  error: expected the Prefect server {chosen.api} to answer") for line in told)


# --- how other commands find it ---------------------------------------------------------------------


def found(home: Path) -> str | None:
    use_platform(home)
    return os.environ.get("PREFECT_API_URL")


def write(home: Path, pid: object) -> None:
    (home / ADDRESS).write_text(json.dumps({"api": API, "pid": pid}))


def test_a_running_platform_is_used(home: Path) -> None:
    assert found(home) is None
    write(home, os.getpid())
    assert found(home) == API


def test_what_it_writes_is_what_is_read(home: Path) -> None:
    up._write_address(home, Options("0.0.0.0", 3000, 4321, True, None, None, 1))
    assert found(home) == API


def test_the_environment_wins(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")
    write(home, os.getpid())
    assert found(home) == "http://elsewhere/api"


def test_one_that_was_killed_is_not(home: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    gone.wait()
    write(home, gone.pid)
    assert found(home) is None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="becomes another user")
def test_another_users_is_used() -> None:
    """It can be seen to run, though not be sent a signal."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        with subprocess.Popen(["sleep", "60"], user=1, cwd="/") as theirs:
            write(Path(place), theirs.pid)
            os.seteuid(65534)
            try:
                with pytest.raises(PermissionError):
                    os.kill(theirs.pid, 0)
                assert found(Path(place)) == API
            finally:
                os.seteuid(0)
                theirs.kill()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "null", '"x"', '{"pid": "x"}', '{"pid": 1}', '{"pid": null, "api": "x"}',
             '{"pid": 1e30, "api": "x"}', '{"pid": 99999999999999999999, "api": "x"}', "\x00"],
)  # fmt: skip
def test_a_damaged_address_is_none(text: str, home: Path) -> None:
    (home / ADDRESS).write_text(text)
    assert found(home) is None


def test_a_directory_in_its_place_is_none(home: Path) -> None:
    (home / ADDRESS).mkdir()
    assert found(home) is None
