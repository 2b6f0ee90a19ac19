"""`thaw init`: the file it writes holds as it stands, and with every suggestion in it taken."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from flows.init import write_config
from flows.parameters import NAME, Parameters, read_parameters
from serving.errors import BadInput
from tests.conftest import write_digits
from tests.flows.conftest import errors, thaw

ODD = ["no", "1e3", "2024-01-01", "it's \"bad\"", "a: b", "a # b", "a, b]", "{x}", "größe", "two\nlines", "-", "&x",
       "\x07", "tab\there", "!!str", "* ", "\x85next", "\u2028", "😀", "%", "@a", "`", "?", "=", "~",
       "x" * 200]  # fmt: skip


def folders(place: Path, counts: dict[str, int]) -> Path:
    """Class folders with files that are pictures by name; nothing here opens them."""
    for label, count in counts.items():
        (place / label).mkdir(parents=True)
        for number in range(count):
            (place / label / f"{number}.png").touch()
    return place


def uncommented(text: str) -> str:
    """The file with every commented key and list item taken; sentences stay comments."""
    return re.sub(r"^( *)# (?=( *[a-z_]+:( |$)| *- ))", r"\1", text, flags=re.MULTILINE)


def taken(file: Path) -> Parameters:
    """What the file says when a person takes every suggestion."""
    whole = file.with_name("whole.yaml")
    whole.write_text(uncommented(file.read_text(encoding="utf-8")), encoding="utf-8")
    keys = set(yaml.safe_load(whole.read_text(encoding="utf-8")))
    assert keys == {"name", "data", "decision", "gate", "model", "finetune", "release"}
    return read_parameters({}, whole, [])


def test_of_class_folders(tmp_path: Path) -> None:
    root = write_digits(tmp_path / "Hand Written", (0, 1), 3)
    folders(root, {"digit-9": 2})
    ran = thaw("init", root)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        "thaw.yaml: 8 pictures of 3 classes; read it, change it, then", "thaw retrain --config thaw.yaml",
    ]  # fmt: skip
    text = Path("thaw.yaml").read_text()
    assert "# found 8 pictures of 3 classes: digit-0 3, digit-1 3, digit-9 2" in text
    parameters = read_parameters({}, Path("thaw.yaml"), [])
    assert (parameters.name, parameters.data.root) == ("hand-written", root)
    assert parameters == read_parameters({"name": "hand-written", "data": {"root": root}}, None, []), "only defaults"


def test_with_everything_uncommented(tmp_path: Path) -> None:
    write_config(folders(tmp_path / "cells", {"good": 3, "bad": 1}), None, Path("thaw.yaml"))
    parameters = taken(Path("thaw.yaml"))
    assert parameters.data.group_by == r"module-(\d+)"
    assert [(watch.label, watch.recall) for watch in parameters.decision.watch] == [("bad", 0.9)], "the rarest"
    assert (parameters.gate.min_recall, parameters.gate.min_accuracy) == ({"bad": 0.8}, 0.85)
    assert (parameters.model.image_size, parameters.finetune.augmentation) == (224, "industrial")
    assert (parameters.release.promote, parameters.release.approval_hours) == ("manual", 72)


def test_of_a_manifest(tmp_path: Path) -> None:
    root = folders(tmp_path / "pictures", {"a": 2, "b": 2})
    manifest = root / "Lot 7.csv"
    manifest.write_text("path,label\n" + "".join(f"{c}/{i}.png,{w}\n" for c, w in (("a", "no"), ("b", '"a, b"'))
                                                 for i in range(2)))  # fmt: skip
    ran = thaw("init", manifest, "--output", "own.yaml", "--json")
    assert (ran.status, ran.err) == (0, "")
    assert ran.document == {"config": "own.yaml", "name": "lot-7", "pictures": 4, "classes": {"a, b": 2, "no": 2}}
    assert "thaw retrain --config own.yaml" in Path("own.yaml").read_text()
    assert read_parameters({}, Path("own.yaml"), []).data.root == manifest
    assert taken(Path("own.yaml")).decision.watch[0].label == "a, b"


@pytest.mark.parametrize("label", ODD, ids=ascii)
def test_odd_class_names(label: str, tmp_path: Path) -> None:
    root = folders(tmp_path / "pictures", {label: 1, "zz": 2})
    body = write_config(root, None, Path("thaw.yaml"))
    assert body["classes"] == {label: 1, "zz": 2}
    assert read_parameters({}, Path("thaw.yaml"), []).data.root == root
    parameters = taken(Path("thaw.yaml"))
    assert parameters.decision.watch[0].label == label
    assert parameters.gate.min_recall == {label: 0.8}


@pytest.mark.parametrize("folder", ODD, ids=ascii)
def test_odd_folders(folder: str, tmp_path: Path) -> None:
    root = folders(tmp_path / folder, {"a": 1, "b": 1})
    body = write_config(root, None, Path("thaw.yaml"))
    assert re.fullmatch(NAME, body["name"])
    assert taken(Path("thaw.yaml")).data.root == root
    assert read_parameters({}, Path("thaw.yaml"), []).name == body["name"], "a name like 1e3 stays text"


def test_an_odd_place_for_the_file(tmp_path: Path) -> None:
    root = folders(tmp_path / "cells", {"a": 1, "b": 1})
    file = tmp_path / "my\x07\nname: x.yaml"
    write_config(root, None, file)
    assert read_parameters({}, file, []).name == "cells"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    root = folders(tmp_path / "cells", {"a": 1, "b": 1})
    Path("thaw.yaml").write_text("mine")
    ran = thaw("init", root, "--json")
    assert (ran.status, ran.document["error"]["code"]) == (2, "bad_input")
    assert "expected no file at thaw.yaml, found one: remove it, or name another with --output" in ran.err
    assert Path("thaw.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gone",), "gone, found nothing there"),
        (("empty",), "found none"),
        (("one",), "two or more classes"),
        (("two", "--name", "Big Name"), "name: expected text that matches"),
        (("two", "--name", "a\nb"), "name: expected text that matches"),
        (("two", "--output", "no/such/thaw.yaml"), "no/such"),
        (("\udcff",), "UTF-8"),
    ],
    ids=ascii,
)
def test_what_cannot_be_written_is_refused(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    Path("empty").mkdir()
    folders(Path("one"), {"a": 1})
    folders(Path("two"), {"a": 1, "b": 1})
    folders(Path("\udcff"), {"a": 1, "b": 1})
    before = sorted(tmp_path.rglob("*"))
    ran = thaw("init", *arguments)
    assert (ran.status, ran.out) == (2, "")
    (line,) = errors(ran.err)
    assert words in line
    assert sorted(tmp_path.rglob("*")) == before


def test_a_reserved_word_of_the_gate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="overall"):
        write_config(folders(tmp_path / "cells", {"overall": 1, "b": 1}), None, Path("thaw.yaml"))
    assert not Path("thaw.yaml").exists()


def test_the_json_document_is_one_line(tmp_path: Path) -> None:
    ran = thaw("init", folders(tmp_path / "cells", {"größe": 1, "two\nlines": 2}), "--json")
    assert ran.out.count("\n") == 1
    assert json.loads(ran.out)["classes"] == {"größe": 1, "two\nlines": 2}
