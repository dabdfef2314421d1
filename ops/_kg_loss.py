"""`kg_loss_rows`, `kg_loss_ids`, `kg_loss_projected`: query, scores, loss, gradients in one pass over candidates. Internal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._kg_compare import L1
from gnnaccel.ops._kg_project import _pairs
from gnnaccel.ops._library import autograd, define, fake, impl, once_differentiable

# how a query is made of an entity row and a relation row; the second of two is that of heads
GIVEN, PLUS, MINUS, TIMES, TURN, TURN_BACK, ROTATE, ROTATE_BACK, CROSS, CROSS_BACK = range(10)
LOSSES = ("logsigmoid", "hinge", "bce", "pairwise_hinge", "pairwise_logistic", "softmax")
LOGSIGMOID, HINGE, BCE, PAIRWISE_HINGE, PAIRWISE_LOGISTIC, SOFTMAX = range(6)

# e, other [B, D], r [B, .] (not read for GIVEN), neg [C, N, D], weight [B], indptr [B + 1], position [P]; the loss is a number
# of neg's dtype. Its gradients are made with it (empty without `grads`), and `backward` only scales them. On CUDA `position`
# may be bits [B, ceil(N / 32)], int32, then without indptr.
_OPTIONS = "Tensor? weight, Tensor? indptr, Tensor? position"
_NUMBERS = "int loss, float gamma, float margin, float? temperature, bool grads"
define(
    f"kg_loss_rows(Tensor e, Tensor r, Tensor other, Tensor neg, {_OPTIONS}, int operation, int kind, {_NUMBERS})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
# As kg_loss_rows, with gradients, of rows of tables by id: entity [E, D], relation [R, .] of the same dtype, float32 or
# float64; e, r, other [B] and neg [C, N] int64
define(
    f"kg_loss_ids(Tensor entity, Tensor relation, Tensor e, Tensor r, Tensor other, Tensor neg, {_OPTIONS}, int operation,"
    " int kind, int loss, float gamma, float margin, float? temperature) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
# q, other [B, M], w [R, D, M], relation [B]: candidates through the matrix of the relation, then L1
define(
    f"kg_loss_projected(Tensor q, Tensor other, Tensor neg, Tensor w, Tensor relation, {_OPTIONS}, {_NUMBERS})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
define("kg_loss_backward(Tensor grad, Tensor a, Tensor b, Tensor c, Tensor d) -> (Tensor, Tensor, Tensor, Tensor)")

_TILE = 1 << 20  # scores of a tile


def query(operation: int, e: Tensor, r: Tensor) -> Tensor:
    """Queries `[B, D]`, compared with tails, or with heads."""
    if operation == GIVEN:
        return e
    if operation in (PLUS, MINUS):
        return e + r if operation == PLUS else e - r
    if operation == TIMES:
        return e * r
    a, b = e.chunk(2, -1)
    if operation in (CROSS, CROSS_BACK):
        to_b, to_a = r.chunk(2, -1) if operation == CROSS else r.chunk(2, -1)[::-1]
        return torch.cat([b * to_a, a * to_b], -1) / 2
    re, im = r.chunk(2, -1) if operation in (TURN, TURN_BACK) else (torch.cos(r), torch.sin(r))
    im = -im if operation in (TURN_BACK, ROTATE_BACK) else im
    return torch.cat([a * re - b * im, a * im + b * re], -1)


def query_gradients(operation: int, dq: Tensor, e: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of e and r from that of the query."""
    if operation == GIVEN:
        return dq, torch.zeros_like(r)
    if operation in (PLUS, MINUS):
        return dq, dq if operation == PLUS else -dq
    if operation == TIMES:
        return dq * r, dq * e
    (a, b), (x, y) = e.chunk(2, -1), dq.chunk(2, -1)
    if operation in (CROSS, CROSS_BACK):
        to_b, to_a = r.chunk(2, -1) if operation == CROSS else r.chunk(2, -1)[::-1]
        made = [y * a / 2, x * b / 2]
        return torch.cat([y * to_b, x * to_a], -1) / 2, torch.cat(made if operation == CROSS else made[::-1], -1)
    back = -1 if operation in (TURN_BACK, ROTATE_BACK) else 1
    re, im = r.chunk(2, -1) if operation in (TURN, TURN_BACK) else (torch.cos(r), torch.sin(r))
    de = torch.cat([x * re + back * y * im, y * re - back * x * im], -1)
    if operation in (TURN, TURN_BACK):
        return de, torch.cat([x * a + y * b, back * (y * a - x * b)], -1)
    return de, back * (y * (a * re - back * b * im) - x * (back * a * im + b * re))


def _softplus(y: Tensor) -> Tensor:
    # torch's own turns linear at 20
    return torch.logaddexp(y, torch.zeros_like(y))


def row_losses(
    x_pos: Tensor, x: Tensor, count: Tensor, loss: int, margin: float, temperature: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of rows and their gradients in x_pos `[n]` and x `[n, N]`, -inf where there is no candidate."""
    if loss == SOFTMAX:
        every = torch.cat([x_pos.unsqueeze(1), x], 1)
        p = torch.softmax(every, 1)
        return torch.logsumexp(every, 1) - x_pos, -p[:, 1:].sum(1), p[:, 1:]
    some = (count > 0).unsqueeze(1)
    if loss == BCE:
        w = (1 / (1 + count)).unsqueeze(1).expand_as(x)
    elif temperature is None:
        w = (some / count.clamp(min=1).unsqueeze(1)).expand_as(x)
    else:
        w = torch.softmax(torch.where(some, temperature * x, 0.0), 1) * some
    pairwise = loss in (PAIRWISE_HINGE, PAIRWISE_LOGISTIC)
    shift = torch.full_like(x_pos, margin if loss != BCE else 0.0)
    if pairwise:
        shift = margin - x_pos if loss == PAIRWISE_HINGE else -x_pos - margin
    y = x + shift.unsqueeze(1)
    if loss in (HINGE, PAIRWISE_HINGE):
        terms, slope = torch.relu(y), (y > 0).to(y.dtype)
        own, own_slope = torch.relu(margin - x_pos), -(margin - x_pos > 0).to(y.dtype)
    else:
        terms, slope = _softplus(y), torch.sigmoid(y)
        own_y = -(x_pos + (margin if loss == LOGSIGMOID else 0.0))
        own, own_slope = _softplus(own_y), -torch.sigmoid(own_y)
    # nothing of an excluded score, whose weight is not 0 under equal weights
    terms, g = (w * terms).sum(1), w * slope
    if pairwise:
        return terms, -g.sum(1), g
    share = 1 / (1 + count) if loss == BCE else 0.5
    return share * own + (1.0 if loss == BCE else 0.5) * terms, share * own_slope, g if loss == BCE else 0.5 * g


def pack_bits(mask: Tensor) -> Tensor:
    """Bits `[B, ceil(N / 32)]`, int32, of booleans `[B, N]`; nothing waits for a GPU."""
    B, N = mask.shape
    words = (N + 31) // 32
    wide = torch.zeros((B, words * 32), dtype=torch.int64, device=mask.device)
    wide[:, :N] = mask
    total = (wide.view(B, words, 32) << torch.arange(32, device=mask.device)).sum(2)
    # the sign bit is the 32nd
    return torch.where(total >= 1 << 31, total - (1 << 32), total).to(torch.int32)


def count_bits(words: Tensor) -> Tensor:
    """How many bits of each row are set, int64 `[B]`."""
    x = words.long() & 0xFFFFFFFF
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return (((x * 0x01010101) & 0xFFFFFFFF) >> 24).sum(1)


def rows_of_bits(words: Tensor) -> tuple[Tensor, Tensor]:
    """The set bits as `(indptr, position)`."""
    at = ((words.unsqueeze(2) >> torch.arange(32, device=words.device)) & 1).flatten(1).nonzero()
    indptr = torch.zeros(len(words) + 1, dtype=torch.int64, device=words.device)
    torch.cumsum(torch.bincount(at[:, 0], minlength=len(words)), 0, out=indptr[1:])
    return indptr, at[:, 1].contiguous()


class _Rows:
    """The part of a call that rows of a batch have: excluded candidates, weights, the loss."""

    def __init__(
        self,
        B: int,
        weight: Tensor | None,
        indptr: Tensor | None,
        position: Tensor | None,
        loss: int,
        margin: float,
        temperature: float | None,
    ) -> None:
        self.B, self.weight, self.indptr, self.position = B, weight, indptr, position
        self.loss, self.margin, self.temperature = loss, margin, temperature

    def check(self, N: int) -> None:
        if self.indptr is None or self.position is None:
            return
        start, P = self.indptr, self.position.numel()
        if start[0] != 0 or start[-1] != P or (start[1:] < start[:-1]).any():
            raise ValueError(f"kg_loss: exclude[0] must ascend from 0 to {P}")
        if P and not 0 <= int(self.position.min()) <= int(self.position.max()) < N:
            raise ValueError(f"kg_loss: exclude[1] must be in [0, {N})")

    def __call__(self, rows: Tensor, x_pos: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted losses of these rows, and gradients of the scores."""
        out = torch.zeros_like(x, dtype=torch.bool)
        if self.indptr is not None and self.position is not None:
            first, last = self.indptr[rows], self.indptr[rows + 1]
            length = last - first
            own = torch.repeat_interleave(torch.arange(rows.numel(), device=x.device), length)
            offset = torch.arange(own.numel(), device=x.device) - (length.cumsum(0) - length)[own]
            out[own, self.position[first[own] + offset].long()] = True
        count = x.shape[1] - out.sum(1)
        losses, g_pos, g = row_losses(
            x_pos, x.masked_fill(out, -torch.inf), count.to(x.dtype), self.loss, self.margin, self.temperature
        )
        scale = torch.full_like(x_pos, 1 / self.B)
        if self.weight is not None:
            scale = scale * self.weight[rows].to(x.dtype)
        return losses * scale, g_pos * scale, g * scale.unsqueeze(1)


class RowSums:
    """Losses of rows from sums over their candidates, for kernels that keep nothing else. All `[B]`."""

    def __init__(
        self, x_pos: Tensor, count: Tensor, weight: Tensor | None, loss: int, margin: float, temperature: float | None
    ) -> None:
        B, self.x_pos, self.count, self.loss, self.margin = x_pos.shape[0], x_pos, count.to(x_pos.dtype), loss, margin
        self.term = 2 if loss == SOFTMAX else 1 if loss in (HINGE, PAIRWISE_HINGE) else 0
        self.temperature = 1.0 if loss == SOFTMAX else temperature or 0.0
        self.scale = torch.full_like(x_pos, 1 / max(B, 1))
        if weight is not None:
            self.scale = self.scale * weight.to(x_pos.dtype)
        self.shift = torch.full_like(x_pos, 0.0 if loss == BCE else margin)
        if loss in (PAIRWISE_HINGE, PAIRWISE_LOGISTIC):
            self.shift = margin - x_pos if loss == PAIRWISE_HINGE else -x_pos - margin
        self.top = x_pos.clone() if loss == SOFTMAX else torch.full_like(x_pos, -torch.inf)

    def finish(self, mass: Tensor, terms: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses, gradients of x_pos, and what multiplies slopes (or exponentials) in the gradients of the candidates."""
        x, scale = self.x_pos, self.scale
        if self.loss == SOFTMAX:
            mine = torch.exp(x - self.top)
            above = torch.where(mine == 1, torch.log1p(mass), self.top - x + torch.log(mine + mass))
            return scale * above, -scale * mass / (mine + mass), scale / (mine + mass)
        if self.temperature:
            # of rows without candidates too
            self.top.masked_fill_(self.count == 0, 0.0)
            factor = torch.where(self.count == 0, 0.0, scale / mass)
        elif self.loss == BCE:
            factor = scale / (1 + self.count)
        else:
            factor = torch.where(self.count == 0, 0.0, scale / self.count)
        if self.loss in (PAIRWISE_HINGE, PAIRWISE_LOGISTIC):
            return factor * terms, -factor * slopes, factor
        factor, share = (factor, factor) if self.loss == BCE else (factor / 2, scale / 2)
        if self.loss == HINGE:
            own, slope = torch.relu(self.margin - x), (self.margin - x > 0).to(x.dtype)
        else:
            y = -x - (0.0 if self.loss == BCE else self.margin)
            own, slope = _softplus(y), torch.sigmoid(y)
        return factor * terms + share * own, -share * slope, factor


def _compare(q: Tensor, n: Tensor, kind: int, gamma: float) -> Tensor:
    return torch.ops.gnnaccel.kg_compare(q, n, kind, gamma)


def _gradients(g: Tensor, q: Tensor, n: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    return torch.ops.gnnaccel.kg_compare_backward(g, q, n, kind)


def _empty(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.new_empty((0, *t.shape[1:])) for t in tensors)


@impl("kg_loss_rows", "CompositeExplicitAutograd")
def _composite(
    e: Tensor,
    r: Tensor,
    other: Tensor,
    neg: Tensor,
    weight: Tensor | None,
    indptr: Tensor | None,
    position: Tensor | None,
    operation: int,
    kind: int,
    loss: int,
    gamma: float,
    margin: float,
    temperature: float | None,
    grads: bool,
) -> tuple[Tensor, ...]:
    acc = torch.promote_types(e.dtype, torch.float32)
    B, (C, N, _) = e.shape[0], neg.shape
    S = B // C if C else 0
    rows = _Rows(B, weight, indptr, position, loss, margin, temperature)
    rows.check(N)
    wide_e, wide_r, o, n = (t.to(acc) for t in (e, r, other, neg))
    q = query(operation, wide_e, wide_r)
    x_pos = _compare(q.unsqueeze(1), o.unsqueeze(1), kind, gamma).flatten()
    losses, g_pos, dq, dn = torch.empty_like(x_pos), torch.empty_like(x_pos), torch.empty_like(q), torch.zeros_like(n)
    step = max(1, _TILE // max(N, 1))
    for c in range(C):
        for start in range(c * S, (c + 1) * S, step):
            b = slice(start, min(start + step, (c + 1) * S))
            a, candidates = q[b].unsqueeze(0), n[c : c + 1]
            x = _compare(a, candidates, kind, gamma)[0]
            losses[b], g_pos[b], g = rows(torch.arange(b.start, b.stop, device=e.device), x_pos[b], x)
            if grads:
                to_q, to_n = _gradients(g.unsqueeze(0), a, candidates, kind)
                dq[b] = to_q[0]
                dn[c] += to_n[0]
    # float64: torch may add up in another order for another number of threads
    total = losses.double().sum().to(neg.dtype)
    if not grads:
        return total, *_empty(e, r, other, neg)
    to_q, to_other = _gradients(g_pos.view(B, 1, 1), q.unsqueeze(1), o.unsqueeze(1), kind)
    de, dr = query_gradients(operation, dq + to_q.squeeze(1), wide_e, wide_r)
    made = ((de, e), (dr, r), (to_other.squeeze(1), other), (dn, neg))
    # outputs of an op are not one another's memory
    de, dr, do, dn = (g.to(t.dtype) for g, t in made)
    return total, de, dr.clone() if dr is de else dr, do, dn


@impl("kg_loss_projected", "CompositeExplicitAutograd")
def _composite_projected(
    q: Tensor,
    other: Tensor,
    neg: Tensor,
    w: Tensor,
    relation: Tensor,
    weight: Tensor | None,
    indptr: Tensor | None,
    position: Tensor | None,
    loss: int,
    gamma: float,
    margin: float,
    temperature: float | None,
    grads: bool,
) -> tuple[Tensor, ...]:
    (B, M), (C, N, _) = q.shape, neg.shape
    S = B // C if C else 0
    rows = _Rows(B, weight, indptr, position, loss, margin, temperature)
    rows.check(N)
    x_pos = _compare(q.unsqueeze(1), other.unsqueeze(1), L1, gamma).flatten()
    losses, g_pos, dq = torch.empty_like(x_pos), torch.empty_like(x_pos), torch.empty_like(q)
    dn, dw = q.new_zeros(neg.shape if grads else (0,)), q.new_zeros(w.shape if grads else (0,))
    step = max(1, _TILE // max(N, 1))
    for c, i, group in _pairs(q.view(C, S, M), relation, w.shape[0]):
        n, m = neg[c].to(q.dtype), w[i].to(q.dtype)
        projected = (n @ m).unsqueeze(0)
        for part in group.split(step):
            b = part + c * S
            x = _compare(q[b].unsqueeze(0), projected, L1, gamma)[0]
            losses[b], g_pos[b], g = rows(b, x_pos[b], x)
            if grads:
                to_q, to_n = _gradients(g.unsqueeze(0), q[b].unsqueeze(0), projected, L1)
                dq[b] = to_q[0]
                dn[c] += to_n[0] @ m.T
                dw[i] += n.T @ to_n[0]
    total = losses.double().sum().to(neg.dtype)
    if not grads:
        return total, *_empty(q, other, neg, w)
    to_q, to_other = _gradients(g_pos.view(B, 1, 1), q.unsqueeze(1), other.unsqueeze(1), L1)
    return total, dq + to_q.squeeze(1), to_other.squeeze(1), dn.to(neg.dtype), dw.to(w.dtype)


@impl("kg_loss_rows", "CUDA")
def _cuda(
    e: Tensor,
    r: Tensor,
    other: Tensor,
    neg: Tensor,
    weight: Tensor | None,
    indptr: Tensor | None,
    position: Tensor | None,
    operation: int,
    kind: int,
    loss: int,
    gamma: float,
    margin: float,
    temperature: float | None,
    grads: bool,
) -> tuple[Tensor, ...]:
    from gnnaccel.kernels.triton import kg_loss as kernels

    acc = torch.promote_types(e.dtype, torch.float32)
    (B, D), (C, N, _) = e.shape, neg.shape
    wide_e, wide_r, o = e.to(acc), r.to(acc), other.to(acc)
    q = query(operation, wide_e, wide_r)
    x_pos = _compare(q.unsqueeze(1), o.unsqueeze(1), kind, gamma).flatten()
    if indptr is None and position is not None:
        bits, count = position.contiguous(), N - count_bits(position)
    else:
        bits, count = kernels.exclusion_bits(indptr, position, B, N, e.device)
    rows = RowSums(x_pos, count, weight, loss, margin, temperature)
    queries, candidates = q.contiguous().view(C, B // C if C else 0, D), neg.contiguous()
    made = (bits, kind, rows.term, gamma, rows.temperature)
    losses, g_pos, factor = rows.finish(*kernels.kg_loss_sums(queries, candidates, rows.shift, rows.top, *made))
    total = losses.double().sum().to(neg.dtype)
    if not grads:
        return total, *_empty(e, r, other, neg)
    given = (rows.shift, rows.top, factor, *made)
    dq = kernels.kg_loss_gradients(queries, candidates, True, *given).view(B, D)
    dn = kernels.kg_loss_gradients(candidates, queries, False, *given)
    to_q, to_other = _gradients(g_pos.view(B, 1, 1), q.unsqueeze(1), o.unsqueeze(1), kind)
    de, dr = query_gradients(operation, dq + to_q.squeeze(1), wide_e, wide_r)
    de, dr, do, dn = (g.to(t.dtype) for g, t in ((de, e), (dr, r), (to_other.squeeze(1), other), (dn, neg)))
    return total, de, dr.clone() if dr is de else dr, do, dn


@impl("kg_loss_ids", "CompositeExplicitAutograd")
def _composite_ids(
    entity: Tensor, relation: Tensor, e: Tensor, r: Tensor, other: Tensor, neg: Tensor, *options: Any
) -> tuple[Tensor, ...]:
    rows = (entity[e], relation[r], entity[other], entity[neg])
    return torch.ops.gnnaccel.kg_loss_rows(*rows, *options, True)


@impl("kg_loss_backward", "CompositeExplicitAutograd")
def _composite_backward(grad: Tensor, *made: Tensor) -> tuple[Tensor, ...]:
    return tuple(grad.to(t.dtype) * t for t in made)


def _fake_gradients(grads: bool, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in tensors) if grads else _empty(*tensors)


@fake("kg_loss_rows")
def _fake(e: Tensor, r: Tensor, other: Tensor, neg: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return neg.new_empty(()), *_fake_gradients(rest[-1], (e, r, other, neg))


@fake("kg_loss_ids")
def _fake_ids(
    entity: Tensor, relation: Tensor, e: Tensor, r: Tensor, other: Tensor, neg: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    D = entity.shape[1]
    return (
        entity.new_empty(()),
        entity.new_empty((*e.shape, D)),
        relation.new_empty((*r.shape, relation.shape[1])),
        entity.new_empty((*other.shape, D)),
        entity.new_empty((*neg.shape, D)),
    )


@fake("kg_loss_projected")
def _fake_projected(
    q: Tensor, other: Tensor, neg: Tensor, w: Tensor, relation: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    return neg.new_empty(()), *_fake_gradients(rest[-1], (q, other, neg, w))


@fake("kg_loss_backward")
def _fake_backward(grad: Tensor, *made: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in made)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:])
    ctx.inputs, ctx.grads = len(inputs), inputs[-1]


def _is_one(grad: Tensor) -> bool:
    """Whether scaling can be left out; looked at only where that waits for nothing and nobody traces."""
    return type(grad) is Tensor and grad.device.type == "cpu" and not torch.is_grad_enabled() and grad.item() == 1


def _backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * ctx.inputs
    if not ctx.grads:
        raise RuntimeError("gnnaccel::kg_loss was called with grads=False: nothing to differentiate from")
    made = ctx.saved_tensors
    if not _is_one(grad):
        made = torch.ops.gnnaccel.kg_loss_backward(grad, *made)
    need = ctx.needs_input_grad
    return *(g if n else None for g, n in zip(made, need, strict=False)), *(None,) * (ctx.inputs - 4)


autograd("kg_loss_rows", _backward, _setup)
autograd("kg_loss_projected", _backward, _setup)
once_differentiable("kg_loss_backward")
