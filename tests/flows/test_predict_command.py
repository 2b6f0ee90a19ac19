"""`thaw predict` on folders of any size: order, what is skipped, result files that are whole or not there, memory."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flows import cli, predict, results
from flows.predict import WINDOW, Model, count_files, open_model, predict_files
from serving.batching import Served
from tests.flows.conftest import NAME, promote, publish, thaw
from tests.flows.test_cli import refused

Result = dict[str, Any]


@pytest.fixture(autouse=True)
def _champion(home: Path, bentoml_home: Path) -> None:
    publish(home, 1)
    promote(home, 1)


@pytest.fixture
def model() -> Model:
    return open_model(None, "cpu")


def write_pictures(folder: Path, count: int, suffix: str = "png", seed: int = 0) -> list[Path]:
    """Pictures of one colour each, in the order of their names."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    paths = [folder / f"{number:05}.{suffix}" for number in range(count)]
    for path in paths:
        Image.new("RGB", (8, 8), tuple(random.integers(0, 256, 3).tolist())).save(path)
    return paths


def all_of(model: Model, *places: Path) -> list[Result]:
    return list(predict_files(model, places, lambda: None))


def check(model: Model, paths: list[Path], found: list[Result]) -> None:
    """Each result is its picture's, as the predictor answers it alone."""
    assert [result["path"] for result in found] == [str(path) for path in paths]
    for path, result in zip(paths, found, strict=True):
        (answer,) = model.predictor.answer([model.predictor.read(path.read_bytes())])
        assert result["label"] == answer.label
        assert result["probability"] == pytest.approx(answer.probability, abs=1e-6)
        assert {s["label"]: s["probability"] for s in result["scores"]} == pytest.approx(dict(answer.scores), abs=1e-6)
        assert result["model"] == model.about()


# --- which files, in which order ----------------------------------------------------------------------


def test_the_order_is_kept_over_more_pictures_than_are_under_way(model: Model, tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "many", 600)
    assert len(paths) > 2 * WINDOW
    found = all_of(model, tmp_path / "many")
    check(model, paths, found)
    assert len({result["label"] for result in found}) == 3
    assert len({result["probability"] for result in found}) > 300, "no two neighbours could be exchanged unseen"


def test_folders_are_walked_by_name_and_places_in_the_order_given(model: Model, tmp_path: Path) -> None:
    b, a = (write_pictures(tmp_path / "x" / name, 2, seed=seed) for seed, name in enumerate("ba"))
    top, alone = write_pictures(tmp_path / "x", 2, seed=2), write_pictures(tmp_path / "y", 1, seed=3)
    check(model, [*alone, *top, *a, *b, *alone], all_of(model, alone[0], tmp_path / "x", tmp_path / "y"))


def test_what_is_no_picture_is_skipped_in_a_folder(tmp_path: Path) -> None:
    """Nor named like one: also a loop of links, a pipe, and what macOS leaves beside a picture."""
    folder = tmp_path / "mixed"
    paths = write_pictures(folder, 2) + write_pictures(folder, 1, "jpg") + write_pictures(folder, 1, "webp")
    (folder / "notes.txt").write_text("words")
    (folder / "._00000.png").write_bytes(b"\0\5\x16\7")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    ran = thaw("predict", folder, "--device", "cpu", "--json")
    assert (ran.status, ran.err) == (0, "")
    assert [result["path"] for result in ran.document] == sorted(map(str, paths))
    ran = thaw("predict", folder, "--device", "cpu", "--output", "out.csv")
    assert ran.out == "out.csv: 4 files, 0 could not be predicted\n"


def test_what_is_named_like_a_picture_is_never_skipped(tmp_path: Path) -> None:
    """Broken, empty, of another format, a link to nothing or itself, and a pipe, which would never say anything."""
    folder = tmp_path / "mixed"
    (good,) = write_pictures(folder, 1)
    write_pictures(folder, 1, "tif")
    heic = b"\0\0\0\x18ftypheic" + bytes(20)
    for name, data in {"empty.png": b"", "words.JPG": b"words", "phone.jpg": heic, "phone.heic": heic}.items():
        (folder / name).write_bytes(data)
    (folder / "dangling.png").symlink_to("gone.png")
    (folder / "itself.png").symlink_to("itself.png")
    os.mkfifo(folder / "pipe.png")
    ran = thaw("predict", folder, "--device", "cpu", "--output", "out.json", "--json")
    assert (ran.status, ran.document["files"], ran.document["failed"]) == (2, 9, 8)
    found = json.loads(Path("out.json").read_text())
    assert [result["path"] for result in found] == sorted(str(path) for path in folder.iterdir())
    told = {Path(result["path"]).name: result["error"] for result in found if "error" in result}
    assert good.name not in told
    assert "HEIC" in told["phone.jpg"]["message"]
    assert told["dangling.png"]["message"] == "expected a file that can be read: No such file or directory"
    assert told["pipe.png"]["message"] == "expected a file that can be read: is a named pipe, not a file"
    unsupported = [name for name, error in told.items() if error["code"] == "unsupported_format"]
    assert sorted(unsupported) == ["00000.tif", "empty.png", "phone.heic", "phone.jpg", "words.JPG"]
    assert thaw("predict", folder, "--device", "cpu", "--output", "out.csv").out.startswith("out.csv: 9 files, 8 could")


def test_of_what_is_no_picture_only_the_beginning_is_read(tmp_path: Path, model: Model) -> None:
    """A film named like a picture need not fit in memory."""
    with (tmp_path / "film.png").open("wb") as file:
        file.truncate(2**40)
    (result,) = all_of(model, tmp_path / "film.png")
    assert result["error"]["code"] == "unsupported_format"


def test_a_picture_is_known_by_its_content_not_its_name(tmp_path: Path) -> None:
    (picture,) = write_pictures(tmp_path / "odd", 1)
    picture.rename(tmp_path / "odd" / "no suffix")
    assert [result["path"] for result in thaw("predict", "odd", "--json").document] == ["odd/no suffix"]


def test_a_file_that_is_named_is_never_skipped(tmp_path: Path) -> None:
    (good,) = write_pictures(tmp_path, 1)
    (tiff,) = write_pictures(tmp_path, 1, "tif")
    (tmp_path / "notes.txt").write_text("words")
    ran = thaw("predict", good, tiff, tmp_path / "notes.txt", "--device", "cpu", "--json")
    assert ran.status == 2
    fine, *bad = ran.document
    assert fine["label"] in ("red", "green", "blue")
    assert [result["error"]["code"] for result in bad] == ["unsupported_format"] * 2
    ran = thaw("predict", tmp_path / "notes.txt", "--device", "cpu")
    assert (ran.status, len(ran.out.splitlines())) == (2, 1)
    assert "notes.txt  expected JPEG, PNG" in ran.out


def test_a_broken_picture_in_a_folder_is_an_error_among_the_others(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "some", 3)
    paths[1].write_bytes(paths[1].read_bytes()[:40])
    ran = thaw("predict", "some", "--device", "cpu", "--json")
    assert ran.status == 2
    assert ["error" in result for result in ran.document] == [False, True, False]
    assert ran.document[1]["error"]["code"] == "undecodable"


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file here that opens and cannot be read")
def test_a_file_that_cannot_be_read_is_an_error_among_the_others(tmp_path: Path) -> None:
    (good,) = write_pictures(tmp_path, 1)
    (tmp_path / "bad.png").symlink_to("/proc/self/mem")  # a disk that fails says the same
    ran = thaw("predict", tmp_path / "bad.png", good, "--device", "cpu", "--json")
    assert ran.status == 2
    bad, fine = ran.document
    assert bad["error"]["code"] == "unreadable"
    assert bad["error"]["message"] == "expected a file that can be read: Input/output error"
    assert "label" in fine


def test_what_an_error_says_is_the_same_each_time(tmp_path: Path) -> None:
    """And no address in memory, which helps nobody but an attacker."""
    (bad,) = write_pictures(tmp_path, 1)
    bad.write_bytes(bad.read_bytes()[:40])
    first, second = (thaw("predict", bad, "--device", "cpu", "--json").document["error"] for _ in range(2))
    assert first == second
    assert "0x" not in first["message"]


@pytest.mark.parametrize("target", ["gone.png", "link.png"])
def test_a_link_that_leads_nowhere_is_refused_when_it_is_named(tmp_path: Path, target: str) -> None:
    (tmp_path / "link.png").symlink_to(target)
    refused(thaw("predict", "link.png", "--json"), "expected a picture or a folder at link.png")


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "full", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("words")
    refused(thaw("predict", *paths, "empty", "--json"), "expected pictures in empty, found none")


# --- what is printed ----------------------------------------------------------------------------------


def test_one_picture_is_one_object_and_a_folder_is_a_list(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "two", 2)
    one = thaw("predict", paths[0], "--device", "cpu", "--json").document
    assert one["path"] == str(paths[0])
    both = thaw("predict", tmp_path / "two", "--device", "cpu", "--json")
    assert both.document[0] == one
    assert [result["path"] for result in both.document] == list(map(str, paths))
    paths[1].unlink()
    assert thaw("predict", tmp_path / "two", "--device", "cpu", "--json").document == [one], "still a list"
    assert [one, one] == thaw("predict", paths[0], paths[0], "--device", "cpu", "--json").document


def test_lines_on_the_terminal_say_label_and_probability(model: Model, tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "two", 2)
    ran = thaw("predict", tmp_path / "two", "--device", "cpu")
    assert (ran.status, ran.err) == (0, "")
    found = all_of(model, *paths)
    assert ran.out.splitlines() == [f"{r['path']}  {r['label']}  {r['probability']:.4f}" for r in found]


# --- files of results ---------------------------------------------------------------------------------


def test_the_files_agree_with_each_other_and_with_the_predictor(model: Model, tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "some", 40)
    paths[7].rename(tmp_path / "some" / 'a "quoted", name\n.png')
    paths = sorted((tmp_path / "some").iterdir())
    for suffix in ("csv", "json", "jsonl"):
        ran = thaw("predict", "some", "--device", "cpu", "--output", f"out.{suffix}")
        assert (ran.status, ran.out) == (0, f"out.{suffix}: 40 files, 0 could not be predicted\n")
    relative = [path.relative_to(tmp_path) for path in paths]
    whole = json.loads(Path("out.json").read_text())
    check(model, relative, whole)
    assert [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()] == whole
    with Path("out.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    classes = [f"probability:{label}" for label in ("red", "green", "blue")]
    assert list(table[0]) == ["path", "label", "probability", "error", *classes]
    for row, result in zip(table, whole, strict=True):
        assert (row["path"], row["label"], row["error"]) == (result["path"], result["label"], "")
        assert float(row["probability"]) == result["probability"]
        for score in result["scores"]:
            assert float(row[f"probability:{score['label']}"]) == score["probability"]


def test_a_picture_that_could_not_be_predicted_is_in_every_file(tmp_path: Path) -> None:
    good, bad = write_pictures(tmp_path / "some", 2)
    bad.write_bytes(b"words")
    for suffix in ("csv", "json", "jsonl"):
        ran = thaw("predict", good, bad, "--device", "cpu", "--output", f"out.{suffix}", "--json")
        assert ran.status == 2
        assert (ran.document["output"], ran.document["files"], ran.document["failed"]) == (f"out.{suffix}", 2, 1)
        assert ran.document["model"]["name"] == NAME
    message = json.loads(Path("out.json").read_text())[1]["error"]["message"]
    assert json.loads(Path("out.jsonl").read_text().splitlines()[1])["error"]["message"] == message
    with Path("out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["error"], rows[1]["error"], rows[1]["label"]) == ("", message, "")


def test_a_file_name_that_is_not_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (picture,) = write_pictures(tmp_path / "some", 1)
    name = os.fsdecode(b"some/caf\xe9.png")
    picture.rename(tmp_path / name)
    for suffix in ("csv", "json", "jsonl"):
        ran = thaw("predict", "some", "--device", "cpu", "--output", f"out.{suffix}", "--json")
        assert (ran.status, ran.document["files"], ran.document["failed"]) == (0, 1, 0)
    with Path("out.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [name]
    assert [result["path"] for result in json.loads(Path("out.json").read_text())] == [name]
    assert json.loads(Path("out.jsonl").read_text())["path"] == name
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["thaw", "predict", "some", "--device", "cpu"])
    with redirect_stdout(terminal), pytest.raises(SystemExit) as left:
        cli.main()
    terminal.seek(0)
    assert (left.value.code, terminal.read().split()[0]) == (0, r"some/caf\udce9.png")


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("out.txt", "expected --output to end in .csv, .json, .jsonl, found out.txt"),
        ("out", "found out: choose one of them"),
        ("gone/out.csv", "gone, found none: create it"),
        ("folder.csv", "found the folder"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_anything_else(output: str, words: str, tmp_path: Path) -> None:
    """Before even the pictures are looked for, let alone predicted."""
    (tmp_path / "folder.csv").mkdir()
    before = sorted(tmp_path.iterdir())
    refused(thaw("predict", "no-such-picture.png", "--output", output, "--json"), words)
    assert sorted(tmp_path.iterdir()) == before


class Stop(BaseException):
    """As KeyboardInterrupt, which a test runner would take for its own."""


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl"])
@pytest.mark.parametrize("there_before", [True, False], ids=["replaces", "new"])
@pytest.mark.parametrize("error", [RuntimeError, Stop])
def test_a_file_is_whole_or_as_it_was(
    model: Model, tmp_path: Path, suffix: str, there_before: bool, error: type[BaseException]
) -> None:
    write_pictures(tmp_path / "some", 20)
    place = tmp_path / "results" / f"out.{suffix}"
    place.parent.mkdir()
    if there_before:
        place.write_text("the old one")
    looked: list[bool] = []

    def found(break_off: bool) -> Iterator[Result]:
        for number, result in enumerate(predict_files(model, [tmp_path / "some"], lambda: None)):
            looked.append(place.read_text() == "the old one" if there_before else not place.exists())
            if number == 12 and break_off:
                raise error("in the middle")
            yield result

    before = list(place.parent.iterdir())
    with pytest.raises(error):
        results.write_file(place, found(True), model.predictor.classes)
    assert list(place.parent.iterdir()) == before, "neither half a file nor a temporary one"
    if there_before:
        assert place.read_text() == "the old one"
    results.write_file(place, found(False), model.predictor.classes)
    assert list(place.parent.iterdir()) == [place]
    assert place.read_text().count(".png") == 20
    assert all(looked) and len(looked) == 33, "until it is whole, who reads it gets the old one"


# --- memory -------------------------------------------------------------------------------------------


def test_however_many_pictures_only_a_window_of_them_is_in_memory(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (picture,) = write_pictures(tmp_path, 1)
    (tmp_path / "many").mkdir()
    for number in range(3000):
        os.link(picture, tmp_path / "many" / f"{number:05}.png")
    alive: weakref.WeakSet[Future[Served]] = weakref.WeakSet()
    most = 0
    submit = predict._submit

    def counted(pool: ThreadPoolExecutor, model: Model, path: Path) -> Future[Served]:
        nonlocal most
        future = submit(pool, model, path)
        alive.add(future)
        most = max(most, len(alive))
        return future

    monkeypatch.setattr(predict, "_submit", counted)
    assert count_files([tmp_path / "many"]) == 3000
    assert sum("label" in result for result in predict_files(model, [tmp_path / "many"], lambda: None)) == 3000
    assert WINDOW <= most <= WINDOW + 8, "those waiting, and the few that the threads are about to let go"
    kept = all_of(model, tmp_path / "many")
    assert len(kept) == 3000
    assert len(alive) == 0, "results alone keep no futures"


def test_results_come_before_the_last_picture_was_looked_at(model: Model, tmp_path: Path) -> None:
    write_pictures(tmp_path / "many", WINDOW + 50)
    looked = 0

    def looked_at() -> None:
        nonlocal looked
        looked += 1

    found = predict_files(model, [tmp_path / "many"], looked_at)
    next(found)
    assert looked == WINDOW - 1
    assert sum(1 for _ in found) == WINDOW + 49
    assert looked == WINDOW + 50
