"""The learning rate that short trials choose."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tasks.progress import silent
from tasks.training.errors import TooLarge, TrainingError
from tasks.training.rates import RATES, choose_rate
from tasks.training.table import Epoch

FIRST, SECOND, THIRD, FOURTH = RATES


class Trials:
    """Trials whose end is known: a validation loss for each rate, or None for a training that fails."""

    def __init__(self, losses: Mapping[float, float | None]) -> None:
        self.losses = losses
        self.tried: list[float] = []

    def __call__(self, rate: float) -> tuple[Epoch, ...]:
        self.tried.append(rate)
        loss = self.losses[rate]
        if loss is None:
            raise TrainingError("expected a finite training loss, found nan")
        # better at the start and in between: only the end counts
        return tuple(Epoch(i, None, None, at, 0.5, 0.5, 0.5, 0.5, rate) for i, at in enumerate((0.01, loss)))


def chosen(*losses: float | None) -> tuple[float, list[float]]:
    trials = Trials(dict(zip(RATES, losses, strict=True)))
    return choose_rate(trials, silent), trials.tried


def test_rates_rise() -> None:
    assert list(RATES) == sorted(set(RATES))


@pytest.mark.parametrize("best", range(4))
def test_the_lowest_validation_loss_wins(best: int) -> None:
    losses = [0.9, 0.9, 0.9, 0.9]
    losses[best] = 0.5
    assert chosen(*losses) == (RATES[best], list(RATES))


def test_of_equal_ones_the_lower_rate() -> None:
    assert chosen(0.8, 0.5, 0.5, 0.6)[0] == SECOND
    assert chosen(0.5, 0.5, 0.5, 0.5)[0] == FIRST


def test_a_training_that_fails_rules_its_rate_out() -> None:
    assert chosen(None, 0.7, 0.6, 0.9) == (THIRD, list(RATES)), "too low a rate says nothing of the higher ones"
    assert chosen(0.9, 0.5, 0.6, None)[0] == SECOND


def test_higher_rates_are_not_tried_once_one_is_much_worse() -> None:
    assert chosen(0.6, 0.5, 1.01, 0.1) == (SECOND, [FIRST, SECOND, THIRD])
    assert chosen(0.6, 0.5, 0.99, 0.1) == (FOURTH, list(RATES)), "not yet twice as bad"
    assert chosen(0.6, None, 0.1, 0.1) == (FIRST, [FIRST, SECOND])


def test_no_rate_that_works_is_an_error_that_names_them() -> None:
    with pytest.raises(TrainingError, match="found none among") as caught:
        chosen(None, None, None, None)
    assert all(f"{rate}" in str(caught.value) for rate in RATES)


def test_another_error_is_not_hidden() -> None:
    def broken(_rate: float) -> tuple[Epoch, ...]:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        choose_rate(broken, silent)


def test_too_little_memory_is_no_matter_of_the_rate() -> None:
    tried = []

    def large(rate: float) -> tuple[Epoch, ...]:
        tried.append(rate)
        raise TooLarge("expected 1 pictures to fit into the GPU's memory")

    with pytest.raises(TooLarge, match="1 pictures to fit"):
        choose_rate(large, silent)
    assert tried == [FIRST]


def test_what_was_tried_is_told() -> None:
    told: list[str] = []
    choose_rate(
        Trials({FIRST: 0.6, SECOND: 0.5, THIRD: None, FOURTH: 0.1}), lambda done, total, text="": told.append(text)
    )
    assert told == [
        "learning rate 3e-05 tried: validation loss 0.6000",
        "learning rate 0.0001 tried: validation loss 0.5000",
        "learning rate 0.0003 tried: validation loss inf",
        "learning rate 0.0001 chosen",
    ]
