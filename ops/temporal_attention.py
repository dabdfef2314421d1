"""`temporal_attention`: attention over temporal neighbours with absorbed key and value projections."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._library import autograd, check_seed, define, fake, impl, keyed, once_differentiable, seeded
from gnnaccel.ops._philox import LOW, philox4x32

#: Slope for negative logits by `activation`.
SLOPES = {"none": 1.0, "leaky_relu": 0.2}

_INPUTS = "Tensor nbr_row, Tensor edge_row, Tensor dt, Tensor count, Tensor time_w, Tensor time_b"
_OPTIONS = "float scale, float slope, float dropout, SymInt seed, bool deterministic"
# the third result, the logits u.x + c [R, H, K], is what the backward pass starts from
define(
    f"temporal_attention(Tensor u, Tensor c, Tensor node_table, Tensor? edge_table, {_INPUTS}, {_OPTIONS})"
    " -> (Tensor, Tensor, Tensor)"
)
define(
    "temporal_attention_backward(Tensor grad_z, Tensor grad_s, Tensor u, Tensor node_table, Tensor? edge_table, "
    f"{_INPUTS}, Tensor logit, {_OPTIONS}, bool need_node, bool need_edge)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


@impl("temporal_attention", "CUDA")
def _cuda(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    from gnnaccel.kernels.triton.temporal_attention import temporal_attention_fwd

    return temporal_attention_fwd(*args)


@impl("temporal_attention_backward", "CUDA")
def _cuda_backward(*args: Any) -> tuple[Tensor, ...]:
    from gnnaccel.kernels.triton.temporal_attention import temporal_attention_bwd

    return temporal_attention_bwd(*args)


def acc_dtype(u: Tensor) -> torch.dtype:
    return torch.float64 if u.dtype == torch.float64 else torch.float32


def _dropout_mask(R: int, H: int, K: int, dropout: float, seed: int, device: torch.device) -> Tensor:
    """0 or 1 / (1 - dropout), `[R, H, K]` float64: Philox4x32-10 with key `seed`, counter (root, head, slot // 4)."""
    root = torch.arange(R, device=device).view(-1, 1, 1)
    head = torch.arange(H, device=device).view(1, -1, 1)
    block = torch.arange((K + 3) // 4, device=device).view(1, 1, -1)
    counter = torch.broadcast_tensors(root & LOW, head, block, root >> 32)
    words = torch.stack(philox4x32(counter, seed), dim=-1).flatten(2)[:, :, :K]
    return ((words >> 8) >= int(dropout * 2**24)).to(torch.float64) / (1.0 - dropout)


class _Parts:
    """The three parts of x `[R, K, .]` in the accumulation dtype, padding zeroed. For the plain-torch fallback only."""

    def __init__(
        self,
        u: Tensor,
        node_table: Tensor,
        edge_table: Tensor | None,
        nbr_row: Tensor,
        edge_row: Tensor,
        dt: Tensor,
        count: Tensor,
        time_w: Tensor,
        time_b: Tensor,
    ) -> None:
        acc = acc_dtype(u)
        self.live = torch.arange(nbr_row.shape[1], device=u.device) < count.unsqueeze(1)
        self.rows = [(node_table, torch.where(self.live, nbr_row, 0).long())]
        if edge_table is not None:
            self.rows.append((edge_table, torch.where(self.live, edge_row, 0).long()))
        self.dt = torch.where(self.live, dt, 0).to(torch.float64)
        self.angle = self.dt.unsqueeze(-1) * time_w.to(torch.float64) + time_b.to(torch.float64)
        self.sizes = [node_table.shape[1], 0 if edge_table is None else edge_table.shape[1], time_w.shape[0]]
        # with no live slot a table may be empty, and there is no row 0 to stand in
        x = [table[row] if len(table) else table.new_zeros((*row.shape, table.shape[1])) for table, row in self.rows]
        x = [part.to(acc) for part in x] + [torch.cos(self.angle).to(acc)]
        self.x = torch.cat(x, dim=-1) * self.live.unsqueeze(-1)


def time_gradient(
    dx: Tensor, angle: Tensor, dt: Tensor, live: Tensor, time_w: Tensor, time_b: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of `time_w` and `time_b` from that of the time encoding, `[R, K, T]`, at float64 angles and times."""
    d_angle = -torch.sin(angle) * dx.to(torch.float64) * live.unsqueeze(-1)
    dw = (d_angle * dt.unsqueeze(-1)).sum((0, 1)).to(time_w.dtype)
    return dw, d_angle.sum((0, 1)).to(time_b.dtype)


def _softmax(logit: Tensor, live: Tensor, scale: float, slope: float) -> Tensor:
    v = torch.nn.functional.leaky_relu(scale * logit, slope)
    v = v.masked_fill(~live.unsqueeze(1), -torch.inf)
    return torch.nan_to_num(torch.softmax(v, dim=-1)) if v.shape[-1] else v


def attend(
    u: Tensor, c: Tensor, x: Tensor, live: Tensor, scale: float, slope: float, dropout: float, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """z, s and logits from rows x `[R, K, F]` that are zero where `live [R, K]` is False. For fallbacks."""
    (R, H, _), K, acc = u.shape, x.shape[1], acc_dtype(u)
    logit = torch.einsum("rhf,rkf->rhk", u.to(acc), x) + c.to(acc).unsqueeze(-1)
    logit = logit.masked_fill(~live.unsqueeze(1), 0)
    p = _softmax(logit, live, scale, slope)
    if dropout > 0:
        p = p * _dropout_mask(R, H, K, dropout, seed, u.device).to(acc)
    return torch.einsum("rhk,rkf->rhf", p, x).to(u.dtype), p.sum(-1).to(u.dtype), logit


def attend_backward(
    grad_z: Tensor,
    grad_s: Tensor,
    u: Tensor,
    x: Tensor,
    live: Tensor,
    logit: Tensor,
    scale: float,
    slope: float,
    dropout: float,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of u, c and x, the last in the accumulation dtype."""
    (R, H, _), K, acc = u.shape, x.shape[1], acc_dtype(u)
    dz = grad_z.to(acc)
    p = _softmax(logit, live, scale, slope)
    dp = torch.einsum("rhf,rkf->rhk", dz, x) + grad_s.to(acc).unsqueeze(-1)
    kept = p
    if dropout > 0:
        mask = _dropout_mask(R, H, K, dropout, seed, u.device).to(acc)
        kept, dp = p * mask, dp * mask
    slopes = torch.full_like(logit, slope).masked_fill(scale * logit > 0, 1.0)
    e = p * (dp - (p * dp).sum(-1, keepdim=True)) * scale * slopes
    du = torch.einsum("rhk,rkf->rhf", e, x)
    dx = torch.einsum("rhk,rhf->rkf", kept, dz) + torch.einsum("rhk,rhf->rkf", e, u.to(acc))
    return du.to(u.dtype), e.sum(-1).to(u.dtype), dx


@impl("temporal_attention", "CompositeExplicitAutograd")
def _composite(
    u: Tensor,
    c: Tensor,
    node_table: Tensor,
    edge_table: Tensor | None,
    nbr_row: Tensor,
    edge_row: Tensor,
    dt: Tensor,
    count: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    scale: float,
    slope: float,
    dropout: float,
    seed: int,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    parts = _Parts(u, node_table, edge_table, nbr_row, edge_row, dt, count, time_w, time_b)
    return attend(u, c, parts.x, parts.live, scale, slope, dropout, seed)


@impl("temporal_attention_backward", "CompositeExplicitAutograd")
def _composite_backward(
    grad_z: Tensor,
    grad_s: Tensor,
    u: Tensor,
    node_table: Tensor,
    edge_table: Tensor | None,
    nbr_row: Tensor,
    edge_row: Tensor,
    dt: Tensor,
    count: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    logit: Tensor,
    scale: float,
    slope: float,
    dropout: float,
    seed: int,
    deterministic: bool,
    need_node: bool,
    need_edge: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    acc = acc_dtype(u)
    parts = _Parts(u, node_table, edge_table, nbr_row, edge_row, dt, count, time_w, time_b)
    du, dc, dx = attend_backward(grad_z, grad_s, u, parts.x, parts.live, logit, scale, slope, dropout, seed)
    dx_parts = dx.split(parts.sizes, dim=-1)
    grads = []
    for need, part, (table, row) in zip((need_node, need_edge), dx_parts, parts.rows, strict=False):
        grad = torch.zeros(table.shape if need else (0,), dtype=acc, device=u.device)
        if need and len(table):
            grad.index_add_(0, row.reshape(-1), part.reshape(row.numel(), table.shape[1]))
        grads.append(grad.to(table.dtype))
    if edge_table is None:
        grads.append(u.new_zeros(0))
    d_time = time_gradient(dx_parts[2], parts.angle, parts.dt, parts.live, time_w, time_b)
    return du, dc, grads[0], grads[1], *d_time


@fake("temporal_attention")
def _fake(u: Tensor, c: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    (R, H, F), K = u.shape, args[2].shape[1]
    return u.new_empty((R, H, F)), u.new_empty((R, H)), u.new_empty((R, H, K), dtype=acc_dtype(u))


@fake("temporal_attention_backward")
def _fake_backward(
    grad_z: Tensor, grad_s: Tensor, u: Tensor, node_table: Tensor, edge_table: Tensor | None, *args: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    time_w, time_b, (need_node, need_edge) = args[4], args[5], args[-2:]
    edge = node_table if edge_table is None else edge_table
    return (
        u.new_empty(u.shape),
        u.new_empty(u.shape[:2]),
        node_table.new_empty(node_table.shape if need_node else (0,)),
        edge.new_empty(edge.shape if need_edge else (0,)),
        time_w.new_empty(time_w.shape),
        time_b.new_empty(time_b.shape),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    u, _, *tensors = inputs[:10]
    ctx.save_for_backward(u, *tensors, output[2])
    ctx.options = inputs[10:]


def _backward(ctx: Any, grad_z: Tensor, grad_s: Tensor, grad_logit: Tensor) -> tuple[Tensor | None, ...]:
    need = ctx.needs_input_grad
    *_, seed, _ = ctx.options
    du, dc, d_node, d_edge, dw, db = seeded("temporal_attention_backward", seed)(
        grad_z, grad_s, *ctx.saved_tensors, *ctx.options, need[2], need[3]
    )
    tables = (d_node if need[2] else None, d_edge if need[3] else None)
    return du, dc, *tables, None, None, None, None, dw, db, None, None, None, None, None


autograd("temporal_attention", _backward, _setup)
once_differentiable("temporal_attention_backward")
keyed("temporal_attention", "temporal_attention_backward")


def check_block(
    op: str,
    query: str,
    q: Tensor,
    R: int,
    roots: str,
    node_table: Tensor,
    edge_table: Tensor | None,
    nbr_row: Tensor,
    edge_row: Tensor,
    dt: Tensor,
    count: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    activation: str,
    dropout: float,
) -> int:
    """Raise for what `op` cannot take, whose argument `query` is `q` and whose R roots are those of its argument `roots`.

    Returns the columns of a neighbour's row.
    """

    def check(name: str, ok: bool, expected: str, given: Any, error: type[Exception] = ValueError) -> None:
        if not ok:
            raise error(f"{op}: {name} must be {expected}, got {given}")

    check(query, q.dtype.is_floating_point, "floating", q.dtype, TypeError)
    check("node_table", node_table.dtype == q.dtype, f"{q.dtype} like {query}", node_table.dtype, TypeError)
    if edge_table is not None:
        check("edge_table", edge_table.dtype.is_floating_point, "floating", edge_table.dtype, TypeError)
        check("edge_table", edge_table.dim() == 2, "[E, De]", list(edge_table.shape))
    for name, row in (("nbr_row", nbr_row), ("edge_row", edge_row)):
        check(name, row.dtype in (torch.int32, torch.int64), "int32 or int64", row.dtype, TypeError)
    times = (torch.int64, torch.float64, torch.float32)
    check("dt", dt.dtype in times, "int64, float64 or float32", dt.dtype, TypeError)
    check("count", count.dtype == torch.int32, "int32", count.dtype, TypeError)
    check("time_w", time_w.dtype.is_floating_point, "floating", time_w.dtype, TypeError)
    check("time_b", time_b.dtype == time_w.dtype, f"{time_w.dtype} like time_w", time_b.dtype, TypeError)
    check("node_table", node_table.dim() == 2, "[U, Dn]", list(node_table.shape))
    check("nbr_row", nbr_row.dim() == 2 and nbr_row.shape[0] == R, f"[R, K] with R of {roots}", list(nbr_row.shape))
    check("time_w", time_w.dim() == 1, "[T]", list(time_w.shape))
    check("time_b", time_b.shape == time_w.shape, "[T] like time_w", list(time_b.shape))
    check("edge_row", edge_row.shape == nbr_row.shape, "[R, K] like nbr_row", list(edge_row.shape))
    check("dt", dt.shape == nbr_row.shape, "[R, K] like nbr_row", list(dt.shape))
    check("count", count.dim() == 1 and count.shape[0] == R, f"[R] with R of {roots}", list(count.shape))
    check("dt", not dt.requires_grad, "without grad (it is data)", "a tensor that requires it; detach it")
    check("activation", activation in SLOPES, f"one of {sorted(SLOPES)}", repr(activation))
    check("dropout", 0.0 <= dropout < 1.0, "in [0, 1)", dropout)
    return node_table.shape[1] + (0 if edge_table is None else edge_table.shape[1]) + time_w.shape[0]


def temporal_attention(
    u: Tensor,
    c: Tensor,
    node_table: Tensor,
    edge_table: Tensor | None,
    nbr_row: Tensor,
    edge_row: Tensor,
    dt: Tensor,
    count: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    scale: float = 1.0,
    activation: str = "none",
    dropout: float = 0.0,
    seed: int | Tensor = 0,
    deterministic: bool = True,
) -> tuple[Tensor, Tensor]:
    """Attention of R roots over their K temporal neighbours, without projecting the neighbours.

    With `x_rk = [node_table[nbr_row] | edge_table[edge_row] | cos(dt * time_w + time_b)]` in `R^F`, F = Dn + De + T:

        logit_rhk = act(scale * (u_rh . x_rk + c_rh))
        p_rh      = dropout(softmax of logit_rh over the first count[r] slots)
        z_rh      = sum_k p_rhk x_rk,    s_rh = sum_k p_rhk

    Attention with keys `Wk_h x + bk_h` and values `Wv_h x + bv_h` is the same function for `u_rh = Wk_h^T q_rh`,
    `c_rh = q_rh . bk_h` and `out_rh = Wv_h z_rh + s_rh bv_h`: two products of R rows instead of R * K
    (`gnnaccel.nn.TemporalAttention` does them). Layer: Xu et al., TGAT, ICLR 2020, eq. 7; softmax in one pass as in
    Milakov and Gimelshein, 2018.

    Args:
        u: Queries in the space of x, `[R, H, F]`, floating; any strides of R and H. Half types accumulate in float32.
        c: Constant of the logits, `[R, H]`, dtype of `u`.
        node_table: Node rows, `[U, Dn]`, dtype of `u`.
        edge_table: Edge rows, `[E, De]`, any floating dtype, or None for no edge part (`edge_row` is then ignored).
        nbr_row: Row of each neighbour in `node_table`, `[R, K]`, int32 or int64. Slots past `count` are not looked at.
        edge_row: Row of each neighbour's edge in `edge_table`, `[R, K]`, int32 or int64.
        dt: Time differences, `[R, K]`, int64, float64 or float32.
        count: Number of neighbours, `[R]`, int32, in `[0, K]`; the first `count[r]` slots of row r are used.
        time_w, time_b: Frequencies (radians per unit of time) and phases (radians), `[T]`, floating. Angles are reduced in
            float64, see `time_encode`.
        scale: Factor of the logits.
        activation: "none" or "leaky_relu" (slope 0.2, as in TGL), applied to the scaled logits.
        dropout: Rate in `[0, 1)`; kept weights are scaled by `1 / (1 - dropout)`.
        seed: Seed of the dropout: the mask is a function of (seed, root, head, slot), the same on every device. A number, or an
            int64 tensor of one element, which is read when the op runs: a replayed CUDA graph sees what is in it then.
        deterministic: On CUDA, False lets the gradients of the tables be added up by atomics. True sorts by row instead.

    Returns:
        z `[R, H, F]` and s `[R, H]`, dtype of `u`. A root without neighbours has z = 0 and s = 0.

    Gradients: `u`, `c`, `node_table`, `edge_table` (only if it requires grad), `time_w`, `time_b`; once differentiable.

    Determinism: bitwise reproducible, on CPU for any number of threads; on CUDA the gradients of the tables only with
    `deterministic=True`.

    Raises:
        TypeError: An argument has an unsupported dtype.
        ValueError: Shapes disagree, or an option is out of its range.
        ValueError: On CPU, a used row or a count is out of range. On CUDA neither is checked (that would synchronise).
    """
    name = "temporal_attention"
    if u.dim() != 3:
        raise ValueError(f"{name}: u must be [R, H, F], got {list(u.shape)}")
    F = check_block(
        name,
        "u",
        u,
        u.shape[0],
        "u",
        node_table,
        edge_table,
        nbr_row,
        edge_row,
        dt,
        count,
        time_w,
        time_b,
        activation,
        dropout,
    )
    if u.shape[2] != F:
        expected = f"[R, H, {F}] (columns of node_table, edge_table and time_w)"
        raise ValueError(f"{name}: u must be {expected}, got {list(u.shape)}")
    if c.dtype != u.dtype:
        raise TypeError(f"{name}: c must be {u.dtype} like u, got {c.dtype}")
    if c.shape != u.shape[:2]:
        raise ValueError(f"{name}: c must be [R, H] of u, got {list(c.shape)}")
    check_seed(name, seed)
    z, s, _ = seeded(name, seed)(
        u,
        c,
        node_table,
        edge_table,
        nbr_row,
        edge_row,
        dt,
        count,
        time_w,
        time_b,
        scale,
        SLOPES[activation],
        dropout,
        seed,
        deterministic,
    )
    return z, s
