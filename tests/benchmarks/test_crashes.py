"""What the drill of killed processes counts, and each requirement failing when it should.

`.ci/run` runs it on a real platform; here are also the requirements of the drill of two workers and of the overhead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import crashes, overhead, two_workers
from benchmarks.crashes import leftovers, problems, stamp, step_at
from benchmarks.served import model_store
from serving.ledger import opened
from serving.store import Store
from tests.benchmarks.spoiled import spoiled, unmet
from tests.serving import tiny

KILL = {
    "kind": "run", "step": "finetune", "state": "Crashed", "final": 1.2, "next_state": "Completed", "begin": 0.4,
    "next_final": 31.0, "problems": [], "left_in_run": 1,
}  # fmt: skip
FIGURES: dict[str, Any] = {
    "kills": {0: KILL}, "client": {"asked": 900, "failed": [], "slowest": 0.2}, "unfinished": [], "ready": 40.0,
    "life": 12.0, "seconds": 600.0, "note": "",
}  # fmt: skip


def judged(figures: dict[str, Any]) -> list[str]:
    return unmet(crashes.requirements(figures | {"kills": list(figures["kills"].values())}))


def test_good_figures_meet_every_requirement() -> None:
    assert judged(FIGURES) == []
    text = crashes.table(FIGURES | {"kills": [KILL]})
    assert "| run | finetune | Crashed | 1.2 | Completed | 0.4 | 31 | none |" in text
    assert "900, failed: 0" in text


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("final", 180.1, "a final state within 180 s"),
        ("final", float("inf"), "found inf"),
        ("next_state", "Failed", "the next run completes, found Failed"),
        ("next_state", "", "the next run completes, found none"),
        ("begin", 60.1, "begins in 60 s"),
        ("begin", float("nan"), "begins in 60 s"),
        ("problems", ["version 2: ArtifactError"], "nothing wrong afterwards"),
    ],
)
def test_a_bad_end_of_one_kill_is_noticed(key: str, value: Any, words: str) -> None:
    (text,) = judged(FIGURES | {"kills": {0: KILL | {key: value}}})
    assert words in text
    assert "kill 1 (run, finetune)" in text


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("client/failed", ["12:00:00 ReadError"], "no failed prediction, found 1 of 900"),
        ("client/asked", 0, "no failed prediction, found 0 of 0"),
        ("unfinished", ["retrain drill"], "no run without an end"),
    ],
)
def test_a_bad_figure_is_noticed(place: str, value: Any, words: str) -> None:
    (text,) = judged(spoiled(FIGURES, place, value))
    assert words in text


# --- what is found afterwards -------------------------------------------------------------------------


def step(name: str, begin: int, end: int | None) -> dict[str, Any]:
    times = (None if second is None else f"2026-01-01T00:00:{second:02}Z" for second in (begin, end))
    return dict(zip(("name", "start_time", "end_time"), (f"{name}-0a1", *times), strict=True))


@pytest.mark.parametrize(
    ("second", "words"),
    [(0, "before prepare"), (1, "prepare"), (5, "after prepare"), (7, "train_head"), (30, "train_head")],
)
def test_the_step_that_was_hit_is_named(second: int, words: str) -> None:
    steps = [step("train_head", 6, None), step("prepare", 1, 3)]
    assert step_at(steps, stamp(f"2026-01-01T00:00:{second:02}Z")) == words


def test_half_written_things_are_told_apart(tmp_path: Path) -> None:
    run, other = "0-1a2b3c4d5e6f", "0-9f9f9f9f9f9f"
    places = ["features/.tmp-x", "runs/.tmp-y", "runs/1-1a2b3c4d5e6f/.tmp-z", "runs/2-777777/.tmp-w", "features/whole"]
    for place in places:
        (tmp_path / place).mkdir(parents=True)
    shared, own = leftovers(tmp_path, run)
    assert sorted(str(path.relative_to(tmp_path)) for path in shared) == places[:2]
    assert [path.name for path in own] == [".tmp-z"]
    assert leftovers(tmp_path, other)[1] == []


def test_a_ledger_is_intact_or_not(tmp_path: Path) -> None:
    home = tmp_path / "home"
    source = tiny.make_artifact(tmp_path / "source", crashes.NAME)
    with model_store(tmp_path / "bentoml"), opened(home) as ledger:
        store = Store(home, ledger)
        version = store.publish(source, "drill", "why")
        ledger.promote(crashes.NAME, version.version, who="drill", why="why", release_hold=True)
        assert problems(home) == []
        (tmp_path / "bentoml" / f".thaw-{ledger.id}-{crashes.NAME}").mkdir()
        (model,) = (tmp_path / "bentoml" / "models").rglob("model.onnx")
        model.write_bytes(model.read_bytes()[:-1])
        found = problems(home)
    assert [words for words in ("version 1: ArtifactError", "left in the store") if words not in " ".join(found)] == []


# --- the other two programs ---------------------------------------------------------------------------

BOTH = {"locked": True, "workers": ["one", "two"], "early": 0, "states": ["Completed", "Rejected"], "lasted": [9, 8]}
TWO: dict[str, Any] = {
    "one_run": {"worker": "two", "busy": {"one": 0, "two": 1}, "state": "Completed", "champion": 1},
    "one_name": BOTH | {"overlap": -0.4},
    "two_names": BOTH | {"overlap": 7.0},
    "promotions": {
        "done": [
            {"worker": "one", "state": "Completed", "champion": 1},
            {"worker": "two", "state": "Completed", "champion": 2},
        ]
    },
    "ready": 60.0, "seconds": 200.0, "note": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("one_run/busy", {"one": 1, "two": 1}, "worker one waits meanwhile"),
        ("one_run/champion", None, "is promoted"),
        ("one_name/early", 1, "no step while"),
        ("one_name/overlap", 0.1, "no overlap"),
        ("one_name/overlap", float("nan"), "no overlap"),
        ("one_name/locked", False, "locks"),
        ("two_names/overlap", -0.1, "overlap"),
        ("two_names/workers", ["one", "one"], "two names on two workers"),
        ("two_names/states", ["Completed", "Crashed"], "both end well"),
    ],
)
def test_what_two_workers_must_not_do_is_noticed(place: str, value: Any, words: str) -> None:
    assert unmet(two_workers.requirements(TWO)) == []
    assert "steps of 9.0 s and 8.0 s" in two_workers.table(TWO)
    (text,) = unmet(two_workers.requirements(spoiled(TWO, place, value)))
    assert words in text


def timed(seconds: float) -> list[dict[str, Any]]:
    return [
        {"seconds": seconds, "processor": seconds, "steps": {"prepare": seconds / 2}, "verdict": "PASSED", "after": 0.1}
    ] * 3


@pytest.mark.parametrize(("seconds", "met"), [(20.0, True), (25.0, True), (25.1, False), (float("nan"), False)])
def test_an_orchestrator_that_costs_too_much_is_noticed(seconds: float, met: bool) -> None:
    found = {"plain": timed(20.0), "flow": timed(seconds)}
    figures = found | overhead.summary(found) | {"note": ""}
    assert (unmet(overhead.requirements(figures)) == []) == met
    assert "step prepare" in overhead.table(figures)
