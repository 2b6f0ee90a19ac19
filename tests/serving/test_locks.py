"""Locks between processes: released however a block ends, and a wait that ends says whose lock it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import Timeout

from serving.errors import Conflict
from serving.ledger import opened
from serving.locks import lock, locked
from serving.store import Store
from tasks.data.draws import archive_table


def test_a_lock_that_another_has(tmp_path: Path) -> None:
    with (
        lock(tmp_path, "data-cells"),
        pytest.raises(Conflict, match=r"expected to get the lock .*data-cells\.lock within 0 s, found another"),
        locked(tmp_path, "data-cells", 0),
    ):
        pass
    with locked(tmp_path, "data-cells", 0):
        pass


def test_it_goes_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(Timeout, match=r"other\.lock"), locked(tmp_path, "data-cells", 0):
        raise Timeout("other.lock")
    with locked(tmp_path, "data-cells", 0):
        pass


def test_a_split_table_in_use_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.data.draws._PREPARE_SECONDS", 0.1)
    with lock(tmp_path, "data-cells"), pytest.raises(Conflict, match="wait for it to end"):
        archive_table("cells", tmp_path, "2026-11-23")


@pytest.mark.parametrize(("held", "name"), [("up", "up"), ("retrain-cells", "retrain-cells"), ("data-x", "data-x")])
def test_a_name_like_another_lock_is_published_all_the_same(
    held: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.store._PUBLISH_SECONDS", 0.0)
    with lock(tmp_path, held), opened(tmp_path) as book, Store(tmp_path, book)._locked(name):
        pass
