import pytest
import torch

from gnnaccel.baselines.reference.dropout import dropout as reference
from gnnaccel.ops._dropout import dropout
from gnnaccel.ops._relu_norm import relu_norm
from tests.harness import Case, check_op


def make(R, D, rate=0.3, seed=5, strided=False):
    def build(gen):
        x = torch.randn(D, R, generator=gen, dtype=torch.float64).T
        return {"x": x if strided else x.contiguous(), "rate": rate, "seed": seed}

    return build


TestDropout = check_op(
    op=dropout,
    reference=reference,
    cases=[
        Case("no_rows", make(0, 3)),
        Case("no_columns", make(3, 0)),
        Case("one", make(1, 1, seed=-1)),
        Case("odd", make(5, 7, rate=0.5, seed=(9 << 40) + 3)),
        Case("strided", make(6, 4, strided=True)),
        Case("several_chunks", make(130, 101, rate=0.1), small=False),
    ],
    schemas=["dropout"],
    cast=["x"],
    grad=["x"],
    overload_args=lambda args: tuple(args.values()),
)


def test_rate_and_scale():
    y = dropout(torch.ones(1000, 64), 0.25, 3)
    torch.testing.assert_close(y.unique(), torch.tensor([0.0, 4 / 3]))
    assert abs((y == 0).float().mean().item() - 0.25) < 0.01
    assert not torch.equal(y, dropout(torch.ones(1000, 64), 0.25, 4))


def test_masks_of_one_seed_differ_between_ops():
    x = torch.rand(64, 64) + 1
    ours = dropout(x, 0.5, 3) == 0
    normed = relu_norm(x, torch.ones(64), torch.zeros(64), dropout=0.5, seed=3)
    theirs = normed == normed.amin(1, keepdim=True)  # what was dropped is the least of its row
    assert 0.4 < (ours == theirs).float().mean().item() < 0.6


def test_second_derivative():
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda t: dropout(t, 0.4, 1) ** 2, x)


def test_rate_zero_is_the_identity():
    x = torch.randn(3, 2)
    assert dropout(x, 0.0, 7) is x


@pytest.mark.parametrize(
    ("args", "error", "match"),
    [
        ((torch.zeros(2, 2, dtype=torch.int64), 0.1, 0), TypeError, "x must be floating, got torch.int64"),
        ((torch.zeros(2), 0.1, 0), ValueError, r"x must be \[R, D\], got \[2\]"),
        ((torch.zeros(2, 2), 1.0, 0), ValueError, r"rate must be in \[0, 1\), got 1.0"),
    ],
)
def test_errors(args, error, match):
    with pytest.raises(error, match=match):
        dropout(*args)
