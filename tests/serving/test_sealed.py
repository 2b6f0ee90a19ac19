"""Sealed directories are complete or absent: after exceptions, after kills, with rivals, and after tampering."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from serving import sealed
from serving.errors import ArtifactError
from serving.sealed import MANIFEST, reusable, sealing, verify

ROOT = Path(__file__).parents[2]

WRITE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from serving.sealed import sealing
with sealing(Path(sys.argv[1]), {}) as directory:
    (directory / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def seal(place: Path, text: str = "one") -> Path:
    with sealing(place, {"kind": "test"}) as directory:
        (directory / "a.txt").write_text(text)
        (directory / "deep").mkdir()
        (directory / "deep" / "b.txt").write_text(text)
    return place


def edit(place: Path, **changes: object) -> None:
    manifest = place / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))


def test_a_sealed_directory_lists_every_file_and_verifies(tmp_path: Path) -> None:
    place = seal(tmp_path / "new" / "place")
    body = verify(place)
    assert body["schema"] == sealed.SCHEMA
    assert body["kind"] == "test"
    assert set(body["files"]) == {"a.txt", "deep/b.txt"}
    assert body["files"]["a.txt"] == sealed.sha256_of(place / "a.txt")
    assert [path.name for path in place.parent.iterdir()] == ["place"]


def test_the_place_does_not_exist_before_the_end(tmp_path: Path) -> None:
    place = tmp_path / "place"
    with sealing(place, {}) as directory:
        (directory / "a.txt").write_text("one")
        assert not place.exists()
        assert sealed.about(place) is None
    assert place.is_dir()


def test_about_is_read_at_the_end(tmp_path: Path) -> None:
    about: dict[str, object] = {}
    with sealing(tmp_path / "place", about):
        about["found"] = "später"
    assert verify(tmp_path / "place")["found"] == "später"


def test_the_manifest_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    with sealing(tmp_path / "place", {"name": "größe"}):
        pass
    assert "größe" in (tmp_path / "place" / MANIFEST).read_bytes().decode("utf-8")
    code = "import sys, pathlib; from serving.sealed import verify; print(ascii(verify(pathlib.Path(sys.argv[1]))))"
    plain = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    read = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "place")], env=plain, capture_output=True, text=True, cwd=ROOT
    )
    assert ascii("größe") in read.stdout, read.stderr


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="disk"), sealing(tmp_path / "place", {}) as directory:
        (directory / "a.txt").write_text("one")
        raise RuntimeError("disk")
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_is_no_json_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"), sealing(tmp_path / "place", {"loss": float("nan")}) as directory:
        (directory / "a.txt").write_text("one")
    assert list(tmp_path.iterdir()) == []


def killed_writer(place: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", WRITE_AND_DIE, str(place)], cwd=ROOT)
    assert dead.returncode == -signal.SIGKILL


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    place = tmp_path / "place"
    killed_writer(place)
    assert not place.exists()
    assert len(list(tmp_path.iterdir())) == 1, "the kill came after something was written"
    seal(place)
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_leftovers_of_the_same_process_number_are_removed(tmp_path: Path) -> None:
    """In a container every run has the same number, so our own number does not mean our own work."""
    leftover = tmp_path / f".tmp-place-0-{sealed._machine()}-{os.getpid()}"
    leftover.mkdir()
    seal(tmp_path / "place")
    assert not leftover.exists()


def test_work_of_a_living_process_stays(tmp_path: Path) -> None:
    other = tmp_path / f".tmp-place-0-{sealed._machine()}-{os.getppid()}"
    other.mkdir()
    seal(tmp_path / "place")
    assert other.exists()


def test_work_on_another_machine_stays_until_it_is_old(tmp_path: Path) -> None:
    """Its process has a number that means nothing here; what no writer has touched for a week is nobody's."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    other = tmp_path / f".tmp-place-0-00000000-{dead.pid}"
    (other / "deep").mkdir(parents=True)
    seal(tmp_path / "place")
    assert other.exists()
    week_ago = time.time() - 8 * 86400
    for path in (other, other / "deep"):
        os.utime(path, (week_ago, week_ago))
    (other / "deep" / "new").write_text("")
    seal(tmp_path / "place")
    assert other.exists(), "something in it is new"
    for path in (other / "deep" / "new", other / "deep"):
        os.utime(path, (week_ago, week_ago))
    seal(tmp_path / "place")
    assert not other.exists()


def test_a_writer_in_a_container_leaves_the_work_of_others_alone(tmp_path: Path) -> None:
    """It sees none of their processes."""
    contained = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*contained, "true"], capture_output=True).returncode:
        pytest.skip("no containers here")
    code = "import sys; from pathlib import Path; from tests.serving.test_sealed import seal; seal(Path(sys.argv[1]))"
    with sealing(tmp_path / "place", {}) as directory:
        (directory / "a.txt").write_text("ours")
        subprocess.run([*contained, sys.executable, "-c", code, str(tmp_path / "place")], cwd=ROOT, check=True)
        assert (directory / "a.txt").exists()
    verify(tmp_path / "place")


def test_a_directory_with_a_longer_name_written_meanwhile_is_left_alone(tmp_path: Path) -> None:
    with sealing(tmp_path / "head-only", {}) as outer:
        (outer / "a.txt").write_text("outer")
        seal(tmp_path / "head")
        assert (outer / "a.txt").exists()
    assert set(verify(tmp_path / "head-only")["files"]) == {"a.txt"}


def test_two_threads_that_write_the_same_place_do_not_disturb_each_other(tmp_path: Path) -> None:
    place, both = tmp_path / "place", threading.Barrier(2)
    failures: list[BaseException] = []

    def write(text: str) -> None:
        try:
            with sealing(place, {}) as directory:
                (directory / f"{text}.txt").write_text(text)
                both.wait(10)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(verify(place)["files"]) == 1, "one writer's files, not a mixture"
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_the_first_of_two_rivals_wins_and_the_second_does_not_fail(tmp_path: Path) -> None:
    place = tmp_path / "place"
    with sealing(place, {}) as directory:
        (directory / "late.txt").write_text("late")
        seal(place)
    assert set(verify(place)["files"]) == {"a.txt", "deep/b.txt"}
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_a_rival_between_the_last_look_and_the_rename_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, rename = tmp_path / "place", Path.rename

    def rename_after_the_rival(self: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        seal(place, "rival")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_after_the_rival)
    seal(place, "late")
    verify(place)
    assert (place / "a.txt").read_text() == "rival"
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_a_rename_that_fails_without_a_rival_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space"):
        seal(tmp_path / "place")
    assert list(tmp_path.iterdir()) == []


def test_verify_finds_a_changed_file(tmp_path: Path) -> None:
    place = seal(tmp_path / "place")
    (place / "deep" / "b.txt").write_text("two")
    with pytest.raises(ArtifactError, match=r"b\.txt: expected sha256 .*, found"):
        verify(place)


def test_verify_finds_a_missing_file(tmp_path: Path) -> None:
    place = seal(tmp_path / "place")
    (place / "a.txt").unlink()
    with pytest.raises(ArtifactError, match="no such file"):
        verify(place)


def test_verify_wants_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    with pytest.raises(ArtifactError, match="incomplete"):
        verify(tmp_path / "place")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"', '{"schema": 999, "files": {}}', '{"files": {}}'])
def test_verify_refuses_another_manifest(tmp_path: Path, text: str) -> None:
    place = seal(tmp_path / "place")
    (place / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError):
        verify(place)


def test_verify_refuses_bytes_that_are_no_text(tmp_path: Path) -> None:
    place = seal(tmp_path / "place")
    (place / MANIFEST).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArtifactError, match="not JSON"):
        verify(place)


@pytest.mark.parametrize("files", [None, [], "a.txt", {"a.txt": 7}, {"a.txt": None}])
def test_verify_refuses_files_without_digests(tmp_path: Path, files: object) -> None:
    place = seal(tmp_path / "place")
    edit(place, files=files)
    with pytest.raises(ArtifactError):
        verify(place)


def test_verify_does_not_look_outside_the_directory(tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("secret")
    place = seal(tmp_path / "place")
    for name in ("../outside.txt", str(outside), "deep/../../outside.txt"):
        edit(place, files={name: sealed.sha256_of(outside)})
        with pytest.raises(ArtifactError, match="inside the directory"):
            verify(place)


def test_what_was_made_of_the_same_is_used_again(tmp_path: Path) -> None:
    place = tmp_path / "place"
    assert reusable(place, "k1") is None
    with sealing(place, {"key": "k1"}) as directory:
        (directory / "a.txt").write_text("one")
    assert reusable(place, "k1") == verify(place)


@pytest.mark.parametrize("found", ["k1", None])
def test_what_was_made_of_something_else_is_refused(tmp_path: Path, found: str | None) -> None:
    place = tmp_path / "place"
    with sealing(place, {"key": found} if found else {}):
        pass
    with pytest.raises(ArtifactError, match=rf"{place}: expected key k2, found {found or 'none'}: .* start a new run"):
        reusable(place, "k2")


def test_what_was_altered_or_is_incomplete_is_not_used_again(tmp_path: Path) -> None:
    place = seal(tmp_path / "place")
    edit(place, key="k1")
    (place / "a.txt").write_text("two")
    with pytest.raises(ArtifactError, match="expected sha256"):
        reusable(place, "k1")
    (place / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match="incomplete"):
        reusable(place, "k1")


def test_write_text_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    sealed.write_text(path, "a long first text\n")
    sealed.write_text(path, "kürzer\n")
    assert path.read_text(encoding="utf-8") == "kürzer\n"
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]


def test_equal_values_have_equal_digests() -> None:
    assert sealed.digest_of({"a": 1, "b": [2]}) == sealed.digest_of({"b": [2], "a": 1})
    assert sealed.digest_of({"a": 1}) != sealed.digest_of({"a": 2})
