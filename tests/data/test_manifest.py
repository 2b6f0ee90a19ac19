"""Manifests in Parquet mean what the same table means in CSV."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from serving.errors import BadInput
from tasks.data.dataset import subset
from tasks.data.source import SPLITS, Source, find_pictures
from tasks.data.spec import DataSpec
from tests.data.test_prepare import run


def written(folder: Path, columns: dict[str, list[Any]], name: str = "pictures.parquet") -> Path:
    for path in columns.get("path", []):
        if isinstance(path, str) and not Path(path).is_absolute():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).touch()
    parquet.write_table(pyarrow.table(columns), folder / name)
    return folder / name


def found(root: Path, **changes: Any) -> tuple[Source, ...]:
    return find_pictures(DataSpec(root=root, **changes))


COLUMNS: dict[str, list[Any]] = {
    "path": [f"{i}.png" for i in range(6)],
    "label": ["good", "bad, very"] * 3,
    "group": ["a", None, "b", "", "c", "c"],
    "split": ["train", "train", "val", "valid", "Test", "test"],
    "site": ["north", None, "south", "1", "2", "3"],
}


def test_parquet_gives_what_csv_gives(tmp_path: Path) -> None:
    place = written(tmp_path, COLUMNS)
    text = "path,label,group,split,site\n"
    for row in zip(*COLUMNS.values(), strict=True):
        text += ",".join('"' + (cell or "") + '"' for cell in row) + "\n"
    (tmp_path / "pictures.csv").write_text(text)
    for changes in ({}, {"slices": ("site",)}, {"group_by": "site"}, {"group_by": r"(\d)\.png"}):
        assert found(place, **changes) == found(tmp_path / "pictures.csv", **changes)
    assert [source.group for source in found(place)] == ["a", None, "b", None, "c", "c"]
    assert [source.split for source in found(place)][2:5] == ["validation", "validation", "test"]


def test_a_column_of_missing_splits_gives_none(tmp_path: Path) -> None:
    place = written(tmp_path, {"path": ["0.png", "1.png"], "label": ["a", "b"], "split": [None, None]})
    assert [source.split for source in found(place)] == [None, None]


def test_the_kind_of_a_manifest_is_read_from_its_content(tmp_path: Path) -> None:
    place = written(tmp_path, COLUMNS, "pictures.csv")
    assert len(found(place)) == 6


def test_categories_and_whole_numbers_are_classes(tmp_path: Path) -> None:
    paths = ["0.png", "1.png"]
    categories = pyarrow.array(["good", "bad"]).dictionary_encode()
    table = pyarrow.table({"path": paths, "label": categories})
    place = written(tmp_path, {"path": paths, "label": [0, 1]}, "numbers.parquet")
    assert [source.label for source in found(place)] == ["0", "1"]
    parquet.write_table(table, tmp_path / "categories.parquet")
    assert [source.label for source in found(tmp_path / "categories.parquet")] == ["good", "bad"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["0.png", "1.png"], "class": ["a", "b"]}, "found path, class: add label"),
        ({"path": ["0.png", "1.png"], "label": ["a", None]}, "found 1 empty ones"),
        ({"path": ["0.png", "1.png"], "label": [1.0, float("nan")]}, "found 1 empty ones"),
        ({"path": ["0.png", "1.png"], "label": [0.5, 1.25]}, "2 different numbers"),
        ({"path": ["0.png", "./0.png"], "label": ["a", "b"]}, "each picture once"),
        ({"path": [{"bytes": b"x"}] * 2, "label": ["a", "b"]}, "text or numbers in column path .* found dict"),
        ({"path": ["0.png", "1.png"], "label": ["a", "b"], "split": ["train", None]}, "row 2: expected split train"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        found(written(tmp_path, columns))
    assert "\n" not in str(caught.value)


def test_a_missing_picture_is_named_with_its_row(tmp_path: Path) -> None:
    place = written(tmp_path, {"path": ["0.png", "1.png"], "label": ["a", "b"]})
    (tmp_path / "1.png").unlink()
    with pytest.raises(BadInput, match=r"row 2: expected a picture at .*1\.png, found none"):
        found(place)


@pytest.mark.parametrize("cut", [4, 40, 200])
def test_a_damaged_file_is_refused(tmp_path: Path, cut: int) -> None:
    place = written(tmp_path, COLUMNS)
    place.write_bytes(place.read_bytes()[:cut])
    with pytest.raises(BadInput, match="expected .* to be a Parquet file, found otherwise"):
        found(place)


def test_any_damage_is_bad_input(tmp_path: Path) -> None:
    """Bytes that are no text, columns of other lengths, a broken footer: whatever the reader makes of them."""
    paths = pyarrow.array(["0.png", "1.png"])
    texts = pyarrow.Array.from_buffers(
        pyarrow.string(),
        2,
        [None, pyarrow.array([0, 4, 8], pyarrow.int32()).buffers()[1], pyarrow.py_buffer(b"\xff\xfeabgood")],
    )
    parquet.write_table(pyarrow.table({"path": paths, "label": texts}), tmp_path / "pictures.parquet")
    with pytest.raises(BadInput, match="to be a Parquet file, found otherwise .*utf-8"):
        found(tmp_path / "pictures.parquet")
    place, random = written(tmp_path, COLUMNS), np.random.default_rng(0)
    whole = place.read_bytes()
    for _ in range(150):
        data = bytearray(whole)
        for at in random.integers(4, len(data), 3):
            data[at] = random.integers(256)
        place.write_bytes(data)
        with contextlib.suppress(BadInput):
            found(place)


def test_a_manifest_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = written(tmp_path, COLUMNS)
    refuse = PermissionError(13, "Permission denied")
    monkeypatch.setattr(Path, "open", lambda *_, **__: (_ for _ in ()).throw(refuse))
    with pytest.raises(BadInput, match="expected to read .*, found it cannot be opened: Permission denied"):
        found(place)


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ('0.png,good,"5 inch\n1.png,bad,x\n2.png,good,y\n3.png,bad,"z\n', 2),
        ('0.png,good,x\n1.png,bad,"5 inch\n2.png,good,y\n3.png,bad,z\n', 3),
        ('0.png,good,"two\nlines"\n1.png,bad,"5 inch', 4),
    ],
)
def test_no_row_vanishes_in_an_open_quote(tmp_path: Path, rows: str, line: int) -> None:
    place = tmp_path / "pictures.csv"
    for i in range(4):
        (tmp_path / f"{i}.png").touch()
    place.write_text("path,label,note\n" + rows)
    with pytest.raises(BadInput, match=f"pictures.csv, line {line}: expected a row .* found .*: close the quotes"):
        found(place)
    place.write_text('path,label,note\n0.png,good,"two\nlines"\n1.png,bad,x')
    assert len(found(place)) == 2


def test_a_column_twice_in_a_csv_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pictures.csv").write_text("path,label,label\na.png,good,bad\n")
    with pytest.raises(BadInput, match="each column once .* found 'label' again"):
        found(tmp_path / "pictures.csv")


def test_a_dataset_from_parquet_keeps_the_users_split(own: Path, home: Path) -> None:
    paths = sorted(own.rglob("*.png"))
    splits = [("train", "val", "test")[i % 3] for i in range(len(paths))]
    labels = [path.parent.name for path in paths]
    place = written(own, {"path": [str(path) for path in paths], "label": labels, "split": splits})
    dataset = run(place, home)
    for split, word in zip(SPLITS, ("train", "val", "test"), strict=True):
        assert set(subset(dataset, split).paths) == {p for p, s in zip(paths, splits, strict=True) if s == word}
