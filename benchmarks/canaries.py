"""What must stay where it is: a token, a picture's bytes and a picture's name, looked for in every file of a platform.

Each is marked with a string that occurs nowhere else, and looked for as it is, in base64, in hexadecimal, in UTF-16,
and inside of archives and of gzip files.
"""

from __future__ import annotations

import base64
import gzip
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any

import httpx
from PIL import Image, PngImagePlugin

from benchmarks.drill import RUN_SECONDS, Drill, told

_CHUNK = 1 << 22
# under the platform's place: where a name may stand, since nobody but the home's owner reads there
PRIVATE = ("home/datasets/*", "home/runs/*/error.txt")
PLANTED = "home/logs/planted"


@dataclass(frozen=True, slots=True)
class Marks:
    """The strings. Letters and digits only, so that no encoding of text changes them."""

    token: str
    name: str
    bytes: str

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter((("token", self.token), ("name", self.name), ("bytes", self.bytes)))


def mark(picture: Path, marks: Marks, *, cut: bool = False) -> Path:
    """The picture under a marked name, with marked bytes before its pixels; `cut`: it ends halfway, unreadable."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", marks.bytes)
    marked = picture.with_name(f"{marks.name}-{picture.name}")
    with Image.open(picture) as image:
        image.save(marked, pnginfo=text)
    if cut:
        whole = marked.read_bytes()
        pixels = whole.index(b"IDAT")
        marked.write_bytes(whole[: pixels + 4 + int.from_bytes(whole[pixels - 4 : pixels]) // 2])
    picture.unlink()
    return marked


# --- the search -------------------------------------------------------------------------------------


def forms(text: str) -> tuple[bytes, ...]:
    """The ways in which a text may stand in a file. Base64 depends on where in a triple of bytes it begins."""
    raw = text.encode()
    shifted = [base64.b64encode(bytes(skip) + raw)[(0, 2, 3)[skip] :] for skip in range(3)]
    whole = [code[: (len(code) - code.count(b"=") * 2) // 4 * 4] for code in shifted]
    return (raw, *whole, raw.hex().encode(), raw.hex().upper().encode(), text.encode("utf-16-le"))


def search(place: Path, marks: Iterable[tuple[str, str]], without: Iterable[Path] = ()) -> dict[str, set[str]]:
    """For each mark the files under a place that hold it, or have it in their name, as relative paths."""
    wanted = {kind: forms(text) for kind, text in marks}
    found: dict[str, set[str]] = {kind: set() for kind in wanted}
    left_out = tuple(without)
    for path in place.rglob("*"):
        if any(path.is_relative_to(one) for one in left_out) or path.is_symlink():
            continue
        relative = path.relative_to(place).as_posix()
        kinds = {kind for kind, (raw, *_) in wanted.items() if raw in relative.encode()}
        if path.is_file():
            kinds |= held(path, wanted)
        for kind in kinds:
            found[kind].add(relative)
    return found


def held(path: Path, wanted: Mapping[str, tuple[bytes, ...]]) -> set[str]:
    """The kinds of marks in a file, or in what an archive or a gzip file holds."""
    kinds: set[str] = set()
    try:
        for stream in streams(path):
            with stream:
                kinds |= in_stream(stream, wanted)
    except (FileNotFoundError, zipfile.BadZipFile, EOFError, gzip.BadGzipFile):
        pass  # gone meanwhile, or no archive after all: its bytes were read first
    return kinds


def streams(path: Path) -> Iterator[IO[bytes]]:
    yield path.open("rb")
    with path.open("rb") as head:
        start = head.read(4)
    if start[:2] == b"\x1f\x8b":
        yield gzip.GzipFile(path)  # type: ignore[misc]
    if start == b"PK\x03\x04":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield archive.open(name)


def in_stream(stream: IO[bytes], wanted: Mapping[str, tuple[bytes, ...]]) -> set[str]:
    overlap = max(len(form) for every in wanted.values() for form in every)
    kinds: set[str] = set()
    end = b""
    while chunk := stream.read(_CHUNK):
        text = end + chunk
        kinds |= {kind for kind, every in wanted.items() if any(form in text for form in every)}
        end = text[-overlap:]
    return kinds


def leaks(found: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """What was found where it may not be."""
    allowed = {"name": PRIVATE}
    bad = {
        kind: sorted(path for path in paths if not any(fnmatch(path, one) for one in allowed.get(kind, ())))
        for kind, paths in found.items()
    }
    return {kind: paths for kind, paths in bad.items() if paths}


# --- on the platform --------------------------------------------------------------------------------


def use(drill: Drill, marks: Marks) -> list[Path]:
    """A run that completes with marked pictures, one that fails because of one; the service asked with one.

    The folders with the marked pictures.
    """
    drill.collision_begins.wait(RUN_SECONDS)
    whole, spoiled = (Path(shutil.copytree(drill.pictures, drill.up.place / name)) for name in ("marked", "spoiled"))
    pictures = [mark(whole / f"digit-{digit}" / f"{number:03}.png", marks) for digit in (0, 1, 7) for number in (3, 4)]
    mark(spoiled / "digit-1" / "003.png", marks, cut=True)
    completed = drill.whole(of_folder(drill, "marked", whole))
    drill.check("a run with marked pictures completes", completed["state"]["name"] == "Completed", told(completed))
    failed = drill.whole(of_folder(drill, "spoiled", spoiled, max_unreadable=0.0))
    errors = [(place / "error.txt").read_text() for place in drill.places(failed["id"])]
    keeps = failed["state"]["type"] == "FAILED" and len(errors) == 1 and marks.name in errors[0]
    drill.check("a run that a marked picture fails keeps its name at home", keeps, told(failed))
    sent = [*asked(drill, pictures[0]), *asked(drill, spoiled / "digit-1" / f"{marks.name}-003.png")]
    drill.check("the service answers for marked pictures, with the token only", sent == [200, 401, 422, 401], sent)
    return [whole, spoiled]


def of_folder(drill: Drill, name: str, root: Path, **data: Any) -> dict[str, Any]:
    parameters = drill.small(name, report={"pictures": "none"})
    return parameters | {"data": {**parameters["data"], "root": str(root), **data}}


def asked(drill: Drill, picture: Path) -> tuple[int, int]:
    """The statuses with the token and without."""
    files = {"image": (picture.name, picture.read_bytes(), "image/png")}
    without = httpx.post(f"{drill.up.service}/v1/predict", files=files, timeout=30, trust_env=False)
    return drill.ask("/v1/predict", files=files).status_code, without.status_code


def look(drill: Drill, marks: Marks, own: Iterable[Path]) -> None:
    """The search, with its control, while everything runs: what a database has yet to write back is in its log."""
    place, planted = drill.up.place, plant(drill.up.place, marks)
    found = search(place, marks, without=own)
    shutil.rmtree(place / PLANTED)
    seen = [path for paths in found.values() for path in paths if path in planted]
    drill.check("control: what was planted is found", len(seen) == 3 * len(planted), f"{len(seen)} marks")
    rest = {kind: {path for path in paths if not path.startswith(PLANTED)} for kind, paths in found.items()}
    bad = leaks(rest)
    files = sum(path.is_file() for path in place.rglob("*"))
    for kind, what in (("token", "the token is"), ("bytes", "a picture's bytes are"), ("name", "a picture's name is")):
        figure = ", ".join(bad.get(kind, ())) or f"in 0 of {files} files"
        if kind == "name":
            figure += f"; privately in {len(rest[kind]) - len(bad.get(kind, ()))}"
        drill.check(f"{what} nowhere else", kind not in bad, figure)


def plant(place: Path, marks: Marks) -> set[str]:
    """Files that hold every mark, in different ways."""
    folder = place / PLANTED
    folder.mkdir(parents=True)
    text = " ".join(text for _, text in marks).encode()
    (folder / "plain.log").write_bytes(bytes(_CHUNK - 10) + text)
    (folder / "base64.json").write_bytes(base64.b64encode(b"x" + text))
    (folder / "pages.gz").write_bytes(gzip.compress(text))
    with zipfile.ZipFile(folder / "arrays.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arrays.npy", text)
    return {path.relative_to(place).as_posix() for path in folder.iterdir()}
