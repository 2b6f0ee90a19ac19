"""What a test of serving may want for itself: a BentoML model store, a ledger, a PostgreSQL database."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from benchmarks.postgres import binaries, postgres
from benchmarks.served import model_store as model_store_at
from serving.ledger import opened
from serving.live import Live
from tests.serving.edges import live_at
from tests.serving.tiny import make_artifact
from tests.serving.world import World

__all__ = ["model_store_at"]


@pytest.fixture
def bentoml_home(tmp_path: Path) -> Iterator[Path]:
    with model_store_at(tmp_path / "bentoml") as place:
        yield place


@pytest.fixture
def world(tmp_path: Path, bentoml_home: Path) -> Iterator[World]:
    with opened(tmp_path / "home") as ledger:
        yield World(tmp_path, ledger, bentoml_home)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Answers with the mean colour's name."""
    place = tmp_path_factory.mktemp("tiny")
    live = live_at(place, make_artifact(place / "artifact"))
    yield live
    live.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a server's own database, in which others are made."""
    if binaries() is None:
        pytest.skip("needs PostgreSQL's initdb and pg_ctl")
    with postgres() as url:
        yield url


@pytest.fixture
def database(postgres_server: str) -> Iterator[str]:
    """The URL of an empty PostgreSQL database, as a user would write it."""
    name = f"test_{uuid.uuid4().hex}"
    server = sa.make_url(postgres_server).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
        yield postgres_server.removesuffix(f"/{server.database}") + f"/{name}"
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()
