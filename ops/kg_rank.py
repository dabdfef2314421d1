"""`kg_rank`: where the true entity of each triple stands among all entities, or among some."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gnnaccel.ops import _kg_candidates as shared
from gnnaccel.ops._kg_candidates import Left, Tables
from gnnaccel.ops._kg_compare import _tiles
from gnnaccel.ops._library import define, fake, impl
from gnnaccel.ops.gather_rows import gather_rows
from gnnaccel.ops.kg_score import KINDS

define(
    "kg_rank(Tensor entity, Tensor relation, Tensor? projection, Tensor triples, Tensor? indptr, Tensor? ids, "
    "Tensor? candidates, str model, bool tail, float gamma) -> (Tensor, Tensor, Tensor)"
)
# Of a block: q [B, K] in float32 or float64, entity [E, D] in any floating dtype, projection [R, D, K] and relation [B] for
# TransR, true [B], left out ids[start:stop] of each query, candidates ascending and distinct. All ids int64 and in range.
define(
    "kg_rank_queries(Tensor q, Tensor entity, Tensor? projection, Tensor relation, Tensor true, Tensor start, Tensor stop, "
    "Tensor ids, Tensor? candidates, int kind, float gamma) -> (Tensor, Tensor, Tensor)"
)

_MASK = 1 << 22  # candidates of the queries that the fallback has a mask of


class Ranks(NamedTuple):
    """Of B triples, int64 [B] each.

    Attributes:
        greater: Candidates with a greater score than the true entity.
        equal: Candidates with the same score.
        count: Candidates, without the true entity and without those left out.
    """

    greater: Tensor
    equal: Tensor
    count: Tensor

    @property
    def optimistic(self) -> Tensor:
        """The rank if the true entity stands first among equals, int64 [B], from 1."""
        return self.greater + 1

    @property
    def pessimistic(self) -> Tensor:
        """The rank if it stands last among equals, int64 [B]."""
        return self.greater + self.equal + 1

    @property
    def realistic(self) -> Tensor:
        """The mean of the two, float64 [B]: the expected rank among equals in random order."""
        return 1 + self.greater + self.equal.double() / 2


@impl("kg_rank", "CompositeExplicitAutograd")
def _rank(
    entity: Tensor,
    relation: Tensor,
    projection: Tensor | None,
    triples: Tensor,
    indptr: Tensor | None,
    ids: Tensor | None,
    candidates: Tensor | None,
    model: str,
    tail: bool,
    gamma: float,
) -> tuple[Tensor, Tensor, Tensor]:
    (E, _), B = entity.shape, len(triples)
    h, r, t = triples.long().unbind(1)
    shared.check_range("kg_rank", "triples' entities", triples[:, ::2], E)
    shared.check_range("kg_rank", "triples' relations", r, relation.shape[0])
    if candidates is not None:
        shared.check_range("kg_rank", "candidates", candidates, E)
        candidates = torch.unique(candidates.long())
    left = shared.spans("kg_rank", "known", indptr, ids, B, E, entity)
    kept, true = (h, t) if tail else (t, h)
    out = torch.empty((3, B), dtype=torch.int64, device=entity.device)
    for at, q, own in shared.blocks(model, Tables(entity, relation, projection), kept, r, tail, B):
        start, stop = left.start[at], left.stop[at]
        found = torch.ops.gnnaccel.kg_rank_queries(
            q, entity, projection, own, true[at], start, stop, left.ids, candidates, KINDS[model], gamma
        )
        for to, x in zip(out, found, strict=True):
            to[at] = x
    greater, equal, count = out
    return greater.clone(), equal.clone(), count.clone()


@impl("kg_rank_queries", "CompositeExplicitAutograd")
def _composite(
    q: Tensor,
    entity: Tensor,
    projection: Tensor | None,
    relation: Tensor,
    true: Tensor,
    start: Tensor,
    stop: Tensor,
    ids: Tensor,
    candidates: Tensor | None,
    kind: int,
    gamma: float,
) -> tuple[Tensor, Tensor, Tensor]:
    M = entity.shape[0] if candidates is None else len(candidates)
    greater, equal, count = (torch.zeros_like(true) for _ in range(3))
    for some, matrix in shared.by_matrix(relation, projection):
        for at in some.split(max(1, _MASK // max(M, 1))):
            row, place = shared.left_out(true[at], Left(start[at], stop[at], ids), candidates, entity.shape[0])
            keep = torch.ones((len(at), M), dtype=torch.bool, device=q.device)
            keep[row, place] = False
            answer = shared.projected(gather_rows(entity, true[at], dtype=q.dtype), matrix)
            s_true = shared.score(q[at], answer.unsqueeze(1), kind, gamma)
            for _, _, k in _tiles(1, 1, M, entity.shape[1]):
                n = (entity[k] if candidates is None else entity[candidates[k]]).to(q.dtype)
                n = shared.projected(n, matrix)
                for _, s, _ in _tiles(1, len(at), len(n), q.shape[1]):
                    scores, t, seen = shared.score(q[at[s]], n, kind, gamma), s_true[s], keep[s, k]
                    more, less = scores > t, scores < t
                    greater[at[s]] += (more & seen).sum(1)
                    equal[at[s]] += (~(more | less) & seen).sum(1)
            count[at] = keep.sum(1)
            lost = at[s_true.isnan().squeeze(1)]
            greater[lost], equal[lost] = count[lost], 0
    return greater, equal, count


@impl("kg_rank_queries", "CUDA")
def _cuda(
    q: Tensor,
    entity: Tensor,
    projection: Tensor | None,
    relation: Tensor,
    true: Tensor,
    start: Tensor,
    stop: Tensor,
    ids: Tensor,
    candidates: Tensor | None,
    kind: int,
    gamma: float,
) -> tuple[Tensor, Tensor, Tensor]:
    from gnnaccel.kernels.triton.kg_rank import kg_rank_counts

    entity = entity.contiguous()
    greater, equal, count = (torch.empty_like(true) for _ in range(3))
    for at, matrix in shared.by_matrix(relation, projection):
        row, place = shared.left_out(true[at], Left(start[at], stop[at], ids), candidates, entity.shape[0])
        above, below, total = (torch.zeros_like(at) for _ in range(3))
        lost = torch.zeros_like(at, dtype=torch.bool)
        answers, which = shared.answers_on_gpu(entity, true[at], matrix, q.dtype)
        for first, n, index in shared.candidates_on_gpu(entity, candidates, matrix, q.dtype):
            N = len(n) if index is None else len(index)
            here = (place >= first) & (place < first + N)
            local = place[here] - first
            drop = local if index is None else index[local]
            a, b, lost = kg_rank_counts(q[at].contiguous(), n, index, answers, which, row[here], drop, kind, gamma)
            above, below, total = above + a, below + b, total + N
        total -= torch.bincount(row, minlength=len(at))
        greater[at], equal[at] = torch.where(lost, total, above), torch.where(lost, 0, total - above - below)
        count[at] = total
    return greater, equal, count


@fake("kg_rank")
def _fake_rank(entity: Tensor, relation: Tensor, projection: Tensor | None, triples: Tensor, *_: Any) -> Any:
    return tuple(triples.new_empty((triples.shape[0],), dtype=torch.int64) for _ in range(3))


@fake("kg_rank_queries")
def _fake(q: Tensor, *_: Any) -> Any:
    return tuple(q.new_empty((q.shape[0],), dtype=torch.int64) for _ in range(3))


def kg_rank(
    model: str,
    entity_table: Tensor,
    relation_table: Tensor,
    triples: Tensor,
    side: str = "tail",
    known: Any = None,
    *,
    gamma: float = 12.0,
    projection_table: Tensor | None = None,
    candidates: Tensor | None = None,
) -> Ranks:
    """Ranks of the true entity among all entities put in its place, raw or filtered. Nothing of the size B E is made.

    The true entity is neither counted nor left out. Its score is made as the candidates' are, bit for bit: entities with equal
    rows are ties. A candidate whose score is NaN counts as equal; a true score of NaN stands behind every candidate.

    Args:
        model: One of `kg_score`'s names.
        entity_table: `[E, D]`, floating; half types are computed in float32.
        relation_table: `[R, .]` as `kg_score`'s `r`, dtype of `entity_table`.
        triples: Ids of head, relation and tail, `[B, 3]`, int64 or int32; all test triples at once if you like.
        side: What is replaced: `"tail"` or `"head"`.
        known: Candidates to leave out, triple by triple (the filtered setting): offsets `[B + 1]` and entity ids, int64 or
            int32, as `KnownTriples.lookup` gives them, or an object that has `indptr` and `ids`. In any order, also repeated.
        gamma: Added to the distance models. It moves no rank but by rounding.
        projection_table: TransR's P, `[R, D, M]`, dtype of `entity_table`.
        candidates: Entities to rank against, `[M]`, int64 or int32, instead of all; a repeated id counts once.

    Returns:
        `Ranks`, of which `.optimistic`, `.pessimistic` and `.realistic` follow.

    Gradients: none, ranks are integers.

    Cost: 2 B E D operations; memory O(B) and tiles. RESCAL and TransR take the triples relation by relation; TransR projects
    the candidates once for each relation that occurs, and once more for each 2^21 / D triples.

    Determinism: bitwise reproducible on one machine, for any number of threads.

    Raises:
        TypeError: An argument has an unsupported dtype.
        ValueError: A shape does not fit, an id is out of range, `model` or `side` is unknown, or `projection_table` is missing
            or not wanted.
    """
    tables = Tables(entity_table, relation_table, projection_table)
    shared.check_tables("kg_rank", model, side, tables)
    shared.check_rows("kg_rank", "triples", triples, 3)
    shared.check_candidates("kg_rank", candidates)
    indptr, ids = shared.lists("kg_rank", "known", known, triples.shape[0])
    return Ranks(*torch.ops.gnnaccel.kg_rank(*tables, triples, indptr, ids, candidates, model, side == "tail", gamma))
