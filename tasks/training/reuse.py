"""Finding what an earlier run already trained from exactly the same inputs."""

from __future__ import annotations

from pathlib import Path

from serving import sealed
from tasks.model.classifier import Checkpoint


def find_checkpoint(runs: Path, phase: str, key: str) -> Checkpoint | None:
    """A complete checkpoint of this phase with this key in any run, or None. Its files are verified."""
    for place in sorted(runs.glob(f"*/{phase}"), reverse=True):
        about = sealed.about(place)
        if about is not None and about.get("key") == key:
            sealed.verify(place)
            return Checkpoint(place, phase, key, reused=True)
    return None
