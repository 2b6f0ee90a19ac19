"""The overload drill: one stop of a real server, what it sums up, and each requirement failing when it should."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

import pytest

from benchmarks.clients import BROKEN, Answered
from benchmarks.overload import percentile, requirements, stopped, summary, table
from benchmarks.served import model_store
from benchmarks.serving_speed import jpeg
from serving.ledger import opened
from serving.store import Store
from tests.benchmarks.spoiled import spoiled, unmet
from tests.serving import tiny


def part(**statuses: int) -> dict[str, Any]:
    return {
        "requests": sum(statuses.values()),
        "statuses": {name.removeprefix("s"): count for name, count in statuses.items()},
        "goodput": 90.0,
        "ok_p50_ms": 20.0,
        "ok_p99_ms": 60.0,
        "refused_p99_ms": 15.0,
    }


def stop(**counts: int) -> dict[str, int]:
    nothing = {"answered": 400, "answered_after": 100, "other": 0, "lost": 0, "refused": 9, "refused_while_draining": 0}
    return nothing | counts


FIGURES: dict[str, Any] = {
    "peak": 100.0,
    "overload": part(s200=5400, s429=18_000, s503=3),
    "alone": part(s200=400),
    "stalled": part(s200=400),
    "stops": [stop(), stop()],
    "control_endless_queue": part(s200=700) | {"ok_p99_ms": 20_000.0},
    "control_little_memory": part(s200=10, s503=300),
    "control_killed": [stop(lost=3), stop(lost=0)],
}


def test_a_real_server_that_is_told_to_end_loses_nothing(tmp_path: Path) -> None:
    with model_store(tmp_path / "bentoml"), opened(tmp_path / "home") as ledger:
        Store(tmp_path / "home", ledger).publish(tiny.make_artifact(tmp_path / "artifact"), "test", "stop")
        ledger.promote("colours", 1, who="test", why="stop")
    environment = {"THAW_HOME": str(tmp_path / "home"), "BENTOML_HOME": str(tmp_path / "bentoml")}
    found = stopped(environment | {"THAW_DEVICE": "cpu", "THAW_LOG_LEVEL": "WARNING"}, jpeg(), signal.SIGTERM)
    assert (found["lost"], found["other"], found["refused_while_draining"]) == (0, 0, 0)
    assert found["answered"] > found["answered_after"] > 0, "it went on for a while"
    assert found["refused"] > 0, "and then it was gone"


def test_good_figures_meet_every_requirement() -> None:
    assert unmet(requirements(FIGURES)) == []


@pytest.mark.parametrize(
    ("figure", "value", "words"),
    [
        ("overload/statuses", {"200": 5400, "429": 9, "500": 1}, "only 200, 429 and 503"),
        ("overload/statuses", {"200": 5400, "429": 9, str(BROKEN): 1}, "only 200, 429 and 503"),
        ("overload/goodput", 59.0, "at least 60% of the peak answered, found 59%"),
        ("overload/refused_p99_ms", 101.0, "refusals in 100.0 ms, found 101"),
        ("overload/refused_p99_ms", math.nan, "found nan"),
        ("overload/ok_p99_ms", 2001.0, "answers in 2000.0 ms, found 2001"),
        ("overload/ok_p99_ms", math.nan, "found nan"),
        ("stalled/statuses", {"200": 399, "503": 1}, "the honest answered"),
        ("stalled/ok_p99_ms", 121.0, "at most doubled, found 2.02 times"),
        ("stops", [stop(), stop(lost=1)], "lost at SIGTERM, found 1"),
        ("stops", [stop(other=1)], "lost at SIGTERM, found 1"),
        ("stops", [stop(refused_while_draining=2)], "lost at SIGTERM, found 2"),
        ("control_endless_queue/ok_p99_ms", 1999.0, "answers late"),
        ("control_little_memory/statuses", {"200": 300}, "keeps honest clients out"),
        ("control_killed", [stop(), stop()], "loses requests"),
    ],
)
def test_a_bad_figure_is_noticed(figure: str, value: Any, words: str) -> None:
    (text,) = unmet(requirements(spoiled(FIGURES, figure, value)))
    assert words in text


def test_the_table_has_a_line_for_each_part_and_sums_the_stops() -> None:
    text = table(FIGURES)
    assert "(peak 100/s)" in text
    assert "| 4 times the peak | 5400 x 200, 18000 x 429, 3 x 503 | 0.90 | 20 | 60 | 15 |" in text
    assert "SIGTERM, 2 times: answered 800, answered after 200, other 0, lost 0, " in text
    assert "SIGKILL of the worker, 2 times: answered 800, answered after 200, other 0, lost 3, " in text
    assert "SIGTERM, 0 times" in table(FIGURES | {"stops": []})


def test_answers_and_refusals_are_summed_up_apart() -> None:
    answers = [Answered(0.0, 0.001 * n, 200, False) for n in range(1, 101)]
    answers += [Answered(0.0, 0.5, 429, False), Answered(0.0, 0.5, 503, True), Answered(0.0, 30.0, BROKEN, True)]
    found = summary(answers, 10.0)
    assert (found["requests"], found["goodput"]) == (103, 10.0)
    assert found["statuses"] == {"200": 100, "429": 1, "503": 1, "0": 1}
    assert found["ok_p50_ms"] == pytest.approx(50.5)
    assert found["ok_p99_ms"] == pytest.approx(99.01)
    assert found["refused_p99_ms"] == pytest.approx(500)


def test_percentiles_of_few_values() -> None:
    assert math.isnan(percentile([], 99))
    assert percentile([0.25], 99) == 250
    assert percentile([0.1, 0.2], 50) == pytest.approx(150)
