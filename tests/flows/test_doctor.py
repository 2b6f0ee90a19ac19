"""`thaw doctor` on a machine where everything works, and on one where something does not."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import doctor
from serving.database import FILE
from tests.conftest import needs_gpu, needs_no_gpu
from tests.flows.conftest import promote, publish, thaw


def states(*arguments: str) -> tuple[int, dict[str, str], dict[str, str]]:
    """Exit status, and of each finding its state and what was found."""
    ran = thaw("doctor", "--json", *arguments)
    body = ran.document
    assert ran.err == ""
    assert body["works"] == (ran.status == 0)
    found = {one["what"]: one for one in body["findings"]}
    return ran.status, {what: one["state"] for what, one in found.items()}, {k: v["found"] for k, v in found.items()}


def test_a_machine_that_works(home: Path, bentoml_home: Path) -> None:
    publish(home, 2)
    promote(home, 2)
    status, state, found = states()

    assert status == 0
    assert state.pop("Prefect") in ("works", "limited")  # the session's server, if another test started it
    assert set(state.values()) == {"works"}, found
    assert found["ledger"] == "1 models, 1 with a champion"
    assert found["weights"].startswith("timm/tf_efficientnet_lite0, pretrained, 3.4 million")
    assert "torch " in found["versions"]
    assert found["home"].startswith(f"{home}, ")


def test_for_a_person_it_is_a_table_of_one_line_each(home: Path, bentoml_home: Path) -> None:
    ran = thaw("doctor")

    assert ran.status == 0
    for what in ("versions", "training", "predictions", "weights", "home", "model store", "ledger", "Prefect"):
        assert any(line.startswith(what) for line in ran.out.splitlines()), ran.out


def test_before_the_first_run_nothing_is_broken_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THAW_HOME", str(tmp_path / "new" / "home"))
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "new" / "store"))
    status, state, found = states()

    assert (status, state["ledger"], state["home"]) == (0, "works", "works")
    assert found["home"].endswith("not there yet, will be made")
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_is_a_file_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("THAW_HOME", str(tmp_path / "home"))
    status, state, found = states()

    assert (status, state["home"]) == (1, "broken")
    assert "expected a folder to write to" in found["home"]


def test_a_wrong_setting_is_a_finding(home: Path, bentoml_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAW_DEVICE", "banana")
    status, state, found = states()

    assert (status, state["home"], state["model store"]) == (1, "broken", "works")
    assert found["home"].startswith("THAW_DEVICE: expected")
    assert "'banana'" in found["home"]


def test_a_disk_that_is_nearly_full_is_told(home: Path, bentoml_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FEW_BYTES", 10**18)
    status, state, found = states()

    assert (status, state["home"], state["model store"]) == (0, "limited", "limited")
    assert "thaw gc" in found["home"]


def test_a_damaged_ledger_is_broken_and_stays_as_it_is(home: Path, bentoml_home: Path) -> None:
    (home / FILE).write_bytes(b"no database" * 100)
    status, state, found = states()

    assert (status, state["ledger"]) == (1, "broken")
    assert "not a database" in found["ledger"]
    assert (home / FILE).read_bytes() == b"no database" * 100


def test_a_prefect_server_that_does_not_answer_is_broken(home: Path, bentoml_home: Path) -> None:
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        api = f"http://127.0.0.1:{dead.getsockname()[1]}/api"
        with temporary_settings({PREFECT_API_URL: api}):
            status, state, found = states()

    assert (status, state["Prefect"]) == (1, "broken")
    assert f"{api} does not answer" in found["Prefect"]


@needs_no_gpu
def test_a_gpu_that_the_libraries_cannot_use_is_broken(
    home: Path, bentoml_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or trainings and predictions would run on the CPU, and nobody know why they are slow."""
    monkeypatch.setattr(doctor, "gpu_count", lambda: 1)
    status, state, found = states()

    assert (status, state["training"], state["predictions"]) == (1, "broken", "broken")
    assert "the driver offers 1 GPU" in found["training"]
    assert "CUDA driver offers none" in found["predictions"]


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_both_libraries_use_it(home: Path, bentoml_home: Path) -> None:
    _, _, found = states()

    assert found["training"].startswith("on the GPU: ")
    assert found["predictions"] == "onnxruntime's CUDAExecutionProvider"
