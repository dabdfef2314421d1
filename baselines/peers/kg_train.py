"""A training step of knowledge-graph embeddings in plain PyTorch, and the same under torch.compile.

Rows are gathered, scored against the negatives of their chunk, and put into DGL-KE's default loss, half the mean softplus(-x)
of the triples and half that of the negatives' softplus(x); then each touched row takes one step of row-wise Adagrad.
`SparseStep` is written as PyTorch's documentation has it, with sparse embeddings; `TorchStep` in the fastest way found.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding, softplus

HALVES = ("complex", "rotate", "simple")


class Batch(NamedTuple):
    """Triples `[B]` and the negatives `[C, N]` that each B / C of them share, int64; `side` is the one that they replace."""

    head: Tensor
    relation: Tensor
    tail: Tensor
    negative: Tensor
    side: str


class Tables(NamedTuple):
    """Entity `[E, D]` and relation `[R, .]` embeddings, and TransR's matrices `[R, D, M]`."""

    entity: Tensor
    relation: Tensor
    projection: Tensor | None = None

    def copy(self, dtype: torch.dtype | None = None) -> Tables:
        return Tables(*(None if x is None else x.to(dtype or x.dtype, copy=True) for x in self))  # pyright: ignore


def turn(e: Tensor, re: Tensor, im: Tensor) -> Tensor:
    """Rows [re | im] times re + i im."""
    a, b = e.chunk(2, -1)
    return torch.cat([a * re - b * im, a * im + b * re], -1)


def query(model: str, e: Tensor, r: Tensor, tail: bool) -> Tensor:
    """What is compared with tails, `e` being heads, or the other way round: `[B, D]`. TransR's `e` is projected already."""
    if model in ("transe_l1", "transe_l2", "transr"):
        return e + r if tail else e - r
    if model == "distmult":
        return e * r
    if model == "complex":
        re, im = r.chunk(2, -1)
        return turn(e, re, im if tail else -im)
    if model == "rotate":
        return turn(e, torch.cos(r), torch.sin(r) if tail else -torch.sin(r))
    if model == "rescal":
        m = r.view(len(e), e.shape[1], e.shape[1])
        return torch.bmm(e.unsqueeze(1), m).squeeze(1) if tail else torch.bmm(m, e.unsqueeze(2)).squeeze(2)
    (a, b), (forth, back) = e.chunk(2, -1), r.chunk(2, -1)
    return (torch.cat([b * back, a * forth], -1) if tail else torch.cat([b * forth, a * back], -1)) / 2


def moduli(x: Tensor) -> Tensor:
    return torch.hypot(*x.chunk(2, -1)).sum(-1)


def moduli_by_roots(x: Tensor) -> Tensor:
    re, im = x.chunk(2, -1)
    return (re * re + im * im).sqrt().sum(-1)


def moduli_by_norm(x: Tensor) -> Tensor:
    """As RotatE's authors have them."""
    return torch.stack(x.chunk(2, -1)).norm(dim=0).sum(-1)


def length(x: Tensor, p: int) -> Tensor:
    return x.abs().sum(-1) if p == 1 else x.square().sum(-1).sqrt()


def expansion(q: Tensor, other: Tensor) -> Tensor:
    """Euclidean distances by a matrix product, without a second look at near ones."""
    squares = q.square().sum(-1, keepdim=True) + other.square().sum(-1).unsqueeze(-2)
    return (squares - 2 * q @ other.transpose(-1, -2)).clamp_min(1e-12).sqrt()


def compare(model: str, form: str, q: Tensor, other: Tensor, gamma: float) -> Tensor:
    """Scores `[.., S, N]` of queries `[.., S, D]` and rows `[.., N, D]` (or `[.., S, N, D]`, one set each)."""
    if form == "product":
        return q @ other.transpose(-1, -2)
    if form == "cdist":
        return gamma - torch.cdist(q, other, p=2 if model == "transe_l2" else 1)
    if form == "expansion":
        return gamma - expansion(q, other)
    x = q.unsqueeze(-2) - (other if other.dim() > q.dim() else other.unsqueeze(-3))
    if model == "rotate":
        made = {"broadcast, roots": moduli_by_roots, "broadcast, norm": moduli_by_norm}
        return gamma - made.get(form, moduli)(x)
    return gamma - length(x, 2 if model == "transe_l2" else 1)


def forms(model: str, compiled: bool = False) -> tuple[str, ...]:
    """Ways to write the comparison, of which the fastest is taken."""
    if model == "transe_l1":
        return ("cdist", "broadcast") if compiled else ("cdist",)
    if model == "transe_l2":
        return ("cdist", "expansion")
    if model == "rotate":
        return ("broadcast, roots", "broadcast") if compiled else ("broadcast",)
    return ("broadcast",) if model == "transr" else ("product",)


def usual_forms(model: str) -> tuple[str, ...]:
    """How the comparison is written first: distances by `cdist`, moduli by `norm`."""
    return {"transe_l2": ("cdist",), "rotate": ("broadcast, norm",)}.get(model, forms(model))


def compute_loss(
    model: str,
    form: str,
    tail: bool,
    gamma: float,
    kept: Tensor,
    r: Tensor,
    other: Tensor,
    neg: Tensor,
    P: Tensor | None,
) -> Tensor:
    """Loss of rows `[B, .]`: `kept` is the side that stays, `other` the one that `neg [C, N, D]` replaces."""
    C, _, D = neg.shape
    if P is not None:
        kept, other = (torch.bmm(x.unsqueeze(1), P).squeeze(1) for x in (kept, other))
        neg = neg.unsqueeze(1) @ P.view(C, -1, D, P.shape[2])
    q = query(model, kept, r, tail)
    if form == "product":
        positive = (q * other).sum(-1)
    elif model == "rotate":
        positive = gamma - moduli(q - other)
    else:
        positive = gamma - length(q - other, 2 if model == "transe_l2" else 1)
    negative = compare(model, form, q.view(C, -1, q.shape[1]), neg, gamma)
    return (softplus(-positive).mean() + softplus(negative).mean()) / 2


def adagrad_rows_(table: Tensor, state: Tensor, ids: Tensor, grad: Tensor, lr: float, eps: float = 1e-10) -> None:
    """One step of Adagrad with one sum of squares a row; gradients of a row that occurs twice are added first."""
    rows, inverse = ids.unique(return_inverse=True)
    total = grad.new_zeros(len(rows), *grad.shape[1:]).index_add_(0, inverse, grad)
    squares = state.index_select(0, rows) + total.square().flatten(1).mean(1)
    state.index_copy_(0, rows, squares)
    scale = -lr / (squares.sqrt() + eps)
    table.index_add_(0, rows, total * scale.view(-1, *[1] * (grad.dim() - 1)))


class TorchStep:
    """One contender's tables, optimiser state and step. Changes `tables` in place.

    Args:
        form: One of `forms`; by default the first.
        backend: Loss and gradients by torch.compile with this backend.
        by_chunk: One chunk of the batch after the other: the same function with smaller intermediate results.
    """

    def __init__(
        self,
        model: str,
        tables: Tables,
        *,
        gamma: float,
        lr: float,
        form: str = "",
        backend: str | None = None,
        by_chunk: bool = False,
    ) -> None:
        self.model, self.tables, self.gamma, self.lr = model, tables, gamma, lr
        self.form, self.by_chunk = form or forms(model, backend is not None)[0], by_chunk
        self.states = [None if x is None else x.new_zeros(len(x)) for x in tables]
        self.compute: Callable[..., Tensor] = compute_loss
        if backend is not None:
            self.compute = torch.compile(compute_loss, dynamic=False, backend=backend)
        self.seconds = {"gather": 0.0, "loss": 0.0, "update": 0.0}

    def _loss(self, tail: bool, kept: Tensor, r: Tensor, other: Tensor, neg: Tensor, P: Tensor | None) -> Tensor:
        if not self.by_chunk:
            return self.compute(self.model, self.form, tail, self.gamma, kept, r, other, neg, P)
        C = len(neg)
        parts = [[None] * C if x is None else x.chunk(C) for x in (kept, r, other, neg, P)]
        losses = [self.compute(self.model, self.form, tail, self.gamma, *part) for part in zip(*parts, strict=True)]
        return torch.stack(losses).mean()

    def step(self, batch: Batch) -> float:
        start = time.perf_counter()
        entity, relation, projection = self.tables
        tail = batch.side == "tail"
        kept, other = (batch.head, batch.tail) if tail else (batch.tail, batch.head)
        rows: list[Any] = [
            entity[kept],
            relation[batch.relation],
            entity[other],
            entity[batch.negative],
            None if projection is None else projection[batch.relation],
        ]
        gathered = time.perf_counter()
        leaves = [x.requires_grad_() for x in rows if x is not None]
        loss = self._loss(tail, *rows)
        grads = torch.autograd.grad(loss, leaves)
        graded = time.perf_counter()
        ids = torch.cat([kept, other, batch.negative.view(-1)])
        entity_grad = torch.cat([grads[0], grads[2], grads[3].reshape(-1, entity.shape[1])])
        updates = [(ids, entity_grad), (batch.relation, grads[1]), (batch.relation, grads[-1])]
        for table, state, (at, grad) in zip(self.tables, self.states, updates, strict=True):
            if table is not None and state is not None:
                adagrad_rows_(table, state, at, grad, self.lr)
        done = time.perf_counter()
        for stage, seconds in (("gather", gathered - start), ("loss", graded - gathered), ("update", done - graded)):
            self.seconds[stage] += seconds
        return float(loss.detach())


class SparseStep(TorchStep):
    """The step by sparse embeddings (`torch.nn.functional.embedding(sparse=True)`), whose gradients are coalesced."""

    def step(self, batch: Batch) -> float:
        start = time.perf_counter()
        tail = batch.side == "tail"
        kept, other = (batch.head, batch.tail) if tail else (batch.tail, batch.head)
        entity, relation, *more = (x.requires_grad_() for x in self.tables if x is not None)
        rows = [
            embedding(kept, entity, sparse=True),
            embedding(batch.relation, relation, sparse=True),
            embedding(other, entity, sparse=True),
            embedding(batch.negative, entity, sparse=True),
            more[0][batch.relation] if more else None,
        ]
        gathered = time.perf_counter()
        loss = self._loss(tail, *rows)
        loss.backward()
        graded = time.perf_counter()
        for table, state in zip(self.tables, self.states, strict=True):
            if table is not None and state is not None:
                adagrad_sparse_(table, state, self.lr)
                table.requires_grad_(False)
        done = time.perf_counter()
        for stage, seconds in (("gather", gathered - start), ("loss", graded - gathered), ("update", done - graded)):
            self.seconds[stage] += seconds
        return float(loss.detach())


@torch.no_grad()
def adagrad_sparse_(table: Tensor, state: Tensor, lr: float, eps: float = 1e-10) -> None:
    """`adagrad_rows_` by the table's own gradient, which is used up."""
    assert table.grad is not None
    if table.grad.is_sparse:
        grad = table.grad.coalesce()
        rows, values = grad.indices()[0], grad.values()
    else:
        rows = table.grad.flatten(1).any(1).nonzero()[:, 0]
        values = table.grad[rows]
    state[rows] += values.square().flatten(1).mean(1)
    scale = lr / (state[rows].sqrt() + eps)
    table[rows] -= values * scale.view(-1, *[1] * (values.dim() - 1))
    table.grad = None
