"""Between the pretrained backbone and the fine-tuned one: weights that are often better than either."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

SHARES = (0.75, 0.5, 0.25)  # of the way from the start to the tuned weights


def interpolate(
    network: nn.Module, start: dict[str, Tensor], loss_of_tuned: float, loss_of: Callable[[nn.Module], float]
) -> tuple[float, float]:
    """Leaves `network` with the weights on the straight line from `start` that have the lowest validation loss.

    `start` as from `state_dict`, and not worse kept than tuned: `fit` compared those. Gives (share of the way, loss).
    The method is WiSE-FT's (Wortsman et al. 2022), with the share chosen on validation.
    """
    tuned = {key: value.clone() for key, value in network.state_dict().items()}
    best_share, best_loss = 1.0, loss_of_tuned
    for share in SHARES:
        network.load_state_dict(_between(start, tuned, share))
        loss = loss_of(network)
        if loss < best_loss:
            best_share, best_loss = share, loss
    network.load_state_dict(_between(start, tuned, best_share))
    return best_share, best_loss


def _between(start: dict[str, Tensor], tuned: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Counters are the tuned ones'."""
    if share == 1.0:
        return tuned
    return {
        key: torch.lerp(start[key].to(value), value, share) if value.is_floating_point() else value
        for key, value in tuned.items()
    }
