"""Folded pairs compute what the plain network computes, learn what it learns, and leave no trace."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from tasks.training.folding import folded
from tasks.training.layers import freeze_statistics

NAMES = ["tf_efficientnet_lite0", "resnet10t", "mobilenetv3_small_050", "densenet121"]


def network_of(name: str) -> nn.Module:
    """Random weights, statistics and shifts: what a mistake could hide behind zeros and ones."""
    torch.manual_seed(0)
    network: nn.Module = timm.create_model(name, num_classes=3)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.bias, std=0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def train_mode(network: nn.Module) -> nn.Module:
    network.train()
    freeze_statistics(network)
    return network


def gradients(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    network.zero_grad(set_to_none=True)
    torch.manual_seed(1)  # dropout inside
    nn.functional.cross_entropy(network(images), torch.tensor([0, 1, 2, 0])).backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_gradients_are_those_of_the_plain_network(name: str) -> None:
    network = network_of(name)
    torch.manual_seed(2)
    images = torch.rand(4, 3, 64, 64)
    norms = sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
    plain, plain_gradients = network(images), gradients(train_mode(network), images)
    kinds = [type(module) for module in network.modules()]
    keys = list(network.state_dict())
    with folded(network.eval(), images[:2]) as pairs:
        assert pairs >= (0.9 * norms if name != "densenet121" else 1)
        torch.testing.assert_close(network(images), plain, rtol=1e-3, atol=1e-4)
        found = gradients(train_mode(network), images)
        assert list(network.state_dict()) == keys
    assert found.keys() == plain_gradients.keys()
    for key, value in plain_gradients.items():
        torch.testing.assert_close(found[key], value, rtol=2e-2, atol=1e-3 * float(value.abs().max()) + 1e-7)
    assert [type(module) for module in network.modules()] == kinds
    torch.testing.assert_close(network.eval()(images), plain)


def test_statistics_do_not_move_and_copies_stand_by_themselves() -> None:
    network = network_of("resnet10t")
    images = torch.rand(4, 3, 64, 64)
    before = {name: value.clone() for name, value in network.named_buffers()}
    with folded(network, images[:2]):
        twin = copy.deepcopy(network)
        gradients(network.train(), images)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
        assert twin.eval()(images).abs().max() > 0
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())


class Twice(nn.Module):
    """The convolution's output is needed beside the BatchNorm's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        assert self.norm.running_mean is not None
        self.norm.running_mean.fill_(0.5)

    def forward(self, images: Tensor) -> Tensor:
        made = self.conv(images)
        return torch.cat([made, self.norm(made)]).mean((2, 3))


def test_where_it_would_change_the_network_nothing_is_folded() -> None:
    torch.manual_seed(0)
    network = Twice().eval()
    images = torch.rand(2, 3, 8, 8)
    wanted = network(images)
    with folded(network, images) as pairs:
        assert pairs == 0
        assert torch.equal(network(images), wanted)


def test_statistics_that_move_are_not_folded() -> None:
    with folded(torchvision.models.resnet18(num_classes=3).train(), torch.rand(2, 3, 64, 64)) as pairs:
        assert pairs == 0


def test_an_error_inside_restores_it() -> None:
    network = network_of("resnet10t")
    with pytest.raises(KeyError), folded(network, torch.rand(2, 3, 64, 64)):
        raise KeyError
    assert sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules()) > 5
