"""`finetune.learning_rate: auto`: a few short trials, judged on validation, instead of a guess."""

from __future__ import annotations

import math
from collections.abc import Callable

from tasks.progress import Progress
from tasks.training.errors import TooLarge, TrainingError
from tasks.training.table import Epoch

# three a decade; below the first nothing moves in a few epochs, above the last pretrained weights are soon lost
RATES = (3e-5, 1e-4, 3e-4, 1e-3)
STEPS = 40  # of a trial, at most


def choose_rate(trial: Callable[[float], tuple[Epoch, ...]], progress: Progress) -> float:
    """The rate whose trial ends with the lowest validation loss; of equal ones the lower.

    `trial` trains from the start for one short epoch at a rate and gives its table, or raises TrainingError (a loss
    that is not finite, weights that stand still), which rules its rate out. Raises TrainingError: no rate is left, or
    TooLarge as `trial` does.
    """
    losses: dict[float, float] = {}
    for number, rate in enumerate(RATES, start=1):
        try:
            losses[rate] = trial(rate)[-1].validation_loss
        except TooLarge:  # no other rate makes it smaller, and other processes wait for this one
            raise
        except TrainingError:
            losses[rate] = math.inf
        progress(number, len(RATES), f"learning rate {rate:g} tried: validation loss {losses[rate]:.4f}")
        if losses[rate] > 2 * min(losses.values()):  # larger ones are worse still
            break
    best = min(losses, key=lambda rate: losses[rate])
    if math.isinf(losses[best]):
        raise TrainingError(f"expected a learning rate that works, found none among {RATES}: give another")
    progress(len(RATES), len(RATES), f"learning rate {best:g} chosen")
    return best
