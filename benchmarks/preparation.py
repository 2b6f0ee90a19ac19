"""How long does preparing pictures take, how much memory, and how does it compare with a plain Pillow loop?

    uv run python -m benchmarks.preparation [--counts 10000 100000] [--photos 400 100] [--rounds 3] [--write]

Pictures are made here, seeded. Small ones: 64-pixel JPEGs of coarse colours, no two alike, prepared at 64 pixels in a
process of its own, whose peak memory is read; then again, unchanged, in another. Photos: 500- and 1600-pixel JPEGs with
the spectrum of photographs, prepared at 224 pixels, in turn with a loop on one thread that opens, decodes and resizes
each with Pillow and keeps nothing else. Medians. Required: a peak below 1.5 GB, a time per picture that grows by at
most 1.3x from the smaller count to the larger, a second run at least 50x faster; at least 1.8x the loop's speed at 500
pixels and 8x at 1600, on 2 cores. About 10 minutes on 2 cores, and 3 GB of disk in the temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MOST_MEMORY, MOST_GROWTH, LEAST_AGAIN = 1.5e9, 1.3, 50.0
LEAST_FASTER = {500: 1.8, 1600: 8.0}
SMALL, MODEL = 64, 224
_SLOPE = 1.4  # how amplitudes fall with frequency: files of the size that cameras write (46 and 350 kB)


def write_small(folder: Path, count: int) -> None:
    """Two classes, a thousand files a folder."""
    random = np.random.default_rng(0)
    for i in range(count):
        place = folder / ("even", "odd")[i % 2] / f"{i // 2000:03d}"
        if i % 2000 < 2:
            place.mkdir(parents=True)
        coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((SMALL, SMALL), Image.Resampling.BICUBIC).save(place / f"{i}.jpg", quality=85)


def write_photos(folder: Path, width: int, count: int) -> None:
    """Two classes of pictures of `width` x 3/4 `width`; each is one of a few fields, rolled to another place."""
    random = np.random.default_rng(1)
    shape = (width * 3 // 4, width)
    fields = [_field(random, shape) for _ in range(4)]
    for label in ("even", "odd"):
        (folder / label).mkdir(parents=True)
    for i in range(count):
        grey, tint = fields[i % 4], fields[(i + 1) % 4]
        shift = (int(random.integers(shape[0])), int(random.integers(shape[1])))
        planes = [np.roll(grey + share * tint, shift, (0, 1)) for share in (-0.2, 0.1, 0.3)]
        picture = np.clip(np.stack(planes, axis=2) * 45 + 120, 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / ("even", "odd")[i % 2] / f"{i}.jpg", quality=85)


def _field(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    phases = np.exp(2j * np.pi * random.random(frequency.shape))
    field = np.fft.irfft2(phases / np.maximum(frequency, 1 / shape[1]) ** _SLOPE, shape)
    return np.asarray((field - field.mean()) / field.std())


def prepare_here(root: Path, home: Path, size: int) -> float:
    """Seconds."""
    from serving.preprocess import Preprocessing
    from tasks.data.prepare import prepare
    from tasks.data.spec import DataSpec

    preprocessing = Preprocessing(image_size=size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    began = time.perf_counter()
    prepare("made", home, DataSpec(root=root), preprocessing)
    return time.perf_counter() - began


def peak_memory() -> float:
    """Bytes that this process had resident at most. Not getrusage's: a child's begins with its parent's peak."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024.0 * int(found[1])


def _in_a_process(root: Path, home: Path) -> dict[str, float]:
    arguments = [sys.executable, "-m", "benchmarks.preparation", "--child", str(root), str(home)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def plain_loop(paths: Sequence[Path], size: int) -> float:
    """Seconds of what a script would do: every picture decoded whole and resized, one after another."""
    array = np.zeros((len(paths), size, size, 3), np.uint8)
    began = time.perf_counter()
    for i, path in enumerate(paths):
        with Image.open(path) as image:
            array[i] = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    return time.perf_counter() - began


def measure_small(place: Path, count: int) -> dict[str, Any]:
    root, home = place / f"small-{count}", place / f"home-{count}"
    write_small(root, count)
    first = _in_a_process(root, home)
    again = _in_a_process(root, home)
    shutil.rmtree(root)
    shutil.rmtree(home)
    each = first["seconds"] / count
    return {"count": count, "seconds": first["seconds"], "each_ms": 1e3 * each, "peak": first["peak"]} | {
        "again_seconds": again["seconds"],
        "again_faster": first["seconds"] / again["seconds"],
    }


def measure_photos(place: Path, width: int, count: int, rounds: int) -> dict[str, Any]:
    root = place / f"photos-{width}"
    write_photos(root, width, count)
    paths = sorted(root.rglob("*.jpg"))
    plain, ours = [], []
    for number in range(rounds):
        home = place / f"home-{width}-{number}"
        for ours_now in (True, False)[:: 1 if number % 2 else -1]:
            if ours_now:
                ours.append(prepare_here(root, home, MODEL))
            else:
                plain.append(plain_loop(paths, MODEL))
        shutil.rmtree(home)
    size = statistics.mean(path.stat().st_size for path in paths)
    shutil.rmtree(root)
    each = {"plain_ms": statistics.median(plain) / count * 1e3, "ours_ms": statistics.median(ours) / count * 1e3}
    return {"width": width, "count": count, "bytes": size, **each, "faster": each["plain_ms"] / each["ours_ms"]}


def requirements(f: Mapping[str, Any]) -> list[tuple[bool, str]]:
    return list(_requirements(f))


def _requirements(f: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    for one in f["small"]:
        wanted = f"{one['count']} pictures: a peak below {MOST_MEMORY / 1e9} GB, found {one['peak'] / 1e9:.2f}"
        yield one["peak"] < MOST_MEMORY, wanted
        found = f"{one['again_faster']:.1f}x"
        yield (
            one["again_faster"] >= LEAST_AGAIN,
            f"{one['count']} pictures: again {LEAST_AGAIN:g}x faster, found {found}",
        )
    growth = f["small"][-1]["each_ms"] / f["small"][0]["each_ms"]
    yield growth <= MOST_GROWTH, f"a time per picture that grows by {MOST_GROWTH}x at most, found {growth:.2f}x"
    for one in f["photos"]:
        least = LEAST_FASTER[one["width"]]
        yield one["faster"] >= least, f"{one['width']} pixels: {least}x the loop's speed, found {one['faster']:.2f}x"


def table(f: Mapping[str, Any]) -> str:
    from benchmarks.coverage import rows

    small = [
        (
            one["count"],
            f"{one['seconds']:.1f} s",
            f"{one['each_ms']:.3f} ms",
            f"{one['peak'] / 1e6:.0f} MB",
            f"{one['again_seconds']:.2f} s ({one['again_faster']:.0f}x)",
        )
        for one in f["small"]
    ]
    photos = [
        (
            f"{one['width']} pixels, {one['bytes'] / 1e3:.0f} kB",
            f"{one['plain_ms']:.2f} ms",
            f"{one['ours_ms']:.2f} ms",
            f"{one['faster']:.2f}x",
        )
        for one in f["photos"]
    ]
    told = f"{f['cores']} cores. {f['note']}".strip()
    return "\n".join(
        [
            "# Preparing pictures\n",
            rows(("64-pixel JPEGs", "prepared in", "each", "peak memory", "again, unchanged"), small),
            "",
            rows(("JPEGs", "plain Pillow loop, each", "prepare, each", "faster"), photos),
            "",
            told,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs=2, default=[10_000, 100_000])
    parser.add_argument("--photos", type=int, nargs=2, default=[400, 100], help="how many of 500 and of 1600 pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--note", default="", help="a sentence for the table, e.g. what else the machine did")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/results")
    parser.add_argument("--child", type=Path, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        root, home = arguments.child
        print(json.dumps({"seconds": prepare_here(root, home, SMALL), "peak": peak_memory()}))
        return
    from benchmarks.coverage import conclude

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        photos = [
            measure_photos(place, width, count, arguments.rounds)
            for width, count in zip(LEAST_FASTER, arguments.photos, strict=True)
        ]
        small = [measure_small(place, count) for count in arguments.counts]
    figures = {"small": small, "photos": photos, "cores": len(os.sched_getaffinity(0)), "note": arguments.note}
    conclude("preparation", figures, table(figures), requirements(figures), arguments.write)


if __name__ == "__main__":
    main()
