"""The OpenAPI document says what the application does: its routes, its refusals, and the shape of every answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import jsonschema
import pytest
from pydantic import SecretStr
from starlette.routing import Route
from starlette.testclient import TestClient

from serving.live import Live
from serving.settings import Settings
from tests.serving.edges import BLUE, RED, app_of, batch_of, client_of, png
from tests.serving.world import World

UNDOCUMENTED = {"/metrics", "/ui/", "/docs.json"}
TOKEN = {"Authorization": "Bearer right"}


@pytest.fixture(scope="module")
def client(tiny: Live) -> TestClient:
    return client_of(tiny, api_token=SecretStr("right"), max_body_bytes=20_000)


@pytest.fixture(scope="module")
def document(client: TestClient) -> dict[str, Any]:
    return dict(client.get("/docs.json").json())


def operations(document: dict[str, Any]) -> set[tuple[str, str]]:
    return {(path, method) for path, methods in document["paths"].items() for method in methods}


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def check(document: dict[str, Any], response: httpx.Response, path: str, method: str) -> None:
    """The status is documented for this operation, and the body fits the schema documented for that status."""
    documented = document["paths"][path][method]["responses"]
    assert str(response.status_code) in documented
    schema = documented[str(response.status_code)]["content"]["application/json"]["schema"]
    fits(document, response.json(), schema)


def fits(document: dict[str, Any], body: Any, schema: dict[str, Any]) -> None:
    whole = schema | {"components": document["components"]}  # its references begin at the document's root
    jsonschema.Draft202012Validator.check_schema(whole)
    jsonschema.Draft202012Validator(whole).validate(body)


# --- routes -------------------------------------------------------------------------------------------


def test_what_is_documented_exists_and_what_exists_is_documented(client: TestClient, document: dict[str, Any]) -> None:
    routes = [route for route in app_of(client).routes if isinstance(route, Route)]
    exists = {(route.path, method.lower()) for route in routes for method in (route.methods or ()) if method != "HEAD"}
    assert operations(document) == {(path, method) for path, method in exists if path not in UNDOCUMENTED}
    assert {path for path, _ in exists} >= UNDOCUMENTED, "the control: no other route is left out of the comparison"


def test_the_document_is_one_of_openapi_with_every_reference_in_it(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    assert set(document["info"]) >= {"title", "version"}
    found = set(references(document))
    assert found
    for reference in found:
        place: Any = document
        assert reference.startswith("#/")
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
        assert place
    named = {reference.rpartition("/")[2] for reference in found}
    assert named == set(document["components"]["schemas"]), "and no schema that nothing uses"


def test_every_schema_is_a_valid_one_and_says_what_must_be_there(document: dict[str, Any]) -> None:
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert set(schema["required"]) == set(schema["properties"])


# --- real answers -------------------------------------------------------------------------------------


def test_answers_have_the_documented_shapes(client: TestClient, document: dict[str, Any]) -> None:
    predict, batch = "/v1/predict", "/v1/predict/batch"
    mixed = batch_of(png(RED), b"no picture", png(BLUE), b"")
    asked = [
        (predict, "post", client.post(predict, content=png(RED), headers=TOKEN), 200),
        (predict, "post", client.post(predict, files={"image": png(RED)}, headers=TOKEN), 200),
        (predict, "post", client.post(predict, content=png(RED)), 401),
        (predict, "post", client.post(predict, headers=TOKEN), 400),
        (predict, "post", client.post(predict, content=b"x" * 20_001, headers=TOKEN), 413),
        (predict, "post", client.post(predict, content=b"no picture", headers=TOKEN), 415),
        (predict, "post", client.post(predict, content=png(RED)[:40], headers=TOKEN), 422),
        (batch, "post", client.post(batch, files=mixed, headers=TOKEN), 200),
        (batch, "post", client.post(batch, files=mixed), 401),
        (batch, "post", client.post(batch, content=b"no form", headers=TOKEN), 400),
        ("/v1/model", "get", client.get("/v1/model", headers=TOKEN), 200),
        ("/v1/model", "get", client.get("/v1/model"), 401),
        *((path, "get", client.get(path), 200) for path in ("/livez", "/healthz", "/readyz")),
    ]
    for path, method, response, status in asked:
        assert response.status_code == status
        check(document, response, path, method)
    assert {(path, method) for path, method, _, _ in asked} == operations(document)


def test_refusals_without_a_champion_have_them_too(document: dict[str, Any]) -> None:
    nothing = client_of(Live(Path("unused")))
    for path, method in (("/v1/predict", "post"), ("/v1/predict/batch", "post"), ("/v1/model", "get")):
        response = nothing.request(method.upper(), path)
        assert response.status_code == 503
        check(document, response, path, method)
    check(document, nothing.get("/readyz"), "/readyz", "get")


def test_a_model_whose_swap_failed_has_it_too(world: World, document: dict[str, Any]) -> None:
    live = world.live()
    for version in (1, 2):
        world.publish()
        if version == 2:
            world.damage(2)
        world.promote(version)
        live.refresh()
    response = client_of(live).get("/v1/model")
    live.stop()
    assert response.json()["last_swap"]["error"]
    check(document, response, "/v1/model", "get")


def test_an_answer_of_another_shape_does_not_fit(client: TestClient, document: dict[str, Any]) -> None:
    """The control: the schemas can refuse."""
    good = client.post("/v1/predict", content=png(RED), headers=TOKEN).json()
    schema = {"$ref": "#/components/schemas/Prediction"}
    fits(document, good, schema)
    for key in good:
        with pytest.raises(jsonschema.ValidationError):
            fits(document, {name: value for name, value in good.items() if name != key}, schema)
    for wrong in (good | {"probability": "high"}, good | {"scores": {}}, good | {"model": "colours:1"}):
        with pytest.raises(jsonschema.ValidationError):
            fits(document, wrong, schema)
    status = {"$ref": "#/components/schemas/Status"}
    with pytest.raises(jsonschema.ValidationError):
        fits(document, {"status": "dead"}, status)


# --- as this server is --------------------------------------------------------------------------------


def test_a_server_without_a_token_asks_for_none(tiny: Live, document: dict[str, Any]) -> None:
    plain = client_of(tiny).get("/docs.json").json()
    assert "securitySchemes" not in plain["components"]
    for path, method in operations(plain):
        operation = plain["paths"][path][method]
        assert "security" not in operation
        assert "401" not in operation["responses"]
    guarded = {key for key in operations(document) if "security" in document["paths"][key[0]][key[1]]}
    assert {path for path, _ in guarded} == {"/v1/predict", "/v1/predict/batch", "/v1/model"}
    for path, method in guarded:
        (requirement,) = document["paths"][path][method]["security"]
        assert set(requirement) <= set(document["components"]["securitySchemes"])


def test_the_document_needs_no_token_and_holds_none(client: TestClient, document: dict[str, Any]) -> None:
    assert client.get("/docs.json").status_code == 200
    assert "right" not in json.dumps(document)


@pytest.mark.parametrize("accept_tiff", [False, True])
def test_it_names_the_formats_and_limits_of_this_server(tiny: Live, accept_tiff: bool) -> None:
    settings = Settings(accept_tiff=accept_tiff, max_body_bytes=12_345)
    paths = client_of(tiny, **settings.model_dump()).get("/docs.json").json()["paths"]
    one, many = paths["/v1/predict"]["post"]["requestBody"], paths["/v1/predict/batch"]["post"]["requestBody"]
    formats = {"image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp"}
    tiff = {"image/tiff"} if accept_tiff else set()
    assert set(one["content"]) == formats | tiff | {"application/octet-stream", "multipart/form-data"}
    assert set(many["content"]) == {"multipart/form-data"}
    images = many["content"]["multipart/form-data"]["schema"]["properties"]["images"]
    assert (images["minItems"], images["maxItems"]) == (1, 64)
    assert "12345" in one["description"]
    assert "12345" in many["description"]
