"""What relations and entities look like: frequencies, categories, degrees to draw negatives by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnnaccel.data.kg._keys import distinct_rows
from gnnaccel.data.kg.graph import Triples
from gnnaccel.data.philox import below

__all__ = ["CATEGORIES", "DegreeTable", "RelationStatistics", "entity_degrees", "relation_statistics"]

CATEGORIES = ("1-1", "1-N", "N-1", "N-N")


@dataclass(frozen=True, eq=False)
class RelationStatistics:
    """Of each relation; all tensors are [R].

    Attributes:
        count: Triples, with repetitions, int64.
        tails_per_head, heads_per_tail: Distinct answers of a query, on average over the queries that have one, float64; 0 for a
            relation without triples.
        category: Position in `CATEGORIES`, int64; -1 for a relation without triples.
        threshold: From this average on it is "N".
    """

    count: Tensor
    tails_per_head: Tensor
    heads_per_tail: Tensor
    category: Tensor
    threshold: float

    def names(self) -> list[str]:
        """The category of each relation in words; "none" without triples."""
        return [(*CATEGORIES, "none")[c] for c in self.category.tolist()]

    def share(self) -> dict[str, int]:
        """Number of relations in each category."""
        return {name: int((self.category == i).sum()) for i, name in enumerate(CATEGORIES)}

    def empty(self) -> Tensor:
        """Ids of relations without triples, int64, ascending."""
        return (self.count == 0).nonzero().squeeze(1)


def relation_statistics(triples: Triples, num_relations: int, threshold: float = 1.5) -> RelationStatistics:
    """Frequency and category of every relation.

    A relation is 1-N if a head has many tails and a tail has one head, and so on; "many" is an average of at least
    `threshold`. Bordes et al.: Translating Embeddings for Modeling Multi-relational Data (NeurIPS 2013), section 4.3,
    who count all splits together: `Triples.cat([kg.train, kg.valid, kg.test])`. Repeated triples count once there.

    Raises:
        ValueError: A relation id is not below `num_relations`, or the threshold is not > 0.
    """
    if not threshold > 0:
        raise ValueError(f"relation_statistics: threshold must be > 0, got {threshold}")
    head, relation, tail = triples.numpy()
    if len(relation) and int(relation.max()) >= num_relations:
        raise ValueError(
            f"relation_statistics: relation ids must be in [0, {num_relations}), got {int(relation.max())}"
        )
    entities = int(max(head.max(initial=-1), tail.max(initial=-1))) + 1
    averages = []
    for entity, answer in ((head, tail), (tail, head)):
        keys, indptr, _ = distinct_rows(entity * num_relations + relation, answer, entities)
        owner = keys % max(num_relations, 1)
        queries = np.bincount(owner, minlength=num_relations)
        # Whole numbers below 2^53: exact in any order
        answers = np.bincount(owner, weights=np.diff(indptr), minlength=num_relations)
        averages.append(answers / np.maximum(queries, 1))
    tph, hpt = averages
    count = np.bincount(relation, minlength=num_relations)
    category = (tph >= threshold) * 1 + (hpt >= threshold) * 2
    category[count == 0] = -1
    as_tensor = torch.from_numpy
    return RelationStatistics(
        as_tensor(count), as_tensor(tph), as_tensor(hpt), as_tensor(category.astype(np.int64)), threshold
    )


def entity_degrees(triples: Triples, num_entities: int) -> tuple[Tensor, Tensor]:
    """How often each entity is a head and how often a tail, int64 [E] each. Repeated triples count again."""
    out, _, into = triples.numpy()
    top = int(max(out.max(initial=-1), into.max(initial=-1)))
    if top >= num_entities:
        raise ValueError(f"entity_degrees: entity ids must be in [0, {num_entities}), got {top}")
    head, tail = (torch.from_numpy(np.bincount(x, minlength=num_entities)) for x in (out, into))
    return head, tail


class DegreeTable:
    """Draws entities in proportion to (degree + smoothing)^power, reproducibly.

    Degrees are of one side or of both. Power 1 without smoothing is drawing an end of a random triple, as DGL-KE's
    neg_deg_sample does within a batch, and is exact; other weights are rounded to 2^-30 of their sum. An entity of weight 0 is
    never drawn. Draw j for item i in an epoch is a function of (seed, epoch, i, j) alone.

    Args:
        triples: Those of train.
        num_entities: E.
        side: "head", "tail", or "both" (their sum).
        power: In [0, 1]; word2vec's is 0.75.
        smoothing: Added to every degree, >= 0; with it every entity can be drawn.
        seed: 64 bits.

    Attributes:
        total: Cumulated integer weights, int64 [E]; entity e is drawn with probability (total[e] - total[e - 1]) / total[-1].
    """

    def __init__(
        self,
        triples: Triples,
        num_entities: int,
        side: str = "both",
        power: float = 1.0,
        smoothing: float = 0.0,
        seed: int = 0,
    ):
        if side not in ("head", "tail", "both"):
            raise ValueError(f"DegreeTable: side must be 'head', 'tail' or 'both', got {side!r}")
        if not 0 <= power <= 1:
            raise ValueError(f"DegreeTable: power must be in [0, 1], got {power}")
        if not 0 <= smoothing < float("inf"):
            raise ValueError(f"DegreeTable: smoothing must be finite and >= 0, got {smoothing}")
        head, tail = entity_degrees(triples, num_entities)
        degree = {"head": head, "tail": tail, "both": head + tail}[side].numpy()
        if not smoothing and not degree.any():
            raise ValueError("DegreeTable: triples must not be empty without smoothing, got 0 triples")
        if power == 1 and float(smoothing).is_integer() and degree.sum() + smoothing * num_entities < 2**31:
            total = np.cumsum(degree + int(smoothing))
        else:
            weights = np.where(degree + smoothing > 0, (degree + smoothing) ** float(power), 0.0)
            cumulated = np.cumsum(weights)
            total = np.rint(cumulated * (2.0**30 / cumulated[-1])).astype(np.int64)
        self.total, self.seed, self._cdf = torch.from_numpy(total), seed, total

    def draw(self, items: Any, n: int, epoch: int = 0, stream: int = 0) -> Tensor:
        """Entities, int64 [len(items), n].

        Args:
            items: What is drawn for (a chunk, a triple), int64 >= 0.
            n: Draws of each.
            epoch, stream: Keep draws apart; see `gnnaccel.data.philox.below`.
        """
        items = np.asarray(items.cpu() if isinstance(items, Tensor) else items, np.int64).reshape(-1)
        bits = below(int(self._cdf[-1]), items, n, seed=self.seed, epoch=epoch, stream=stream)
        return torch.from_numpy(np.searchsorted(self._cdf, bits, side="right"))
