"""What users write today for filtered ranks: scores of some queries against all entities, the known ones put out of the way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers.kg_score import _turn

_BATCH = 256  # queries whose scores exist at a time


def queries(model: str, e: Tensor, r: Tensor, side: str) -> Tensor:
    """What is compared with tails (of heads `e`), or with heads."""
    tail = side == "tail"
    if model in ("transe_l1", "transe_l2"):
        return e + r if tail else e - r
    if model == "distmult":
        return e * r
    re, im = (torch.cos(r), torch.sin(r)) if model == "rotate" else r.chunk(2, -1)
    return _turn(e, re, im if tail else -im)


def scores(model: str, q: Tensor, entity: Tensor, gamma: float) -> Tensor:
    """By cdist for TransE, by a matrix product for the products, by broadcasting query by query for RotatE."""
    if model in ("transe_l1", "transe_l2"):
        return gamma - torch.cdist(q, entity, p=1 if model == "transe_l1" else 2)
    if model != "rotate":
        return q @ entity.T
    out = q.new_empty(len(q), len(entity))
    for row, to in zip(q, out, strict=True):
        re, im = (row - entity).square_().chunk(2, -1)
        to[:] = gamma - re.add_(im).sqrt_().sum(-1)  # hypot takes half as long again
    return out


def eager(
    model: str,
    entity_table: Tensor,
    relation_table: Tensor,
    triples: Tensor,
    side: str = "tail",
    known: Any = None,
    gamma: float = 12.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Greater, equal and number of candidates, `[B]` each."""
    indptr, ids = known
    kept, true = (triples[:, 0], triples[:, 2]) if side == "tail" else (triples[:, 2], triples[:, 0])
    found = []
    for b in range(0, len(triples), _BATCH):
        end = min(b + _BATCH, len(triples))
        q = queries(model, entity_table[kept[b:end]], relation_table[triples[b:end, 1]], side)
        s = scores(model, q, entity_table, gamma)
        wanted = s.gather(1, true[b:end, None])
        row = torch.repeat_interleave(torch.arange(end - b), indptr[b + 1 : end + 1] - indptr[b:end])
        s[row, ids[indptr[b] : indptr[end]]] = torch.nan
        s.scatter_(1, true[b:end, None], torch.nan)
        found.append(torch.stack([(s > wanted).sum(1), (s == wanted).sum(1), (~s.isnan()).sum(1)]))
    greater, equal, count = torch.cat(found, 1)
    return greater, equal, count


PROVIDERS: dict[str, Any] = {"torch": eager}
MISSING: dict[str, str] = {}

try:
    from pykeen import models as _models
    from pykeen.evaluation import RankBasedEvaluator
    from pykeen.triples import CoreTriplesFactory
except ImportError as error:
    MISSING["pykeen"] = str(error)
else:

    def prepared(args: dict[str, Any]) -> dict[str, Any]:
        """PyKEEN's model with these tables, and the known triples as it wants them."""
        model, entity, relation, triples = (args[x] for x in ("model", "entity_table", "relation_table", "triples"))
        (E, D), R = entity.shape, len(relation)
        indptr, ids = args["known"]
        rows = triples.repeat_interleave(indptr[1:] - indptr[:-1], 0)
        rows[:, 2 if args["side"] == "tail" else 0] = ids
        factory = CoreTriplesFactory(triples, num_entities=E, num_relations=R)
        make = {
            "transe_l1": lambda: _models.TransE(triples_factory=factory, embedding_dim=D, scoring_fct_norm=1),
            "transe_l2": lambda: _models.TransE(triples_factory=factory, embedding_dim=D, scoring_fct_norm=2),
            "distmult": lambda: _models.DistMult(triples_factory=factory, embedding_dim=D),
            "complex": lambda: _models.ComplEx(triples_factory=factory, embedding_dim=D // 2),
        }
        theirs = make[model]()
        for kind, table in (("entity", entity), ("relation", relation)):
            if model == "complex":
                table = torch.stack(table.chunk(2, 1), 2).flatten(1)  # it interleaves the parts
            weight = getattr(theirs, f"{kind}_representations")[0]._embeddings.weight
            weight.data.copy_(table.view_as(weight))
        return {"model": theirs, "triples": triples, "filters": rows, "side": args["side"]}

    def pykeen(model: Any, triples: Tensor, filters: Tensor, side: str) -> tuple[Tensor, Tensor, Tensor]:
        """Its evaluator, with metrics."""
        evaluator = RankBasedEvaluator(filtered=True, clear_on_finalize=False)
        evaluator.evaluate(
            model,
            triples,
            batch_size=_BATCH,
            use_tqdm=False,
            do_time_consuming_checks=False,
            additional_filter_triples=filters,
            pre_filtered_triples=False,
            targets=(side,),
        )
        optimistic, pessimistic = (
            torch.cat([torch.as_tensor(x) for x in evaluator.ranks[side, kind]]).long()
            for kind in ("optimistic", "pessimistic")
        )
        count = torch.cat([torch.as_tensor(x) for x in evaluator.num_candidates[side]])
        return optimistic - 1, pessimistic - optimistic, count - 1

    PROVIDERS["pykeen"] = pykeen
