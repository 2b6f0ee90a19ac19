"""`thaw predict`: pictures on disk through the serving predictor, without a server."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.batching import IN_FLIGHT_ON_GPU, Batcher, Served, batcher_of
from serving.errors import BadInput, PictureError
from serving.ledger import opened
from serving.predictor import Predictor, load_predictor
from serving.preprocess import FORMATS, kind_of
from serving.settings import Device, cores, existing_home, load_settings
from serving.store import Store, parse_reference, resolve_name
from tasks.data.listing import is_picture, listed

WINDOW = 256  # pictures under way: memory stays the same for any number of them
_BEGINNING = 4096  # bytes: enough to say what a file is that is no picture


@dataclass(frozen=True, slots=True)
class Model:
    """A predictor and what it is called."""

    predictor: Predictor
    batcher: Batcher
    name: str
    version: int
    digest: str

    def about(self) -> dict[str, Any]:
        return {"name": self.name, "version": self.version, "digest": self.digest}


def open_model(reference: str | None, device: Device | None) -> Model:
    """The champion of NAME or the only name, or NAME:VERSION, verified. Raises BadInput, ArtifactError, DeviceError."""
    home = existing_home()
    settings = load_settings()
    with opened(settings.ledger or home, create=False) as ledger:
        name, version = parse_reference(reference) if reference else (settings.name, None)
        name = resolve_name(ledger, name)
        version = version or ledger.champion(name).version
        if version is None:
            raise BadInput(f"expected a champion of {name}, found none: `thaw promote {name}:VERSION`")
        artifact = Store(home, ledger).open(name, version)
    threads = settings.threads or 1  # as in the server: a picture a core is faster than a core a layer
    predictor = load_predictor(artifact, device or settings.device, threads)
    return Model(predictor, batcher_of(predictor, threads), name, version, artifact.digest)


def count_files(places: Sequence[Path]) -> int:
    """How many files there are to look at. Raises BadInput where there is nothing, or a folder without pictures."""
    for place in places:
        if place.is_dir() and not any(_is_picture(path) for path in _files([place])):
            raise BadInput(f"expected pictures in {place}, found none")
    return sum(1 for _ in _files(places))


def predict_files(model: Model, places: Sequence[Path], looked_at: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """One result per picture, in order: path, label, probability, scores, model; or path and error.

    In a folder only what begins like a picture, or is named like one, is taken. `looked_at` is called once a file.
    """
    waiting: deque[tuple[Path, Future[Served]]] = deque()
    named = set(places)
    with ThreadPoolExecutor(cores() + IN_FLIGHT_ON_GPU * (model.predictor.device == "cuda")) as pool:
        for path in _files(places):
            if path in named or _is_picture(path):
                waiting.append((path, _submit(pool, model, path)))
            if len(waiting) >= WINDOW:
                yield _result(model, *waiting.popleft())
            looked_at()
        while waiting:
            yield _result(model, *waiting.popleft())


def _submit(pool: ThreadPoolExecutor, model: Model, path: Path) -> Future[Served]:
    served: Future[Served] = Future()

    def deliver(result: Served | Exception) -> None:
        if isinstance(result, Exception):
            served.set_exception(result)
        else:
            served.set_result(result)

    def work() -> None:
        try:
            pixels = model.predictor.read(_bytes_of(path))
        except (PictureError, OSError) as error:
            served.set_exception(error)
        else:
            model.batcher.submit(pixels, deliver)

    pool.submit(work)
    return served


def _bytes_of(path: Path) -> bytes:
    """The file, but only its beginning where that is no picture's. Raises OSError."""
    refused = listed(path.stat()).refused
    if refused is not None:  # opening a pipe waits for somebody who writes to it
        raise OSError(errno.EINVAL, refused)
    with path.open("rb") as file:
        beginning = file.read(_BEGINNING)
        return beginning + file.read() if kind_of(beginning) in FORMATS else beginning


def _result(model: Model, path: Path, served: Future[Served]) -> dict[str, Any]:
    try:
        answer = served.result().answer
    except PictureError as error:
        return {"path": str(path), "error": {"code": error.code, "message": str(error)}, "model": model.about()}
    except OSError as error:
        message = f"expected a file that can be read: {error.strerror}"
        return {"path": str(path), "error": {"code": "unreadable", "message": message}, "model": model.about()}
    return {
        "path": str(path),
        "label": answer.label,
        "probability": answer.probability,
        "scores": [{"label": label, "probability": p} for label, p in answer.scores],
        "provider": model.predictor.provider,
        "model": model.about(),
    }


def _files(places: Sequence[Path]) -> Iterator[Path]:
    """Every file in the folders, by name, and the files themselves; one folder's names in memory at a time."""
    for place in places:
        if place.is_file():
            yield place
        elif place.is_dir():
            for folder, folders, names in os.walk(place):
                folders.sort()
                yield from (Path(folder, name) for name in sorted(names))
        else:
            raise BadInput(f"expected a picture or a folder at {place}, found nothing there")


def _is_picture(path: Path) -> bool:
    """By its name, so that a broken one is not passed over in silence, or by its content."""
    if is_picture(path.name) and not path.name.startswith("."):
        return True
    try:
        if not path.is_file():  # a dangling link; a pipe, which nobody may ever write to
            return False
        with path.open("rb") as file:
            return kind_of(file.read(16)) in FORMATS
    except OSError:
        return False
