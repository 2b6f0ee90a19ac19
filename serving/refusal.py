"""An error that a client is told: one shape, a stable code, one line."""

from __future__ import annotations

from starlette.responses import JSONResponse
from typing_extensions import TypedDict


class ErrorText(TypedDict):
    code: str
    message: str


class Error(TypedDict):
    error: ErrorText


class Refusal(Exception):
    """A request that is answered with an error; `code` is stable, `message` is one line."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers

    def body(self) -> Error:
        # a client's words in a message may hold what UTF-8 cannot: half a surrogate pair, from a charset of its choice
        line = " ".join(self.message.split()).encode("utf-8", "backslashreplace").decode()
        return {"error": {"code": self.code, "message": line}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)
