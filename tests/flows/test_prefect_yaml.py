"""Every deployment of prefect.yaml: it loads, takes the parameters it carries, and refuses what it should."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ParameterTypeError, SignatureMismatchError
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import ValidationError, validate
from prefect.utilities.templating import apply_values

from flows.automations import load_automations
from flows.configure import CHECKOUT, POOL, PREFECT_FILE, QUEUES
from flows.demo import NAME, demo_values
from flows.parameters import Parameters, checked
from flows.schedule import RESERVED
from serving.errors import BadInput

DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load(PREFECT_FILE.read_text(encoding="utf-8"))["deployments"]
RETRAIN = "flows/retrain.py:retrain"
ENTRYPOINTS = sorted({entry["entrypoint"] for entry in DEPLOYMENTS})
RIGHT: dict[str, dict[str, Any]] = {
    "retrain": {"name": "cells", "data": {"root": "/pictures"}},
    "promote": {"version": "cells:3", "who": "Anna"},
    "rollback": {"name": "cells", "who": "Anna", "why": "worse on belt 3"},
}
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("retrain", {"name": "Big Name"}),
    ("retrain", {"surprise": 1}),
    ("retrain", {"data": {"root": "/pictures", "train": 1.5}}),
    ("retrain", {"data": {"root": "/pictures", "rot": 1}}),
    ("retrain", {"data": {}}),
    ("retrain", {"model": {"image_size": 16}}),
    ("retrain", {"model": {"backbone": "resnet18"}}),
    ("retrain", {"finetune": {"epochs": -1}}),
    ("retrain", {"finetune": {"epoch": 1}}),
    ("retrain", {"decision": {"watch": [{"label": "a", "recal": 0.9}]}}),
    ("retrain", {"gate": {"lines": [{"metric": "acuracy", "threshold": 0.9}]}}),
    ("retrain", {"release": {"promote": "perhaps"}}),
    ("promote", {"version": "cells"}),
    ("promote", {"version": "cells:0"}),
    ("promote", {"who": ""}),
    ("promote", {"wait": -1}),
    ("promote", {"overide": "x"}),
    ("rollback", {"name": "../cells"}),
    ("rollback", {"why": ""}),
    ("rollback", {"to": 0}),
    ("rollback", {"wait": 100_000}),
]


def name_of(entry: dict[str, Any]) -> str:
    return f"{Path(entry['entrypoint'].partition(':')[0]).stem}/{entry['name']}"


@pytest.fixture(scope="module")
def flows() -> dict[str, Flow[..., Any]]:
    """Each flow as a worker loads it: from the file, in the checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(CHECKOUT)
        loaded: list[Flow[..., Any]] = [
            load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False) for entrypoint in ENTRYPOINTS
        ]
    return {flow.name: flow for flow in loaded}


@pytest.fixture(scope="module")
def schemas(flows: dict[str, Flow[..., Any]]) -> dict[str, dict[str, Any]]:
    """What the server keeps of each flow: the UI's form, and what a run's parameters are checked against."""
    return {name: parameter_schema(flow).model_dump_for_openapi() for name, flow in flows.items()}


def templated(entry: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The entry as `prefect deploy` fills it."""
    given = {"THAW_HOME": str(home), "THAW_LEDGER": "", "BENTOML_HOME": "/bento", "THAW_REVISION": "abc"}
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    filled: Any = apply_values(entry, given, remove_notset=False)
    assert "{{" not in str(filled), "every variable is one that flows/configure.py sets"
    return dict(filled)


def undescribed(schema: dict[str, Any]) -> Iterator[str]:
    """Fields that the form shows without a word; a group may be described by its own definition."""
    definitions = schema.get("definitions", {})
    for place, model in {"": schema, **definitions}.items():
        for key, field in model.get("properties", {}).items():
            refs = [part["$ref"] for part in (field, *field.get("allOf", ())) if "$ref" in part]
            words = [definitions[ref.rpartition("/")[2]].get("description") for ref in refs]
            if not any([field.get("description"), *words]):
                yield f"{place}.{key}"


def test_the_flows_are_the_three_a_person_can_start(flows: dict[str, Flow[..., Any]]) -> None:
    assert sorted(flows) == sorted(RIGHT)
    assert [name_of(entry) for entry in DEPLOYMENTS] == [
        "retrain/nightly", "retrain/on-demand", "retrain/on-new-data", "promote/on-demand", "rollback/on-demand",
    ]  # fmt: skip
    assert all(flow.fn.__doc__ and flow.should_validate_parameters for flow in flows.values())


def test_the_names_are_reserved() -> None:
    taken = {entry["name"] for entry in DEPLOYMENTS if entry["entrypoint"] == RETRAIN}
    assert taken == set(RESERVED)


@pytest.mark.parametrize("entry", DEPLOYMENTS, ids=name_of)
def test_pool_queue_tags_and_environment(entry: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled = templated(entry, home, monkeypatch)
    queue = "retrain" if name_of(entry).startswith("retrain/") else "release"
    assert queue in QUEUES
    assert (filled["work_pool"]["name"], filled["work_pool"]["work_queue_name"]) == (POOL, queue)
    assert filled["tags"] == ["thaw"], "flows/automations.yaml knows the runs by it"
    assert filled["version"] == "abc"
    assert filled["description"]
    environment = filled["work_pool"]["job_variables"]["env"]
    assert environment["THAW_HOME"] == str(home)
    assert environment["BENTOML_HOME"] == "/bento"
    assert environment["THAW_LEDGER"] == ""
    assert all(isinstance(value, str) for value in environment.values())
    silence = load_automations()[0].trigger.model_dump()["within"].total_seconds()
    assert 2 * int(environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) < silence, "one lost beat ends no run"


@pytest.mark.parametrize("entry", DEPLOYMENTS, ids=name_of)
def test_parameters_are_the_flows(
    entry: dict[str, Any],
    flows: dict[str, Flow[..., Any]],
    schemas: dict[str, dict[str, Any]],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    filled = templated(entry, home, monkeypatch)
    name = name_of(entry).partition("/")[0]
    parameters = filled.get("parameters", {})
    if entry["entrypoint"] == RETRAIN and entry["name"] != "on-demand":
        assert parameters == demo_values(home)
        assert checked(parameters) == checked(demo_values(home))
        made = flows[name].validate_parameters(parameters)
        assert Parameters(**made) == checked(demo_values(home))
        validate(parameters, schemas[name], raise_on_error=True)
    else:
        assert not parameters, "the person says which model, each time"


def test_the_clock_and_the_event() -> None:
    clocks = [schedule for entry in DEPLOYMENTS for schedule in entry.get("schedules", ())]
    assert clocks
    for clock in clocks:
        CronSchedule(cron=clock["cron"], timezone=clock["timezone"])
        assert clock["active"] is False, "not everybody's home is the demo's"
    (trigger,) = [trigger for entry in DEPLOYMENTS for trigger in entry.get("triggers", ())]
    assert trigger["enabled"] is False
    assert trigger["expect"] == ["thaw.dataset.updated"]
    assert trigger["match"] == {"prefect.resource.id": f"thaw.dataset.{NAME}"}


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_every_parameter_is_described_in_the_form(name: str, schemas: dict[str, dict[str, Any]]) -> None:
    schema = schemas[name]
    assert len(schema["properties"]) >= 5
    assert sorted(undescribed(schema)) == []


def test_an_undescribed_field_would_be_found() -> None:
    inner = {"properties": {"a": {"description": "x"}, "b": {"title": "B"}}}
    group = {"allOf": [{"$ref": "#/definitions/Group"}]}
    assert list(undescribed({"properties": {"g": group}, "definitions": {"Group": inner}})) == [".g", "Group.b"]


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_the_least_that_is_right_is_taken(
    name: str, flows: dict[str, Flow[..., Any]], schemas: dict[str, dict[str, Any]]
) -> None:
    validate(RIGHT[name], schemas[name], raise_on_error=True)
    assert flows[name].validate_parameters(RIGHT[name])
    for key in RIGHT[name]:
        with pytest.raises(ValidationError, match=key):
            validate({k: v for k, v in RIGHT[name].items() if k != key}, schemas[name], raise_on_error=True)


@pytest.mark.parametrize(("name", "change"), WRONG, ids=str)
def test_what_is_wrong_is_refused_by_form_and_flow(
    name: str, change: dict[str, Any], flows: dict[str, Flow[..., Any]], schemas: dict[str, dict[str, Any]]
) -> None:
    values = RIGHT[name] | change
    known = set(values) <= set(schemas[name]["properties"])
    if known:  # the form cannot name another one, and the server's check lets it through
        with pytest.raises(ValidationError):
            validate(values, schemas[name], raise_on_error=True)
    with pytest.raises(ParameterTypeError if known else SignatureMismatchError):
        flows[name].validate_parameters(values)
    if name == "retrain":
        with pytest.raises(BadInput):
            checked(values)
