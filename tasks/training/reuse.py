"""Finding what this run or an earlier one already trained from exactly the same inputs."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from serving import sealed
from serving.errors import ArtifactError
from tasks.model.classifier import Checkpoint

logger = logging.getLogger(__name__)


def find_checkpoint(run: Path, phase: str, key: str) -> Checkpoint | None:
    """A complete, verified checkpoint of this phase with this key, in `run` or any run beside it, or None.

    After None the place `run/phase/` is free: a damaged result of the same key is removed, to be trained again. Raises
    ArtifactError: it was made with another configuration or other pictures.
    """
    own = run / phase
    try:
        if sealed.reusable(own, key) is not None:
            return Checkpoint(own, phase, key, reused=True)
    except ArtifactError as error:
        about = sealed.about(own)
        if about is not None and about.get("key") != key:
            raise
        logger.warning("training again what is damaged: %s", error)
        _remove(own)
    for place in sorted(run.parent.glob(f"*/{phase}"), reverse=True):
        try:
            about = sealed.about(place)
            if about is not None and about.get("key") == key:
                sealed.verify(place)
                return Checkpoint(place, phase, key, reused=True)
        except ArtifactError as error:  # one damaged old run must not stop every new one
            logger.warning("not using %s again: %s", place, error)
    return None


def _remove(place: Path) -> None:
    """Under a temporary name first: killed halfway, nothing half removed stands in its place."""
    leaving = place.rename(place.with_name(f".tmp-{place.name}-removed-{os.getpid()}"))
    shutil.rmtree(leaving)
