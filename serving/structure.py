"""What is refused by a picture's structure, before a pixel of it is decoded.

Pillow reads some parts of a file in Python, or again and again: without limits a small file keeps a core busy for
minutes, or hours. No camera or encoder writes pictures that come near them.
"""

from __future__ import annotations

import io
import re

from serving.errors import PictureError

# libjpeg writes 10 scans, other encoders up to 20 or so. One costs a pass over all pixels but may be 42 bytes long,
# Pillow joins metadata segments in quadratic time and skips padding byte by byte: without limits 10 MiB keep a core
# busy for an hour.
MAX_SCANS = 50
MAX_SEGMENTS = 1000
MAX_PADDING = 65536
# A PNG's pixels come in chunks of 8 KiB or so, and three a frame of an animation, beside a dozen of text, colours and
# times. Pillow reads each in Python and unpacks those of text: of millions a core is busy for minutes.
MAX_CHUNKS = 10_000
MAX_OTHERS = 1000
SHORT_CHUNK = 256  # bytes; pixels in shorter ones count too
# Comments of a GIF come in pieces of at most 255 bytes: Pillow keeps each as an object, of a byte if that is all
MAX_READS = 30_000
# Pillow decodes a run-length BMP in Python, filling up rows byte by byte: 24 megapixels of 2.5 kB took 5 s
MAX_RUNS = 2**20

_RUN_LENGTH = (1, 2)  # of a BMP's compressions: of 8 and of 4 bits a pixel
_FRAMES = (b"IDAT", b"fdAT", b"fcTL")
_WORDS = (b"iCCP", b"tEXt", b"zTXt", b"iTXt")
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")  # none of: stuffing, padding, restart
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
# start, end and reserved markers carry no length; before the first scan libjpeg refuses a picture with any of them
_JPEG_BARE = frozenset((0xD8, _JPEG_END, *range(0xF0, 0xFE)))


def check_structure(kind: str, data: bytes) -> None:
    """Raises PictureError: `undecodable`."""
    if kind == "JPEG":
        _check_jpeg_structure(data)
    elif kind == "PNG":
        _check_png_structure(data)
    elif kind == "BMP":
        _check_bmp_structure(data)


class GifFile(io.BytesIO):
    """A GIF's bytes, for one who reads no more pieces of them than a picture has. Raises PictureError."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise PictureError(422, "undecodable", "expected a GIF of fewer and longer comments: save it without them")
        return super().read(size)


def without_words(data: bytes) -> bytes:
    """A PNG without its texts and colour profile, which its pixels do not need."""
    kept, start = bytearray(data[:8]), 8
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4])
        if data[start + 4 : start + 8] not in _WORDS:
            kept += data[start:end]
        start = end
    return bytes(kept)


def _check_jpeg_structure(data: bytes) -> None:
    """Refuses a JPEG with far more scans or segments than any camera or encoder writes, without decoding it."""
    scans = segments = padding = 0
    position = 2
    while position < len(data):
        match = _JPEG_MARKER.search(data, position)
        start, end = match.span() if match else (len(data), len(data))
        if scans == 0:
            padding += start - position
        marker = data[end - 1]
        segments += 1
        scans += marker == _JPEG_SCAN
        if scans == 0 and marker in _JPEG_BARE:  # taken for a segment, it would hide thousands of them
            raise PictureError(422, "undecodable", f"expected a JPEG's scan, found marker {marker:#x}: save it again")
        if scans > MAX_SCANS or segments > MAX_SEGMENTS or padding > MAX_PADDING:
            limits = f"at most {MAX_SCANS} scans and {MAX_SEGMENTS} segments"
            raise PictureError(422, "undecodable", f"expected a JPEG of {limits}, found more: save it again")
        if marker == _JPEG_END:
            break
        position = end + int.from_bytes(data[end : end + 2])


def _check_png_structure(data: bytes) -> None:
    """Refuses a PNG with far more small chunks than any encoder writes, without decoding it."""
    position, small, others, profiles, pixels = 8, 0, 0, 0, False
    while position < len(data):
        length, name = int.from_bytes(data[position : position + 4]), data[position + 4 : position + 8]
        if name == b"IEND" and pixels:  # before them Pillow reads on
            break
        pixels |= name == b"IDAT"
        small += length < SHORT_CHUNK
        others += name not in _FRAMES
        profiles += name == b"iCCP"
        if small > MAX_CHUNKS or others > MAX_OTHERS or profiles > 1:
            limits = f"one colour profile, {MAX_OTHERS} chunks beside its pixels and {MAX_CHUNKS} small ones"
            raise PictureError(422, "undecodable", f"expected a PNG of at most {limits}, found more: save it again")
        position += 12 + length


def _check_bmp_structure(data: bytes) -> None:
    """Refuses a large BMP in run-length coding; the oldest form of its header, of 12 bytes, has no such field."""
    if int.from_bytes(data[14:18], "little") == 12 or int.from_bytes(data[30:34], "little") not in _RUN_LENGTH:
        return
    width, height = (int.from_bytes(data[at : at + 4], "little", signed=True) for at in (18, 22))
    if abs(width * height) > MAX_RUNS or len(data) > MAX_RUNS:
        limits = f"at most {MAX_RUNS} pixels and as many bytes"
        raise PictureError(422, "undecodable", f"expected a run-length BMP of {limits}, found more: save it as PNG")
