"""Which parameters and which directory a run has: by folder, by file, by name, by an earlier run."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect._internal.uuid7 import uuid7  # what Prefect's scheduler gives its runs
from prefect.client.schemas.objects import FlowRun
from prefect.runtime import flow_run

from flows.begun import PARAMETERS, choose, keep_parameters, read_run
from flows.changes import find_unchanged_result
from flows.parameters import Parameters, checked
from flows.retrain import retrain
from flows.runs import find_run, flow_run_name
from flows.steps import RESUME
from serving.errors import BadInput
from tasks.data.prepare import prepare
from tasks.data.spec import DataSpec
from tasks.model.backbone import describe
from tasks.release.unchanged import RESULT
from tests.conftest import write_digits
from tests.flows.conftest import errors, thaw


def parameters(name: str = "cells", root: str = "/pictures", **groups: Any) -> Parameters:
    return checked({"name": name, "data": {"root": root}, **groups})


def of_run(run: uuid.UUID) -> FlowRun:
    return FlowRun(id=run, flow_id=uuid.uuid4())


@pytest.fixture
def config(home: Path) -> Path:
    file = home.parent / "thaw.yaml"
    file.write_text(yaml.safe_dump({"name": "filed", "data": {"root": "/filed"}, "finetune": {"epochs": 2}}))
    return file


def ended(run: Path, begun: Parameters) -> None:
    """A run that came to a verdict."""
    keep_parameters(run, begun)
    (run / RESULT).write_text("{}")


# --- what the command line means --------------------------------------------------------------------


def test_a_folder_and_a_name(home: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    assert choose("pictures", "cells", None, [], None) == (parameters(root=str(tmp_path / "pictures")), None)
    assert not list(home.iterdir())


def test_a_configuration_alone(config: Path) -> None:
    made, run = choose(None, None, config, ["finetune.batch_size=8"], None)
    assert run is None
    assert made == parameters("filed", "/filed", finetune={"epochs": 2, "batch_size": 8})


def test_a_relative_root_is_one_from_where_the_command_was_given(config: Path, tmp_path: Path) -> None:
    """Also for a worker, and for `thaw retrain NAME` from another folder."""
    config.write_text(yaml.safe_dump({"name": "filed", "data": {"root": "pictures/new"}}))
    assert choose(None, None, config, [], None)[0] == parameters("filed", str(tmp_path / "pictures" / "new"))
    assert choose(None, None, config, ["data.root=old"], None)[0] == parameters("filed", str(tmp_path / "old"))
    at_home, _ = choose(None, None, config, ["data.root=~/old"], None)
    assert at_home == parameters("filed", str(Path.home() / "old"))


@pytest.mark.parametrize("folder", ["\U0001f600", 'a "quoted" one', "a: b", "null", "del\x7f"])
def test_a_folder_may_have_any_name(home: Path, tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    assert choose(folder, "cells", None, [], None)[0] == parameters(root=str(tmp_path / folder))


def test_a_relative_root_from_the_ui_is_refused(home: Path) -> None:
    with pytest.raises(BadInput, match=r"data\.root: expected an absolute path .*, found 'pictures': write it so"):
        retrain.fn("cells", DataSpec(root=Path("pictures")))
    assert not list(home.iterdir())


def test_the_command_line_wins_over_the_file(config: Path, tmp_path: Path) -> None:
    made, _ = choose("gone", "1e3", config, ["finetune.epochs=9"], None)
    assert made == parameters("1e3", str(tmp_path / "gone"), finetune={"epochs": 9})


def test_the_name_of_an_earlier_run(home: Path) -> None:
    ended(home / "runs" / "1", parameters(finetune={"epochs": 1}))
    ended(home / "runs" / "2", parameters(finetune={"epochs": 2}))
    ended(home / "runs" / "3", parameters("other"))
    keep_parameters(home / "runs" / "4", parameters(finetune={"epochs": 4}))  # failed: nobody wants that again
    assert choose("cells", None, None, [], None) == (parameters(finetune={"epochs": 2}), None)
    made, _ = choose("cells", None, None, ["head.method=adam"], None)
    assert made == parameters(finetune={"epochs": 2}, head={"method": "adam"})


def test_a_damaged_earlier_run_is_in_nobodys_way(home: Path) -> None:
    """Cut short, or of another version of Thaw, whose parameters had other keys."""
    ended(home / "runs" / "1", parameters())
    for run, text in (("2", "{"), ("3", '{"name": "cells", "data": {"root": "/x"}, "gone": 1}')):
        (home / "runs" / run).mkdir()
        (home / "runs" / run / PARAMETERS).write_text(text)
        (home / "runs" / run / RESULT).write_text("{}")
    assert choose("cells", None, None, [], None) == (parameters(), None)
    with pytest.raises(BadInput, match="this version of Thaw knows"):
        choose(None, None, None, [], "3")


def test_neither_a_folder_nor_a_name(home: Path) -> None:
    keep_parameters(home / "runs" / "1", parameters())
    ran = thaw("retrain", "celsl")
    assert (ran.status, ran.out) == (2, "")
    (line,) = errors(ran.err)
    assert "found 'celsl', which is neither here nor in" in line
    assert thaw("retrain").status == 2


def test_a_folder_without_a_name_is_asked_for_it(home: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    with pytest.raises(BadInput, match="name: expected a value, found nothing"):
        choose("pictures", None, None, [], None)


def test_a_run_to_go_on_with(home: Path, config: Path) -> None:
    keep_parameters(home / "runs" / "1", parameters(finetune={"epochs": 1}))
    assert choose(None, None, None, [], "1") == (parameters(finetune={"epochs": 1}), home / "runs" / "1")
    mixed, run = choose("pictures", "new", config, ["head.method=adam"], "1")
    assert run == home / "runs" / "1"
    assert (mixed.name, mixed.finetune.epochs, mixed.head.method) == ("new", 2, "adam")
    assert mixed.data.root == Path.cwd() / "pictures"


def test_an_unknown_run(home: Path) -> None:
    for run in "1234":
        keep_parameters(home / "runs" / run, parameters())
    ran = thaw("retrain", "--resume", "9")
    assert (ran.status, ran.out) == (2, "")
    (line,) = errors(ran.err)
    assert "expected a run that was begun, found no 9 in" in line
    assert "the latest are 2, 3, 4" in line
    with pytest.raises(BadInput, match="found no 20200101-000000-abcdef"):
        choose(None, None, None, [], "20200101-000000-abcdef")


# --- what a run keeps -------------------------------------------------------------------------------


def test_a_run_keeps_its_parameters_and_takes_no_others(home: Path) -> None:
    run = home / "runs" / "1"
    keep_parameters(run, parameters(gate={"min_recall": {"größe": 0.5}}))
    before = (run / PARAMETERS).read_bytes()
    keep_parameters(run, parameters(gate={"min_recall": {"größe": 0.5}}))
    with pytest.raises(BadInput, match=r"run 1 was begun with, found other head, gate: resume it without them"):
        keep_parameters(run, parameters(head={"method": "adam"}))
    assert (run / PARAMETERS).read_bytes() == before
    assert read_run(run) == parameters(gate={"min_recall": {"größe": 0.5}})


# --- where it goes on -------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [uuid.uuid4, uuid7], ids=["by hand", "by schedule"])
def test_a_suspended_run_finds_its_directory_again(make: Any, home: Path) -> None:
    """Prefect makes the runs of the next nights in one moment, and their ids begin alike."""
    nights = [of_run(make()) for _ in range(20)]
    made = [find_run(home, night) for night in nights]
    assert not (home / "runs").exists(), "nothing is created"
    assert len({run.name.rpartition("-")[2] for run in made}) == 20
    for run, night in zip(made, nights, strict=True):
        later = run.with_name(f"20200101-000000-{run.name.rpartition('-')[2]}")  # begun some time ago
        later.mkdir(parents=True)
        assert find_run(home, night) == later
    assert find_run(home, None) not in (home / "runs").iterdir()


def test_the_chosen_directory_wins(home: Path) -> None:
    chosen = home / "runs" / "chosen"
    token = RESUME.set(chosen)
    try:
        assert find_run(home, of_run(uuid.uuid4())) == chosen
    finally:
        RESUME.reset(token)


def test_the_flow_runs_name_carries_the_directorys_mark(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = uuid7()
    for key, value in {"id": str(run), "parameters": {"name": "cells"}}.items():
        monkeypatch.setitem(flow_run.FIELDS, key, lambda value=value: value)
    name = flow_run_name()
    assert name.startswith("retrain cells 2")
    mark = name.split()[-1]
    assert len(mark) == 6
    assert find_run(home, of_run(run)).name.endswith(mark)


# --- whether anything changed -------------------------------------------------------------------------


def test_nothing_a_picture_or_a_parameter_changed(home: Path, tmp_path: Path) -> None:
    root = write_digits(tmp_path / "pictures", (0, 1), 8)
    own = parameters("digits", str(root), model={"image_size": 32})
    assert find_unchanged_result(home, own) is None, "never retrained"

    dataset = prepare("digits", home, own.data, describe(own.model))
    result = {"name": "digits", "data": {"fingerprint": dataset.key}, "run_id": "2"}
    for run, begun, body in (("1", own, result | {"run_id": "1"}), ("2", own, result),
                             ("3", parameters("other"), {"name": "other"})):  # fmt: skip
        keep_parameters(home / "runs" / run, begun)
        (home / "runs" / run / RESULT).write_text(json.dumps(body))
    (home / "runs" / "4").mkdir()
    (home / "runs" / "4" / RESULT).write_text("{")
    keep_parameters(home / "runs" / "5", own)  # begun, without a result yet
    assert find_unchanged_result(home, own) == result | {"promoted": False}, "the newest that ended"
    keep_parameters(home / "runs" / "51", own.model_copy(update={"data": own.data.model_copy(update={"verify": True})}))
    (home / "runs" / "51" / RESULT).write_text(json.dumps(result))
    verified = read_run(home / "runs" / "51")
    assert find_unchanged_result(home, verified) is None, "each file is to be read again"
    (home / "runs" / "51" / RESULT).unlink()

    other = parameters("digits", str(root), model={"image_size": 32}, finetune={"epochs": 1})
    assert find_unchanged_result(home, other) is None
    keep_parameters(home / "runs" / "6", other)
    (home / "runs" / "6" / RESULT).write_text(json.dumps(result | {"run_id": "6"}))
    assert find_unchanged_result(home, own) is None, "the newest was another, whatever came before"
    assert find_unchanged_result(home, other) == result | {"run_id": "6", "promoted": False}

    picture = root / "digit-0" / "000.png"
    status = picture.stat()
    picture.write_bytes((root / "digit-0" / "001.png").read_bytes())
    assert find_unchanged_result(home, other) is None
    picture.write_bytes((root / "digit-0" / "002.png").read_bytes())
    os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns))
    (root / "digit-1" / "007.png").unlink()
    assert find_unchanged_result(home, other) is None


def test_a_result_that_says_nothing_of_its_pictures(home: Path, tmp_path: Path) -> None:
    root = write_digits(tmp_path / "pictures", (0, 1), 8)
    own = parameters("digits", str(root), model={"image_size": 32})
    prepare("digits", home, own.data, describe(own.model))
    keep_parameters(home / "runs" / "1", own)
    (home / "runs" / "1" / RESULT).write_text(json.dumps({"name": "digits"}))
    assert find_unchanged_result(home, own) is None
