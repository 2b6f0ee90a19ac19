"""What can go wrong, as exceptions that carry what a program needs to react.

ThawError
  BadInput          the caller's data, configuration or command: exit status 2
  Rejected          (not an error: verdicts are exit statuses 3 and 4, see flows/cli.py)
  ArtifactError     files of a model that are not what their manifest says
  DeviceError       a device was asked for and is not really used
  PictureError      a picture that is refused; carries the HTTP status and a stable code
  Conflict          somebody else moved the champion, or a name is on hold

Messages say what was expected, what was found, and what to do.
"""

from __future__ import annotations


class ThawError(Exception):
    """Base of all errors Thaw raises on purpose; `code` is stable, `exit_status` is the process's.

    `shared` is the message for places that others read (the orchestrator's database and logs): where the message names
    a picture, `shared` must be given and must not.
    """

    code = "error"
    exit_status = 1

    def __init__(self, message: str, *, shared: str | None = None) -> None:
        super().__init__(message)
        self.shared = message if shared is None else shared


class BadInput(ThawError):
    """The data, the configuration or the command line is wrong; nothing was changed."""

    code = "bad_input"
    exit_status = 2


class ArtifactError(ThawError):
    """A directory's files do not match its manifest, or its model does not give its golden answers."""

    code = "bad_artifact"


class DeviceError(ThawError):
    """The device asked for is not usable, or the session does not really run on it."""

    code = "device_unavailable"


class Conflict(ThawError):
    """The champion changed meanwhile, or the name is on hold: look again, then decide."""

    code = "conflict"


class PictureError(ThawError):
    """A picture that cannot be accepted.

    `code` is one of `too_large` (413), `unsupported_format` (415), `undecodable` (422);
    `status` is the HTTP status that says so.
    """

    exit_status = 2

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)  # names what is wrong, never the file
        self.status = status
        self.code = code
