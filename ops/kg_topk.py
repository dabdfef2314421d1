"""`kg_topk`: the best entities for (head, relation, ?) or (?, relation, tail)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops import _kg_candidates as shared
from gnnaccel.ops._kg_candidates import Left, Tables
from gnnaccel.ops._kg_compare import _tiles
from gnnaccel.ops._library import define, fake, impl
from gnnaccel.ops.kg_score import KINDS

define(
    "kg_topk(Tensor entity, Tensor relation, Tensor? projection, Tensor queries, Tensor? indptr, Tensor? ids, "
    "Tensor? candidates, SymInt k, str model, bool tail, float gamma) -> (Tensor, Tensor)"
)
# Of a block, arguments as `kg_rank_queries`'s; scores in the dtype of q
define(
    "kg_topk_queries(Tensor q, Tensor entity, Tensor? projection, Tensor relation, Tensor start, Tensor stop, Tensor ids, "
    "Tensor? candidates, SymInt k, int kind, float gamma) -> (Tensor, Tensor)"
)

_FOUND = 1 << 21  # results of a block
_MASK = 1 << 22  # candidates of the queries that the fallback has a mask of
_QUERIES = 1024  # of a tile on a GPU, which has shared.COLUMNS candidates


@impl("kg_topk", "CompositeExplicitAutograd")
def _topk(
    entity: Tensor,
    relation: Tensor,
    projection: Tensor | None,
    queries: Tensor,
    indptr: Tensor | None,
    ids: Tensor | None,
    candidates: Tensor | None,
    k: int,
    model: str,
    tail: bool,
    gamma: float,
) -> tuple[Tensor, Tensor]:
    (E, _), B = entity.shape, len(queries)
    kept, r = queries.long().unbind(1)
    shared.check_range("kg_topk", "queries' entities", kept, E)
    shared.check_range("kg_topk", "queries' relations", r, relation.shape[0])
    if candidates is not None:
        shared.check_range("kg_topk", "candidates", candidates, E)
        candidates = torch.unique(candidates.long())
    left = shared.spans("kg_topk", "exclude", indptr, ids, B, E, entity)
    best = torch.empty((B, k), dtype=torch.int64, device=entity.device)
    scores = torch.empty((B, k), dtype=entity.dtype, device=entity.device)
    tables = Tables(entity, relation, projection)
    for at, q, own in shared.blocks(model, tables, kept, r, tail, max(1, _FOUND // max(k, 1))):
        start, stop = left.start[at], left.stop[at]
        best[at], found = torch.ops.gnnaccel.kg_topk_queries(
            q, entity, projection, own, start, stop, left.ids, candidates, k, KINDS[model], gamma
        )
        scores[at] = found.to(entity.dtype)
    return best, scores


def _best(ids: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best k of each row, which has equal scores by ascending id; nobody's places have id -1 and go last."""
    scores, order = torch.sort(torch.where(ids < 0, -torch.inf, scores), dim=1, descending=True, stable=True)
    ids = ids.gather(1, order)
    # nobody behind those whose score is -inf as well
    order = torch.sort((ids < 0).int(), dim=1, stable=True)[1][:, :k]
    return ids.gather(1, order), scores.gather(1, order)


@impl("kg_topk_queries", "CompositeExplicitAutograd")
def _composite(
    q: Tensor,
    entity: Tensor,
    projection: Tensor | None,
    relation: Tensor,
    start: Tensor,
    stop: Tensor,
    ids: Tensor,
    candidates: Tensor | None,
    k: int,
    kind: int,
    gamma: float,
) -> tuple[Tensor, Tensor]:
    M = entity.shape[0] if candidates is None else len(candidates)
    best = torch.full((len(q), k), -1, dtype=torch.int64, device=q.device)
    scores = torch.full((len(q), k), -torch.inf, dtype=q.dtype, device=q.device)
    for some, matrix in shared.by_matrix(relation, projection):
        for at in some.split(max(1, _MASK // max(M, 1))):
            row, place = shared.left_out(None, Left(start[at], stop[at], ids), candidates, entity.shape[0])
            keep = torch.ones((len(at), M), dtype=torch.bool, device=q.device)
            keep[row, place] = False
            for _, _, c in _tiles(1, 1, M, entity.shape[1]):
                names = torch.arange(M, device=q.device)[c] if candidates is None else candidates[c]
                n = shared.projected(entity[names].to(q.dtype), matrix)
                for _, s, _ in _tiles(1, len(at), len(n), q.shape[1]):
                    tile, to = shared.score(q[at[s]], n, kind, gamma), at[s]
                    here = torch.where(keep[s, c] & ~tile.isnan(), names, -1)
                    best[to], scores[to] = _best(torch.cat([best[to], here], 1), torch.cat([scores[to], tile], 1), k)
    return best, scores


@impl("kg_topk_queries", "CUDA")
def _cuda(
    q: Tensor,
    entity: Tensor,
    projection: Tensor | None,
    relation: Tensor,
    start: Tensor,
    stop: Tensor,
    ids: Tensor,
    candidates: Tensor | None,
    k: int,
    kind: int,
    gamma: float,
) -> tuple[Tensor, Tensor]:
    from gnnaccel.kernels.triton import kg_topk as kernels

    entity, M = entity.contiguous(), entity.shape[0] if candidates is None else len(candidates)
    every = torch.arange(M, device=q.device) if candidates is None else candidates
    best = torch.full((len(q), k), -1, dtype=torch.int64, device=q.device)
    scores = torch.full((len(q), k), -torch.inf, dtype=q.dtype, device=q.device)
    for some, matrix in shared.by_matrix(relation, projection):
        for at in some.split(_QUERIES):
            own = q[at].contiguous()
            row, place = shared.left_out(None, Left(start[at], stop[at], ids), candidates, entity.shape[0])
            keys = torch.full((len(at), k), kernels.NOBODY, device=q.device)
            for first, n, index in shared.candidates_on_gpu(entity, every, matrix, q.dtype, shared.COLUMNS):
                N = len(n) if index is None else len(index)
                here = (place >= first) & (place < first + N)
                if q.dtype == torch.float64:
                    tile = kernels.kg_scores(own, n, index, kind, gamma)
                    names = torch.where(tile.isnan(), -1, every[first : first + N])
                    names[row[here], place[here] - first] = -1
                    best[at], scores[at] = _best(torch.cat([best[at], names], 1), torch.cat([scores[at], tile], 1), k)
                    continue
                tile = kernels.kg_keys(own, n, index, kind, gamma, first)
                tile[row[here], place[here] - first] = kernels.NOBODY
                keys = torch.cat([keys, tile], 1).topk(k, 1).values
            if q.dtype == torch.float64:
                continue
            place, scores[at] = kernels.decoded(keys)
            best[at] = torch.where(place < 0, -1, every[place.clamp(min=0)]) if M else place
    return best, scores


@fake("kg_topk")
def _fake_topk(
    entity: Tensor,
    relation: Tensor,
    projection: Tensor | None,
    queries: Tensor,
    indptr: Tensor | None,
    ids: Tensor | None,
    candidates: Tensor | None,
    k: int,
    *_: Any,
) -> tuple[Tensor, Tensor]:
    shape = (queries.shape[0], k)
    return queries.new_empty(shape, dtype=torch.int64), entity.new_empty(shape)


@fake("kg_topk_queries")
def _fake(
    q: Tensor,
    entity: Tensor,
    projection: Tensor | None,
    relation: Tensor,
    start: Tensor,
    stop: Tensor,
    ids: Tensor,
    candidates: Tensor | None,
    k: int,
    *_: Any,
) -> tuple[Tensor, Tensor]:
    shape = (q.shape[0], k)
    return start.new_empty(shape), q.new_empty(shape)


def kg_topk(
    model: str,
    entity_table: Tensor,
    relation_table: Tensor,
    queries: Tensor,
    k: int = 10,
    side: str = "tail",
    *,
    gamma: float = 12.0,
    projection_table: Tensor | None = None,
    exclude: Any = None,
    candidates: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The k entities of the highest scores, exactly. Nothing of the size B E is made.

    Args:
        model: One of `kg_score`'s names.
        entity_table: `[E, D]`, floating; half types are computed in float32.
        relation_table: `[R, .]` as `kg_score`'s `r`, dtype of `entity_table`.
        queries: Ids of the known entity and the relation, `[B, 2]`, int64 or int32.
        k: Entities of a query, at least 1; thousands are fine.
        side: What is asked for: `"tail"` (the known entity is the head) or `"head"`.
        gamma: Added to the distance models.
        projection_table: TransR's P, `[R, D, M]`, dtype of `entity_table`.
        exclude: Entities not to return, query by query: as `kg_rank`'s `known`.
        candidates: Entities to choose from, `[M]`, int64 or int32, instead of all; a repeated id counts once.

    Returns:
        `(ids, scores)`, int64 `[B, k]` and `[B, k]` in the dtype of `entity_table`, best first, of equal scores the smaller id
        first (half types: equal before the score is rounded to them). With fewer than k candidates the rest is id -1, score
        -inf. A candidate whose score is NaN is not returned.

    Gradients: none; give the ids to `kg_score` for scores with gradients.

    Cost: 2 B E D operations; memory O(B k) and tiles.

    Determinism: bitwise reproducible on one machine, for any number of threads.

    Raises:
        TypeError: An argument has an unsupported dtype.
        ValueError: A shape does not fit, an id is out of range, k is below 1, `model` or `side` is unknown, or
            `projection_table` is missing or not wanted.
    """
    given = (entity_table, relation_table, projection_table)
    tables = Tables(*(None if x is None else x.detach() for x in given))
    shared.check_tables("kg_topk", model, side, tables)
    shared.check_rows("kg_topk", "queries", queries, 2)
    shared.check_candidates("kg_topk", candidates)
    if k < 1:
        raise ValueError(f"kg_topk: k must be at least 1, got {k}")
    indptr, ids = shared.lists("kg_topk", "exclude", exclude, queries.shape[0])
    return torch.ops.gnnaccel.kg_topk(*tables, queries, indptr, ids, candidates, k, model, side == "tail", gamma)
