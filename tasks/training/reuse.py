"""Finding what an earlier run already trained from exactly the same inputs."""

from __future__ import annotations

import logging
from pathlib import Path

from serving import sealed
from serving.errors import ArtifactError
from tasks.model.classifier import Checkpoint

logger = logging.getLogger(__name__)


def find_checkpoint(runs: Path, phase: str, key: str) -> Checkpoint | None:
    """A complete checkpoint of this phase with this key in any run, or None. Its files are verified."""
    for place in sorted(runs.glob(f"*/{phase}"), reverse=True):
        try:
            about = sealed.about(place)
            if about is not None and about.get("key") == key:
                sealed.verify(place)
                return Checkpoint(place, phase, key, reused=True)
        except ArtifactError as error:  # one damaged old run must not stop every new one
            logger.warning("not using %s again: %s", place, error)
    return None
