import pytest
import torch

from gnnaccel.ops._dual_linear import dual_linear
from tests.harness import Case, check_op


def make(R, K, L, N, bias=True, relu=True, strided=False):
    def build(gen):
        def randn(*shape):
            # quarters, and below a bias of quarters and 1/32: exact in every dtype, and no sum at the ReLU's corner
            t = (torch.randn(*shape, generator=gen, dtype=torch.float64) * 4).round() / 4
            return t.T.contiguous().T if strided else t

        tensors = {"x": randn(R, K), "weight": randn(N, K), "bias": randn(1, N)[0] + 1 / 32 if bias else None}
        return {**tensors, "other": randn(R, L), "other_weight": randn(N, L), "relu": relu}

    return build


def reference(x, weight, bias, other, other_weight, relu=False):
    x, weight, other, other_weight = (t.double() for t in (x, weight, other, other_weight))
    y = (x[:, None, :] * weight).sum(-1) + (other[:, None, :] * other_weight).sum(-1)
    y = y if bias is None else y + bias.double()
    return y.clamp(min=0) if relu else y


TestDualLinear = check_op(
    op=dual_linear,
    reference=reference,
    cases=[
        Case("no_rows", make(0, 3, 2, 4)),
        Case("no_inputs", make(3, 0, 2, 4)),
        Case("no_outputs", make(3, 4, 2, 0)),
        Case("one", make(1, 1, 1, 1, relu=False)),
        Case("odd", make(7, 5, 3, 9)),
        Case("no_bias", make(6, 4, 5, 3, bias=False, relu=False)),
        Case("linear", make(6, 4, 5, 3, relu=False)),
        Case("strided", make(6, 4, 7, 8, strided=True)),
        Case("several_blocks", make(517, 53, 150, 37), small=False),
        Case("several_panels", make(70, 300, 20, 113), small=False),
    ],
    schemas=["dual_linear", "dual_linear_backward"],
    cast=["x", "weight", "bias", "other", "other_weight"],
    grad=["x", "weight", "bias", "other", "other_weight"],
    length=lambda args: args["x"].shape[0] + args["x"].shape[1] + args["other"].shape[1] + args["weight"].shape[0],
)


def test_not_a_number_stays_one():
    x = torch.tensor([[float("nan")], [1.0]])
    y = dual_linear(x, torch.ones(2, 1), None, torch.zeros(2, 1), torch.ones(2, 1), True)
    assert bool(y[0].isnan().all()) and y[1].tolist() == [1, 1]


ARGS = {
    "x": torch.zeros(3, 4),
    "weight": torch.zeros(5, 4),
    "bias": torch.zeros(5),
    "other": torch.zeros(3, 2),
    "other_weight": torch.zeros(5, 2),
}


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"x": torch.zeros(3, 4).int()}, TypeError, "x must be floating, got torch.int32"),
        ({"x": torch.zeros(4)}, ValueError, r"x must be \[R, K\], got \[4\]"),
        ({"weight": torch.zeros(5, 3)}, ValueError, r"weight must be \[N, 4\], got \[5, 3\]"),
        ({"other": torch.zeros(2, 2)}, ValueError, r"other must be \[3, L\], got \[2, 2\]"),
        ({"other_weight": torch.zeros(4, 2)}, ValueError, r"other_weight must be \[5, 2\], got \[4, 2\]"),
        ({"bias": torch.zeros(4)}, ValueError, r"bias must be \[5\], got \[4\]"),
        ({"other": torch.zeros(3, 2).double()}, TypeError, r"other must have the dtype of x \(torch.float32\)"),
    ],
)
def test_errors(changes, error, said):
    with pytest.raises(error, match=f"dual_linear: {said}"):
        dual_linear(**{**ARGS, **changes})
