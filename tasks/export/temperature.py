"""Temperature scaling (Guo et al. 2017): one number that makes the probabilities honest, labels unchanged."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from tasks.training.table import log_loss

# below 0.5 there is nothing to learn from: on separable validation pictures the loss falls for ever as T goes to zero
_LOG_RANGE = (np.log(0.5), np.log(20.0))


def fit_temperature(logits: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
    """The T in 0.5-20 with the lowest log loss of softmax(logits [N, C] / T). Convex in 1/T, so it is the only one."""
    found = minimize_scalar(lambda t: log_loss(logits / np.exp(t), labels), bounds=_LOG_RANGE, method="bounded")
    return float(np.exp(found.x))
