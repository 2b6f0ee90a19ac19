"""Why a training cannot give a model."""

from __future__ import annotations

from serving.errors import ThawError


class TrainingError(ThawError):
    """Training cannot give a model: nothing to train, a loss that is not a number, weights that stand still."""

    code = "training_failed"


class TooLarge(TrainingError):
    """It does not fit into the memory: checkpoints stay good for a machine, or an hour, with more of it."""
