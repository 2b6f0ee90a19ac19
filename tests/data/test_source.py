"""Which pictures are found, with which label, group and split; and that wrong input is refused in one helpful line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serving.errors import BadInput
from tasks.data.source import Source, find_pictures
from tasks.data.spec import DataSpec


def touch(root: Path, *names: str) -> Path:
    """Empty files: finding pictures reads names only."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def manifest(folder: Path, text: str, *pictures: str) -> Path:
    touch(folder, *(pictures or ("a.png", "b.png")))
    path = folder / "pictures.csv"
    path.write_text(text, encoding="utf-8")
    return path


def found(root: Path, group_by: str | None = None) -> tuple[Source, ...]:
    return find_pictures(DataSpec(root=root, group_by=group_by))


def refused(root: Path, group_by: str | None = None) -> str:
    """The message, after checking that it is one line that says what was expected, found, and what to do."""
    with pytest.raises(BadInput) as caught:
        found(root, group_by)
    message = str(caught.value)
    assert "expected " in message
    assert ", found " in message
    assert ": " in message.partition(", found ")[2], f"no advice: {message}"
    assert "\n" not in message
    return message


# --- folders ----------------------------------------------------------------------------------------


def test_each_folder_is_a_class(tmp_path: Path) -> None:
    touch(tmp_path, "good/2.png", "good/1.JPG", "bad/1.jpeg", "bad/x y.webp")
    assert [(s.relative, s.label, s.group, s.split) for s in found(tmp_path)] == [
        ("bad/1.jpeg", "bad", None, None),
        ("bad/x y.webp", "bad", None, None),
        ("good/1.JPG", "good", None, None),
        ("good/2.png", "good", None, None),
    ]


def test_nested_folders_belong_to_the_outermost_class(tmp_path: Path) -> None:
    touch(tmp_path, "good/monday/1.png", "good/tuesday/line 2/1.png", "bad/1.png")
    assert {s.relative: s.label for s in found(tmp_path)} == {
        "bad/1.png": "bad",
        "good/monday/1.png": "good",
        "good/tuesday/line 2/1.png": "good",
    }


def test_hidden_files_and_other_files_are_not_pictures(tmp_path: Path) -> None:
    touch(tmp_path, "good/1.png", "bad/1.png", "good/.hidden.png", "good/.cache/1.png", ".git/1.png")
    touch(tmp_path, "good/notes.txt", "bad/Thumbs.db", "bad/weights", "readme.md")
    assert [s.relative for s in found(tmp_path)] == ["bad/1.png", "good/1.png"]


def test_formats_that_are_not_accepted_are_found_so_that_they_can_be_named(tmp_path: Path) -> None:
    touch(tmp_path, "good/1.png", "bad/1.tiff", "bad/2.heic")
    assert [s.relative for s in found(tmp_path)] == ["bad/1.tiff", "bad/2.heic", "good/1.png"]


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Val"])
def test_folders_named_train_validation_and_test_give_the_split(tmp_path: Path, validation: str) -> None:
    touch(tmp_path, *(f"{split}/{label}/1.png" for split in ("train", validation, "test") for label in ("a", "b")))
    given = {(s.relative, s.label, s.split) for s in found(tmp_path)}
    assert given == {
        (f"{folder}/{label}/1.png", label, split)
        for folder, split in (("train", "train"), (validation, "validation"), ("test", "test"))
        for label in ("a", "b")
    }


@pytest.mark.parametrize(
    "folders",
    [("train",), ("train", "test"), ("train", "val"), ("train", "val", "test", "extra"), ("val", "valid", "test")],
)
def test_incomplete_split_folders_are_never_taken_for_classes(tmp_path: Path, folders: tuple[str, ...]) -> None:
    touch(tmp_path, *(f"{folder}/{label}/1.png" for folder in folders for label in ("a", "b")))
    message = refused(tmp_path)
    assert "exactly train/, validation/ and test/" in message
    assert all(folder in message for folder in folders)


def test_two_spellings_of_a_split_folder_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{f}/{label}/1.png" for f in ("train", "Train", "test") for label in ("a", "b")))
    assert "rename or complete them" in refused(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    message = refused(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in message
    assert "data.root" in message


@pytest.mark.parametrize("root", ["x" * 300, "~nobody-of-that-name/x", "a\0b"])
def test_roots_that_cannot_be(root: str) -> None:
    assert "data.root" in refused(Path(root))


@pytest.mark.parametrize("root", [".", "../{name}", "{name}/.."])
def test_a_relative_root_is_the_folder_that_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    here = touch(tmp_path, "good/1.png", "bad/1.png", f"{tmp_path.name}/1.png")
    monkeypatch.chdir(here)
    sources = found(Path(root.format(name=here.name)), r"^[^/]+")
    assert [(s.file, s.relative, s.group) for s in sources] == [
        (s.file, s.relative, s.group) for s in found(here, "^[^/]+")
    ]
    assert {s.relative for s in sources} >= {"good/1.png", "bad/1.png"}


@pytest.mark.parametrize("names", [(), ("1.png", "2.png")])
def test_no_pictures(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert "one folder per class" in refused(touch(tmp_path, *names))


def test_one_class(tmp_path: Path) -> None:
    message = refused(touch(tmp_path, "good/1.png", "good/2.png"))
    assert "two or more classes" in message
    assert "'good'" in message


def test_a_class_folder_that_is_not_named_in_utf_8_is_refused(tmp_path: Path) -> None:
    """The name would have no place in the artifact's JSON, nor in an answer."""
    touch(tmp_path, "good/1.png", os.fsdecode(b"b\xe4d/1.png"))
    assert "UTF-8" in refused(tmp_path)


def test_a_root_that_is_not_named_in_utf_8_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a path in UTF-8"):
        DataSpec(root=Path(os.fsdecode(b"/data/\xe4")))


# --- groups -----------------------------------------------------------------------------------------


def test_a_regular_expression_on_the_path_names_the_group(tmp_path: Path) -> None:
    touch(tmp_path, "a/p1_x.png", "a/p2_x.png", "b/p1_y.png")
    assert [s.group for s in found(tmp_path, r"p(\d+)_")] == ["1", "2", "1"]
    assert [s.group for s in found(tmp_path, r"p\d+")] == ["p1", "p2", "p1"]
    assert [s.group for s in found(tmp_path, r"^[^/]+")] == ["a", "a", "b"]


def test_a_regular_expression_must_match_every_path(tmp_path: Path) -> None:
    touch(tmp_path, "a/p1_x.png", "b/q.png")
    for pattern in (r"p(\d+)_", r"/(p\d+)?", r"/(p?)"):
        message = refused(tmp_path, pattern)
        assert "'b/q.png'" in message


def test_a_broken_regular_expression(tmp_path: Path) -> None:
    assert "regular expression" in refused(touch(tmp_path, "a/1.png", "b/1.png"), "p(\\d+")


def test_a_column_names_the_group(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path,label,patient\na.png,good,p 7\nb.png,bad,\n")
    assert [s.group for s in found(path, "patient")] == ["p 7", None]
    assert [s.group for s in found(path)] == [None, None], "only a column called group counts unasked"


def test_the_column_group_counts_unasked_and_a_regular_expression_overrides_it(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path,label,group\na.png,good,p1\nb.png,bad,p1\n")
    assert [s.group for s in found(path)] == ["p1", "p1"]
    assert [s.group for s in found(path, r"^(.)\.")] == ["a", "b"]


def test_a_group_that_is_neither_column_nor_match_names_the_columns(tmp_path: Path) -> None:
    message = refused(manifest(tmp_path, "path,label,day\na.png,good,1\nb.png,bad,2\n"), "patient")
    assert "path, label, day" in message


# --- manifests --------------------------------------------------------------------------------------


def test_a_manifest_gives_label_group_and_split(tmp_path: Path) -> None:
    elsewhere = touch(tmp_path / "elsewhere", "c.png") / "c.png"
    text = f'split,label,path,group\ntrain,good,a.png,g1\nVal,"bad, very",b.png,g2\ntest,good,{elsewhere},g1\n'
    more = [f"{i}.png" for i in range(3)]
    text += 'train,"bad, very",0.png,\nvalid,good,1.png,\ntest,"bad, very",2.png,\n'
    sources = {s.relative: s for s in found(manifest(tmp_path, text, "a.png", "b.png", *more))}
    assert sources["a.png"][:5] == (str(tmp_path / "a.png"), "a.png", "good", "g1", "train")
    assert sources["b.png"][:5] == (str(tmp_path / "b.png"), "b.png", "bad, very", "g2", "validation")
    assert sources[str(elsewhere)][:5] == (str(elsewhere), str(elsewhere), "good", "g1", "test")


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = manifest(tmp_path, "")
    path.write_text("path,label\na.png,good\nb.png,bad\n", encoding="utf-8-sig")
    assert len(found(path)) == 2


@pytest.mark.parametrize(
    ("header", "missing"),
    [("path,class", "add label"), ("file,label", "add path"), ("path;label", "add label, path"), ("", "add label")],
)
def test_missing_columns_are_named(tmp_path: Path, header: str, missing: str) -> None:
    message = refused(manifest(tmp_path, f"{header}\na.png,good\n" if header else ""))
    assert "columns path, label" in message
    assert missing in message


@pytest.mark.parametrize("label", ["", "  "])
def test_empty_labels(tmp_path: Path, label: str) -> None:
    message = refused(manifest(tmp_path, f"path,label\na.png,{label}\nb.png,bad\n"))
    assert "found 1 empty" in message


def test_an_empty_manifest_does_not_ask_for_folders(tmp_path: Path) -> None:
    message = refused(manifest(tmp_path, "path,label\n"))
    assert "pictures.csv" in message
    assert "folder per class" not in message


@pytest.mark.parametrize("row", ["a.png", "a.png,good,left", ""])
def test_rows_with_too_few_or_too_many_cells(tmp_path: Path, row: str) -> None:
    path = manifest(tmp_path, f"label,path\nbad,b.png\ngood,a.png\n{row}\n")
    if row:
        assert "line 4" in refused(path)
    else:
        assert len(found(path)) == 2, "blank lines are nothing"


@pytest.mark.parametrize("again", ["a.png", "./a.png", "sub/../a.png", "{folder}/a.png"])
def test_duplicate_paths(tmp_path: Path, again: str) -> None:
    message = refused(manifest(tmp_path, f"path,label\na.png,good\n{again.format(folder=tmp_path)},bad\n"))
    assert "a.png 2 times" in message


def test_a_missing_picture_is_named_with_its_line(tmp_path: Path) -> None:
    message = refused(manifest(tmp_path, "path,label\na.png,good\ngone.png,bad\n"))
    assert "line 3" in message
    assert str(tmp_path / "gone.png") in message


@pytest.mark.parametrize("bad", ["gone.png,bad,x", "b.png,bad", 'b.png,bad,"open'])
@pytest.mark.parametrize(
    ("between", "line"),
    [("", 3), ("\n\n", 5), ('c.png,good,"two\nlines"\n', 5), ('\nc.png,good,"two\n\nlines"\n\n', 8)],
)
def test_a_row_is_named_with_the_line_in_which_it_begins(tmp_path: Path, bad: str, between: str, line: int) -> None:
    text = f"path,label,note\na.png,good,x\n{between}{bad}\n"
    assert f"pictures.csv, line {line}: expected" in refused(manifest(tmp_path, text, "a.png", "b.png", "c.png"))


@pytest.mark.parametrize("word", ["dev", "", "training"])
def test_a_bad_word_for_a_split(tmp_path: Path, word: str) -> None:
    message = refused(manifest(tmp_path, f"path,label,split\na.png,good,train\nb.png,bad,{word}\n"))
    assert "line 3" in message
    assert repr(word) in message


def test_a_column_of_empty_splits_gives_none(tmp_path: Path) -> None:
    sources = found(manifest(tmp_path, "path,label,split\na.png,good,\nb.png,bad,\n"))
    assert [source.split for source in sources] == [None, None]


def test_not_utf_8(tmp_path: Path) -> None:
    path = manifest(tmp_path, "")
    path.write_bytes("path,label\na.png,fehlerhaft für\nb.png,gut\n".encode("latin-1"))
    assert "UTF-8" in refused(path)


def test_a_picture_in_place_of_a_manifest(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00")
    assert "CSV" in refused(path)


@pytest.mark.parametrize(
    "labels",
    [
        ("0.37", "12.5"),
        ("1", "2.5"),
        ("1e3", "2e3"),
        ("-0.5", "0.5"),
        tuple(str(i) for i in range(40)),
        tuple(str(i * 17) for i in range(30)),
    ],
)
def test_a_column_of_measurements_is_not_a_column_of_classes(tmp_path: Path, labels: tuple[str, ...]) -> None:
    names = [f"{i}.png" for i in range(len(labels))]
    rows = "".join(f"{name},{label}\n" for name, label in zip(names, labels, strict=True))
    message = refused(manifest(tmp_path, f"path,label\n{rows}", *names))
    assert f"{len(labels)} different numbers" in message
    assert "does not predict quantities" in message


@pytest.mark.parametrize(
    "labels", [("0", "1"), tuple(str(i) for i in range(10)), ("0.5 mm", "1.0 mm"), ("0.37", "broken"), ("-1", "1")]
)
def test_numbered_classes_are_classes(tmp_path: Path, labels: tuple[str, ...]) -> None:
    names = [f"{i}.png" for i in range(len(labels))]
    rows = "".join(f"{name},{label}\n" for name, label in zip(names, labels, strict=True))
    assert {s.label for s in found(manifest(tmp_path, f"path,label\n{rows}", *names))} == set(labels)


# --- slices -----------------------------------------------------------------------------------------


def test_slices_are_columns_of_the_manifest(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path,label,site,day\na.png,good,north,1\nb.png,bad,,2\n")
    sources = find_pictures(DataSpec(root=path, slices=("day", "site")))
    assert [source.slices for source in sources] == [("1", "north"), ("2", "")]
    assert [source.slices for source in found(path)] == [(), ()]


def test_a_slice_without_a_column_names_the_columns(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path,label,site\na.png,good,north\nb.png,bad,south\n")
    with pytest.raises(BadInput, match=r"expected columns .*camera.* found path, label, site: add camera"):
        find_pictures(DataSpec(root=path, slices=("camera",)))


def test_folders_have_no_slices(tmp_path: Path) -> None:
    touch(tmp_path, "good/a.png", "bad/b.png")
    with pytest.raises(BadInput, match=r"expected a manifest with the columns site for data\.slices, found the folder"):
        find_pictures(DataSpec(root=tmp_path, slices=("site",)))
