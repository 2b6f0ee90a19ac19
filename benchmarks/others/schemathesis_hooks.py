"""What Schemathesis sends as a picture: real ones, small, of every accepted format; else no request is valid."""

from __future__ import annotations

import io
from typing import Any

import schemathesis
from hypothesis import strategies
from PIL import Image

KINDS = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP"}


def encoded(kind: str, size: tuple[int, int], colour: tuple[int, int, int]) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind)
    return out.getvalue()


def pictures(*kinds: str) -> Any:
    side, level = strategies.integers(1, 40), strategies.integers(0, 255)
    return strategies.builds(
        encoded, strategies.sampled_from(kinds), strategies.tuples(side, side), strategies.tuples(level, level, level)
    )


for subtype, kind in KINDS.items():
    schemathesis.openapi.media_type(f"image/{subtype}", pictures(kind))
schemathesis.openapi.media_type("application/octet-stream", pictures(*KINDS.values()))
schemathesis.openapi.format("binary", pictures(*KINDS.values()))
