"""What `kg_rank` and `kg_topk` share: arguments, queries in blocks, what is left out of the candidates. Internal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gnnaccel.ops._kg_compare import DOT, L1, L2, _moduli, _tiles
from gnnaccel.ops.gather_rows import gather_rows
from gnnaccel.ops.kg_score import _FLOATING, HALVES, KINDS, MODELS, _query, relation_width

_IDS = (torch.int64, torch.int32)
_BLOCK = 1 << 21  # elements of the queries that exist at a time


class Tables(NamedTuple):
    """What is scored: the entities, and one row a relation of what the model wants."""

    entity: Tensor
    relation: Tensor
    projection: Tensor | None


class Left(NamedTuple):
    """What is left out, query by query: the ids from `start` to `stop`, in any order, perhaps repeated."""

    start: Tensor
    stop: Tensor
    ids: Tensor


def check_tables(owner: str, model: str, side: str, tables: Tables) -> None:
    entity, relation, projection = tables
    if model not in KINDS:
        raise ValueError(f"{owner}: model must be one of {', '.join(MODELS)}, got {model!r}")
    if side not in ("head", "tail"):
        raise ValueError(f"{owner}: side must be head or tail, got {side!r}")
    if entity.dtype not in _FLOATING:
        raise TypeError(f"{owner}: entity_table must be float64, float32, float16 or bfloat16, got {entity.dtype}")
    if entity.dim() != 2:
        raise ValueError(f"{owner}: entity_table must be [E, D], got {list(entity.shape)}")
    D = entity.shape[1]
    if model in HALVES and D % 2:
        raise ValueError(f"{owner}: entity_table must have an even number of columns for {model}, got {D}")
    if relation.dtype != entity.dtype:
        raise TypeError(
            f"{owner}: relation_table must have the dtype of entity_table ({entity.dtype}), got {relation.dtype}"
        )
    if relation.dim() != 2 or (model != "transr" and relation.shape[1] != relation_width(model, D)):
        width = "M" if model == "transr" else relation_width(model, D)
        raise ValueError(f"{owner}: relation_table must be [R, {width}], got {list(relation.shape)}")
    if model != "transr":
        if projection is not None:
            raise ValueError(f"{owner}: projection_table must be None for {model}, got a tensor")
        return
    if projection is None:
        raise ValueError(f"{owner}: projection_table must be given for transr, got None")
    if projection.dtype != entity.dtype:
        raise TypeError(
            f"{owner}: projection_table must have the dtype of entity_table ({entity.dtype}), got {projection.dtype}"
        )
    want = (relation.shape[0], D, relation.shape[1])
    if tuple(projection.shape) != want:
        raise ValueError(f"{owner}: projection_table must be {list(want)}, got {list(projection.shape)}")


def check_rows(owner: str, name: str, rows: Tensor, width: int) -> None:
    if rows.dtype not in _IDS:
        raise TypeError(f"{owner}: {name} must be int64 or int32, got {rows.dtype}")
    if rows.dim() != 2 or rows.shape[1] != width:
        raise ValueError(f"{owner}: {name} must be [B, {width}], got {list(rows.shape)}")


def check_candidates(owner: str, candidates: Tensor | None) -> None:
    if candidates is not None and candidates.dtype not in _IDS:
        raise TypeError(f"{owner}: candidates must be int64 or int32, got {candidates.dtype}")
    if candidates is not None and candidates.dim() != 1:
        raise ValueError(f"{owner}: candidates must be [M], got {list(candidates.shape)}")


def lists(owner: str, name: str, given: Any, B: int) -> tuple[Tensor | None, Tensor | None]:
    """Offsets and ids of a CSR, given as two tensors or as an object that has `indptr` and `ids`."""
    if given is None:
        return None, None
    if not isinstance(given, (tuple, list)):
        given = [getattr(given, what) for what in ("indptr", "ids") if hasattr(given, what)]
    if len(given) != 2:
        raise TypeError(f"{owner}: {name} must be (indptr, ids), or have them as attributes, got something else")
    indptr, ids = given
    for what, x in ((f"{name} indptr", indptr), (f"{name} ids", ids)):
        if x.dtype not in _IDS:
            raise TypeError(f"{owner}: {what} must be int64 or int32, got {x.dtype}")
    if tuple(indptr.shape) != (B + 1,):
        raise ValueError(f"{owner}: {name} indptr must be [{B + 1}], got {list(indptr.shape)}")
    if ids.dim() != 1:
        raise ValueError(f"{owner}: {name} ids must be [P], got {list(ids.shape)}")
    return indptr, ids


def check_range(owner: str, name: str, ids: Tensor, limit: int) -> None:
    if ids.numel():
        least, most = (int(x) for x in ids.aminmax())
        if least < 0 or most >= limit:
            raise ValueError(f"{owner}: {name} must be in [0, {limit}), got {least if least < 0 else most}")


def spans(owner: str, name: str, indptr: Tensor | None, ids: Tensor | None, B: int, E: int, like: Tensor) -> Left:
    """The lists as spans of checked ids; without lists, empty ones."""
    if indptr is None or ids is None:
        nothing = torch.zeros(B, dtype=torch.int64, device=like.device)
        return Left(nothing, nothing, nothing[:0])
    indptr = indptr.long()
    start, stop = indptr[:-1], indptr[1:]
    if bool((start > stop).any()) or int(indptr[0]) < 0 or int(indptr[-1]) > len(ids):
        raise ValueError(f"{owner}: {name} indptr must ascend from 0 to {len(ids)}, the number of ids")
    check_range(owner, f"{name} ids", ids, E)
    return Left(start, stop, ids.long().contiguous())


class Block(NamedTuple):
    """Some queries: where they stand among all, their rows, their relations."""

    at: Tensor
    q: Tensor
    relation: Tensor


def blocks(model: str, tables: Tables, kept: Tensor, relation: Tensor, tail: bool, rows: int) -> Iterator[Block]:
    """The queries, at most about `rows` at a time; those of one matrix together where the relation is a matrix."""
    entity, table, projection = tables
    acc = torch.promote_types(entity.dtype, torch.float32)
    rows = max(1, min(rows, _BLOCK // max(entity.shape[1], 1)))
    order = torch.arange(len(kept), device=kept.device)
    if model in ("rescal", "transr"):
        order = torch.argsort(relation, stable=True)
    for at in order.split(rows) if len(order) else ():
        e, r = gather_rows(entity, kept[at], dtype=acc), relation[at]
        yield Block(at, _query(model, e, table, r, projection, tail), r)


# The plain-torch fallback. Products are sums of products as well: a matrix product's bits depend on its shape, and the true
# entity must get the bits that it has among the candidates.


def score(q: Tensor, n: Tensor, kind: int, gamma: float) -> Tensor:
    """Scores [S, N] of rows [S, K] and [N, K]; or [S, 1] of rows [S, K] and [S, 1, K]."""
    if kind == DOT:
        return (q.unsqueeze(1) * n).sum(-1)
    x = q.unsqueeze(1) - n
    if kind == L1:
        return gamma - x.abs().sum(-1)
    return gamma - ((x * x).sum(-1).sqrt() if kind == L2 else _moduli(x).sum(-1))


def projected(n: Tensor, matrix: Tensor | None) -> Tensor:
    if matrix is None:
        return n
    w = matrix.to(n.dtype).T.contiguous()
    out = n.new_empty((n.shape[0], w.shape[0]))
    for _, s, k in _tiles(1, n.shape[0], w.shape[0], w.shape[1]):
        out[s, k] = score(n[s], w[k], DOT, 0.0)
    return out


def by_matrix(relation: Tensor, projection: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Queries that see the same candidates, with the matrix that these go through."""
    if projection is None:
        yield torch.arange(len(relation), device=relation.device), None
        return
    for i in relation.unique().tolist():
        yield (relation == i).nonzero().squeeze(1), projection[i]


def left_out(true: Tensor | None, left: Left, candidates: Tensor | None, E: int) -> tuple[Tensor, Tensor]:
    """Row and position of what is left out, with the true entities: distinct, by row, then position."""
    B = len(left.start)
    count = left.stop - left.start
    row = torch.repeat_interleave(torch.arange(B, device=count.device), count)
    at = torch.arange(len(row), device=count.device) - (count.cumsum(0) - count - left.start)[row]
    position, M = left.ids[at], E
    if true is not None:
        row = torch.cat([row, torch.arange(B, device=count.device)])
        position = torch.cat([position, true])
    if candidates is not None:
        M = len(candidates)
        if M == 0:
            return row[:0], row[:0]
        place = torch.searchsorted(candidates, position).clamp(max=M - 1)
        here = candidates[place] == position
        row, position = row[here], place[here]
    key = torch.unique(row * M + position)
    return key // max(M, 1), key % max(M, 1)


COLUMNS = 1 << 14  # candidates of the scores that `kg_topk` has at a time on a GPU
_PROJECTED = 1 << 22  # elements of the candidates that are projected at a time


def answers_on_gpu(entity: Tensor, true: Tensor, matrix: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows, and which of them is each query's."""
    if matrix is None:
        return entity, true
    from gnnaccel.kernels.triton._kg_tiles import project_rows

    return project_rows(entity, true, matrix.contiguous(), dtype), torch.arange(len(true), device=true.device)


def candidates_on_gpu(
    entity: Tensor, candidates: Tensor | None, matrix: Tensor | None, dtype: torch.dtype, most: int | None = None
) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """Position of the first, rows, and which of them are candidates: all at once, or so many, or as a matrix allows."""
    M = entity.shape[0] if candidates is None else len(candidates)
    if matrix is not None:
        most = min(most or _PROJECTED, max(1, _PROJECTED // max(matrix.shape[1], 1)))
    if most is None:
        yield 0, entity, candidates
        return
    every = torch.arange(M, device=entity.device) if candidates is None else candidates
    for first in range(0, M, most):
        some = every[first : first + most]
        if matrix is None:
            yield first, entity, some
            continue
        from gnnaccel.kernels.triton._kg_tiles import project_rows

        yield first, project_rows(entity, some, matrix.contiguous(), dtype), None
