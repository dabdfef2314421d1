import pytest
import torch
from torch import nn

from gnnaccel.train.optimizer import FusedAdam


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(7, 33), nn.Tanh(), nn.Linear(33, 5, bias=False), nn.Linear(5, 1))


def train(net, optimizer, steps=20, seed=1, through=lambda net, x: net(x)):
    gen = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(16, 7, generator=gen)
        optimizer.zero_grad()
        (through(net, x) - x.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()


def assert_same(a, b):
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_same_bits_as_adam():
    ours, theirs = model(), model()
    train(ours, FusedAdam(ours.parameters(), lr=0.01))
    train(theirs, torch.optim.Adam(theirs.parameters(), lr=0.01, fused=True))
    assert_same(ours, theirs)
    assert not torch.equal(ours[0].weight, model()[0].weight)


def test_same_bits_where_parameters_have_no_gradient_for_a_while():
    def partly(net, x):
        return net[2](net[1](net[0](x)))[:, :1]

    nets = [model(), model()]
    for net, optimizer in zip(nets, (FusedAdam, lambda p, lr: torch.optim.Adam(p, lr=lr, fused=True)), strict=True):
        o = optimizer(net.parameters(), lr=0.01)
        train(net, o, 5, through=partly)
        train(net, o, 5)
        train(net, o, 5, through=partly)
        train(net, o, 5)
    assert_same(*nets)


@pytest.mark.parametrize("first", [FusedAdam, torch.optim.Adam])
def test_state_continues_where_it_was(tmp_path, first):
    whole = model()
    optimizer = (
        first(whole.parameters(), lr=0.01) if first is FusedAdam else first(whole.parameters(), 0.01, fused=True)
    )
    train(whole, optimizer, 10)
    torch.save({"model": whole.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "x.pt")
    train(whole, optimizer, 10, seed=2)
    other = model(seed=9)
    again = FusedAdam(other.parameters(), lr=0.5)
    train(other, again, 2)
    state = torch.load(tmp_path / "x.pt", weights_only=True)
    other.load_state_dict(state["model"])
    again.load_state_dict(state["optimizer"])
    train(other, again, 10, seed=2)
    assert again.param_groups[0]["lr"] == 0.01
    assert_same(whole, other)


def test_zero_grad():
    net = model()
    optimizer = FusedAdam(net.parameters(), lr=0.01)
    net(torch.ones(1, 7)).sum().backward()
    optimizer.zero_grad(set_to_none=False)
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in net.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in net.parameters())
