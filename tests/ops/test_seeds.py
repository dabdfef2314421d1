"""A seed may be a tensor on the device: the bits of the number in it, read when the op runs."""

import pytest
import torch

from gnnaccel.ops import temporal_attention
from gnnaccel.ops._dropout import dropout
from gnnaccel.ops._relu_norm import relu_norm
from gnnaccel.ops._temporal_attention_layer import temporal_attention_layer
from tests.harness import DEVICE, INTERPRET, served_by

SEEDS = [0, 5, (7 << 33) + 5, 2**63 - 1]
D, T, R, K, U = 6, 3, 3, 4, 5


@pytest.fixture(autouse=True)
def backend():
    if not INTERPRET:
        yield
        return
    with served_by("CUDA"):
        yield


def draws(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE).requires_grad_()


def block():
    count = torch.tensor([4, 0, 2], dtype=torch.int32)
    nbr = torch.arange(R * K).view(R, K) % U
    nbr[torch.arange(K) >= count[:, None]] = -1
    return [t.to(DEVICE) for t in (nbr, nbr, torch.arange(R * K).view(R, K), count)]


def relu_norm_of(seed):
    leaves = [draws(R, D), draws(D), draws(D)]
    return relu_norm(*leaves, dropout=0.5, seed=seed), leaves


def dropout_of(seed):
    x = draws(R, D)
    return dropout(x, 0.5, seed), [x]


def attention_of(seed):
    leaves = [draws(R, 2, D + D + T), draws(R, 2), draws(U, D), draws(U, D), draws(T), draws(T)]
    u, c, nodes, edges, w, b = leaves
    return temporal_attention(u, c, nodes, edges, *block(), w, b, dropout=0.5, seed=seed)[0], leaves


def layer_of(seed):
    F = D + D + T
    shapes = ((D, D + T), (D,), (D, F), (D,), (D, F), (D,), (D, 2 * D), (D,), (D,), (D,))
    table, weights, edges, w, b = draws(U, D), [draws(*s) for s in shapes], draws(U, D), draws(T), draws(T)
    rows = torch.tensor([2, 0, 2], device=DEVICE)
    h = temporal_attention_layer(table, None, rows, *weights, edges, *block(), w, b, heads=2, dropout=0.5, seed=seed)
    return h, [table, *weights, w, b]


OPS = {"relu_norm": relu_norm_of, "dropout": dropout_of, "attention": attention_of, "layer": layer_of}


def run(make, seed):
    y, leaves = make(seed)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), leaves)]


@pytest.mark.interpret
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", OPS)
def test_bits_of_the_number(name, seed):
    number, tensor = run(OPS[name], seed), run(OPS[name], torch.tensor([seed], device=DEVICE))
    assert all(torch.equal(a, b) for a, b in zip(number, tensor, strict=True))
    other = run(OPS[name], torch.tensor(seed ^ 1, device=DEVICE))
    assert not torch.equal(number[0], other[0])


@pytest.mark.parametrize("name", OPS)
def test_the_seed_may_change_after_the_backward_pass(name):
    seed = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    for value in (3, 4):
        seed.fill_(value)
        assert all(torch.equal(a, b) for a, b in zip(run(OPS[name], seed), run(OPS[name], value), strict=True))


@pytest.mark.skipif(INTERPRET or DEVICE != "cpu", reason="about the CPU build")
@pytest.mark.parametrize("name", OPS)
def test_the_fallback_takes_it_too(name):
    with served_by("CompositeExplicitAutograd"):
        number, tensor = run(OPS[name], 5), run(OPS[name], torch.tensor([5]))
    assert all(torch.equal(a, b) for a, b in zip(number, tensor, strict=True))


@pytest.mark.skipif(INTERPRET, reason="not about the kernel")
def test_the_overloads_pass_opcheck():
    x = torch.randn(R, D, requires_grad=True)
    seed = torch.tensor([5])
    torch.library.opcheck(torch.ops.gnnaccel.dropout.keyed, (x, 0.5, seed))
    torch.library.opcheck(torch.ops.gnnaccel.relu_norm.keyed, (x, torch.ones(D), torch.ones(D), 0.5, seed, 1e-5))


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("seed", [torch.zeros(2, dtype=torch.int64), torch.zeros(1)])
def test_errors(name, seed):
    with pytest.raises(ValueError, match="seed must be a number or one int64"):
        OPS[name](seed.to(DEVICE))
