import copy

import pytest
import torch
from torch import nn

from gnnaccel.train.optimizer import FlatAdam


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(7, 33), nn.Tanh(), nn.Linear(33, 5, bias=False), nn.Linear(5, 1))


def train(net, optimizer, steps=20, seed=1):
    gen = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(16, 7, generator=gen)
        optimizer.zero_grad()
        (net(x) - x.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()


def test_is_adam():
    ours, theirs = model(), model()
    train(ours, FlatAdam(ours.parameters(), lr=0.01))
    train(theirs, torch.optim.Adam(theirs.parameters(), lr=0.01))
    for a, b, start in zip(ours.parameters(), theirs.parameters(), model().parameters(), strict=True):
        torch.testing.assert_close(a, b)
        assert not torch.allclose(a, start)


def test_keeps_values_and_shapes():
    net = model()
    before = [p.detach().clone() for p in net.parameters()]
    FlatAdam(net.parameters(), lr=0.01)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_state_continues_where_it_was(tmp_path):
    whole = model()
    optimizer = FlatAdam(whole.parameters(), lr=0.01)
    train(whole, optimizer, 10)
    torch.save({"model": whole.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "x.pt")
    train(whole, optimizer, 10, seed=2)
    other = model(seed=9)
    again = FlatAdam(other.parameters(), lr=0.5)
    state = torch.load(tmp_path / "x.pt", weights_only=True)
    other.load_state_dict(state["model"])
    again.load_state_dict(state["optimizer"])
    train(other, again, 10, seed=2)
    assert again.param_groups[0]["lr"] == 0.01
    for a, b in zip(whole.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_without_gradient_nothing_moves_at_first():
    net = model()
    optimizer = FlatAdam(net.parameters(), lr=0.01)
    before = copy.deepcopy(net)
    net[0](torch.ones(1, 7)).sum().backward()
    optimizer.step()
    assert not torch.equal(net[0].weight, before[0].weight)
    assert torch.equal(net[2].weight, before[2].weight)
    optimizer.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_a_replaced_parameter_is_an_error():
    net = model()
    optimizer = FlatAdam(net.parameters(), lr=0.01)
    net.double()
    with pytest.raises(RuntimeError, match="a parameter was replaced"):
        optimizer.step()


def test_parameters_of_one_kind():
    with pytest.raises(ValueError, match="at least one, of one dtype and device"):
        FlatAdam([], lr=0.1)
    with pytest.raises(ValueError, match=r"float32.*float64|float64.*float32"):
        FlatAdam([nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1).double())], lr=0.1)
