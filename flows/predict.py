"""`thaw predict`: pictures on disk through the serving predictor, without a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from serving.errors import BadInput, PictureError
from serving.ledger import opened
from serving.predictor import Predictor, load_predictor
from serving.preprocess import kind_of
from serving.settings import Device, existing_home, load_settings
from serving.store import Store, parse_reference, resolve_name


def predict_files(images: Sequence[Path], reference: str | None, device: Device | None) -> list[dict[str, Any]]:
    """One result per picture, in order: path, label, probability, scores, model; or path and error.

    In a folder every file that begins like a picture is taken. Raises BadInput: no such file, nothing to predict.
    """
    paths = list(_expand(images))
    home = existing_home()
    settings = load_settings()
    with opened(settings.ledger or home, create=False) as ledger:
        name, version = parse_reference(reference) if reference else (settings.name, None)
        name = resolve_name(ledger, name)
        store = Store(home, ledger)
        version = version or ledger.champion(name).version
        if version is None:
            raise BadInput(f"expected a champion of {name}, found none: `thaw promote {name}:VERSION`")
        artifact = store.open(name, version)
    predictor = load_predictor(artifact, device or settings.device, settings.threads)
    model = {"name": name, "version": version, "digest": artifact.digest}
    return [{"path": str(path), **_predict(predictor, path), "model": model} for path in paths]


def _predict(predictor: Predictor, path: Path) -> dict[str, Any]:
    try:
        answer = predictor.answer([predictor.read(path.read_bytes())])[0]
    except PictureError as error:
        return {"error": {"code": error.code, "message": str(error)}}
    return {
        "label": answer.label,
        "probability": answer.probability,
        "scores": [{"label": label, "probability": p} for label, p in answer.scores],
        "provider": predictor.provider,
    }


def _expand(images: Sequence[Path]) -> Iterator[Path]:
    for path in images:
        if path.is_file():
            yield path
        elif path.is_dir():
            inside = [file for file in sorted(path.rglob("*")) if file.is_file() and _is_picture(file)]
            if not inside:
                raise BadInput(f"expected pictures in {path}, found none")
            yield from inside
        else:
            raise BadInput(f"expected a picture or a folder at {path}, found nothing there")


def _is_picture(path: Path) -> bool:
    with path.open("rb") as file:
        return kind_of(file.read(16)) is not None
