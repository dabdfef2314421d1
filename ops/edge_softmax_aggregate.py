"""`edge_softmax_aggregate`: attention over neighbours whose logit is a sum of two numbers (GAT), and their weighted sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._library import autograd, define, fake, impl, once_differentiable
from gnnaccel.ops._philox import LOW, philox4x32
from gnnaccel.ops.gather_aggregate import check_block, check_neighbors, live_edges
from gnnaccel.ops.gather_rows import FLOATING

_NAME = "edge_softmax_aggregate"
_INPUTS = "Tensor x, Tensor src_logit, Tensor dst_logit, Tensor nbr, Tensor? count, Tensor? indptr"
_OPTIONS = "float negative_slope, float dropout, SymInt seed"
# the second result, [R, 2, H], is for the backward pass: each softmax's largest logit and its normaliser
define(f"edge_softmax_aggregate({_INPUTS}, {_OPTIONS}) -> (Tensor, Tensor)")
define(
    f"edge_softmax_aggregate_backward(Tensor grad, {_INPUTS}, Tensor out, Tensor stat, {_OPTIONS}) "
    "-> (Tensor, Tensor, Tensor)"
)


@impl("edge_softmax_aggregate", "CUDA")
def _cuda(*args: Any) -> tuple[Tensor, Tensor]:
    from gnnaccel.kernels.triton.edge_softmax_aggregate import edge_softmax_aggregate_fwd

    return edge_softmax_aggregate_fwd(*args)


@impl("edge_softmax_aggregate_backward", "CUDA")
def _cuda_backward(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    from gnnaccel.kernels.triton.edge_softmax_aggregate import edge_softmax_aggregate_bwd

    return edge_softmax_aggregate_bwd(*args)


def _acc(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class _Edges:
    """Live edges and their softmax, `[edges, H]`. For the plain-torch fallback only."""

    def __init__(
        self,
        x: Tensor,
        src_logit: Tensor,
        dst_logit: Tensor,
        nbr: Tensor,
        count: Tensor | None,
        indptr: Tensor | None,
        negative_slope: float,
        dropout: float,
        seed: int,
    ) -> None:
        check_neighbors(_NAME, nbr, count, indptr, x.shape[0])
        acc, (R, H) = _acc(x), dst_logit.shape
        _, self.root, slot, self.ids = live_edges(nbr, count, indptr)
        logit = src_logit[self.ids].to(acc) + dst_logit[self.root].to(acc)
        self.slope = torch.full_like(logit, negative_slope).masked_fill(logit > 0, 1.0)
        logit = logit * self.slope
        index = self.root.unsqueeze(1).expand(-1, H)
        top = logit.new_zeros((R, H)).scatter_reduce(0, index, logit, "amax", include_self=False)
        e = torch.exp(logit - top[self.root])
        total = logit.new_zeros((R, H)).index_add_(0, self.root, e)
        self.stat = torch.stack([top, total], dim=1)
        self.p = e / total[self.root]
        self.mask = torch.ones_like(self.p)
        if dropout > 0:
            heads = torch.arange(H, device=x.device)
            root, block = self.root.unsqueeze(1), (slot // 4).unsqueeze(1)
            counter = torch.broadcast_tensors(root & LOW, heads, block, root >> 32)
            words = torch.stack(philox4x32(counter, seed), dim=-1)
            word = words.gather(-1, (slot % 4).view(-1, 1, 1).expand(-1, H, 1)).squeeze(-1)
            self.mask = ((word >> 8) >= int(dropout * 2**24)).to(acc) / (1.0 - dropout)
        self.x = x[self.ids].to(acc)


@impl("edge_softmax_aggregate", "CompositeExplicitAutograd")
def _composite(x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    e = _Edges(x, *args)
    out = e.x.new_zeros((e.stat.shape[0], *x.shape[1:]))
    out.index_add_(0, e.root, (e.p * e.mask).unsqueeze(-1) * e.x)
    return out.to(x.dtype), e.stat


@impl("edge_softmax_aggregate_backward", "CompositeExplicitAutograd")
def _composite_backward(grad: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, src_logit, dst_logit, stat = args[0], args[1], args[2], args[7]
    e = _Edges(*args[:6], *args[8:])
    acc = stat.dtype
    g = grad.to(acc)[e.root]
    dp = (g * e.x).sum(-1) * e.mask
    mean = torch.zeros(dst_logit.shape, dtype=acc, device=x.device).index_add_(0, e.root, e.p * dp)
    d_logit = e.p * (dp - mean[e.root]) * e.slope
    d_x = torch.zeros(x.shape, dtype=acc, device=x.device).index_add_(0, e.ids, (e.p * e.mask).unsqueeze(-1) * g)
    d_src = torch.zeros(src_logit.shape, dtype=acc, device=x.device).index_add_(0, e.ids, d_logit)
    d_dst = torch.zeros_like(mean).index_add_(0, e.root, d_logit)
    return d_x.to(x.dtype), d_src.to(src_logit.dtype), d_dst.to(dst_logit.dtype)


@fake("edge_softmax_aggregate")
def _fake(x: Tensor, src_logit: Tensor, dst_logit: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    R, H = dst_logit.shape
    return x.new_empty((R, H, x.shape[2])), x.new_empty((R, 2, H), dtype=_acc(x))


@fake("edge_softmax_aggregate_backward")
def _fake_backward(grad: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    return args[0].new_empty(args[0].shape), args[1].new_empty(args[1].shape), args[2].new_empty(args[2].shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:6], *output)
    ctx.options = inputs[6:]


def _backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 9
    grads = torch.ops.gnnaccel.edge_softmax_aggregate_backward(grad, *ctx.saved_tensors, *ctx.options)
    wanted = [g if need else None for g, need in zip(grads, ctx.needs_input_grad, strict=False)]
    return (*wanted, None, None, None, None, None, None)


autograd("edge_softmax_aggregate", _backward, _setup)
once_differentiable("edge_softmax_aggregate_backward")


def edge_softmax_aggregate(
    x: Tensor,
    src_logit: Tensor,
    dst_logit: Tensor,
    nbr: Tensor,
    count: Tensor | None = None,
    *,
    indptr: Tensor | None = None,
    negative_slope: float = 0.2,
    dropout: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """Each root's neighbours, averaged with weights from a softmax over them, a head at a time.

        p_rkh    = dropout(softmax_k(leaky_relu(src_logit[u, h] + dst_logit[r, h]))),  u = nbr[r, k]
        out[r,h] = sum_k p_rkh x[u, h]

    Source: Velickovic et al., Graph Attention Networks, ICLR 2018, eq. 3 to 5, where `x = W h`, `src_logit = a_src . x` and
    `dst_logit = a_dst . x`. `temporal_attention` could compute it only by averaging whole input rows `h` once a head (as many
    times as wide as `x` as the input is wider than a head), and takes no CSR: a hub would pad every root.

    Gathered rows are never stored, and weights only while the backward pass, which makes them again, needs them.

    Args:
        x: Values of the S sources, `[S, H, D]`, floating. Half types accumulate in float32.
        src_logit: `[S, H]`, dtype of `x`.
        dst_logit: `[R, H]`, dtype of `x`.
        nbr: Source of each neighbour, int32 or int64, `[R, K]`, or `[M]` with `indptr`. Negative entries are skipped.
        count: Used slots of each row of `nbr [R, K]`, int32 or int64 `[R]`; later slots are not looked at. None: all.
        indptr: Row offsets, int64 `[R + 1]`, from 0 to M, not decreasing.
        negative_slope: Slope of the leaky ReLU below 0.
        dropout: Rate in `[0, 1)` at which weights are dropped; kept ones are scaled by `1 / (1 - dropout)`.
        seed: Seed of the dropout: the mask is a function of (seed, root, head, slot), the same on every device.

    Returns:
        `[R, H, D]`, dtype of `x`; a root without neighbours has zeros.

    Gradients: in `x`, `src_logit` and `dst_logit`; once differentiable.

    Determinism: bitwise reproducible, on CPU for any number of threads: gradients are summed in the order of the roots.

    Raises:
        TypeError: An argument has an unsupported dtype.
        ValueError: A shape does not fit, or `dropout` is not in `[0, 1)`.
        ValueError: On CPU, a used neighbour is not below S, a count not in `[0, K]`, or `indptr` decreases or does not end at
            M. On CUDA none is checked (that would synchronise); neighbours past S are skipped.
    """
    name = _NAME
    if x.dtype not in FLOATING:
        raise TypeError(f"{name}: x must be float64, float32, float16 or bfloat16, got {x.dtype}")
    if x.dim() != 3:
        raise ValueError(f"{name}: x must be [S, H, D], got {list(x.shape)}")
    R = check_block(name, nbr, count, indptr)
    for what, logit, shape in (("src_logit", src_logit, x.shape[:2]), ("dst_logit", dst_logit, (R, x.shape[1]))):
        if logit.dtype != x.dtype:
            raise TypeError(f"{name}: {what} must be {x.dtype} like x, got {logit.dtype}")
        if logit.shape != shape:
            raise ValueError(f"{name}: {what} must be {list(shape)}, got {list(logit.shape)}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"{name}: dropout must be in [0, 1), got {dropout}")
    args = (x, src_logit, dst_logit, nbr, count, indptr, float(negative_slope), float(dropout), seed)
    return torch.ops.gnnaccel.edge_softmax_aggregate(*args)[0]
