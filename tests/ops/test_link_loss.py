import math
from contextlib import nullcontext

import pytest
import torch

from gnnaccel.baselines.peers.link_loss import eager
from gnnaccel.baselines.reference.link_loss import link_loss as reference
from gnnaccel.nn import LinkDecoder
from gnnaccel.ops._link_loss import link_loss
from tests.harness import DEVICE, INTERPRET, Case, check_op, served_by

NAMES = ("h", "w_src", "b_src", "w_dst", "w_out", "b_out")


def make(B, C, D, N, scale=1.0, strided=False):
    def build(gen):
        shapes = ((B * (2 + C), D), (N, D), (N,), (N, D), (N,), (1,))
        args = {
            k: scale * torch.randn(*s, generator=gen, dtype=torch.float64) for k, s in zip(NAMES, shapes, strict=True)
        }
        if strided:
            args["h"] = args["h"].T.contiguous().T
        return {**args, "events": B}

    return build


TestLinkLoss = check_op(
    op=link_loss,
    reference=reference,
    cases=[
        Case("one", make(1, 1, 1, 1)),
        Case("odd", make(3, 1, 5, 7)),
        Case("candidates", make(2, 4, 3, 6)),
        Case("strided", make(3, 2, 4, 5, strided=True)),
        Case("saturated", make(3, 2, 4, 5, scale=6.0)),
        Case("no_columns", make(2, 1, 0, 3)),
        Case("no_hidden", make(2, 1, 3, 0)),
        Case("many_candidates", make(2, 200, 6, 9), small=False),
        Case("several_slabs", make(301, 1, 20, 33), small=False),
    ],
    schemas=["link_loss", "link_loss_backward"],
    cast=list(NAMES),
    grad=list(NAMES),
    length=lambda args: args["h"].shape[1] * args["w_src"].shape[0],
    overload_args=lambda a: (*(a[name] for name in NAMES), a["events"], True),
)


def tensors(B=40, C=3, D=12, N=20, dtype=torch.float32):
    args = make(B, C, D, N)(torch.Generator().manual_seed(0))
    return {k: v.to(DEVICE, dtype).requires_grad_() if k in NAMES else v for k, v in args.items()}


@pytest.mark.parametrize("C", [1, 3, 60])
def test_is_what_users_write(C):
    args = tensors(C=C, dtype=torch.float64)
    leaves = [args[k] for k in NAMES]
    got, want = link_loss(**args), eager(**args)
    torch.testing.assert_close(got, want)
    for a, b in zip(torch.autograd.grad(got, leaves), torch.autograd.grad(want, leaves), strict=True):
        torch.testing.assert_close(a, b)


def test_golden():
    """Worked by hand: scores 2 and relu(-1) - 1, so log(1 + e^-2) + log(1 + e^-1)."""
    one = torch.ones(1, 1, device=DEVICE)
    h = torch.tensor([[1.0], [2.0], [-2.0]], device=DEVICE)
    loss = link_loss(h, one, 0 * one[0], one, one[0], -one[0], events=1)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-2)) + math.log1p(math.exp(-1)), rel=1e-6)


def test_the_decoder_passes_its_parameters_in_place():
    torch.manual_seed(0)
    decoder, B, C = LinkDecoder(8, 12).to(DEVICE), 5, 2
    h = torch.randn(B * (2 + C), 8, device=DEVICE)
    positive = decoder(h[:B], h[B : 2 * B])
    negative = decoder(h[:B].unsqueeze(1), h[2 * B :].view(B, C, 8))
    want = torch.nn.functional.softplus(-positive).mean() + torch.nn.functional.softplus(negative).mean()
    got = decoder.loss(h, B)
    torch.testing.assert_close(got, want)
    parameters = list(decoder.parameters())
    for a, b in zip(torch.autograd.grad(got, parameters), torch.autograd.grad(want, parameters), strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_are_scaled_and_made_only_when_wanted():
    args = tensors()
    once = torch.autograd.grad(link_loss(**args), args["h"])[0]
    twice = torch.autograd.grad(2 * link_loss(**args), args["h"])[0]
    assert torch.equal(2 * once, twice)
    with torch.no_grad():
        assert not link_loss(**args).requires_grad
    only = {k: v.detach() if k in NAMES and k != "w_out" else v for k, v in args.items()}
    assert only["w_out"].requires_grad and not only["h"].requires_grad
    torch.testing.assert_close(
        torch.autograd.grad(link_loss(**only), only["w_out"])[0],
        torch.autograd.grad(link_loss(**args), args["w_out"])[0],
    )


@pytest.mark.parametrize("fallback", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_nan_stays_nan(name, fallback):
    """A trainer that looks at its loss must see it."""
    args = {k: v.detach() if k in NAMES else v for k, v in tensors().items()}
    args[name].view(-1)[0] = float("nan")
    with served_by("CompositeExplicitAutograd") if fallback else nullcontext():
        assert link_loss(**args).isnan()


def test_is_once_differentiable():
    args = tensors()
    (g,) = torch.autograd.grad(link_loss(**args), args["h"], create_graph=True)
    with pytest.raises(RuntimeError, match="once differentiable"):
        g.sum().backward()


def test_without_gradients_there_is_nothing_to_differentiate_from():
    args = tensors()
    loss = torch.ops.gnnaccel.link_loss(*(args[k] for k in NAMES), args["events"], False)[0]
    with pytest.raises(RuntimeError, match="grads=False"):
        loss.backward()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"h": torch.ones(6, 3, dtype=torch.int64)}, TypeError, "h must be floating, got torch.int64"),
        ({"h": torch.ones(6)}, ValueError, r"h must be \[B \(2 \+ C\), D\], got \[6\]"),
        ({"events": 0}, ValueError, "events must divide the 6 rows"),
        ({"events": 3}, ValueError, "events must divide the 6 rows"),
        ({"events": 4}, ValueError, "events must divide the 6 rows"),
        ({"w_dst": torch.ones(4, 2)}, ValueError, r"w_dst must be \[4, 3\], got \[4, 2\]"),
        ({"w_out": torch.ones(1, 4)}, ValueError, r"w_out must be \[4\], got \[1, 4\]"),
        ({"b_out": torch.ones(1).double()}, TypeError, "b_out must have the dtype of h"),
    ],
)
def test_bad_arguments(change, error, message):
    good = {
        "h": torch.ones(6, 3),
        "w_src": torch.ones(4, 3),
        "b_src": torch.ones(4),
        "w_dst": torch.ones(4, 3),
        "w_out": torch.ones(4),
        "b_out": torch.ones(1),
        "events": 2,
    }
    with pytest.raises(error, match=f"link_loss: {message}"):
        link_loss(**{**good, **change})


@pytest.mark.interpret
@pytest.mark.parametrize("C", [1, 3])
@pytest.mark.parametrize("room", [0, 5])
def test_counted_events_are_all_there_is(room, C):
    B, dtype = 4, torch.float64
    args, gen = tensors(B=B, C=C, dtype=dtype), torch.Generator().manual_seed(1)
    more = torch.randn(room * (2 + C), args["h"].shape[1], generator=gen, dtype=dtype).to(DEVICE)
    h = torch.cat([args["h"].detach(), more]).requires_grad_()
    leaves = [args[k] for k in NAMES]
    count = torch.tensor([B], device=DEVICE)
    with served_by("CUDA") if INTERPRET else nullcontext():
        want = link_loss(**args)
        got = link_loss(**{**args, "h": h, "events": B + room}, count=count)
        wants = torch.autograd.grad(want * 3, leaves)
        gots = torch.autograd.grad(got * 3, [h, *leaves[1:]])
        with torch.no_grad():
            assert link_loss(**{**args, "h": h, "events": B + room}, count=count) == got
    same = torch.equal if DEVICE == "cpu" and not INTERPRET else torch.allclose
    assert same(got, want) and same(gots[0][: len(args["h"])], wants[0]) and not gots[0][len(args["h"]) :].any()
    assert all(same(a, b) for a, b in zip(gots[1:], wants[1:], strict=True))


def test_count_must_be_a_number():
    with pytest.raises(ValueError, match=r"link_loss: count must be int64 \[1\], got torch.float32 \[1\]"):
        link_loss(**tensors(), count=torch.ones(1))
