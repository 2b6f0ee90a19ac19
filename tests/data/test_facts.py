"""What prepare notes of each picture, against a second reading of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from elpv_dataset import utils
from PIL import Image, ImageFilter

from serving import sealed
from serving.preprocess import Preprocessing, decode, inspect
from tasks.data.dataset import PIXELS, Dataset, pixels, subset
from tasks.data.facts import SIDE, Facts, facts, measure
from tasks.data.prepare import prepare
from tasks.data.source import SPLITS
from tasks.data.spec import DataSpec
from tasks.data.units import perceptual_hash
from tests.conftest import write_digits
from tests.data.test_prepare import scene

HALF = Preprocessing(image_size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def prepared(root: Path, home: Path, preprocessing: Preprocessing = HALF) -> Dataset:
    data = DataSpec(root=root, train=0.5, validation=0.25, test=0.25, max_unreadable=0.2)
    return prepare("mine", home, data, preprocessing)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    folder = write_digits(tmp_path / "mine", (0, 1), 12)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    scene(1, 96, 64).save(folder / "digit-0" / "turned.jpg", exif=exif)
    scene(2, 3000, 2000).save(folder / "digit-0" / "large.jpg")
    scene(3).convert("CMYK").save(folder / "digit-1" / "cmyk.jpg")
    scene(4).convert("P").save(folder / "digit-1" / "palette.gif")
    Image.new("RGB", (40, 40), (255, 255, 255)).save(folder / "digit-1" / "white.png")
    folder.joinpath("digit-0", "000-broken.png").write_bytes(b"rubbish")  # its row is taken out of every file
    return folder


def row(found: Facts, name: str) -> int:
    return [path.name for path in found.paths].index(name)


def test_row_by_row_the_facts_are_those_of_the_file(mine: Path, home: Path) -> None:
    dataset = prepared(mine, home)
    found = facts(dataset)
    assert len(found) == len(pixels(dataset)) == 12 + 12 + 5
    for i, path in enumerate(found.paths):
        data = path.read_bytes()
        again = measure(inspect(data, at_least=2 * HALF.image_size), len(data))
        assert found.looks[i].tobytes() == again.look
        assert (found.widths[i], found.heights[i], found.sizes[i]) == (again.width, again.height, path.stat().st_size)
        assert (found.modes[i], found.formats[i]) == (again.mode, again.format)
        assert (found.brightness[i], found.contrast[i], found.sharpness[i]) == pytest.approx(
            (again.brightness, again.contrast, again.sharpness)
        )
        assert dataset.classes[found.labels[i]] == path.parent.name
    for split in SPLITS:
        part = subset(dataset, split)
        assert [found.splits[i] for i in part.rows] == [split] * len(part)
        assert [found.paths[i] for i in part.rows] == list(part.paths)
        assert [found.digests[i] for i in part.rows] == list(part.digests)
        assert [found.units[i] for i in part.rows] == list(part.units)


def test_sizes_are_those_of_the_whole_upright_picture(mine: Path, home: Path) -> None:
    found = facts(prepared(mine, home))

    def told(name: str) -> tuple[int, int, str, str]:
        i = row(found, name)
        return int(found.widths[i]), int(found.heights[i]), found.modes[i], found.formats[i]

    assert told("turned.jpg") == (64, 96, "RGB", "JPEG")
    assert told("large.jpg") == (3000, 2000, "RGB", "JPEG"), "though it was decoded at a reduced scale"
    assert told("cmyk.jpg") == (96, 64, "CMYK", "JPEG")
    assert told("palette.gif") == (96, 64, "P", "GIF")


def test_light_and_sharpness_against_plain_arithmetic(mine: Path, home: Path) -> None:
    found = facts(prepared(mine, home))
    white = row(found, "white.png")
    assert (found.brightness[white], found.contrast[white], found.sharpness[white]) == (255, 0, 0)
    i = row(found, "turned.jpg")
    image = decode(found.paths[i].read_bytes()).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    grey = np.asarray(image).astype(float)
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    assert found.brightness[i] == pytest.approx(grey.mean(), abs=0.5)
    assert found.contrast[i] == pytest.approx(grey.std(), abs=0.5)
    assert found.sharpness[i] == pytest.approx((around - 4 * grey[1:-1, 1:-1]).var(), rel=0.05)


def test_a_blurred_picture_is_less_sharp_and_a_dark_one_less_bright(mine: Path, home: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    picture.save(mine / "digit-0" / "sharp.png")
    picture.filter(ImageFilter.GaussianBlur(4)).save(mine / "digit-0" / "blurred.png")
    picture.point([value // 8 for value in range(256)] * 3).save(mine / "digit-0" / "dark.png")
    found = facts(prepared(mine, home))
    sharp, blurred, dark = (row(found, f"{name}.png") for name in ("sharp", "blurred", "dark"))
    assert found.sharpness[blurred] < found.sharpness[sharp] / 10
    assert found.brightness[dark] < found.brightness[sharp] / 6


def test_the_facts_do_not_depend_on_the_model(mine: Path, home: Path) -> None:
    """But for a large JPEG, which is decoded at the scale that the model's size asks for: nearly not."""
    photo = Image.open(sorted(Path(utils.__file__).parent.joinpath("data", "images").glob("*.png"))[0])
    photo.convert("RGB").resize((1200, 1200), Image.Resampling.BICUBIC).save(mine / "digit-0" / "large.jpg", quality=92)
    first = facts(prepared(mine, home))
    other = facts(prepared(mine, home, HALF.model_copy(update={"image_size": 192, "resize": "pad"})))
    large = row(first, "large.jpg")
    rest = np.arange(len(first)) != large
    for name in ("brightness", "contrast", "sharpness", "looks", "widths", "sizes"):
        assert np.array_equal(getattr(first, name)[rest], getattr(other, name)[rest]), name
    assert np.bitwise_count(first.looks[large] ^ other.looks[large]).sum() <= 2
    for name in ("brightness", "contrast"):
        assert getattr(first, name)[large] == pytest.approx(getattr(other, name)[large], abs=1), name


def test_the_files_are_sealed_with_the_dataset(mine: Path, home: Path) -> None:
    dataset = prepared(mine, home)
    assert {"facts.csv", "looks.npy", PIXELS} <= set(sealed.verify(dataset.path)["files"])
    found = facts(dataset)
    assert (found.looks.dtype, found.looks.shape) == (np.uint8, (29, 32))
    i = row(found, "white.png")
    assert np.array_equal(found.looks[i], perceptual_hash(Image.new("RGB", (40, 40), "white")))
