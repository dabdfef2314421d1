"""Graph convolutions over sampled hops and whole graphs: GraphSAGE, GAT, R-GCN.

All take `block`, who sends to whom: a `HopBlock` of `sample_hops`, whose destinations are the first of its sources, or the
`GraphRows` of a whole graph, whose destinations are consecutive nodes. `x` has a row for each source, or is a `TableRows`: rows
of a feature table that are read where they lie.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from gnnaccel.graph.whole import GraphRows, with_self
from gnnaccel.nn.linear import Linear
from gnnaccel.ops import edge_softmax_aggregate, gather_aggregate, gather_rows
from gnnaccel.ops._dual_linear import dual_linear
from gnnaccel.ops._linear import row_invariant_linear


class Neighbors(Protocol):
    """Of each destination its sources: `row` is `[R, K]` with `count [R]`, -1 past it, or `[M]` with `indptr [R + 1]`."""

    @property
    def row(self) -> Tensor: ...
    @property
    def count(self) -> Tensor | None: ...
    @property
    def relation(self) -> Tensor | None: ...


class TableRows(NamedTuple):
    """Rows `ids` of a table (all of them without `ids`) that nobody has gathered yet.

    Attributes:
        table: `[N, F]`, floating, or int8 with `scale`.
        ids: int32 or int64 `[S]`, or None.
        scale: Size of one int8 step in each row, float32 `[N]`.
        direct: The block's `row` holds rows of the table, not positions in `ids`, which then has the destinations alone: the
            outermost hop need not be numbered.
        device: Where rows are wanted; by default where the table lies. A table in pinned host memory is read from there.
    """

    table: Tensor
    ids: Tensor | None = None
    scale: Tensor | None = None
    direct: bool = False
    device: torch.device | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return (len(self.table if self.ids is None else self.ids), self.table.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """What rows are computed in: float32, or float64 of a float64 table."""
        return torch.float64 if self.table.dtype == torch.float64 else torch.float32

    def gather(self, part: slice = slice(None)) -> Tensor:
        """The rows of `part`, in `dtype`."""
        device = self.device or self.table.device
        if self.ids is None and self.table.dtype == self.dtype:
            return self.table[part].to(device, non_blocking=True)
        ids = self.ids
        if ids is None:
            ids = torch.arange(len(self.table), device=device)
        return gather_rows(self.table, ids[part], self.scale, dtype=self.dtype)


Source = Tensor | TableRows


def _indptr(block: Any) -> Tensor | None:
    return getattr(block, "indptr", None)


class _WithPart(torch.autograd.Function):
    """`x`, and rows of it, whose gradient is added where it belongs: slicing makes a matrix of zeros and adds the whole."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
        ctx.part = slice(start, stop)
        return x.view_as(x), x[start:stop]

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_part: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        total = grad if grad.is_contiguous() else grad.contiguous()
        total[ctx.part] += grad_part  # nobody else holds the gradient of a view that one op reads
        return total, None, None


def _split(x: Source, block: Any) -> tuple[Source, Tensor]:
    """`x`, and the rows of the destinations among it."""
    indptr = _indptr(block)
    start = block.start if indptr is not None else 0
    stop = start + (len(block.row) if indptr is None else len(indptr) - 1)
    if isinstance(x, TableRows):
        return x, x.gather(slice(start, stop))
    if x.requires_grad and torch.is_grad_enabled():
        return _WithPart.apply(x, start, stop)  # type: ignore[return-value]
    return x, x[start:stop]


def _aggregate(x: Source, block: Any, reduce: str, weight: Tensor | None = None) -> Tensor:
    """`gather_aggregate` of `x` over `block`, from the table itself if that has not been gathered."""
    indptr = _indptr(block)
    row, scale, dtype = block.row, None, None
    if isinstance(x, TableRows):
        if (
            x.ids is not None and not x.direct
        ):  # positions among the sources, to rows of the table; padding stays what it is
            row = torch.where(row >= 0, x.ids[row.clamp(min=0)], -1)
        x, scale, dtype = x.table, x.scale, x.dtype
    return gather_aggregate(x, row, block.count, reduce, weight, indptr=indptr, scale=scale, dtype=dtype)


class SAGEConv(nn.Module):
    """GraphSAGE (Hamilton et al., NeurIPS 2017): `h_v = W_self x_v + W_nbr reduce_u(x_u) + b`.

    Args:
        dim_in: Width of a source's row.
        dim_out: Width of the result.
        reduce: "mean", "sum" or "max" over the neighbours. Without neighbours it is 0.
        bias: Whether there is b.

    The neighbours' rows are aggregated where they lie and never gathered. Where that costs less (narrower results, few sources
    more than destinations), `W_nbr x_u` is formed first: the same function for "mean" and "sum".

    Determinism: bitwise reproducible on CPU for any number of threads.
    """

    fuses_relu = True

    def __init__(self, dim_in: int, dim_out: int, *, reduce: str = "mean", bias: bool = True) -> None:
        super().__init__()
        if reduce not in ("mean", "sum", "max"):
            raise ValueError(f"SAGEConv: reduce must be mean, sum or max, got {reduce!r}")
        self.dim_in, self.dim_out, self.reduce = dim_in, dim_out, reduce
        self.self = Linear(dim_in, dim_out, bias=bias)
        self.neighbor = Linear(dim_in, dim_out, bias=False)

    @property
    def projects(self) -> bool:
        """Whether `project` is worth its while for a whole graph."""
        return self.reduce != "max" and self.dim_out < self.dim_in

    def project(self, x: Tensor) -> Tensor:
        """What `forward` takes as `projected`, of any rows `[n, dim_in]`."""
        return self.neighbor(x)

    def _project_first(self, x: Source, block: Any) -> bool:
        if not self.projects or (isinstance(x, TableRows) and x.direct):
            return False
        # row traffic against products, at some 8 GB/s and 80 GFLOP/s: a choice by shapes alone, so the bits stay the same
        sources, slots = x.shape[0], block.row.numel()
        rows = len(block.row) if _indptr(block) is None else block.num_dst
        first = sources * self.dim_in * self.dim_out / 40 + slots * self.dim_out / 2 + sources * self.dim_in / 2
        later = rows * self.dim_in * self.dim_out / 40 + slots * self.dim_in / 2
        return first < later

    def forward(
        self,
        x: Source,
        block: Neighbors,
        *,
        dst: Tensor | None = None,
        projected: Tensor | None = None,
        seed: int = 0,
        relu: bool = False,
    ) -> Tensor:
        """`[R, dim_out]`.

        Args:
            x: Rows of the sources, `[S, dim_in]`.
            block: See the module.
            dst: Rows of the destinations, `[R, dim_in]`; by default they are found among `x`.
            projected: `project` of all sources, if that was done before.
            seed: Unused.
            relu: Whether negative results become 0.
        """
        first = projected is None and self._project_first(x, block)
        if first and isinstance(x, TableRows):
            x = x.gather()
        if dst is None:
            x, dst = _split(x, block)
        if first:
            assert isinstance(x, Tensor)
            projected = self.project(x)
        if projected is not None:
            # in place: the product does not keep its result for the backward pass
            out = self.self(dst).add_(_aggregate(projected, block, self.reduce))
            return out.relu_() if relu else out
        near = _aggregate(x, block, self.reduce)
        return dual_linear(dst, self.self.weight, self.self.bias, near, self.neighbor.weight, relu)


class GATConv(nn.Module):
    """Graph attention (Velickovic et al., ICLR 2018), each node a neighbour of itself:
    `h_v = sum_u softmax_u(leaky_relu(a_src . W x_u + a_dst . W x_v)) W x_u + b`, heads side by side or averaged.

    Args:
        dim_in: Width of a source's row.
        dim_out: Width of a head's result.
        heads: H.
        concat: Whether results of heads stand side by side (`[R, H * dim_out]`) or are averaged (`[R, dim_out]`).
        negative_slope: Of the leaky ReLU.
        dropout: Of the attention weights, in training.
        self_loops: Whether a node attends to itself too.
        bias: Whether there is b.

    Determinism: bitwise reproducible on CPU for any number of threads; dropout by the seed of the call.
    """

    projects = True
    fuses_relu = False

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        heads: int = 1,
        *,
        concat: bool = True,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        self_loops: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"GATConv: dropout must be in [0, 1), got {dropout}")
        self.dim_in, self.heads, self.width, self.concat = dim_in, heads, dim_out, concat
        self.dim_out = heads * dim_out if concat else dim_out
        self.negative_slope, self.dropout, self.self_loops = negative_slope, dropout, self_loops
        self.linear = Linear(dim_in, heads * dim_out, bias=False)
        self.src = nn.Parameter(torch.empty(heads, dim_out))
        self.dst = nn.Parameter(torch.empty(heads, dim_out))
        self.bias = nn.Parameter(torch.zeros(self.dim_out)) if bias else None
        for weight in (self.linear.weight, self.src, self.dst):
            nn.init.xavier_uniform_(weight)

    def project(self, x: Tensor) -> Tensor:
        """What `forward` takes as `projected`, of any rows `[n, dim_in]`."""
        return self.linear(x)

    def _with_self(self, block: Any) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(row, count, indptr) with the destinations themselves, if they attend to themselves."""
        if not self.self_loops:
            return block.row, block.count, _indptr(block)
        if _indptr(block) is not None:
            whole: GraphRows = with_self(block)
            return whole.row, None, whole.indptr
        own = torch.arange(len(block.row), dtype=block.row.dtype, device=block.row.device)
        count = None if block.count is None else block.count + 1
        return torch.cat([own[:, None], block.row], 1), count, None

    def forward(
        self,
        x: Source | None,
        block: Neighbors,
        *,
        dst: Tensor | None = None,
        projected: Tensor | None = None,
        seed: int = 0,
    ) -> Tensor:
        """`[R, H * dim_out]`, or `[R, dim_out]`.

        Args:
            x: Rows of the sources, `[S, dim_in]`; unread with `projected`.
            block: See the module.
            dst: Unused: destinations are among the sources.
            projected: `project` of all sources, if that was done before.
            seed: Of the dropout of attention weights; give a new one each step.
        """
        if projected is None:
            assert x is not None
            projected = self.project(x.gather() if isinstance(x, TableRows) else x)
        both, own = _split(projected, block)
        assert isinstance(both, Tensor)
        projected = both
        h = projected.view(len(projected), self.heads, self.width)
        row, count, indptr = self._with_self(block)
        out = edge_softmax_aggregate(
            h,
            row_invariant_linear(projected, torch.block_diag(*self.src[:, None]), None),
            row_invariant_linear(own, torch.block_diag(*self.dst[:, None]), None),
            row,
            count,
            indptr=indptr,
            negative_slope=self.negative_slope,
            dropout=self.dropout if self.training else 0.0,
            seed=seed,
        )
        out = out.flatten(1) if self.concat else out.mean(1)
        return out if self.bias is None else out + self.bias


class RGCNConv(nn.Module):
    """Relational graph convolution (Schlichtkrull et al., ESWC 2018), with bases:
    `h_v = W_0 x_v + sum_b V_b sum_u a_{r(u), b} / c_{v, r(u)} x_u + bias`, c being v's number of neighbours by relation r.

    Args:
        dim_in: Width of a source's row.
        dim_out: Width of the result.
        num_relations: How many there are.
        num_bases: B; by default a matrix of its own for each relation up to 8 relations, and 8 bases beyond.
        bias: Whether there is one.

    All bases are aggregated in one pass over the neighbours' rows, before any product.

    Determinism: bitwise reproducible on CPU for any number of threads.
    """

    projects = False
    fuses_relu = True

    def __init__(
        self, dim_in: int, dim_out: int, num_relations: int, *, num_bases: int | None = None, bias: bool = True
    ) -> None:
        super().__init__()
        if num_relations < 1:
            raise ValueError(f"RGCNConv: num_relations must be at least 1, got {num_relations}")
        if num_bases is not None and not 1 <= num_bases <= num_relations:
            raise ValueError(f"RGCNConv: num_bases must be in [1, {num_relations}] (num_relations), got {num_bases}")
        self.dim_in, self.dim_out, self.num_relations = dim_in, dim_out, num_relations
        self.num_bases = min(num_relations, 8) if num_bases is None else num_bases
        self.self = Linear(dim_in, dim_out, bias=bias)
        self.bases = Linear(self.num_bases * dim_in, dim_out, bias=False)
        bound = math.sqrt(6 / (dim_in + dim_out))
        nn.init.uniform_(self.bases.weight, -bound, bound)
        mix = (
            torch.eye(num_relations) if self.num_bases == num_relations else torch.empty(num_relations, self.num_bases)
        )
        self.mix = nn.Parameter(mix, requires_grad=self.num_bases < num_relations)
        if self.mix.requires_grad:
            nn.init.xavier_uniform_(self.mix)

    def _weights(self, block: Any) -> Tensor:
        """Of each neighbour for each basis, shape of `block.row` and `[B]`."""
        row, relation, indptr = block.row, block.relation, _indptr(block)
        if relation is None:
            relation = row.clamp(max=0)
        if indptr is None:
            of = torch.arange(len(row), device=row.device)[:, None].expand_as(row)
        else:
            of = torch.repeat_interleave(torch.arange(len(indptr) - 1, device=row.device), indptr.diff())
        real = row >= 0
        kind = torch.where(real, relation.long(), -1)
        cell = (of * self.num_relations + kind)[real]
        rows = len(row) if indptr is None else len(indptr) - 1
        count = torch.bincount(cell, minlength=rows * self.num_relations)
        share = torch.zeros(row.shape, dtype=self.mix.dtype, device=row.device)
        share[real] = 1 / count[cell].to(share.dtype)
        return gather_rows(self.mix, kind) * share.unsqueeze(-1)

    def forward(
        self,
        x: Source,
        block: Neighbors,
        *,
        dst: Tensor | None = None,
        projected: None = None,
        seed: int = 0,
        relu: bool = False,
    ) -> Tensor:
        """`[R, dim_out]`; arguments as of `SAGEConv`. Without relations in `block` all edges have relation 0."""
        if dst is None:
            x, dst = _split(x, block)
        z = _aggregate(x, block, "sum", self._weights(block))
        return dual_linear(dst, self.self.weight, self.self.bias, z.flatten(1), self.bases.weight, relu)
