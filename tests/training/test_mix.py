"""Mixup and cutmix: what the targets say of a mixed picture is what its pixels show."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tasks.training.augment import _windows, mix

MANY, SIDE = 8, 24
TARGETS = torch.eye(MANY)  # picture i is all class i: row i of the mixed ones is what came from each picture
SEEDS = [(0, epoch, step) for epoch in (1, 2) for step in range(25)]


def plain() -> Tensor:
    """Picture i has the value 10 * i everywhere."""
    return (10 * torch.arange(MANY, dtype=torch.uint8)).view(-1, 1, 1, 1).expand(-1, SIDE, SIDE, 3).contiguous()


def noise(many: int = MANY) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (many, SIDE, SIDE, 3), dtype=np.uint8))


def own(targets: Tensor) -> Tensor:
    return targets.diagonal()


def partners(seed: tuple[int, int, int], many: int = MANY) -> Tensor:
    """int64 [many]: whom each picture is mixed with, which the seed decides; halves show it."""
    shown = mix(noise(many), torch.eye(many), seed, 100.0, 0.0)[1].fill_diagonal_(0)
    return torch.where(shown.sum(1) > 0, shown.argmax(1), torch.arange(many))


def drawn(mixup: float, cutmix: float) -> Tensor:
    """Their own shares of all pictures that are mixed with another."""
    made = [own(mix(plain(), TARGETS, seed, mixup, cutmix)[1])[partners(seed) != torch.arange(MANY)] for seed in SEEDS]
    return torch.cat(made)


def is_cut(mixed: Tensor) -> bool:
    return mixed.dtype == torch.uint8


@pytest.mark.parametrize(("mixup", "cutmix"), [(1.0, 0.0), (0.0, 1.0), (0.4, 0.4)])
@pytest.mark.parametrize("many", [MANY, 5, 1])
def test_targets_are_shares_of_the_picture_and_its_partner(mixup: float, cutmix: float, many: int) -> None:
    for seed in SEEDS:
        mixed, targets = mix(noise(many), torch.eye(many), seed, mixup, cutmix)
        assert mixed.shape == (many, SIDE, SIDE, 3)
        torch.testing.assert_close(targets.sum(1), torch.ones(many))
        assert targets.min() >= 0
        expected = torch.diag(own(targets))
        for i, partner in enumerate(partners(seed, many).tolist()):
            expected[i, partner] = 1 - expected[i, i] if partner != i else 1.0
        torch.testing.assert_close(targets, expected)


def test_every_picture_is_a_partner_and_any_may_be_whose() -> None:
    for seed in SEEDS:
        assert sorted(partners(seed).tolist()) == list(range(MANY))
    assert len({(i, partner) for seed in SEEDS for i, partner in enumerate(partners(seed).tolist())}) > 0.9 * MANY**2


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0)])
def test_classes_meet_as_by_chance_in_a_batch_that_is_in_their_order(mixup: float, cutmix: float) -> None:
    """Pictures are read in the order of the class folders: opposite ones would be of the first and the last class."""
    classes, each = 4, 8
    labels = torch.arange(classes).repeat_interleave(each)
    meetings = torch.zeros(classes, classes)
    for seed in SEEDS:
        # one more target for each picture, which tells whose share it is
        targets = torch.cat([nn.functional.one_hot(labels, classes).float(), torch.eye(classes * each)], 1)
        shown = mix(noise(classes * each), targets, seed, mixup, cutmix)[1][:, classes:].fill_diagonal_(0)
        mixed = shown.sum(1) > 0
        meetings.index_put_((labels[mixed], labels[shown.argmax(1)[mixed]]), torch.ones(1), accumulate=True)
    shares = meetings / meetings.sum()
    # a partner of one's own class is a little rarer, since one's own self shows nothing
    assert shares.min() > 0.7 / classes**2 and shares.max() < 1.3 / classes**2


def test_cutmix_counts_the_very_pixels() -> None:
    for seed in SEEDS:
        mixed, targets = mix(plain(), TARGETS, seed, 0.0, 1.0)
        assert is_cut(mixed)
        values = mixed.numpy()
        for i, partner in enumerate(partners(seed).tolist()):
            mine, others = (values[i] == 10 * i).all(-1), (values[i] == 10 * partner).all(-1)
            assert (mine | others).all(), "every pixel is of one of the two, all three colours of it"
            assert targets[i, i] == pytest.approx(mine.mean(), abs=1e-6)
            assert targets[i, partner] == pytest.approx(others.mean(), abs=1e-6)
    shares = drawn(0.0, 1.0)
    assert shares.min() < 0.05 and shares.max() > 0.95, "Beta(1, 1) is uniform"
    assert shares.mean() == pytest.approx(0.5, abs=0.06)


def test_cutmix_takes_the_window_from_the_same_place() -> None:
    images = noise()
    mixed, _ = mix(images, TARGETS, SEEDS[0], 0.0, 1.0)
    changed = (mixed != images).any(-1, keepdim=True)
    assert changed.any() and torch.equal(mixed, torch.where(changed, images[partners(SEEDS[0])], images))


def test_a_window_is_a_square_wholly_inside() -> None:
    """One that were cut off at the border would no longer be as high as it is wide."""
    touched = np.zeros((SIDE, SIDE), bool)
    for seed in SEEDS:
        mixed, _ = mix(plain(), TARGETS, seed, 0.0, 1.0)
        mixed_ones = partners(seed) != torch.arange(MANY)
        for mask in (mixed != plain()).any(-1)[mixed_ones].numpy():
            rows, columns = mask.any(1), mask.any(0)
            assert np.array_equal(mask, np.outer(rows, columns))
            assert abs(int(rows.sum()) - int(columns.sum())) <= 1
            for line in (rows, columns):  # one run, without gaps
                assert np.count_nonzero(np.diff(line.astype(int))) <= 2
            touched |= mask
    assert touched.all(), "every place, the corners too, is reached"


@pytest.mark.parametrize("corner", [0.0, 0.5, float(np.nextafter(np.float32(1), np.float32(0)))])
@pytest.mark.parametrize("side", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_windows_have_their_size_wherever_they_lie(side: float, corner: float) -> None:
    inside = _windows(30, 50, torch.tensor([side]), torch.tensor([[corner, corner]]))[0]
    assert int(inside.any(1).sum()) == pytest.approx(30 * side, abs=1)
    assert int(inside.any(0).sum()) == pytest.approx(50 * side, abs=1)
    if side in {0.5, 0.9, 1.0}:
        assert bool(inside[0, 0]) == (corner == 0 or side == 1)
        assert bool(inside[-1, -1]) == (corner > 0.9 or side == 1)


def test_mixup_blends_as_the_targets_say() -> None:
    images = noise()
    for seed in SEEDS[:10]:
        mixed, targets = mix(images, TARGETS, seed, 0.4, 0.0)
        partner, share = partners(seed), own(targets).view(-1, 1, 1, 1)
        torch.testing.assert_close(mixed, share * images + (1 - share) * images[partner], atol=1e-3, rtol=0)
        assert mixed.dtype == torch.float32 and not torch.equal(mixed, images.float())
        mixed_ones = partner != torch.arange(MANY)
        shares = own(targets)[mixed_ones].tolist()
        assert len(set(shares)) == len(shares) > 1, "every picture draws its own share"


def test_the_parameter_says_how_much_is_mixed() -> None:
    """Beta(0.1, 0.1) leaves most pictures nearly whole, Beta(10, 10) makes halves: their spreads are known."""
    for a in (0.1, 1.0, 10.0):
        for mixup, cutmix in ((a, 0.0), (0.0, a)):
            deviation = (1 / (4 * (2 * a + 1))) ** 0.5
            assert float(drawn(mixup, cutmix).std()) == pytest.approx(deviation, rel=0.15)


def test_shares_of_several_classes_stay_shares() -> None:
    """Targets that are shares already: both pictures' count by what is shown of them."""
    targets = torch.softmax(torch.arange(MANY * 3, dtype=torch.float32).view(MANY, 3).sin(), 1)
    _, mixed = mix(plain(), targets, SEEDS[0], 0.0, 1.0)
    shown = own(mix(plain(), TARGETS, SEEDS[0], 0.0, 1.0)[1]).view(-1, 1)
    torch.testing.assert_close(mixed, shown * targets + (1 - shown) * targets[partners(SEEDS[0])])


@pytest.mark.parametrize(("mixup", "cutmix"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_the_same_seed_gives_the_same_and_any_other_another(mixup: float, cutmix: float) -> None:
    images = noise()
    before = torch.get_rng_state()
    first, targets = mix(images, TARGETS, (1, 2, 3), mixup, cutmix)
    again, targets_again = mix(images, TARGETS, (1, 2, 3), mixup, cutmix)
    assert torch.equal(first, again) and torch.equal(targets, targets_again)
    for other in ((0, 2, 3), (1, 0, 3), (1, 2, 0)):
        assert not torch.equal(mix(images, TARGETS, other, mixup, cutmix)[1], targets)
    assert torch.equal(torch.get_rng_state(), before), "torch's own random numbers are not drawn from"
    assert torch.equal(images, noise()), "the pictures given are left alone"


def test_with_both_a_batch_gets_either() -> None:
    cuts = sum(is_cut(mix(plain(), TARGETS, seed, 1.0, 1.0)[0]) for seed in SEEDS)
    assert 10 <= cuts <= 40, "of 50 batches, about half"
    assert not any(is_cut(mix(plain(), TARGETS, seed, 1.0, 0.0)[0]) for seed in SEEDS)
    assert all(is_cut(mix(plain(), TARGETS, seed, 0.0, 1.0)[0]) for seed in SEEDS)
