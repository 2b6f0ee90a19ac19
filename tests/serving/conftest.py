"""A BentoML model store of its own for each test that wants one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore


@contextmanager
def model_store_at(place: Path) -> Iterator[Path]:
    """BentoML's home is `place`, which is made; its container read BENTOML_HOME once and keeps it."""
    (place / "models").mkdir(parents=True, exist_ok=True)
    BentoMLContainer.bentoml_home.set(str(place))
    BentoMLContainer.model_store.set(ModelStore(place / "models"))
    try:
        yield place
    finally:
        BentoMLContainer.bentoml_home.reset()
        BentoMLContainer.model_store.reset()


@pytest.fixture
def bentoml_home(tmp_path: Path) -> Iterator[Path]:
    with model_store_at(tmp_path / "bentoml") as place:
        yield place
