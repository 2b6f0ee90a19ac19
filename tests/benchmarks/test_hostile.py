"""The hostile drill: how it sends a file, what it judges of replies, each requirement failing when it should."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from benchmarks.hostile import (
    CONTENT_TYPES,
    FILE_NAMES,
    WAYS,
    Reply,
    accepted,
    batches_differ,
    corrupt,
    refused,
    requirements,
    scenes,
    table,
    watched,
)
from benchmarks.served import model_store
from serving.http import Edge
from serving.ledger import opened
from serving.live import Live
from serving.settings import Settings
from serving.store import Store
from tests.benchmarks.spoiled import spoiled, unmet
from tests.serving import tiny

FIGURES: dict[str, Any] = {
    "files": 880,
    "statuses": {"as_it_is": {200: 700, 415: 100, 422: 80}, "cut_short": {422: 880}},
    "server_errors": 0,
    "slowest_seconds": 1.2,
    "slowest": "large.png",
    "batch_items": 880,
    "batch_items_that_differ": 0,
    "idle_mb": 200.0,
    "peak_mb": 700.0,
    "slots": 2,
    "refused_valid": [],
    "accepted_corrupt": [],
    "refused_orientations": [],
    "labels_of_scenes": {"Landscape": ["red"], "Portrait": ["blue"]},
    "names_in_the_log": 0,
    "control_server_errors": 12,
}


def test_good_figures_meet_every_requirement() -> None:
    assert unmet(requirements(FIGURES)) == []
    text = table(FIGURES)
    assert "# 880 difficult pictures by others" in text
    assert "| as_it_is | 700 x 200, 100 x 415, 80 x 422 |" in text
    assert "| labels of the rotated scenes | Landscape: red; Portrait: blue |" in text


@pytest.mark.parametrize(
    ("figure", "value", "words"),
    [
        ("server_errors", 1, "no 5xx, found 1"),
        ("slowest_seconds", 5.1, "none over 5 s, found 5.1 s for large.png"),
        ("peak_mb", 1001.0, "at most 1000 MB, found 1001"),
        ("refused_valid", ["png__basn0g01.png"], "valid pictures accepted, found refused: ['png__basn0g01.png']"),
        ("refused_orientations", ["Landscape_3.jpg"], "orientations accepted"),
        ("labels_of_scenes", {"Landscape": ["red", "blue"], "Portrait": ["green"]}, "one label a scene"),
        ("labels_of_scenes", {"Landscape": ["red"], "Portrait": ["red"]}, "two scenes told apart"),
        ("labels_of_scenes", {"Landscape": ["red"]}, "two scenes told apart"),
        ("labels_of_scenes", {}, "two scenes told apart"),
        ("batch_items", 879, "880 results of batches, found 879"),
        ("batch_items_that_differ", 1, "batches answer alike, found 1"),
        ("names_in_the_log", 1, "no file name in the log, found 1"),
        ("control_server_errors", 0, "the control answers with 5xx"),
    ],
)
def test_a_bad_figure_is_noticed(figure: str, value: Any, words: str) -> None:
    (text,) = unmet(requirements(spoiled(FIGURES, figure, value)))
    assert words in text


# --- what is judged of the replies --------------------------------------------------------------------


def reply(path: str, status: int = 200, label: str = "red", way: str = "as_it_is") -> Reply:
    return Reply(way, Path("pictures", path), status, 0.01, label if status == 200 else "")


def test_pngsuites_corrupt_files_are_known_by_their_names() -> None:
    assert corrupt(Path("pngsuite/png__xs1n0g01.png"))
    assert not corrupt(Path("pngsuite/png__basn0g01.png"))


def test_refused_and_accepted_files_are_named_once() -> None:
    replies = [
        reply("pngsuite/a__one.png", 415), reply("pngsuite/a__one.png", 415, way="in_a_form"),
        reply("pngsuite/a__two.png"), reply("pngsuite/a__two.png", 422, way="cut_short"),
        reply("pngsuite/readme.txt", 415), reply("other/a__three.png", 415),
    ]  # fmt: skip
    assert refused(replies, lambda path: path.parent.name == "pngsuite") == ["a__one.png"]
    assert accepted(replies, lambda path: path.parent.name == "pngsuite") == ["a__two.png"]


def test_the_labels_of_a_scene_are_those_of_its_rotations() -> None:
    replies = [
        reply("exif-orientation/Landscape_1.jpg"), reply("exif-orientation/Landscape_2.jpg", label="blue"),
        reply("exif-orientation/Portrait_1.jpg"), reply("exif-orientation/Portrait_1.jpg", 422, way="cut_short"),
        reply("other/Landscape_1.jpg", label="green"),
    ]  # fmt: skip
    assert scenes(replies) == {"Landscape": ["blue", "red"], "Portrait": ["red"]}


def test_a_batch_that_answers_otherwise_is_counted() -> None:
    replies = [reply("a.png"), reply("b.png", 415), reply("a.png", label="blue", way="in_a_form")]
    a, b = Path("pictures", "a.png"), Path("pictures", "b.png")
    assert batches_differ({a: "red", b: ""}, replies) == 0
    assert batches_differ({a: "blue", b: "red"}, replies) == 2


# --- what is sent -------------------------------------------------------------------------------------


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    """Of the edge with a tiny model, in this process."""
    from starlette.testclient import TestClient

    with model_store(tmp_path / "bentoml"), opened(tmp_path / "home") as ledger:
        Store(tmp_path / "home", ledger).publish(tiny.make_artifact(tmp_path / "artifact"), "test", "hostile")
        ledger.promote("colours", 1, who="test", why="hostile")
        live = Live(tmp_path / "home", device="cpu")
        live.refresh()
        yield TestClient(Edge(live, Settings()).app())
        live.stop()


@pytest.mark.parametrize("way", WAYS)
def test_a_file_arrives_whole_whatever_is_said_about_it(client: httpx.Client, tmp_path: Path, way: str) -> None:
    """But for the one that is cut short, which must differ."""
    picture = tmp_path / "picture.bmp"
    Image.fromarray(np.full((8, 8, 3), (250, 0, 0), np.uint8)).save(picture)
    for number in range(max(len(CONTENT_TYPES), len(FILE_NAMES))):
        response = WAYS[way](client, picture, number)
        if way == "cut_short":
            assert response.status_code == 422
        else:
            assert (response.status_code, response.json()["label"]) == (200, "red")


def test_the_peak_of_a_process_is_seen() -> None:
    """Another process: this one may reuse memory that it has."""
    grows = (
        "import sys; input(); held = b'1' * (50 << 20); print(flush=True); input(); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", grows], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with watched(psutil.Process(process.pid)) as peak:
            time.sleep(0.2)
            before = peak[0]
            for _ in range(2):
                process.stdin.write(b"\n")
                process.stdin.flush()
                process.stdout.readline()
                time.sleep(0.1)
        process.stdin.close()
    assert before > 0
    assert peak[0] >= before + 40
