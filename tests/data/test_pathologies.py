"""What folders in the wild hold beside good pictures: each is accepted, passed over, or left out with a reason.

None of it may crash a run, block it, or vanish without a word.
"""

from __future__ import annotations

import os
import shutil
import socket
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tasks.data.reading
from serving import sealed
from serving.errors import BadInput
from tasks.data.dataset import Dataset, pixels, subset
from tasks.data.reading import MAX_BYTES
from tasks.data.source import Source, find, find_pictures
from tasks.data.spec import DataSpec
from tasks.evaluation.outputs import original_bytes
from tests.conftest import write_digits
from tests.data.test_prepare import run, scene, splits_of


def reasons(dataset: Dataset) -> dict[str, str]:
    """File name -> why it was left out."""
    return {Path(one["path"]).name: one["why"] for one in sealed.verify(dataset.path)["unreadable"]}


def lenient(root: Path, home: Path) -> Dataset:
    return run(root, home, max_unreadable=0.5)


def why(own: Path, home: Path, name: str) -> str:
    """Prepares the folder and returns the reason given for that one file; all else is there."""
    dataset = lenient(own, home)
    told = reasons(dataset)
    assert list(told) == [name]
    assert len(pixels(dataset)) == 32
    return told[name]


# --- files that are not pictures ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1", "found HEIC: convert it, e.g. `magick FILE picture.png`"),
        ("phone.jpg", b"\0\0\0\x18ftypmif1\0\0\0\0heic", "found HEIC: convert it"),
        ("modern.avif", b"\0\0\0\x1cftypavif\0\0\0\0mif1", "found AVIF: convert it"),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "found SVG: draw it, e.g. `rsvg-convert"),
        ("drawn.svg", b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a -->\n<svg/>", "found SVG: draw it"),
        ("scan.pdf", b"%PDF-1.7\n", "found PDF: draw its page, e.g. `pdftoppm -png FILE picture`"),
        ("scan.tiff", b"II*\0", "found TIFF: convert it"),
        ("old.jp2", b"\0\0\0\x0cjP  \r\n\x87\n", "found JPEG 2000: convert it"),
        ("layers.psd", b"8BPS\0\1", "found PSD: convert it"),
        ("empty.jpg", b"", "found an empty file: copy it again, or remove it"),
        ("text.jpg", b"this is no picture\n", "found none of them: convert the picture"),
        ("page.png", b"<html><body>404 <svg/></body></html>", "found none of them"),
    ],
)
def test_what_is_no_picture_is_named_with_the_way_to_one(
    own: Path, home: Path, name: str, data: bytes, reason: str
) -> None:
    (own / "digit-0" / name).write_bytes(data)
    told = why(own, home, name)
    assert told.startswith("expected JPEG, PNG, WEBP, GIF, BMP, found ")
    assert reason in told


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_a_truncated_picture_is_left_out(own: Path, home: Path, kind: str) -> None:
    path = own / "digit-0" / f"cut.{kind.lower()}"
    scene(1).save(path, format=kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert f"expected a whole {kind} picture" in why(own, home, path.name)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(own: Path, home: Path, kind: str) -> None:
    path = own / "digit-0" / f"moving.{kind.lower()}"
    first = Image.new("RGB", (40, 40), (200, 0, 0))
    first.save(path, format=kind, save_all=True, append_images=[Image.new("RGB", (40, 40), (0, 0, 200))] * 3)
    dataset = run(own, home)
    assert path in splits_of(dataset)
    red, blue = (np.abs(pixels(dataset).astype(int) - colour).max((1, 2, 3)).min() for colour in (C_RED, C_BLUE))
    assert red < 12
    assert blue > 100


C_RED, C_BLUE = np.array([200, 0, 0]), np.array([0, 0, 200])


def test_a_wrong_suffix_does_no_harm_to_a_picture(own: Path, home: Path) -> None:
    scene(1).save(own / "digit-0" / "really a png.jpg", format="PNG")
    assert own / "digit-0" / "really a png.jpg" in splits_of(run(own, home))


def test_what_systems_leave_is_passed_over_and_other_files_are_counted(own: Path, home: Path) -> None:
    before = {source.relative for source in find_pictures(DataSpec(root=own))}
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._000.png", ".hidden.jpg"):
        (own / "digit-0" / name).write_bytes(b"x")
    for folder in ("__MACOSX/digit-0", "digit-0/__MACOSX", ".git", "digit-0/.cache"):
        (own / folder).mkdir(parents=True)
        scene(1).save(own / folder / "picture.png")
    found = find(DataSpec(root=own))
    assert {source.relative for source in found.pictures} == before
    assert found.ignored == ()
    (own / "digit-0" / "000.XML").write_text("<annotation/>")
    (own / "digit-1" / "001.xml").write_text("<annotation/>")
    (own / "README").write_text("about")
    scene(1).save(own / "stray.png")
    dataset = run(own, home)
    assert sealed.verify(dataset.path)["ignored"] == {
        ".xml": 2,
        "no suffix": 1,
        "pictures outside the class folders": 1,
    }
    assert set(splits_of(dataset)) == {own / relative for relative in before}


# --- what is no file, or leads elsewhere --------------------------------------------------------------


def pipe(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the name of a socket may be 107 bytes long, and a test's folder is longer
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(before)


def device(path: Path) -> None:
    try:
        os.mknod(path, 0o020666, os.makedev(1, 5))  # /dev/zero: reading it never ends
    except PermissionError:
        pytest.skip("only root makes devices")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("make", "kind"),
    [(pipe, "a named pipe"), (unix_socket, "a socket"), (device, "a device")],
    ids=["pipe", "socket", "device"],
)
@pytest.mark.parametrize("listed", [False, True], ids=["folder", "manifest"])
def test_what_would_block_is_never_opened(
    own: Path, home: Path, make: Callable[[Path], None], kind: str, listed: bool
) -> None:
    make(own / "digit-0" / "odd.png")
    root = own
    if listed:
        root = own / "pictures.csv"
        rows = [f"{path.relative_to(own)},{path.parent.name}\n" for path in sorted(own.rglob("*.png"))]
        root.write_text("path,label\n" + "".join(rows))
    assert why(root, home, "odd.png") == f"is {kind}, not a file"


@pytest.mark.timeout(60)
def test_a_file_that_becomes_a_pipe_after_it_was_listed_does_not_block(
    own: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = own / "digit-0" / "000.png"
    meanwhile(monkeypatch, lambda: (path.unlink(), os.mkfifo(path)))
    dataset = lenient(own, home)
    assert reasons(dataset) == {"000.png": "is no longer a file"}


@pytest.mark.timeout(60)
def test_a_prepared_picture_that_becomes_a_pipe_does_not_block_its_certification(own: Path, home: Path) -> None:
    part = subset(run(own, home), "test")
    part.paths[0].unlink()
    os.mkfifo(part.paths[0])
    with pytest.raises(BadInput, match="as it was prepared, found that it is no longer a file: run again"):
        original_bytes(part, 0)


def test_as_many_threads_as_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's share may be two of a hundred."""
    asked: list[int] = []
    real = ThreadPoolExecutor
    monkeypatch.setattr(tasks.data.reading, "ThreadPoolExecutor", lambda count: asked.append(count) or real(count))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert list(tasks.data.reading.in_threads(lambda i: i, 40)) == list(range(40))
    assert asked == [3]


def test_links(own: Path, home: Path, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    scene(1).save(outside / "out.png")
    scene(2).save(own / "digit-0" / "real.png")
    folder = own / "digit-0"
    (folder / "inside.png").symlink_to(folder / "real.png")
    (folder / "out.png").symlink_to(outside / "out.png")
    (folder / "nothing.png").symlink_to("gone.png")
    (folder / "itself.png").symlink_to("itself.png")
    (folder / "notes").symlink_to(outside / "out.png")
    (own / "itself").symlink_to("itself")
    dataset = lenient(own, home)
    told = reasons(dataset)
    assert set(told) == {"out.png", "nothing.png", "itself.png"}
    assert "leads out of the folder: copy the picture, or name it in a manifest" in told["out.png"]
    assert "cannot be opened" in told["nothing.png"]
    assert "cannot be opened" in told["itself.png"]
    assert len(pixels(dataset)) == 32 + 2
    kept = splits_of(dataset)
    assert kept[folder / "inside.png"] == kept[folder / "real.png"]


def test_the_root_itself_may_be_a_link(own: Path, home: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(own)
    (own / "digit-0" / "inside.png").symlink_to(own / "digit-0" / "000.png")
    dataset = run(tmp_path / "link", home)
    assert len(pixels(dataset)) == 33


@pytest.mark.parametrize("inner", ["", "test", "digit-0"])
def test_a_link_in_place_of_a_folder_is_refused(own: Path, tmp_path: Path, inner: str) -> None:
    """Within a class as well: it would count as one picture, however many it leads to."""
    if inner == "test":
        for split in ("train", "val", "test"):
            shutil.copytree(own, tmp_path / "all" / split)
        own = tmp_path / "all"
    (tmp_path / "third").mkdir()
    (own / inner / "digit-3").symlink_to(tmp_path / "third")
    with pytest.raises(BadInput, match=r"expected folders in .*found 'digit-3', a link to one: name the real folder"):
        find_pictures(DataSpec(root=own))


def test_a_nested_folder_that_cannot_be_listed_is_named(own: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, whom no permission stops."""
    closed = own / "digit-0" / "closed"
    closed.mkdir()
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path) == str(closed):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    message = f"expected to list {closed}, found a folder that cannot be opened .Permission denied.: allow it"
    with pytest.raises(BadInput, match=message):
        lenient(own, home)


@pytest.mark.parametrize(("number", "text"), [(13, "Permission denied"), (5, "Input/output error")])
def test_a_file_that_cannot_be_read_is_named(
    own: Path, home: Path, monkeypatch: pytest.MonkeyPatch, number: int, text: str
) -> None:
    real = os.open

    def refuse(path: str, *args: int) -> int:
        if str(path).endswith("digit-0/003.png"):
            raise OSError(number, text, path)
        return real(path, *args)

    monkeypatch.setattr(os, "open", refuse)
    assert reasons(lenient(own, home)) == {"003.png": f"cannot be opened: {text}"}


def test_a_huge_file_is_not_read(own: Path, home: Path) -> None:
    with (own / "digit-0" / "huge.jpg").open("wb") as file:
        file.truncate(MAX_BYTES + 2**20)  # a hole: it takes no disk
    assert "expected at most 256 MiB, found 257" in why(own, home, "huge.jpg")


# --- while the run goes on ----------------------------------------------------------------------------


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Acts once, between the listing and the reading of the first picture."""
    real = tasks.data.reading.bytes_of
    done: list[bool] = []

    def reading(source: Source) -> bytes:
        if not done:
            done.append(True)
            act()
        return real(source)

    monkeypatch.setattr(tasks.data.reading, "bytes_of", reading)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: path.unlink(), "cannot be opened: No such file or directory"),
        (lambda path: scene(5).save(path), "was changed while the pictures were read"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "was changed while the pictures were read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "was changed while the pictures were read"),
        (lambda path: os.utime(path, ns=(1, 1)), "was changed while the pictures were read"),
    ],
    ids=["deleted", "replaced", "longer", "shorter", "touched"],
)
def test_a_file_that_changes_during_the_run_is_left_out(
    own: Path, home: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object], reason: str
) -> None:
    path = own / "digit-1" / "009.png"
    meanwhile(monkeypatch, lambda: change(path))
    dataset = lenient(own, home)
    told = reasons(dataset)
    assert list(told) == ["009.png"]
    assert told["009.png"].startswith(reason)
    assert len(pixels(dataset)) == 31


def test_a_file_that_vanishes_while_the_folder_is_listed_is_left_out(
    own: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """os.scandir has named it already; its size and time are asked for afterwards."""
    path, real = own / "digit-1" / "009.png", os.scandir

    def scandir(folder: str) -> object:
        found = real(folder)
        if str(folder) == str(path.parent):
            entries = list(found)
            path.unlink()
            found = real(folder)
            kept = [entry for entry in entries if entry.name == path.name]
            return Opened(list(found) + kept)
        return found

    monkeypatch.setattr(os, "scandir", scandir)
    assert reasons(lenient(own, home)) == {"009.png": "cannot be opened: No such file or directory"}


class Opened(list[os.DirEntry[str]]):
    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *error: object) -> None: ...


# --- names --------------------------------------------------------------------------------------------


def test_names_at_the_limits(own: Path, home: Path) -> None:
    folder = own / "digit-0" / "a" / "b" / "c d"
    folder.mkdir(parents=True)
    names = [
        b"x" * 251 + b".png",  # 255 bytes, the most that file systems take
        b"UPPER.PNG",
        b"upper.PNG",
        unicodedata.normalize("NFC", "é.png").encode(),
        unicodedata.normalize("NFD", "é.png").encode(),
        b"\xff\xfe\n\r\t\"',;.png",
        b"-rf *.png",
        "画像.png".encode(),
    ]
    for i, name in enumerate(names):
        scene(i).save(folder / os.fsdecode(name), format="PNG")
    dataset = run(own, home)
    assert len(list(folder.iterdir())) == len(names), "the file system tells them apart"
    assert {folder / os.fsdecode(name) for name in names} <= set(splits_of(dataset))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Good", "good"),
        (" good", "good "),
        ("a", "a "),
        (unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")),
    ],
)
def test_classes_that_look_the_same_are_refused(tmp_path: Path, one: str, other: str) -> None:
    for label in (one, other):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.png").touch()
    with pytest.raises(BadInput, match="differ in more than case, blanks or Unicode form") as caught:
        find_pictures(DataSpec(root=tmp_path))
    assert ascii(one) in str(caught.value)
    assert ascii(other) in str(caught.value)


def test_single_letters_of_either_case_are_classes(tmp_path: Path) -> None:
    for label in "aA":
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.png").touch()
    assert {source.label for source in find_pictures(DataSpec(root=tmp_path))} == {"a", "A"}


@pytest.mark.parametrize("path", ["x" * 300 + ".png", "a\0b.png", "digit-0", "digit-0/000.png/x.png", "nowhere/x.png"])
def test_a_manifests_impossible_paths(own: Path, home: Path, path: str) -> None:
    rows = [f"{path.relative_to(own)},{path.parent.name}\n" for path in sorted(own.rglob("*.png"))]
    (own / "pictures.csv").write_text("path,label\n" + "".join(rows) + f"{path},digit-0\n")
    try:
        told = list(reasons(lenient(own / "pictures.csv", home)).values())
    except BadInput as error:
        told = [str(error)]
    (message,) = told
    assert "cannot be opened" in message or "is a folder" in message or "line 34: expected a picture at" in message


# --- splits given by the user -------------------------------------------------------------------------


def three(root: Path) -> Path:
    for split in ("train", "val", "test"):
        write_digits(root / split, (0, 1), 4)
    return root


@pytest.mark.parametrize("folder", ["train", "val", "test"])
def test_a_class_that_one_split_lacks_is_named(tmp_path: Path, folder: str) -> None:
    root = three(tmp_path / "given")
    shutil.rmtree(root / folder / "digit-1")
    split = {"val": "validation"}.get(folder, folder)
    with pytest.raises(BadInput, match=f"found none of 'digit-1' in {split}: "):
        find_pictures(DataSpec(root=root))


def test_a_class_that_only_one_split_has_is_named(tmp_path: Path) -> None:
    root = three(tmp_path / "given")
    write_digits(root / "test", (7,), 2)
    with pytest.raises(BadInput, match="found none of 'digit-7' in train, 'digit-7' in validation: "):
        find_pictures(DataSpec(root=root))


def test_a_class_folder_without_pictures_is_named(tmp_path: Path) -> None:
    root = three(tmp_path / "given")
    for path in (root / "val" / "digit-0").iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(BadInput, match=f"expected pictures in every class folder, found none in {root}/val/digit-0: "):
        find_pictures(DataSpec(root=root))
