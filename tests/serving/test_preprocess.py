"""Every accepted kind of picture becomes the right upright RGB pixels; all else is refused, quickly and cheaply.

Pictures are written with Pillow here, byte by byte where Pillow would not write them, or made by others
(THAW_TEST_PICTURES: Pillow's own tests, PngSuite, EXIF examples).
"""

from __future__ import annotations

import io
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from serving.errors import PictureError
from serving.preprocess import (
    FORMATS,
    MAX_PIXELS,
    MAX_SIDE,
    Preprocessing,
    decode,
    kind_of,
    read_pixels,
    to_pixels,
)
from serving.structure import MAX_CHUNKS, MAX_OTHERS, MAX_RUNS, MAX_SCANS
from tests.serving.pictures import needs_pictures, pictures

ROOT = Path(__file__).parents[2]
MEAN = STD = (0.5, 0.5, 0.5)
PREPROCESSING = Preprocessing(image_size=64, mean=MEAN, std=STD)
SECONDS = 5.0
LOSSY = 8.0  # mean difference that JPEG at Pillow's default quality may make of `photo`, 0-255


@cache
def photo(width: int = 320, height: int = 214) -> Image.Image:
    """A real photo, no two of whose eight orientations look alike."""
    return Image.fromarray(load_sample_image("china.jpg")).resize((width, height), Image.Resampling.LANCZOS)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    body = io.BytesIO()
    image.save(body, kind, **options)
    return body.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, rows: bytes, *extra: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG by hand: `rows` as they are before compression, each with its filter byte; `extra` chunks before them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + data


def far(found: Image.Image, expected: Image.Image) -> float:
    """Mean absolute difference of two pictures of one size, 0-255."""
    assert (found.size, found.mode) == (expected.size, "RGB")
    return float(np.abs(np.asarray(found, np.float64) - np.asarray(expected.convert("RGB"), np.float64)).mean())


def refused(data: bytes) -> tuple[int, str]:
    started = time.perf_counter()
    with pytest.raises(PictureError) as caught:
        read_pixels(data, PREPROCESSING)
    assert time.perf_counter() - started < SECONDS
    assert "\n" not in str(caught.value)
    return caught.value.status, caught.value.code


# --- kinds and modes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0), ("BMP", {}, 0), ("WEBP", {"lossless": True}, 0), ("WEBP", {"quality": 90}, 4),
        ("JPEG", {"quality": 95}, 3), ("JPEG", {"quality": 95, "progressive": True}, 3), ("GIF", {}, 12),
    ],
)  # fmt: skip
def test_every_accepted_kind_decodes(kind: str, options: dict[str, Any], tolerance: float) -> None:
    assert kind in FORMATS
    data = encoded(photo(), kind, **options)
    assert kind_of(data) == kind
    assert far(decode(data), photo()) <= tolerance


def test_the_kind_is_read_from_the_content() -> None:
    assert {kind_of(encoded(photo(), kind)) for kind in FORMATS} == set(FORMATS)
    assert kind_of(b"") is None
    assert kind_of(b"RIFF\x00\x00\x00\x00WAVE") is None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_grey_becomes_three_equal_channels(kind: str) -> None:
    pixels = np.asarray(decode(encoded(photo().convert("L"), kind)))
    assert np.ptp(pixels, axis=2).max() <= (2 if kind == "WEBP" else 0)
    assert far(Image.fromarray(pixels), photo().convert("L")) < LOSSY


def test_one_bit_pictures_are_black_and_white() -> None:
    image = photo().convert("1")
    assert far(decode(encoded(image, "PNG")), image) == 0


def test_a_palette_is_looked_up() -> None:
    image = photo().convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
    for kind in ("PNG", "GIF", "BMP"):
        assert far(decode(encoded(image, kind)), image) == 0


def quarters(*values: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A 2 x 2 picture of those values, row by row."""
    return np.array(values, np.uint8).reshape(2, 2, -1)


def test_a_transparent_palette_entry_is_white() -> None:
    image = Image.fromarray(quarters((0,), (1,), (0,), (1,))[:, :, 0]).convert("P")
    image.putpalette([200, 0, 0, 0, 0, 200])
    pixels = np.asarray(decode(encoded(image, "PNG", transparency=1)))
    assert pixels.tolist() == [[[200, 0, 0], [255, 255, 255]]] * 2


def test_palette_entries_half_transparent_are_mixed_with_white() -> None:
    image = Image.fromarray(quarters((0,), (1,), (0,), (1,))[:, :, 0]).convert("P")
    image.putpalette([200, 0, 0, 0, 0, 200])
    pixels = np.asarray(decode(encoded(image, "PNG", transparency=bytes([255, 51]))))
    assert np.abs(pixels[0, 1].astype(int) - [204, 204, 244]).max() <= 1
    assert pixels[0, 0].tolist() == [200, 0, 0]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_over_white(kind: str) -> None:
    colours = quarters((200, 0, 0, 255), (200, 0, 0, 0), (0, 0, 0, 51), (0, 100, 0, 255))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    pixels = np.asarray(decode(encoded(Image.fromarray(colours), kind, **options))).astype(int)
    expected = [[[200, 0, 0], [255, 255, 255]], [[204, 204, 204], [0, 100, 0]]]
    assert np.abs(pixels - expected).max() <= 1


def test_grey_with_transparency_is_over_white() -> None:
    colours = quarters((100, 255), (100, 0), (0, 51), (7, 255))
    pixels = np.asarray(decode(encoded(Image.fromarray(colours, "LA"), "PNG"))).astype(int)
    assert np.abs(pixels[:, :, 0] - [[100, 255], [204, 7]]).max() <= 1


def test_a_transparent_colour_is_white() -> None:
    key = chunk(b"tRNS", struct.pack(">3H", 9, 8, 7))
    pixels = np.asarray(decode(png(2, 1, b"\0" + bytes([9, 8, 7, 1, 2, 3]), key)))
    assert pixels.tolist() == [[[255, 255, 255], [1, 2, 3]]]


def test_a_transparent_16_bit_colour_is_white() -> None:
    rows = b"\0" + struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x12, 0x56, 0x9A)
    key = chunk(b"tRNS", struct.pack(">3H", 0x1234, 0x5678, 0x9ABC))
    assert np.asarray(decode(png(2, 1, rows, key, depth=16))).tolist() == [[[255, 255, 255], [0, 0, 0]]]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_transparent_grey_of_few_bits_is_white(depth: int) -> None:
    rows = bytes([0, 1 << (8 - 2 * depth)])
    data = png(2, 1, rows, chunk(b"tRNS", struct.pack(">H", 1)), depth=depth, colour=0)
    assert np.asarray(decode(data))[0, :, 0].tolist() == [0, 255]


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    pixels = np.asarray(decode(encoded(Image.fromarray(values), "PNG")))
    assert np.abs(pixels[:, :, 1].astype(int) - values / 257).max() <= 1
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert len(np.unique(pixels)) == 256


def test_a_transparent_16_bit_grey_is_white() -> None:
    rows = b"\0" + struct.pack(">3H", 100, 40000, 101)
    data = png(3, 1, rows, chunk(b"tRNS", struct.pack(">H", 100)), depth=16, colour=0)
    assert np.asarray(decode(data))[0, :, 0].tolist() == [255, 155, 0]


def test_16_bit_colour_is_scaled() -> None:
    rows = b"\0" + struct.pack(">6H", 0, 32896, 65535, 257, 2570, 25700)
    assert np.asarray(decode(png(2, 1, rows, depth=16))).tolist() == [[[0, 128, 255], [1, 10, 100]]]


def test_a_cmyk_jpeg_has_its_colours() -> None:
    image = photo()
    assert far(decode(encoded(image.convert("CMYK"), "JPEG", quality=95)), image) < 4


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "lime", "blue")]
    for kind, options in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)
        with Image.open(io.BytesIO(data)) as opened:
            assert opened.n_frames == 3  # type: ignore[attr-defined]
        assert far(decode(data), frames[0]) < 2


# --- orientation --------------------------------------------------------------------------------------

# what a camera held that way stores, so that the tag brings it upright again
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def turned(orientation: int, kind: str = "JPEG") -> bytes:
    stored = STORED.get(orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = photo() if stored is None else photo().transpose(stored)
    return encoded(image, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_all_eight_orientations_become_upright(kind: str, orientation: int) -> None:
    upright = decode(turned(orientation, kind))
    assert far(upright, photo()) < LOSSY
    assert far(upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT), photo()) > 20, "the photo is not its own mirror"


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_upright(orientation: int) -> None:
    assert far(decode(turned(orientation)), photo()) < LOSSY


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow says so, and goes on
@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0garbage" * 50])
def test_broken_exif_is_no_reason_to_refuse_good_pixels(exif: bytes) -> None:
    data = encoded(photo(), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    assert far(decode(data[:2] + segment + data[2:]), photo()) < LOSSY


# --- size ---------------------------------------------------------------------------------------------


def test_pixels_are_what_the_model_takes() -> None:
    for resize in ("stretch", "crop", "pad"):
        preprocessing = Preprocessing(image_size=64, resize=resize, mean=MEAN, std=STD)
        pixels = read_pixels(encoded(photo(), "PNG"), preprocessing)
        assert (pixels.shape, pixels.dtype) == ((64, 64, 3), np.uint8)


def test_stretch_crop_and_pad_keep_what_they_promise() -> None:
    bars = Image.new("RGB", (200, 100), "red")
    bars.paste("blue", (50, 0, 150, 100))

    def resized(resize: str) -> Any:
        preprocessing = Preprocessing.model_validate({"image_size": 64, "resize": resize, "mean": MEAN, "std": STD})
        return to_pixels(bars, preprocessing)

    assert resized("stretch")[32, [2, 32, 61]].tolist() == [[255, 0, 0], [0, 0, 255], [255, 0, 0]]
    assert resized("crop")[32, [2, 32, 61]].tolist() == [[0, 0, 255]] * 3
    assert resized("pad")[[2, 32, 61], 32].tolist() == [[0, 0, 0], [0, 0, 255], [0, 0, 0]]


def test_shrinking_averages_instead_of_skipping() -> None:
    """Antialias: a fine chessboard becomes grey, not black or white."""
    board = np.indices((512, 512)).sum(axis=0) % 2 * 255
    pixels = to_pixels(Image.fromarray(board.astype(np.uint8)).convert("RGB"), PREPROCESSING)
    assert np.abs(pixels.astype(int) - 127).max() <= 2


@pytest.mark.parametrize("size", [(1600, 1200), (3000, 2000)])
def test_scaled_jpeg_decoding_is_close_to_full_decoding(size: tuple[int, int]) -> None:
    data = encoded(photo(*size), "JPEG", quality=90)
    scaled = decode(data, at_least=128)
    assert min(scaled.size) >= 128
    assert scaled.width < size[0] / 2, "it was decoded at reduced scale"
    full = to_pixels(decode(data), PREPROCESSING).astype(int)
    difference = np.abs(read_pixels(data, PREPROCESSING).astype(int) - full)
    assert difference.mean() < 1.5
    assert np.quantile(difference, 0.99) <= 8


def test_a_jpeg_that_is_not_much_larger_is_decoded_in_full() -> None:
    assert decode(encoded(photo(200, 150), "JPEG"), at_least=128).size == (200, 150)


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 60000)])
def test_extreme_shapes_are_no_error(resize: str, size: tuple[int, int]) -> None:
    preprocessing = Preprocessing.model_validate({"image_size": 32, "resize": resize, "mean": MEAN, "std": STD})
    assert read_pixels(encoded(Image.new("RGB", size, "red"), "PNG"), preprocessing).shape == (32, 32, 3)


# --- refused ------------------------------------------------------------------------------------------


def tiff() -> bytes:
    return encoded(photo(), "TIFF")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0", b"hello, world\n", b'<svg xmlns="http://www.w3.org/2000/svg"/>', b"%PDF-1.7\n%\xe2\xe3",
        b"<html></html>", b"RIFF\x24\0\0\0WAVEfmt ", b"PK\x03\x04", b"\0\0\0\x20ftypheic", b"\xff\xd8", b"\x89PNG\r\n",
        b"http://169.254.169.254/latest/meta-data", b"B", b"GIF88a", b"8BPS\0\1", tiff(),
    ],
    ids=lambda data: repr(data[:12]),
)  # fmt: skip
def test_what_is_no_accepted_picture_is_415(data: bytes) -> None:
    assert refused(data) == (415, "unsupported_format")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_truncated_picture_is_422(kind: str, kept: float) -> None:
    data = encoded(photo(), kind)
    assert refused(data[: int(len(data) * kept)]) == (422, "undecodable")


@pytest.mark.parametrize("magic", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"BM"])
@pytest.mark.parametrize("rest", [b"", b"\0" * 100, b"\xff" * 100, bytes(range(256)) * 4])
def test_nonsense_behind_a_good_beginning_is_422(magic: bytes, rest: bytes) -> None:
    assert refused(magic + rest) == (422, "undecodable")


def test_exactly_the_most_pixels_pass_and_one_more_does_not() -> None:
    wide, high = 6000, 4000
    assert wide * high == MAX_PIXELS
    row = b"\0" * (1 + wide // 8)
    assert decode(png(wide, high, row * high, depth=1, colour=0)).size == (wide, high)
    assert refused(png(wide, high + 1, row * (high + 1), depth=1, colour=0)) == (413, "too_large")


@pytest.mark.parametrize("size", [(1, MAX_SIDE + 1), (MAX_SIDE + 1, 1), (1, MAX_PIXELS), (MAX_PIXELS, 1)])
def test_a_side_longer_than_any_cameras_is_413(size: tuple[int, int]) -> None:
    """1 x 24,000,000 in 175 kB of PNG took 1.4 GB: a row costs more than its one pixel."""
    width, height = size
    row = b"\0" * (1 + (width + 7) // 8)
    assert refused(png(width, height, row * height, depth=1, colour=0)) == (413, "too_large")
    assert decode(png(1, MAX_SIDE, b"\0\0" * MAX_SIDE, depth=1, colour=0)).size == (1, MAX_SIDE)


def test_the_largest_transparent_picture_takes_less_than_400_mb(tmp_path: Path) -> None:
    """One of several that a server may decode at once."""
    file = tmp_path / "large.png"
    file.write_bytes(png(6000, 4000, b"\0" * (1 + 4 * 6000) * 4000, colour=6))
    program = (
        "import resource, sys; from pathlib import Path; from serving.preprocess import decode\n"
        "data = Path(sys.argv[1]).read_bytes(); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "decode(data); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, cwd=ROOT)
    assert int(done.stdout) * 1024 < 300e6, done.stderr


# Pillow itself warns from 89 and stops from 179 megapixels; both are ours to answer
@pytest.mark.parametrize("side", [6000, 9999, 10000, 14000, 30000, 2**31 - 1])
def test_a_header_that_claims_too_many_pixels_is_413(side: int) -> None:
    assert refused(png(side, side, b"\0" * 100)) == (413, "too_large")


BOMBS = """
import resource, sys
from pathlib import Path
from serving.errors import PictureError
from serving.preprocess import decode

for path in map(Path, sys.argv[1:]):
    data = path.read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        decode(data)
        outcome = "accepted"
    except PictureError as error:
        outcome = error.code
    print(path.name, outcome, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def bombs() -> dict[str, bytes]:
    """Small files that would become large in memory; the harmless one loads Pillow's decoder."""
    much = zlib.compressobj(9)
    packed = b"".join(much.compress(b"\0" * 2**20) for _ in range(400)) + much.flush()
    rows = (b"\0" + b"\1" * 24) * 8
    harmless = png(8, 8, rows)
    return {
        "harmless": harmless,
        "pixels": png(6000, 6000, rows),
        "text": png(8, 8, rows, chunk(b"zTXt", b"Comment\0\0" + packed)),
        "profile": png(8, 8, rows, chunk(b"iCCP", b"x\0\0" + packed)),
        "data": harmless.replace(chunk(b"IDAT", zlib.compress(rows)), chunk(b"IDAT", packed)),
    }


def test_bombs_do_not_grow_memory(tmp_path: Path) -> None:
    """In a process of its own, since a peak never goes down again."""
    for name, data in bombs().items():
        assert len(data) < 2**20
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, "-c", BOMBS, *(str(tmp_path / name) for name in bombs())]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [line.split() for line in run.stdout.splitlines()]
    assert {name: outcome for name, outcome, _ in lines} == {
        "harmless": "accepted", "pixels": "too_large",
        "text": "accepted", "profile": "accepted",  # neither is needed for the pixels
        "data": "accepted",  # what is more than the header says is not unpacked
    }  # fmt: skip
    assert max(int(grown) for name, _, grown in lines if name != "harmless") < 20


def scans(data: bytes) -> list[int]:
    return [place for place in range(len(data)) if data[place : place + 2] == b"\xff\xda"]


def scan_bomb(repeats: int) -> bytes:
    """A grey progressive JPEG whose cheapest scan, 42 bytes that refine nothing, is repeated."""
    data = encoded(Image.new("L", (6000, 4000), 128), "JPEG", progressive=True)
    last = scans(data)[-1]
    return data[:-2] + data[last:-2] * repeats + b"\xff\xd9"


def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded() -> None:
    assert len(scan_bomb(2000)) < 200_000
    assert refused(scan_bomb(2000)) == (422, "undecodable")


def test_a_jpeg_of_some_more_scans_than_usual_is_accepted_in_time() -> None:
    data = scan_bomb(MAX_SCANS - 10)
    assert 10 < len(scans(data)) <= MAX_SCANS
    started = time.perf_counter()
    read_pixels(data, PREPROCESSING)
    assert time.perf_counter() - started < SECONDS


@pytest.mark.parametrize("kind", [b"prVt", b"IDAT", b"fdAT", b"fcTL"])
def test_a_png_of_very_many_chunks_is_refused_before_it_is_decoded(kind: bytes) -> None:
    data = encoded(photo(), "PNG")
    chunk = bytes(4) + kind + zlib.crc32(kind).to_bytes(4)
    started = time.perf_counter()
    assert refused(data[:33] + chunk * 800_000 + data[33:]) == (422, "undecodable")
    assert time.perf_counter() - started < SECONDS
    most = MAX_OTHERS if kind == b"prVt" else MAX_CHUNKS
    if kind in (b"prVt", b"IDAT"):
        assert read_pixels(data[:33] + chunk * (most - 100) + data[33:], PREPROCESSING).any()


def test_a_png_has_one_colour_profile() -> None:
    """9,947 of them, each of a megabyte once it is unpacked, took 45 s."""
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**20 - 1)))
    rows = b"\0" + bytes([1, 2, 3])
    assert decode(png(1, 1, rows, profile)).getpixel((0, 0)) == (1, 2, 3)
    assert refused(png(1, 1, rows, *[profile] * 2)) == (422, "undecodable")


def run_length_bmp(width: int, height: int, runs: bytes) -> bytes:
    palette = bytes(range(256)) * 4
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(runs), 0, 0, 1078) + info + palette + runs


@pytest.mark.parametrize("upside", [1, -1])
def test_a_run_length_bmp_is_decoded_unless_it_is_large(upside: int) -> None:
    """Pillow fills up rows byte by byte: 2.5 kB kept a core, and every other thread, for 5 s."""
    started = time.perf_counter()
    assert decode(run_length_bmp(2**12, upside * 2**8, b"\1\1\0\0" * 2**8 + b"\0\1")).size == (2**12, 2**8)
    assert time.perf_counter() - started < 1
    assert refused(run_length_bmp(65535, upside * 366, b"\1\1\0\0" * 366 + b"\0\1")) == (422, "undecodable")
    assert refused(run_length_bmp(8, upside * 8, b"\0\2\0\0" * (MAX_RUNS // 4))) == (422, "undecodable")


def test_a_bmp_with_the_oldest_header_has_no_field_for_runs() -> None:
    header = struct.pack("<IHHHH", 12, 2, 1, 1, 24)
    data = b"BM" + struct.pack("<IHHI", 34, 0, 0, 26) + header + bytes([1, 2, 3, 1, 0, 0, 0, 0])
    assert decode(data + bytes(MAX_RUNS)).getpixel((0, 0)) == (3, 2, 1)


@pytest.mark.parametrize(
    "extension",
    [b"!\xfe" + b"\1a" * 5_000_000 + b"\0", b"!\xfe\1a\0" * 2_000_000, b"!\1\0" * 3_000_000, b"x" * 5_000_000],
    ids=["pieces", "comments", "extensions", "nonsense"],
)
def test_a_gif_of_very_many_pieces_is_refused_in_time(extension: bytes) -> None:
    """Millions of one-byte comments took 470 MB."""
    data = encoded(Image.new("L", (10, 10)), "GIF")
    behind_the_palette = 13 + (3 << (data[10] % 8 + 1))
    assert data[10] & 128
    started = time.perf_counter()
    assert refused(data[:behind_the_palette] + extension + data[behind_the_palette:]) == (422, "undecodable")
    assert time.perf_counter() - started < 1
    comment = b"!\xfe" + (b"\xff" + b"a" * 255) * 5000 + b"\0"
    assert decode(data[:behind_the_palette] + comment + data[behind_the_palette:]).size == (10, 10)


@pytest.mark.parametrize(
    "words",
    [
        chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**21))),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(2**21))),
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**21))),
        chunk(b"tEXt", b"transparency\0x"),
    ],
    ids=["profile", "xmp", "comment", "keyword"],
)
def test_words_are_no_reason_to_refuse_good_pixels(words: bytes) -> None:
    data = encoded(photo(), "PNG")
    data = data[:33] + words + data[33:]
    assert far(decode(data), photo()) == 0
    assert refused(data[: len(data) // 2]) == (422, "undecodable")


ODD = """
from serving.errors import PictureError
from serving.preprocess import decode
from tests.serving.test_preprocess import png
for side in range(10_000, 10_050):
    try:
        decode(png(side, 9000, b""))
    except PictureError:
        pass
"""


def test_what_pillow_says_of_each_hostile_picture_is_not_printed() -> None:
    done = subprocess.run([sys.executable, "-c", ODD], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


STARVED = """
import resource, sys
from pathlib import Path
from serving.preprocess import decode
data = Path(sys.argv[1]).read_bytes()
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 2**25,) * 2)
try:
    decode(data)
except MemoryError:
    print("no memory")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory")
def test_a_machine_without_memory_says_nothing_of_the_picture(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(png(6000, 4000, b"\0" * (1 + 3 * 6000) * 4000))
    command = [sys.executable, "-c", STARVED, str(tmp_path / "large.png")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "no memory\n", done.stderr


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_what_follows_a_whole_picture_is_not_counted(kind: str) -> None:
    """Cameras and file systems pad with zeros."""
    data = encoded(photo(), kind)
    assert np.array_equal(read_pixels(data + bytes(120_100), PREPROCESSING), read_pixels(data, PREPROCESSING))


def test_an_end_before_the_pixels_hides_no_chunks() -> None:
    """Pillow reads on behind it."""
    data = encoded(photo(), "PNG")
    end, empty = (bytes(4) + name + zlib.crc32(name).to_bytes(4) for name in (b"IEND", b"IDAT"))
    started = time.perf_counter()
    assert refused(data[:33] + end + empty * 800_000 + data[33:]) == (422, "undecodable")
    assert time.perf_counter() - started < SECONDS


def with_segments(segment: bytes, total: int = 10 * 2**20) -> bytes:
    data = encoded(photo(), "JPEG")
    return data[:2] + segment * (total // len(segment)) + data[2:]


@pytest.mark.parametrize(
    "segment",
    [b"\xff\xe1\x00\x12Exif\0\0" + b"a" * 10, b"\xff\xfe\x00\x02", b"\xff\xe5\x00\x02", b"\xff", b"\xff\x00"],
    ids=["exif", "comment", "application", "padding", "stuffing"],
)
def test_a_jpeg_of_very_many_segments_is_refused_in_time(segment: bytes) -> None:
    """Pillow joins EXIF segments in quadratic time (10 MiB: many minutes), and reads padding byte by byte."""
    assert refused(with_segments(segment)) == (422, "undecodable")


# Pillow reads on behind these, as behind any marker it does not know, and takes no length of theirs
@pytest.mark.parametrize("marker", [0xD8, 0xD9, 0xF0, 0xF7, 0xFD])
def test_no_marker_hides_segments_from_the_count(marker: int) -> None:
    exif = b"\xff\xe1\x00\x12Exif\0\0" + b"a" * 10
    hidden = bytes((0xFF, marker)) + b"\xff\xff" + exif * 3_000
    data = with_segments(hidden)
    assert refused(data) == (422, "undecodable")
    started = time.perf_counter()
    assert refused(data[:2] + bytes((0xFF, marker)) + with_segments(exif)[2:]) == (422, "undecodable")
    assert time.perf_counter() - started < SECONDS


def test_a_jpeg_with_a_camera_makers_many_segments_is_accepted() -> None:
    segment = b"\xff\xe2" + struct.pack(">H", 60_002) + b"FPXR\0" + b"x" * 59_995
    assert far(decode(with_segments(segment)), photo()) < LOSSY


def test_jpeg_markers_inside_segments_are_not_counted() -> None:
    thumbnails = b"\xff\xe2" + struct.pack(">H", 60_002) + (b"\xff\xda\x00\x02" * 15_000)
    assert far(decode(with_segments(thumbnails, 300_000)), photo()) < LOSSY


def test_what_follows_a_jpeg_is_not_counted() -> None:
    """Phones append a film to a photo."""
    assert far(decode(encoded(photo(), "JPEG") + b"\0\0" + b"\xff\xda\0\2" * 1000), photo()) < LOSSY


# --- pictures made by others --------------------------------------------------------------------------


def outcome(path: Path) -> str:
    """`ok` or the error's code; any other exception, a wrong shape or a long wait fails."""
    data = path.read_bytes()
    started = time.perf_counter()
    try:
        assert read_pixels(data, PREPROCESSING).shape == (64, 64, 3)
        return "ok"
    except PictureError as error:
        return error.code
    finally:
        assert time.perf_counter() - started < SECONDS, path.name


@needs_pictures
@pytest.mark.filterwarnings("ignore")  # Pillow warns about what is odd in them
def test_every_public_test_picture_decodes_or_is_refused() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = Counter(outcome(path) for path in pictures())
    assert set(found) == {"ok", "unsupported_format", "undecodable", "too_large"}
    assert found["ok"] > 700
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024


@needs_pictures
def test_every_valid_picture_of_pngsuite_decodes() -> None:
    valid = [path for path in pictures("pngsuite") if path.suffix == ".png" and not path.name.startswith("png__x")]
    assert len(valid) > 150
    assert [path.name for path in valid if outcome(path) != "ok"] == []


@needs_pictures
def test_corrupt_pictures_of_pngsuite_are_refused() -> None:
    corrupt = [path for path in pictures("pngsuite") if path.name.startswith("png__x")]
    # Pillow leaves the checksum of the pixel data to zlib's own: xcs decodes, and to the right pixels
    accepted = {path.name for path in corrupt if outcome(path) == "ok"}
    assert accepted <= {"png__xcsn0g01.png"}
    assert len(corrupt) > 10


@needs_pictures
def test_every_bitmap_of_bmpsuite_decodes_or_is_refused() -> None:
    bitmaps = [path for path in pictures("pngsuite") if path.suffix == ".bmp"]
    assert len(bitmaps) > 50
    assert {outcome(path) for path in bitmaps} <= {"ok", "undecodable"}


@needs_pictures
@pytest.mark.parametrize("scene", ["Landscape", "Portrait"])
def test_public_orientation_examples_become_the_same_upright_picture(scene: str) -> None:
    files = [path for path in pictures("exif-orientation") if path.name.startswith(scene)]
    assert len(files) == 9
    found = [decode(path.read_bytes()) for path in files]
    assert len({image.size for image in found}) == 1
    small = [image.resize((64, 64)) for image in found]
    assert max(far(image, small[0]) for image in small) < 3
    assert far(small[0].transpose(Image.Transpose.ROTATE_180), small[0]) > 30, "the scene has an upright"
