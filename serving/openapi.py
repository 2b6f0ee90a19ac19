"""The OpenAPI 3.1 document of the edge, made from the types of its answers and the limits it runs with."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import TypeAdapter

from serving import answers
from serving.bodies import MAX_PICTURES
from serving.preprocess import FORMATS, TIFF
from serving.refusal import Error
from serving.settings import Settings

_TYPES = (answers.Prediction, answers.Batch, answers.Model, Error, answers.Status)
_REFUSALS = {
    400: "Malformed request",
    401: "No bearer token, or not the server's",
    408: "The body came too slowly",
    413: "Too many bytes, or too many pixels",
    415: "Not an accepted picture format, by its content",
    422: "A picture that cannot be decoded",
    429: "Too many pictures wait: try again after Retry-After seconds",
    503: "No champion yet, or too many bytes at once: try again after Retry-After seconds",
}
_BINARY = {"type": "string", "format": "binary"}
_TOP_K = {
    "name": "top_k",
    "in": "query",
    "description": "How many of the likeliest classes are listed in `scores`.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 99_999_999, "default": 5},
}


def document(settings: Settings) -> dict[str, Any]:
    """A JSON value. Which refusals a route knows, and whether it wants a token, is as it is on this server."""
    formats = (*FORMATS, TIFF) if settings.accept_tiff else FORMATS
    picture = {f"image/{name.lower()}": {"schema": _BINARY} for name in formats}
    picture["application/octet-stream"] = {"schema": _BINARY}
    one = {**picture, "multipart/form-data": _form("image", _BINARY)}
    many = {"type": "array", "items": _BINARY, "minItems": 1, "maxItems": MAX_PICTURES}
    limit = f"at most {settings.max_body_bytes} bytes"
    paths = {
        "/v1/predict": {
            "post": _operation(settings, "Decide one picture", answers.Prediction, *_REFUSALS)
            | {"parameters": [_TOP_K], "requestBody": _body(f"The picture itself, {limit}, or a form with it.", one)}
        },
        "/v1/predict/batch": {
            "post": _operation(settings, "Decide many pictures", answers.Batch, 400, 401, 408, 413, 429, 503)
            | {
                "parameters": [_TOP_K],
                "requestBody": _body(
                    f"1 to {MAX_PICTURES} pictures, each {limit}; a bad one is an error in its own result.",
                    {"multipart/form-data": _form("images", many)},
                ),
            }
        },
        "/v1/model": {"get": _operation(settings, "What answers here", answers.Model, 401, 503)},
        "/livez": {"get": _operation(settings, "200 while the process answers", answers.Status)},
        "/healthz": {"get": _operation(settings, "200 while the process answers", answers.Status)},
        "/readyz": {"get": _operation(settings, "200 when it can predict", answers.Status, 503)},
    }
    components: dict[str, Any] = {"schemas": _schemas()}
    if settings.api_token is not None:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    about = {"title": "Thaw", "version": _version(), "description": "Predictions of the model that was promoted."}
    return {"openapi": "3.1.0", "info": about, "paths": paths, "components": components}


def _operation(settings: Settings, summary: str, answer: type, *refusals: int) -> dict[str, Any]:
    guarded = 401 in refusals and settings.api_token is not None
    responses = {"200": _response("Done", answer)}
    responses |= {str(status): _response(_REFUSALS[status], Error) for status in refusals if status != 401 or guarded}
    return {"summary": summary, "responses": responses} | ({"security": [{"token": []}]} if guarded else {})


def _response(description: str, answer: type) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{answer.__name__}"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _body(description: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "required": True, "content": content}


def _form(field: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"schema": {"type": "object", "properties": {field: schema}, "required": [field]}}


def _schemas() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in _TYPES:
        schema = TypeAdapter(kind).json_schema(ref_template="#/components/schemas/{model}")
        found |= schema.pop("$defs", {})
        found[kind.__name__] = schema
    return found


def _version() -> str:
    try:
        return version("thaw")
    except PackageNotFoundError:  # in a Bento the modules are copied, not installed
        return "0"
