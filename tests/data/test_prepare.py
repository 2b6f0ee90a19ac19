"""prepare, run for real: arrays, table and manifest agree, nothing is read twice, bad pictures leave nothing behind."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from elpv_dataset import utils
from PIL import Image

from serving import sealed
from serving.errors import ArtifactError, BadInput
from serving.preprocess import Preprocessing, read_pixels
from tasks.data.dataset import PICTURES, PIXELS, SPLIT, Dataset, Subset, pixels, subset
from tasks.data.facts import FACTS, LOOKS
from tasks.data.prepare import prepare
from tasks.data.source import SPLITS
from tasks.data.spec import DataSpec
from tasks.data.split import read_table
from tasks.data.units import NEAR, perceptual_hash
from tests.conftest import write_digits

HALF = Preprocessing(image_size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def spec(root: Path, **changes: object) -> DataSpec:
    return DataSpec.model_validate({"root": root, "train": 0.5, "validation": 0.25, "test": 0.25, **changes})


def run(root: Path, home: Path, **changes: object) -> Dataset:
    return prepare("digits", home, spec(root, **changes), HALF)


def parts(dataset: Dataset) -> list[Subset]:
    return [subset(dataset, split) for split in SPLITS]


def splits_of(dataset: Dataset) -> dict[Path, str]:
    return {path: split for split in SPLITS for path in subset(dataset, split).paths}


def about(dataset: Dataset) -> dict[str, object]:
    body = sealed.about(dataset.path)
    assert body is not None
    return body


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# --- what a run gives -------------------------------------------------------------------------------


def test_arrays_table_and_manifest_agree(digits_folder: Path, home: Path) -> None:
    told: list[tuple[int, int]] = []
    dataset = prepare(
        "digits", home, spec(digits_folder), HALF, lambda done, total, text="": told.append((done, total))
    )
    assert told == [(i, 240) for i in range(1, 241)]
    assert dataset.path.parent == home / "datasets" / "digits"
    assert dataset.classes == ("digit-0", "digit-1", "digit-7")
    assert (dataset.name, dataset.image_size, dataset.resize) == ("digits", 32, "stretch")
    assert (dataset.grouped, dataset.reused) == (False, False)

    body = sealed.verify(dataset.path)
    assert set(body["files"]) == {PIXELS, PICTURES, SPLIT, FACTS, LOOKS}
    assert body["counts"] == {
        split: {label: Counter(part.labels.tolist())[i] for i, label in enumerate(dataset.classes)}
        for split, part in zip(SPLITS, parts(dataset), strict=True)
    }
    assert body["unreadable"] == body["bridges"] == []
    assert body["units"] == len({unit for part in parts(dataset) for unit in part.units})
    assert sorted(row for part in parts(dataset) for row in part.rows) == list(range(240))
    table = {d: u for part in parts(dataset) for d, u in zip(part.digests, part.units, strict=True)}
    assert {digest: place.unit for digest, place in read_table(dataset.path / SPLIT).items()} == table
    assert (home / "datasets/digits/split.csv").read_bytes() == (dataset.path / SPLIT).read_bytes()


def test_each_row_of_the_array_is_its_picture_as_the_server_would_read_it(digits_folder: Path, home: Path) -> None:
    dataset = run(digits_folder, home)
    images = pixels(dataset)
    assert isinstance(images, np.memmap), "memory stays flat"
    assert (images.dtype, images.shape) == (np.uint8, (240, 32, 32, 3))
    for part in parts(dataset):
        for row, label, digest, path in zip(part.rows, part.labels, part.digests, part.paths, strict=True):
            data = path.read_bytes()
            assert hashlib.sha256(data).hexdigest() == digest
            assert path.parent.name == dataset.classes[label]
            assert np.array_equal(images[row], read_pixels(data, HALF))


def test_the_table_that_travels_holds_no_paths_and_no_groups(own: Path, home: Path) -> None:
    dataset = run(own, home, group_by=r"(\d+)\.png")
    text = (dataset.path / SPLIT).read_text()
    assert text.startswith("digest,unit,split,group\n")
    assert "png" not in text
    assert "own" not in text
    assert dataset.grouped


def test_the_same_pictures_under_another_name_give_the_same_split(own: Path, home: Path) -> None:
    one, other = (prepare(name, home, spec(own), HALF) for name in ("one", "other"))
    assert (one.path / SPLIT).read_bytes() == (other.path / SPLIT).read_bytes()


def test_a_copy_and_a_resaved_copy_share_their_originals_unit_unless_told_otherwise(own: Path, home: Path) -> None:
    photo = Path(utils.__file__).parent / "data" / "images" / "cell0001.png"
    copies = [own / "digit-0" / name for name in ("photo.png", "copy.png", "resaved.jpg")]
    shutil.copy(photo, copies[0])
    shutil.copy(photo, copies[1])
    Image.open(photo).convert("RGB").resize((200, 200)).save(copies[2], quality=80)

    def units(dataset: Dataset) -> list[str]:
        found = {path: unit for part in parts(dataset) for path, unit in zip(part.paths, part.units, strict=True)}
        return [found[copy] for copy in copies]

    assert len(set(units(run(own, home)))) == 1
    exact = units(prepare("exact", home, spec(own, near_duplicates=False), HALF))
    assert exact[0] == exact[1] != exact[2]


# --- what a second run does -------------------------------------------------------------------------


def test_unchanged_pictures_are_not_read_again(own: Path, home: Path) -> None:
    """Every picture's bytes are replaced by rubbish of the same size and time: a second reading would fail."""
    first = run(own, home)
    for path in own.rglob("*.png"):
        status = path.stat()
        path.write_bytes(b"x" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = run(own, home)
    assert second.reused
    assert (second.key, second.path) == (first.key, first.path)


def swapped(path: Path) -> None:
    """Other bytes of the same size, at the same time."""
    status = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_verify_reads_every_file_again(own: Path, home: Path) -> None:
    first = run(own, home)
    told: list[int] = []
    again = prepare("digits", home, spec(own, verify=True), HALF, lambda done, total, text="": told.append(done))
    assert (again.key, again.path, again.reused) == (first.key, first.path, True)
    assert told == list(range(1, 33))
    swapped(own / "digit-1" / "007.png")
    assert run(own, home).reused, "a run that does not verify reads names, sizes and times"
    with pytest.raises(BadInput, match=r"the 32 pictures .* found 1 changed; first .*007\.png: restore them"):
        run(own, home, verify=True)


def test_verify_finds_altered_arrays(own: Path, home: Path) -> None:
    dataset = run(own, home)
    with (dataset.path / PIXELS).open("r+b") as file:
        file.seek(2000)
        file.write(b"\x01\x02\x03")
    with pytest.raises(ArtifactError, match=PIXELS):
        run(own, home, verify=True)


def test_a_first_run_that_verifies_prepares(own: Path, home: Path) -> None:
    assert not run(own, home, verify=True).reused
    assert run(own, home).reused


def test_a_changed_picture_gives_a_new_dataset_and_moves_no_other(own: Path, home: Path) -> None:
    first = run(own, home)
    before = splits_of(first)
    changed = own / "digit-0" / "003.png"
    Image.effect_noise((40, 40), 90).save(changed)
    second = run(own, home)
    assert second.key != first.key
    assert not second.reused
    after = splits_of(second)
    assert {p: s for p, s in after.items() if p != changed} == {p: s for p, s in before.items() if p != changed}
    sealed.verify(first.path)
    sealed.verify(second.path)


@pytest.mark.parametrize("change", [{"seed": 1}, {"near_duplicates": False}, {"train": 0.6, "test": 0.15}])
def test_another_configuration_has_another_key(own: Path, home: Path, change: dict[str, object]) -> None:
    assert run(own, home, **change).key != run(own, home).key


def test_a_relative_root_is_part_of_the_key_as_the_folder_that_it_is_now(
    own: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own.parent)
    first = run(Path("own"), home)
    assert run(own, home).path == first.path
    own.rename(own.parent / "project")
    monkeypatch.chdir(own.parent / "project")
    moved = run(Path(), home)
    assert moved.path != first.path
    assert all(path.exists() for path in splits_of(moved))


def test_another_size_or_resize_has_another_key(own: Path, home: Path) -> None:
    keys = {
        prepare("digits", home, spec(own), HALF.model_copy(update=change)).key
        for change in ({}, {"image_size": 48}, {"resize": "pad"})
    }
    assert len(keys) == 3
    normalised = HALF.model_copy(update={"mean": (0.4, 0.4, 0.4)})
    assert prepare("digits", home, spec(own), normalised).key in keys, "normalisation does not touch the arrays"


def test_added_pictures_extend_the_names_table(own: Path, home: Path) -> None:
    before = splits_of(run(own, home))
    table = read_table(home / "datasets/digits/split.csv")
    for i, path in enumerate(sorted(write_digits(home / "more", (0, 1), 40).rglob("*.png"))):
        shutil.copy(path, own / path.parent.name / f"new-{i}.png")
    after = splits_of(run(own, home))
    assert len(after) == 32 + 80
    assert {path: split for path, split in after.items() if path in before} == before
    later = read_table(home / "datasets/digits/split.csv")
    assert len(later) == 80, "the first 16 of each class are copies of old ones"
    assert {digest: place for digest, place in later.items() if digest in table} == table


def test_pictures_that_come_back_have_their_old_places(own: Path, home: Path, tmp_path: Path) -> None:
    before = splits_of(run(own, home))
    first = {(path.parent, split): path for path, split in sorted(before.items(), reverse=True)}
    away = sorted(set(before) - set(first.values()))  # one of each class stays in each split
    assert len(away) == 26
    for path in away:
        path.rename(tmp_path / f"{path.parent.name}-{path.name}")
    assert set(splits_of(run(own, home))) == set(before) - set(away)
    for path in away:
        (tmp_path / f"{path.parent.name}-{path.name}").rename(path)
    Image.effect_noise((40, 40), 90).save(own / "digit-0" / "new.png")  # so that the first run is not used again
    after = splits_of(run(own, home))
    assert len(after) == 33
    assert {path: split for path, split in after.items() if path in before} == before


def blends(first: Path, second: Path) -> tuple[Image.Image, Image.Image, Image.Image] | None:
    """A photo, itself with a little of another, and what lies between: near both, which are not near each other."""
    one = Image.open(first).convert("RGB")
    other = Image.open(second).convert("RGB").resize(one.size)
    for share in np.arange(0.02, 0.30, 0.02):
        pictures = (one, Image.blend(one, other, share), Image.blend(one, other, share / 2))
        a, b, between = (perceptual_hash(picture) for picture in pictures)
        if _bits(a, b) > NEAR and _bits(a, between) <= NEAR and _bits(b, between) <= NEAR:
            return pictures
    return None


def _bits(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> int:
    return int(np.bitwise_count(one ^ other).sum())


def test_a_bridge_is_left_out_and_named(own: Path, home: Path) -> None:
    """A new picture that looks like a training picture and like a test picture would carry one to the other."""
    photos = sorted((Path(utils.__file__).parent / "data" / "images").glob("*.png"))[::65]
    between: dict[tuple[Path, Path], Image.Image] = {}
    for i in range(0, 40, 2):
        found = blends(photos[i], photos[i + 1])
        if found is not None:
            pair = own / "digit-0" / f"{i}-a.png", own / "digit-0" / f"{i}-b.png"
            for picture, path in zip(found[:2], pair, strict=True):
                picture.save(path)
            between[pair] = found[2]
    before = splits_of(run(own, home))
    torn = [pair for pair in between if before[pair[0]] != before[pair[1]]]
    assert torn
    bridge = own / "digit-0" / "bridge.png"
    between[torn[0]].save(bridge)
    dataset = run(own, home)
    assert about(dataset)["bridges"] == [str(bridge)]
    assert splits_of(dataset) == before
    assert len(pixels(dataset)) == len(before) == len(read_table(home / "datasets/digits/split.csv"))


def test_two_runs_at_once_give_one_dataset(own: Path, home: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: run(own, home), range(2))
    assert one.path == other.path
    sealed.verify(one.path)
    assert not list(home.rglob(".tmp-*"))


# --- bad pictures -----------------------------------------------------------------------------------


def corrupt(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_corrupt_picture_is_named_and_nothing_is_left(own: Path, home: Path) -> None:
    corrupt(own / "digit-1" / "005.png")
    with pytest.raises(BadInput) as caught:
        run(own, home)
    message = str(caught.value)
    assert str(own / "digit-1" / "005.png") in message
    assert "found 1 of 32" in message
    assert "data.max_unreadable" in message
    assert "\n" not in message
    assert not files_under(home / "datasets")


@pytest.mark.parametrize("name", ["1.tiff", "2.svg", "3.heic"])
def test_a_kind_that_is_not_accepted_is_refused_and_never_skipped(own: Path, home: Path, name: str) -> None:
    (own / "digit-0" / name).write_bytes(b"II*\x00 or whatever this kind begins with")
    with pytest.raises(BadInput, match=f"{name}: expected JPEG, PNG, WEBP, GIF, BMP"):
        run(own, home)


def test_allowed_unreadable_pictures_are_left_out(own: Path, home: Path) -> None:
    bad = own / "digit-1" / "005.png"
    corrupt(bad)
    empty = own / "digit-0" / "empty.jpg"
    empty.touch()
    dataset = run(own, home, max_unreadable=0.07)  # 2 of 33 are 6.1 %
    assert len(pixels(dataset)) == 31
    assert bad not in splits_of(dataset)
    assert [entry["path"] for entry in sealed.verify(dataset.path)["unreadable"]] == [str(empty), str(bad)]
    images = pixels(dataset)
    for part in parts(dataset):
        for row, path in zip(part.rows, part.paths, strict=True):
            assert np.array_equal(images[row], read_pixels(path.read_bytes(), HALF)), "rows moved up together"
    with pytest.raises(BadInput, match="at most 6.0% unreadable pictures, found 2 of 33"):
        run(own, home, max_unreadable=0.06)


def test_too_few_pictures_leave_nothing(own: Path, home: Path) -> None:
    for path in sorted(own.joinpath("digit-1").iterdir())[2:]:
        path.unlink()
    with pytest.raises(BadInput, match="found 2 of 'digit-1'"):
        run(own, home)
    assert not files_under(home / "datasets")


# --- a user's own folder ----------------------------------------------------------------------------


def scene(seed: int, width: int = 96, height: int = 64) -> Image.Image:
    """A picture that looks like no other: coarse coloured noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def write_kinds(folder: Path, seed: int) -> int:
    """One picture of every kind a user may have; returns how many."""
    folder.mkdir(parents=True)
    scenes = (scene(seed + i) for i in range(100))
    next(scenes).save(folder / "photo.jpg", quality=90)
    next(scenes).save(folder / "progressive.JPEG", progressive=True)
    next(scenes).convert("L").save(folder / "grey.jpg")
    next(scenes).convert("CMYK").save(folder / "cmyk.jpg")
    next(scenes).save(folder / "plain.png")
    next(scenes).convert("L").save(folder / "grey.png")
    next(scenes).convert("1").save(folder / "bits.png")
    next(scenes).convert("P").save(folder / "palette.png")
    next(scenes).convert("RGBA").save(folder / "alpha.png")
    next(scenes).convert("LA").save(folder / "grey alpha.png")
    deep = np.asarray(next(scenes).convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(folder / "16 bit.png")
    next(scenes).save(folder / "lossy.webp")
    next(scenes).convert("RGBA").save(folder / "lossless.webp", lossless=True)
    next(scenes).save(folder / "windows.bmp")
    next(scenes).convert("P").save(folder / "one.gif")
    next(scenes).save(folder / "moving.gif", save_all=True, append_images=[next(scenes), next(scenes)])
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    next(scenes).save(folder / "rotated.jpg", quality=95, exif=exif)
    next(scenes).save(folder / "jpeg in disguise.png", format="JPEG")
    next(scenes).resize((3000, 2000)).save(folder / "large.jpg")
    Image.new("RGB", (1, 1), "red").save(folder / "tiny.png")
    return len(list(folder.iterdir()))


NAMES = ("good", "défaut 不良", 'a "quoted", odd\'one')


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_a_folder_of_every_kind_prepares(tmp_path: Path, home: Path, resize: str) -> None:
    count = sum(write_kinds(tmp_path / "mine" / name, 1000 * i) for i, name in enumerate(NAMES))
    preprocessing = HALF.model_copy(update={"resize": resize})
    dataset = prepare("mine", home, spec(tmp_path / "mine"), preprocessing)
    assert dataset.classes == tuple(sorted(NAMES))
    assert sum(map(len, parts(dataset))) == len(pixels(dataset)) == count == 60
    images = pixels(dataset)
    for part in parts(dataset):
        for row, label, path in zip(part.rows, part.labels, part.paths, strict=True):
            assert dataset.classes[label] == path.parent.name
            assert np.array_equal(images[row], read_pixels(path.read_bytes(), preprocessing)), path.name


def test_kinds_mean_what_they_show(tmp_path: Path, home: Path) -> None:
    """The same scene in each kind gives nearly the same array: upright, scaled to 8 bits, colours right."""
    folder, picture = tmp_path / "mine" / "same", scene(5, 64, 64)
    folder.mkdir(parents=True)
    picture.save(folder / "rgb.png")
    picture.convert("RGBA").save(folder / "rgba.png")
    picture.save(folder / "webp.webp", lossless=True)
    picture.save(folder / "bmp.bmp")
    picture.save(folder / "jpeg.jpg", quality=95, subsampling=0)
    picture.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", quality=95, subsampling=0, exif=exif)
    write_digits(tmp_path / "mine", (0,), 8)
    for i in range(4):
        scene(50 + i).save(folder / f"other {i}.png")
    dataset = run(tmp_path / "mine", home)
    images = {
        path.name: pixels(dataset)[row].astype(int)
        for part in parts(dataset)
        for row, path in zip(part.rows, part.paths, strict=True)
    }
    assert {path.name: split for path, split in splits_of(dataset).items()}.keys() == images.keys()
    for name in ("rgba.png", "webp.webp", "bmp.bmp"):
        assert np.array_equal(images[name], images["rgb.png"]), name
    for name in ("jpeg.jpg", "cmyk.jpg", "turned.jpg"):
        assert np.abs(images[name] - images["rgb.png"]).mean() < 4, name
    assert np.abs(images["other 0.png"] - images["rgb.png"]).mean() > 30, "the measure can tell pictures apart"


ODD = (
    b"new\nline.png",
    b'quo"te.png',
    b"com,ma.png",
    b"return\r.png",
    b"not utf-8 \xff\xfe.png",
    b"; -- '.png",
    b"%s {0}.png",
)


def test_odd_file_names_survive_the_csv(own: Path, home: Path) -> None:
    odd = [own / "digit-0" / os.fsdecode(name) for name in ODD]
    for i, path in enumerate(odd):
        scene(i).save(path, format="PNG")
    dataset = run(own, home)
    found = splits_of(dataset)
    assert set(odd) <= set(found)
    assert all(path.is_file() for path in found)
    for part in parts(dataset):
        assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in part.paths] == list(part.digests)


def test_an_unreadable_picture_with_an_odd_name_can_be_recorded(own: Path, home: Path) -> None:
    (own / "digit-0" / os.fsdecode(b"\xff\n.png")).write_bytes(b"rubbish")
    dataset = run(own, home, max_unreadable=0.1)
    (entry,) = sealed.verify(dataset.path)["unreadable"]
    assert entry["path"].endswith("\\xff\n.png")


def test_a_group_in_a_name_that_is_not_utf_8(own: Path, home: Path) -> None:
    for i in range(3):
        scene(i).save(own / "digit-0" / os.fsdecode(b"\xff_%d.png" % i), format="PNG")
    dataset = run(own, home, group_by=r"/([^/]*?)(_\d)?\.png")
    units = [u for part in parts(dataset) for u, p in zip(part.units, part.paths, strict=True) if "_" in p.name]
    assert len(units) == 3
    assert len(set(units)) == 1


def test_a_manifest_with_odd_names_and_labels_prepares(own: Path, home: Path) -> None:
    pictures = sorted(own.rglob("*.png"))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("label", "path", "split"))
    words = {"digit-0": 'yes, "really"', "digit-1": "no\nway"}
    for i, picture in enumerate(pictures):
        writer.writerow((words[picture.parent.name], picture.relative_to(own), ("train", "val", "test")[i % 3]))
    manifest = own / "pictures.csv"
    manifest.write_text(text.getvalue(), encoding="utf-8", newline="")
    dataset = run(manifest, home)
    assert dataset.classes == ("no\nway", 'yes, "really"')
    order = [path for part in parts(dataset) for path in part.paths]
    assert sorted(order) == pictures
    assert [len(part) for part in parts(dataset)] == [11, 11, 10]


def test_slices_stay_with_their_pictures(tmp_path: Path, home: Path) -> None:
    """Each subset carries the value of every slice column for each of its pictures, whatever the split did."""
    folder = write_digits(tmp_path / "digits", (0, 1), 20)
    rows = [(path, path.parent.name, f"site {i % 3}") for i, path in enumerate(sorted(folder.rglob("*.png")))]
    manifest = tmp_path / "pictures.csv"
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "site"), *rows])
    expected = {path: site for path, _, site in rows}
    sliced = run(manifest, home, slices=["site"])
    assert sliced.slices == ("site",)
    for part in parts(sliced):
        (found,) = part.slices
        assert (found.column, found.values) == ("site", tuple(expected[path] for path in part.paths))
    assert run(manifest, home).key != sliced.key, "slices are part of what a dataset is"
