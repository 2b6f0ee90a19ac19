"""`thaw schedule`: the deployment of a model of one's own, and what is refused (test_configure.py deploys for real)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.begun import choose
from flows.configure import PREFECT_FILE
from flows.parameters import Parameters, checked
from flows.schedule import _prefect_file, check_cron
from tests.flows.conftest import errors, thaw

OWN = {"name": "cells", "data": {"root": "/pictures"}, "gate": {"min_recall": {"größe: 1": 0.5}}}
NOWHERE = "http://127.0.0.1:9/api"


def parameters(**values: Any) -> Parameters:
    return checked(OWN | values)


@pytest.fixture
def config(home: Path) -> Path:
    file = home.parent / "thaw.yaml"
    file.write_text(yaml.safe_dump(OWN), encoding="utf-8")
    return file


@pytest.fixture
def pretended() -> Iterator[None]:
    """A server's address, so that other checks come first; nothing listens there."""
    with temporary_settings({PREFECT_API_URL: NOWHERE}):
        yield


# --- the file ---------------------------------------------------------------------------------------


def test_the_file_is_nightlys_but_for_what_is_own() -> None:
    whole = yaml.safe_load(PREFECT_FILE.read_text(encoding="utf-8"))
    made = yaml.safe_load(yaml.safe_dump(_prefect_file(parameters(), "5 4 * * 1", "Europe/Berlin", False)))
    assert {key: value for key, value in made.items() if key != "deployments"} == {
        key: whole[key] for key in ("name", "prefect-version", "build", "push", "pull")
    }
    nightly = whole["deployments"][0]
    (own,) = made["deployments"]
    for key in ("entrypoint", "version", "tags", "work_pool"):
        assert own[key] == nightly[key]
    assert own["work_pool"]["job_variables"]["env"]["THAW_HOME"] == "{{ $THAW_HOME }}"
    assert own["parameters"] == {
        "name": "cells", "data": {"root": "/pictures"}, "gate": {"min_recall": {"größe: 1": 0.5}},
    }  # fmt: skip
    assert checked(own["parameters"]) == parameters(), "what was left out stays a default"
    assert own["schedules"] == [{"cron": "5 4 * * 1", "timezone": "Europe/Berlin", "active": False}]
    (trigger,) = own["triggers"]
    assert trigger["enabled"] is True
    assert trigger["expect"] == ["thaw.dataset.updated"]
    assert trigger["match"] == {"prefect.resource.id": "thaw.dataset.cells"}
    assert nightly["name"] not in own["description"]


def test_a_deployment_has_the_whole_path_of_the_pictures(config: Path, tmp_path: Path) -> None:
    chosen, _ = choose(None, None, config, ["data.root=pictures"], None)
    (own,) = _prefect_file(chosen, "5 4 * * 1", "UTC", True)["deployments"]
    assert own["parameters"] == parameters(data={"root": str(tmp_path / "pictures")}).model_dump(
        mode="json", exclude_unset=True
    )


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "chosen", "words"),
    [
        ({}, ("--cron", "every night"), "expected a cron line such as '0 2 * * *'"),
        ({}, ("--cron", ""), "expected a cron line"),
        ({}, ("--cron", "0 0 2 * * *"), "6 fields: wanted are minute, hour"),
        ({}, ("--cron", "0 2 * * *", "--timezone", ""), "no time zone"),
        ({"data": {"rot": "/pictures"}}, ("--cron", "every night"), "expected a cron line"),
        ({}, ("--cron", "0 25 * * *"), "'0 25 * * *'"),
        ({}, ("--cron", "0 2 * * *", "--timezone", "Mars/Olympus"), "'Mars/Olympus'"),
        ({"name": "nightly"}, ("--cron", "0 2 * * *"), "a name other than nightly, on-demand, on-new-data"),
        ({"name": "on-new-data"}, ("--cron", "0 2 * * *"), "a name other than"),
        ({"data": {"root": "/pictures", "group_by": "{{ 3 }}"}}, ("--cron", "0 2 * * *"), "parameters without {{"),
        ({"data": {"root": "/{{ $HOME }}"}}, ("--cron", "0 2 * * *"), "parameters without {{"),
        ({"data": {"rot": "/pictures"}}, ("--cron", "0 2 * * *"), "did you mean root?"),
    ],
)
def test_what_cannot_work_is_refused(
    change: dict[str, Any], chosen: tuple[str, ...], words: str, config: Path, home: Path, pretended: None
) -> None:
    values = OWN | change
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    ran = thaw("schedule", values["name"], "--config", config, *chosen)
    assert (ran.status, ran.out) == (2, "")
    (line,) = errors(ran.err)
    assert words in line
    assert not list(home.iterdir())


def test_without_a_server_nothing_is_kept(config: Path, home: Path) -> None:
    ran = thaw("schedule", "cells", "--config", config, "--cron", "0 2 * * *", "--json")
    assert (ran.status, ran.document["error"]["code"]) == (2, "bad_input")
    assert "expected a Prefect server, found an ephemeral server of this run: start `thaw up`" in ran.err
    assert not list(home.iterdir())


def test_where_nothing_answers_nothing_is_kept(config: Path, home: Path, pretended: None) -> None:
    kept = home / "deployments" / "cells.yaml"
    kept.parent.mkdir()
    kept.write_text("before")
    for words in (("--config", config, "--cron", "0 2 * * *"), ("--remove",)):
        ran = thaw("schedule", "cells", *words)
        assert (ran.status, ran.out) == (2, "")
        assert f"expected the Prefect server {NOWHERE} to answer, it did not (" in errors(ran.err)[0]
    assert kept.read_text() == "before"
    assert list(kept.parent.iterdir()) == [kept]


def test_a_model_that_was_never_retrained_needs_a_config(home: Path, pretended: None) -> None:
    ran = thaw("schedule", "cells", "--cron", "0 2 * * *")
    assert ran.status == 2
    assert "a model that was retrained before, found 'cells'" in ran.err
    assert ran.err.rstrip().endswith("and give --config"), "this command takes no folder"


@pytest.mark.parametrize(("words", "found"), [((), "neither"), (("--cron", "@daily", "--remove"), "both")])
def test_a_clock_or_the_removal(words: tuple[str, ...], found: str, home: Path) -> None:
    ran = thaw("schedule", "cells", *words)
    assert ran.status == 2
    assert f"expected one of --cron and --remove, found {found}" in ran.err


@pytest.mark.parametrize("cron", ["0 2 * * *", "*/5 1-4 * * mon-fri", "@daily"])
def test_clocks_that_are_taken(cron: str) -> None:
    check_cron(cron, "Europe/Berlin")
