"""Where Thaw keeps its things, and the few settings that come from the environment (`THAW_*`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from serving.errors import BadInput

Device = Literal["auto", "cuda", "cpu"]
HOME_NAME = ".thaw"


class Settings(BaseSettings):
    """Read once, at the edge (command line, service); nothing below reads the environment."""

    model_config = SettingsConfigDict(env_prefix="THAW_", extra="ignore", env_ignore_empty=True)

    home: Path | None = Field(None, description="directory of datasets, features, runs and ledger")
    ledger: str | None = Field(None, description="SQLAlchemy URL of the ledger; default: SQLite in the home")
    name: str | None = Field(None, description="model the service answers with; may be left out if there is one")
    device: Device = Field("auto", description="auto, cuda or cpu; cuda without a usable GPU is an error")
    api_token: SecretStr | None = Field(None, description="bearer token every request must carry")
    insecure: bool = Field(
        False, description="let the service answer without a token; `thaw serve` does so on loopback, or on --insecure"
    )
    threads: int | None = Field(
        None, ge=1, description="intra-op threads of a session; default: all cores, in the server one (it runs several)"
    )
    max_body_bytes: int = Field(10 * 1024 * 1024, ge=1, description="largest accepted picture and request body, bytes")
    max_batch_bytes: int = Field(64 * 1024 * 1024, ge=1, description="largest accepted body of a batch, bytes")
    max_buffered_bytes: int = Field(
        512 * 1024 * 1024, ge=1, description="bytes of bodies that may be in memory at once; beyond: 503"
    )
    accept_tiff: bool = Field(False, description="also accept TIFF pictures")
    read_timeout: float = Field(20.0, gt=0, description="seconds a client may take to send its body")
    queue: int = Field(
        64, ge=1, description="pictures that may wait for a slot; beyond: 429, but a batch is let in whole"
    )
    drain_seconds: float = Field(
        2.0, ge=0, description="after SIGTERM: how long new requests are still answered while /readyz says 503"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="of the server; INFO has a line for every request, without what the client sent"
    )
    poll_seconds: float = Field(1.0, gt=0, description="how often the service asks the ledger for the champion")

    @field_validator("ledger")
    @classmethod
    def _absolute_file(cls, url: str | None) -> str | None:
        """A worker's working directory is not the one in which the URL was written."""
        scheme, separator, file = (url or "").partition(":///")
        if scheme in ("sqlite", "sqlite+pysqlite") and file and not file.startswith((":", "file:")):
            return f"{scheme}{separator}{Path(file).absolute()}"
        return url


def load_settings() -> Settings:
    """The settings of this environment. Raises BadInput naming the variable that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = error.errors()[0]
        name = "THAW_" + "_".join(str(part) for part in wrong["loc"]).upper()
        raise BadInput(f"{name}: expected {wrong['msg']}, found {str(wrong['input'])[:60]!r}: correct it") from None


def cores() -> int:
    """How many cores this process may use: a container's or a `taskset`'s share may be two of a hundred."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_home(start: Path | None = None) -> Path:
    """The home that holds for a directory, absolute, whether or not it exists yet.

    `THAW_HOME` if set; else `.thaw/` in `start` (default: the working directory) or in the nearest
    directory above that has one; else the one that a writing command would create in `start`.
    """
    configured = load_settings().home
    if configured is not None:
        return configured.expanduser().resolve()
    here = (start or Path.cwd()).resolve()
    for directory in (here, *here.parents):
        if (directory / HOME_NAME).is_dir():
            return directory / HOME_NAME
    return here / HOME_NAME


def model_store() -> Path:
    """Where BentoML keeps its models (`BENTOML_HOME`), absolute, whether or not it exists yet."""
    return Path(os.environ.get("BENTOML_HOME") or "~/bentoml").expanduser().absolute()


def existing_home() -> Path:
    """The home, for commands that only read: they never create one."""
    home = find_home()
    if not home.is_dir():
        raise BadInput(
            f"expected a Thaw home, found none at {home}: run `thaw demo` or `thaw retrain` first, or set THAW_HOME"
        )
    return home
