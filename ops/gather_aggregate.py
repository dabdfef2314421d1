"""`gather_aggregate`: sum, mean or maximum of neighbours' feature rows; the gathered rows are never stored."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._library import autograd, define, fake, impl, once_differentiable, run
from gnnaccel.ops.gather_rows import FLOATING, check_reachable

_NAME = "gather_aggregate"
SUM, MEAN, MAX = range(3)
REDUCE = {"sum": SUM, "mean": MEAN, "max": MAX}
_BLOCK = "Tensor nbr, Tensor? count, Tensor? weight, Tensor? indptr, Tensor? scale"
# the second result is the slot that gave the maximum, [R, F] int32 (-1: none); empty for sums and means
define(f"gather_aggregate(Tensor table, {_BLOCK}, int reduce, ScalarType dtype) -> (Tensor, Tensor)")
define(
    f"gather_aggregate_backward(Tensor grad, Tensor table, {_BLOCK}, Tensor slot, int reduce, bool need_table, "
    "bool need_weight) -> (Tensor, Tensor)"
)


@impl("gather_aggregate", "CUDA")
def _cuda(table: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    from gnnaccel.kernels.triton.gather_aggregate import gather_aggregate_fwd

    check_reachable(_NAME, {"table": table, "scale": args[4]}, args[0])
    return gather_aggregate_fwd(table, *args)


@impl("gather_aggregate_backward", "CUDA")
def _cuda_backward(grad: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    from gnnaccel.kernels.triton.gather_aggregate import gather_aggregate_bwd

    check_reachable(_NAME, {"table": args[0], "scale": args[5]}, args[1])
    return gather_aggregate_bwd(grad, *args)


def check_neighbors(owner: str, nbr: Tensor, count: Tensor | None, indptr: Tensor | None, num_rows: int) -> None:
    """What a look at the values alone can tell. The C++ kernels check the same."""
    if indptr is not None:
        if int(indptr[0]) != 0 or int(indptr[-1]) != nbr.numel():
            ends = f"[{int(indptr[0])}, ..., {int(indptr[-1])}]"
            raise ValueError(f"{owner}: indptr must begin with 0 and end with {nbr.numel()} (size of nbr), got {ends}")
        if bool((indptr.diff() < 0).any()):
            raise ValueError(f"{owner}: indptr must not decrease, got a decrease")
    elif count is not None and count.numel() and (int(count.min()) < 0 or int(count.max()) > nbr.shape[1]):
        wrong = int(count.min()) if int(count.min()) < 0 else int(count.max())
        raise ValueError(f"{owner}: count must be in [0, {nbr.shape[1]}], got {wrong}")
    used = live_slots(nbr, count) if indptr is None else nbr >= 0
    ids = nbr[used]
    if ids.numel() and int(ids.max()) >= num_rows:
        raise ValueError(f"{owner}: nbr must be below {num_rows} (rows of the table), got {int(ids.max())}")


def live_slots(nbr: Tensor, count: Tensor | None) -> Tensor:
    live = nbr >= 0
    if count is not None:
        live &= torch.arange(nbr.shape[1], device=nbr.device) < count.unsqueeze(1)
    return live


def live_edges(nbr: Tensor, count: Tensor | None, indptr: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Edges that count, in order: position in `nbr` flattened, root, slot in the root's row, and neighbour; int64."""
    if indptr is None:
        at = live_slots(nbr, count).reshape(-1).nonzero().squeeze(1)
        root = at // max(nbr.shape[1], 1)
        return at, root, at - root * nbr.shape[1], nbr.reshape(-1)[at].long()
    root = torch.repeat_interleave(torch.arange(len(indptr) - 1, device=nbr.device), indptr.diff())
    at = (nbr >= 0).nonzero().squeeze(1)
    root = root[at]
    return at, root, at - indptr[root], nbr[at].long()


def _roots(nbr: Tensor, indptr: Tensor | None) -> int:
    return nbr.shape[0] if indptr is None else indptr.shape[0] - 1


def bases_of(nbr: Tensor, weight: Tensor | None) -> int | None:
    """B of a weight with several bases, None without that dimension."""
    return None if weight is None or weight.dim() == nbr.dim() else weight.shape[-1]


class _Edges:
    """Live edges with their rows in the accumulation dtype. For the plain-torch fallback only."""

    def __init__(
        self,
        table: Tensor,
        nbr: Tensor,
        count: Tensor | None,
        weight: Tensor | None,
        indptr: Tensor | None,
        scale: Tensor | None,
        reduce: int,
        dtype: torch.dtype,
    ) -> None:
        check_neighbors(_NAME, nbr, count, indptr, table.shape[0])
        self.acc = torch.promote_types(torch.promote_types(dtype, torch.float32), table.dtype)
        self.R = _roots(nbr, indptr)
        self.at, self.root, self.slot, self.ids = live_edges(nbr, count, indptr)
        self.x = table[self.ids].to(self.acc)
        if scale is not None:
            self.x *= scale[self.ids].to(self.acc).unsqueeze(1)
        self.bases = bases_of(nbr, weight)
        # [edges, B]; B = 1 where the weight has no such dimension
        self.weight = self.x.new_ones((len(self.at), 1))
        if weight is not None:
            self.weight = weight.reshape(nbr.numel(), 1 if self.bases is None else self.bases)[self.at].to(self.acc)
        self.number = torch.bincount(self.root, minlength=self.R).clamp(min=1).to(self.acc)
        if reduce != MEAN:
            self.number = torch.ones_like(self.number)


@impl("gather_aggregate", "CompositeExplicitAutograd")
def _composite(
    table: Tensor,
    nbr: Tensor,
    count: Tensor | None,
    weight: Tensor | None,
    indptr: Tensor | None,
    scale: Tensor | None,
    reduce: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    e = _Edges(table, nbr, count, weight, indptr, scale, reduce, dtype)
    F = table.shape[1]
    if reduce == MAX:
        index = e.root.unsqueeze(1).expand(-1, F)
        out = e.x.new_zeros((e.R, F)).scatter_reduce(0, index, e.x, "amax", include_self=False)
        top = out[e.root]
        far = torch.iinfo(torch.int32).max
        slot = torch.where((e.x == top) | (e.x.isnan() & top.isnan()), e.slot.unsqueeze(1), far)
        first = torch.full((e.R, F), far, device=nbr.device).scatter_reduce(0, index, slot, "amin")
        return out.to(dtype), first.masked_fill(first == far, -1).to(torch.int32)
    out = e.x.new_zeros((e.R, e.weight.shape[1], F))
    for b, total in enumerate(out.unbind(1)):
        total.index_add_(0, e.root, e.x * e.weight[:, b : b + 1])
    out = out / e.number.view(-1, 1, 1)
    out = out.squeeze(1) if e.bases is None else out
    return out.to(dtype), torch.empty(0, dtype=torch.int32, device=nbr.device)


@impl("gather_aggregate_backward", "CompositeExplicitAutograd")
def _composite_backward(
    grad: Tensor,
    table: Tensor,
    nbr: Tensor,
    count: Tensor | None,
    weight: Tensor | None,
    indptr: Tensor | None,
    scale: Tensor | None,
    slot: Tensor,
    reduce: int,
    need_table: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor]:
    e = _Edges(table, nbr, count, weight, indptr, scale, reduce, grad.dtype)
    F = table.shape[1]
    g = grad.to(e.acc).view(e.R, -1, F) if grad.numel() else grad.to(e.acc).reshape(e.R, e.weight.shape[1], F)
    g = g / e.number.view(-1, 1, 1)
    d_table = torch.zeros(table.shape if need_table else (0,), dtype=e.acc, device=nbr.device)
    if need_table:
        for b in range(g.shape[1]):
            part = g[:, b][e.root] * e.weight[:, b : b + 1]
            if reduce == MAX:
                part = part.masked_fill(slot[e.root] != e.slot.unsqueeze(1), 0)
            d_table.index_add_(0, e.ids, part)
    d_weight = grad.new_zeros(0)
    if need_weight and weight is not None:
        d_weight = weight.new_zeros((nbr.numel(), g.shape[1]))
        d_weight[e.at] = torch.einsum("ebf,ef->eb", g[e.root], e.x).to(weight.dtype)
        d_weight = d_weight.view(weight.shape)
    return d_table.to(table.dtype if need_table else e.acc), d_weight


@fake("gather_aggregate")
def _fake(
    table: Tensor,
    nbr: Tensor,
    count: Tensor | None,
    weight: Tensor | None,
    indptr: Tensor | None,
    scale: Tensor | None,
    reduce: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    R, F, bases = _roots(nbr, indptr), table.shape[1], bases_of(nbr, weight)
    shape = (R, F) if bases is None else (R, bases, F)
    return nbr.new_empty(shape, dtype=dtype), nbr.new_empty((R, F) if reduce == MAX else (0,), dtype=torch.int32)


@fake("gather_aggregate_backward")
def _fake_backward(
    grad: Tensor,
    table: Tensor,
    nbr: Tensor,
    count: Tensor | None,
    weight: Tensor | None,
    indptr: Tensor | None,
    scale: Tensor | None,
    slot: Tensor,
    reduce: int,
    need_table: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor]:
    d_table = table.new_empty(table.shape) if need_table else grad.new_empty(0)
    return d_table, weight.new_empty(weight.shape) if need_weight and weight is not None else grad.new_empty(0)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:6], output[1])
    ctx.reduce = inputs[6]


def _backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    need_table, need_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[3]
    if grad is None:
        return (None,) * 8
    d_table, d_weight = run(
        torch.ops.gnnaccel.gather_aggregate_backward.default,
        grad,
        *ctx.saved_tensors,
        ctx.reduce,
        need_table,
        need_weight,
    )
    kept = (d_table if need_table else None, d_weight if need_weight else None)
    return kept[0], None, None, kept[1], None, None, None, None


autograd("gather_aggregate", _backward, _setup)
once_differentiable("gather_aggregate_backward")


def check_block(owner: str, nbr: Tensor, count: Tensor | None, indptr: Tensor | None) -> int:
    """Raise for a block whose shapes or dtypes do not fit; returns the number of roots."""
    if nbr.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{owner}: nbr must be int32 or int64, got {nbr.dtype}")
    if indptr is None:
        if nbr.dim() != 2:
            raise ValueError(f"{owner}: nbr must be [R, K] without indptr, got {list(nbr.shape)}")
        if count is not None:
            if count.dtype not in (torch.int32, torch.int64):
                raise TypeError(f"{owner}: count must be int32 or int64, got {count.dtype}")
            if count.shape != nbr.shape[:1]:
                raise ValueError(f"{owner}: count must be {list(nbr.shape[:1])} like nbr, got {list(count.shape)}")
        return nbr.shape[0]
    if nbr.dim() != 1:
        raise ValueError(f"{owner}: nbr must be [M] with indptr, got {list(nbr.shape)}")
    if count is not None:
        raise ValueError(f"{owner}: count must be None with indptr, got a tensor")
    if indptr.dtype != torch.int64:
        raise TypeError(f"{owner}: indptr must be int64, got {indptr.dtype}")
    if indptr.dim() != 1 or indptr.shape[0] < 1:
        raise ValueError(f"{owner}: indptr must be [R + 1], got {list(indptr.shape)}")
    return indptr.shape[0] - 1


def gather_aggregate(
    table: Tensor,
    nbr: Tensor,
    count: Tensor | None = None,
    reduce: str = "mean",
    weight: Tensor | None = None,
    *,
    indptr: Tensor | None = None,
    scale: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Sum, mean or maximum of each root's neighbour rows, converted and weighted on the way.

        out[r] = reduce over the neighbours k of r of  weight[r, k] * scale[u] * table[u],  u = nbr[r, k]

    Neighbours come padded (`nbr [R, K]` with `count [R]`) or as CSR (`nbr [M]` with `indptr [R + 1]`). Nothing of the size of
    the gathered rows exists, forward or backward. Source: the aggregators of Hamilton et al., GraphSAGE, NIPS 2017, and with
    bases the sum of Schlichtkrull et al., R-GCN, ESWC 2018, eq. 3.

    Args:
        table: `[N, F]`, floating or int8. Columns may be a slice of a wider table; it is read in place.
        nbr: Row of each neighbour, int32 or int64, `[R, K]`, or `[M]` with `indptr`. Negative entries are skipped.
        count: Used slots of each row of `nbr [R, K]`, int32 or int64 `[R]`; later slots are not looked at. None: all.
        reduce: "sum", "mean" or "max". "mean" divides by the number of neighbours, with `weight` too.
        weight: Factor of each neighbour, floating, `[R, K]` (CSR: `[M]`); or `[R, K, B]` (`[M, B]`): B sums, each row of the
            table still being read once. Not with "max".
        indptr: Row offsets, int64 `[R + 1]`, from 0 to M, not decreasing.
        scale: Size of one int8 step in each row, float32 `[N]`; with int8 tables only (see `quantize_rows`).
        dtype: Floating dtype of the output; by default that of `table`, float32 for int8.

    Returns:
        `[R, F]`, or `[R, B, F]` with B weights; a root without neighbours has zeros. A NaN wins a maximum.

    Gradients: in a floating `table` and in `weight`; once differentiable. That of a maximum goes to the first slot that has
    it. Half types accumulate in float32, in both directions.

    Determinism: bitwise reproducible, on CPU for any number of threads: gradients are summed in the order of the roots.

    Raises:
        TypeError: An argument has an unsupported dtype.
        ValueError: A shape does not fit, `weight` is given with "max", `scale` is missing for int8, given for a floating table
            or requires grad.
        ValueError: On CPU, a used neighbour is not below N, a count not in `[0, K]`, or `indptr` decreases or does not end at
            M. On CUDA none is checked (that would synchronise); neighbours past the table are skipped.
    """
    name = _NAME
    if table.dtype not in (*FLOATING, torch.int8):
        raise TypeError(f"{name}: table must be float64, float32, float16, bfloat16 or int8, got {table.dtype}")
    if table.dim() != 2:
        raise ValueError(f"{name}: table must be [N, F], got {list(table.shape)}")
    check_block(name, nbr, count, indptr)
    if reduce not in REDUCE:
        raise ValueError(f"{name}: reduce must be 'sum', 'mean' or 'max', got {reduce!r}")
    if weight is not None:
        if reduce == "max":
            raise ValueError(f"{name}: weight must be None with reduce='max', got a tensor")
        if weight.dtype not in FLOATING:
            raise TypeError(f"{name}: weight must be float64, float32, float16 or bfloat16, got {weight.dtype}")
        if weight.shape[: nbr.dim()] != nbr.shape or weight.dim() > nbr.dim() + 1:
            shape = list(nbr.shape)
            expected = f"{shape} like nbr, or {[*shape, 'B']}".replace("'", "")
            raise ValueError(f"{name}: weight must be {expected}, got {list(weight.shape)}")
    if table.dtype == torch.int8:
        if scale is None:
            raise ValueError(f"{name}: scale must be given with an int8 table, got None")
        if scale.dtype != torch.float32:
            raise TypeError(f"{name}: scale must be float32, got {scale.dtype}")
        if scale.shape != table.shape[:1]:
            raise ValueError(f"{name}: scale must be {list(table.shape[:1])} like table, got {list(scale.shape)}")
        if scale.requires_grad:
            raise ValueError(f"{name}: scale must not require grad (it is data), got a tensor that does; detach it")
    elif scale is not None:
        raise ValueError(f"{name}: scale must be None with a table of {table.dtype}, got a tensor")
    if dtype is None:
        dtype = torch.float32 if table.dtype == torch.int8 else table.dtype
    elif dtype not in FLOATING:
        raise TypeError(f"{name}: dtype must be float64, float32, float16 or bfloat16, got {dtype}")
    return run(
        torch.ops.gnnaccel.gather_aggregate.default, table, nbr, count, weight, indptr, scale, REDUCE[reduce], dtype
    )[0]
