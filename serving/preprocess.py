"""From the bytes of a picture to the uint8 array a model takes: the one code that training and serving share.

Order: kind by content -> header -> pixel cap -> first frame -> EXIF orientation -> RGB -> resize.
Mean and standard deviation are applied inside the ONNX graph, on the values this module gives.
"""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps
from pydantic import BaseModel, ConfigDict, Field

from serving.errors import PictureError
from serving.structure import GifFile, check_structure, without_words

# Pillow's words about an odd file differ with each file: Python would print and keep them for ever. What it warns of,
# too many pixels, is refused below. Here, since filters are the whole process's: set in threads, they would get mixed.
warnings.filterwarnings("ignore", module=r"PIL\.")

Pixels = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
TIFF = "TIFF"  # accepted only where somebody asks for it: its decoders are many and old
MAX_PIXELS = 24_000_000
MAX_SIDE = 65_535  # as in a JPEG: Pillow keeps a pointer and padding a row, 24 million rows of one pixel take 1.4 GB
FILTER = Image.Resampling.BILINEAR  # Pillow widens it when it shrinks a picture: antialiased
FILL = (255, 255, 255)  # behind transparency: a page is white
PAD = (0, 0, 0)

# Kinds that are recognised only to say what to do with them: how they begin, their name, the way to a picture
_RASTER = "convert it, e.g. `magick FILE picture.png`"
_PAGE = "draw its page, e.g. `pdftoppm -png FILE picture`"
_DRAWING = "draw it, e.g. `rsvg-convert FILE -o picture.png`"
_OTHERS = (
    (rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", "HEIC", _RASTER),
    (rb"....ftypavi[fs]", "AVIF", _RASTER),
    (rb"II\*\0|MM\0\*", "TIFF", _RASTER),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000", _RASTER),
    (rb"8BPS", "PSD", _RASTER),
    (rb"%PDF", "PDF", _PAGE),
    (rb"(\xef\xbb\xbf)?\s*<(svg|\?xml.*<svg|!--.*<svg)", "SVG", _DRAWING),
    (rb"\Z", "an empty file", "copy it again, or remove it"),
)

_OBJECT = re.compile(r"<[^<>]* at 0x[0-9a-f]+>")
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)


class Preprocessing(BaseModel):
    """How a picture becomes the model's input; stored with every artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int = Field(ge=8, le=2048, description="side of the square input, pixels")
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    mean: tuple[float, float, float] = Field(description="per RGB channel, on 0-1 values")
    std: tuple[float, float, float] = Field(description="per RGB channel, on 0-1 values")


@dataclass(frozen=True, slots=True)
class Decoded:
    """`image`: upright, RGB, perhaps at reduced scale; the rest is of the file: its whole upright size in pixels."""

    image: Image.Image
    width: int
    height: int
    mode: str  # Pillow's: RGB, L, CMYK, P, ...
    format: str


def kind_of(data: bytes) -> str | None:
    """The format a picture's first bytes announce, or None if it is none that could be accepted.

    >>> kind_of(b"GIF89a...")
    'GIF'
    """
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:2] == b"BM":
        return "BMP"
    if data[:4] in (b"II*\0", b"MM\0*"):
        return TIFF
    return None


def _other(data: bytes) -> str:
    """What stands there in place of a picture, and what to do."""
    for beginning, name, advice in _OTHERS:
        if re.match(beginning, data[:4096], re.DOTALL):
            return f"{name}: {advice}"
    return "none of them: convert the picture"


def decode(data: bytes, at_least: int | None = None, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """An upright RGB picture of the bytes' first frame, if it is of one of these formats.

    `at_least`: a JPEG much larger than this many pixels a side is decoded at reduced scale (its sides
    stay at least that long), 6-11 times faster. Raises PictureError: `unsupported_format`, `too_large`,
    `undecodable`.
    """
    return inspect(data, at_least, formats).image


def inspect(data: bytes, at_least: int | None = None, formats: tuple[str, ...] = FORMATS) -> Decoded:
    """What `decode` gives, with what the file says of itself."""
    kind = kind_of(data)
    if kind is None or kind not in formats:
        raise PictureError(415, "unsupported_format", f"expected {', '.join(formats)}, found {_other(data)}")
    check_structure(kind, data)
    try:
        return _inspected(kind, data, at_least)
    except PictureError as error:
        pixels = without_words(data) if kind == "PNG" and error.code == "undecodable" else data
        if len(pixels) == len(data):
            raise
    return _inspected(kind, pixels, at_least)  # a broken comment is no reason to refuse good pixels, either


def _inspected(kind: str, data: bytes, at_least: int | None) -> Decoded:
    try:
        image = Image.open(GifFile(data) if kind == "GIF" else io.BytesIO(data), formats=[kind])
        (width, height), mode = image.size, image.mode
        if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
            limits = f"at most {MAX_PIXELS} pixels, {MAX_SIDE} a side"
            raise PictureError(413, "too_large", f"expected {limits}, found {width} x {height}: scale it down")
        if at_least is not None and kind == "JPEG":
            image.draft(None, (at_least, at_least))
        orientation = _orientation(image)
        image.load()
        if kind == "PNG":
            _scale_transparency(image, depth=data[24])
        rgb = _to_rgb(image)
    except (PictureError, MemoryError):  # the latter says nothing of the picture
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(413, "too_large", f"expected at most {MAX_PIXELS} pixels: {error}") from None
    # Pillow's decoders raise almost anything on hostile bytes (struct.error, IndexError, SyntaxError, ...);
    # whatever it is, this picture cannot be read.
    except Exception as error:
        raise PictureError(422, "undecodable", f"expected a whole {kind} picture: {_one_line(error)}") from None
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    if orientation in _ON_ITS_SIDE:
        width, height = height, width
    return Decoded(rgb, width, height, mode, kind)


def to_pixels(image: Image.Image, preprocessing: Preprocessing) -> Pixels:
    """An RGB picture at the model's size: uint8 [H, W, 3], 0-255. Bilinear with antialias."""
    size = (preprocessing.image_size, preprocessing.image_size)
    if preprocessing.resize == "stretch":
        resized = image.resize(size, FILTER)
    elif preprocessing.resize == "crop":
        resized = ImageOps.fit(image, size, FILTER)
    else:
        resized = ImageOps.pad(image, size, FILTER, color=PAD)
    return np.asarray(resized, dtype=np.uint8)


def read_pixels(data: bytes, preprocessing: Preprocessing, formats: tuple[str, ...] = FORMATS) -> Pixels:
    """`decode`, then `to_pixels`: what the HTTP route, `thaw predict`, certify and prepare all call."""
    return to_pixels(decode(data, 2 * preprocessing.image_size, formats), preprocessing)


def _orientation(image: ImageFile.ImageFile) -> int:
    """The EXIF orientation, 1 where there is none. Broken EXIF is no reason to refuse good pixels."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # the EXIF reader, too, raises almost anything
        return 1
    return value if isinstance(value, int) else 1


def _scale_transparency(image: Image.Image, depth: int) -> None:
    """Brings a PNG's transparent colour, which has the file's bits, to the 8 that Pillow's pixels have."""
    key = image.info.get("transparency")
    if depth == 16 and isinstance(key, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in key)
    elif depth in (2, 4) and image.mode == "L" and isinstance(key, int):
        image.info["transparency"] = key * 255 // (2**depth - 1)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB: 16-bit scaled, palettes looked up, transparency over white, CMYK converted."""
    if image.mode.startswith("I"):  # 16-bit grey; convert() would clip at 255 instead of scaling
        values = np.asarray(image)
        grey = np.clip(values // 257, 0, 255).astype(np.uint8)
        if isinstance(image.info.get("transparency"), int):
            grey[values == image.info["transparency"]] = FILL[0]
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        page = Image.new("RGB", rgba.size, FILL)
        page.paste(rgba, mask=rgba)  # the same values as alpha_composite's, in 40 % of its memory
        return page
    return image if image.mode == "RGB" else image.convert("RGB")


def _one_line(error: Exception) -> str:
    """The error in words, without the addresses of objects, which differ each time and are nobody's business."""
    text = _OBJECT.sub("", f"{type(error).__name__}: {error}")
    return " ".join(text.split())[:200]
