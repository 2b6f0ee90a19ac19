"""The step on real files: what it writes, what it leaves out, what stops it, and that it can be repeated."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from benchmarks.plants import copy_of
from serving import sealed
from serving.errors import BadInput
from tasks.audit.audit import Audited, audit, examine, read_audit
from tasks.audit.page import write_page
from tasks.audit.repair import keys_of
from tasks.audit.spec import AuditSpec
from tasks.data.dataset import Dataset, subset
from tasks.data.facts import facts
from tasks.data.prepare import prepare
from tasks.data.spec import DataSpec
from tasks.evaluation.spec import GateSpec
from tasks.model.backbone import describe
from tasks.model.spec import ModelSpec
from tasks.training.embed import Features, embed
from tests.audit.made import texture, write_plates

MODEL = ModelSpec(image_size=64)
SPLITS = ("train", "validation", "test")


def write_given(place: Path) -> Path:
    """A manifest of different plates in given splits, nothing wrong with them."""
    folder, manifest = write_plates(place / "plates"), place / "pictures.csv"
    rows = [(path, path.parent.name, SPLITS[i % 3]) for i, path in enumerate(sorted(folder.rglob("*.png")))]
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return manifest


def add(manifest: Path, path: Path, label: str, split: str) -> None:
    with manifest.open("a", newline="") as file:
        csv.writer(file).writerow((path, label, split))


def made(home: Path, data: DataSpec) -> tuple[Dataset, Features]:
    preprocessing = describe(MODEL)
    dataset = prepare("plates", home, data, preprocessing)
    return dataset, embed(dataset, home, MODEL, preprocessing, seed=0)


def examined(home: Path, data: DataSpec, spec: AuditSpec = AuditSpec()) -> tuple[Dataset, Audited]:
    dataset, features = made(home, data)
    return dataset, examine(dataset, features, home, data, spec, GateSpec())


def test_nothing_wrong_blocks_nothing_and_leaves_all(tmp_path: Path, home: Path) -> None:
    dataset, audited = examined(home, DataSpec(root=write_given(tmp_path)))
    assert read_audit(audited).blocking == ()
    assert audited.dataset == dataset
    assert not {"leakage", "conflict", "near_duplicate", "left_out"} & {f.kind for f in read_audit(audited).findings}


def test_a_mirrored_copy_in_another_given_split_stops_the_run(tmp_path: Path, home: Path) -> None:
    """No hash sees it, so `prepare` lets it through."""
    manifest = write_given(tmp_path)
    original, copy = tmp_path / "plates" / "c0" / "000.png", tmp_path / "patient-mueller.png"
    ImageOps.mirror(Image.open(original)).save(copy)
    add(manifest, copy, "c0", "test")
    data = DataSpec(root=manifest)
    dataset, features = made(home, data)
    with pytest.raises(BadInput, match="found 1 pair of pictures in two of those .*patient-mueller") as stopped:
        audit(dataset, features, home, data, AuditSpec(), GateSpec())
    assert "mueller" not in stopped.value.shared
    assert "thaw audit" in stopped.value.shared
    allowed = audit(dataset, features, home, data, AuditSpec(block=()), GateSpec())
    (leak,) = (f for f in read_audit(allowed).findings if f.kind == "leakage")
    assert leak.level == "WARN"
    assert {facts(dataset).paths[row] for row in leak.suspects[0].rows} == {original, copy}


def test_one_picture_under_two_labels_stops_the_run(tmp_path: Path, home: Path) -> None:
    manifest = write_given(tmp_path)
    copy = tmp_path / "copy.png"
    copy.write_bytes((tmp_path / "plates" / "c0" / "000.png").read_bytes())
    add(manifest, copy, "c1", "train")
    data = DataSpec(root=manifest)
    with pytest.raises(BadInput, match="one label for one picture, found 1 pair"):
        audit(*made(home, data), home, data, AuditSpec(), GateSpec())


def test_where_thaw_splits_the_training_copy_is_left_out(tmp_path: Path, home: Path) -> None:
    folder = write_plates(tmp_path / "plates", each=40)
    for i in range(40):  # copies that no hash takes for the same
        copy = copy_of(Image.open(folder / "c0" / f"{i:03}.png"), "mirrored", np.random.default_rng(i))
        Image.open(io.BytesIO(copy)).save(folder / "c0" / f"copy-{i:03}.png")
    data = DataSpec(root=folder, near_duplicates=False)
    dataset, audited = examined(home, data)
    told = facts(dataset)
    number = [path.stem.removeprefix("copy-") + path.parent.name for path in told.paths]
    torn = {n for n, split in zip(number, told.splits, strict=True) if split != "train"}
    planted = [i for i, n in enumerate(number) if n in torn and number.count(n) == 2 and told.splits[i] == "train"]
    assert len(planted) >= 10, "the draw tore too few pairs: this test says nothing"
    left_out = set(json.loads((audited.path / "audit.json").read_text())["left_out"])
    assert set(planted) <= left_out
    train = subset(audited.dataset, "train")
    assert set(train.rows) == set(subset(dataset, "train").rows) - left_out
    assert set(subset(audited.dataset, "test").rows) == set(subset(dataset, "test").rows)
    assert audited.dataset.key != dataset.key
    assert keys_of(dataset) == {dataset.key, audited.dataset.key}
    assert sealed.verify(audited.dataset.path)["counts"]["train"]["c0"] == int((train.labels == 0).sum())
    assert len(facts(audited.dataset)) == len(told)
    kept = examined(home, data, AuditSpec(drop_copies=False))[1]
    assert kept.dataset.key == dataset.key
    assert [f.level for f in read_audit(kept).findings if f.kind == "leakage"] == ["BLOCK"]


def test_a_class_that_is_nothing_but_copies_is_a_finding_and_stops_a_run(tmp_path: Path, home: Path) -> None:
    folder = write_plates(tmp_path / "plates", each=10)
    for i in range(10):
        texture(5).point(lambda v, dim=1 - 0.01 * i: v * dim).save(folder / "c0" / f"{i:03}.png")
    data = DataSpec(root=folder, near_duplicates=False)
    dataset, audited = examined(home, data, AuditSpec(block=(), ignore=("left_out",)))
    (lost,) = read_audit(audited).blocking
    assert "found none of 'c0' in train, 'c0' in validation" in lost.text
    assert audited.dataset == dataset
    write_page(tmp_path / "audit.html", "plates", read_audit(audited), dataset, "none")
    assert "1 finding would stop a retrain" in (tmp_path / "audit.html").read_text()
    with pytest.raises(BadInput, match=r"data\.group_by .* audit\.drop_copies=false"):
        audit(*made(home, data), home, data, AuditSpec(), GateSpec())


def test_it_is_used_again_and_another_policy_is_another_one(tmp_path: Path, home: Path) -> None:
    data = DataSpec(root=write_given(tmp_path))
    _, first = examined(home, data)
    written = (first.path / "audit.json").stat().st_mtime_ns
    _, second = examined(home, data)
    assert (second.path, second.reused) == (first.path, True)
    assert (second.path / "audit.json").stat().st_mtime_ns == written
    assert examined(home, data, AuditSpec(ignore=("dark",)))[1].path != first.path
