"""Ranking metrics of knowledge-graph embeddings: every entity against the answer, on both sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnnaccel.data.kg import CATEGORIES, KnowledgeGraph, KnownTriples, Triples, relation_statistics
from gnnaccel.models.kge import KGE

TIES = ("realistic", "optimistic", "pessimistic")
HITS = (1, 3, 10)


@dataclass(frozen=True)
class SideRanks:
    """Ranks of the answers on one side, by how many candidates score higher or the same.

    Attributes:
        greater, equal: Other candidates above and level, int64 `[T]`.
        count: Candidates, the answer included, int64 `[T]`.
        relation: int64 `[T]`.
    """

    greater: Tensor
    equal: Tensor
    count: Tensor
    relation: Tensor

    def rank(self, ties: str = "realistic") -> Tensor:
        """float64 `[T]`; among equals the best, the worst or the mean place."""
        share = {"optimistic": 0.0, "realistic": 0.5, "pessimistic": 1.0}[ties]
        return 1.0 + self.greater.double() + share * self.equal.double()

    def __getitem__(self, mask: Tensor) -> SideRanks:
        return SideRanks(self.greater[mask], self.equal[mask], self.count[mask], self.relation[mask])

    @staticmethod
    def cat(parts: list[SideRanks]) -> SideRanks:
        return SideRanks(*(torch.cat([getattr(p, name) for p in parts]) for name in SideRanks.__dataclass_fields__))


def rank_triples(
    model: KGE,
    triples: Triples,
    side: str,
    known: KnownTriples | None,
    *,
    batch_size: int = 4096,
    candidates: Tensor | Callable[[int], Tensor] | None = None,
    progress: Any = None,
) -> SideRanks:
    """Ranks of the tails (or heads) of triples among all entities, less other answers in `known`.

    Memory does not grow with the number of triples or entities beyond their ids. Exact: the same for any batch size. The
    answers are ranked among `candidates` if these are given: ids, or a function of the batch's first position that draws them.
    """
    device = model.entity.device
    parts = []
    for start in range(0, len(triples), batch_size):
        part = triples[start : start + batch_size]
        answers = None
        if known is not None:
            answers = known.lookup(part.head if side == "tail" else part.tail, part.relation, side)
            answers = tuple(x.to(device) for x in answers)
        among = candidates(start) if callable(candidates) else candidates
        ranks = model.rank(part.tensor().to(device), side, answers, candidates=among)
        parts.append(SideRanks(ranks.greater.cpu(), ranks.equal.cpu(), ranks.count.cpu() + 1, part.relation))
        if progress is not None:
            progress.update(len(part))
    empty = torch.empty(0, dtype=torch.int64)
    return SideRanks.cat(parts) if parts else SideRanks(empty, empty, empty, empty)


def metrics_of(ranks: SideRanks, ties: str = "realistic") -> dict[str, float]:
    """MRR, MR, Hits@k and the adjusted mean rank index; NaN for no ranks.

    The index is 1 - (MR - 1) / (E[MR] - 1) with ranks drawn evenly (Berrendorf et al., 2020): 1 is perfect, 0 is chance.
    `mrr_expected` is the mean of 1 / rank over all orders of equal candidates.
    """
    rank = ranks.rank(ties)
    chance = (ranks.count.double() - 1).mean() / 2
    first, last = ranks.greater.double() + 1, (ranks.greater + ranks.equal).double() + 2
    # 1/a + ... + 1/b = psi(b + 1) - psi(a)
    expected = (torch.special.digamma(last) - torch.special.digamma(first)) / (ranks.equal.double() + 1)
    values = {
        "mrr": (1 / rank).mean(),
        "mr": rank.mean(),
        **{f"hits@{k}": (rank <= k).double().mean() for k in HITS},
        "amri": 1 - (rank.mean() - 1) / chance,
        "mrr_expected": expected.mean(),
    }
    return {k: float(v) for k, v in values.items()}


def evaluate(
    model: KGE,
    kg: KnowledgeGraph,
    split: str = "test",
    *,
    known: KnownTriples | None = None,
    filtered: bool = True,
    ties: str = "realistic",
    batch_size: int = 4096,
    unseen: str = "rank",
    sample: int | None = None,
    candidates: int | None = None,
    candidates_by: str = "uniform",
    seed: int = 0,
    details: bool = False,
    progress: Any = None,
) -> dict[str, Any]:
    """Rank a split of a knowledge graph on both sides.

    Args:
        model: The embeddings.
        kg: Without inverse relations; its ids are the model's.
        split: "train", "valid" or "test".
        known: `kg.known()`, if it is at hand already.
        filtered: Leave out other answers that are true in any split (Bordes et al., 2013).
        ties: "realistic" (the mean place among equals), "optimistic" or "pessimistic".
        batch_size: Triples ranked at a time; changes no result.
        unseen: "rank" triples with an entity or relation that no training triple has, or "drop" them; they are counted.
        sample: Rank so many triples only, drawn by `seed`.
        candidates: Rank among so many distinct entities instead of all, drawn by `seed` for each batch of each side, as
            DGL-KE does for large graphs. The result then depends on `batch_size`; the answer and those known are left out of
            them.
        candidates_by: "uniform", or "degree": in proportion to an entity's training triples (DGL-KE's neg_deg_sample_eval).
        details: Also by side, by relation category, and under the other rules for ties.
        progress: Its `update(n)` is called, n triples of a side at a time.

    Returns:
        `mrr`, `mr`, `hits@1`, `hits@3`, `hits@10`, `amri`, `mrr_expected`, `triples`, `unseen`; with `details` also `head`,
        `tail`, `ties` and `categories` (each category of relations: `triples`, `head`, `tail`).

    Raises:
        ValueError: An unknown split or option, or a split without triples to rank.
    """
    if ties not in TIES:
        raise ValueError(f"evaluate: ties must be one of {', '.join(TIES)}, got {ties!r}")
    if candidates_by not in ("uniform", "degree"):
        raise ValueError(f"evaluate: candidates_by must be uniform or degree, got {candidates_by!r}")
    if unseen not in ("rank", "drop"):
        raise ValueError(f"evaluate: unseen must be rank or drop, got {unseen!r}")
    if (kg.num_entities, kg.num_relations) != (model.num_entities, model.num_relations):
        raise ValueError(
            f"evaluate: the model has {model.num_entities} entities and {model.num_relations} relations, {kg.name} has "
            f"{kg.num_entities} and {kg.num_relations}"
        )
    triples = kg.split(split)
    strange = _unseen(kg, triples)
    if unseen == "drop":
        triples = triples[~strange]
        if not len(triples):
            raise ValueError(f"{kg.name}: {split} must hold triples of trained entities for unseen='drop', got none")
    if sample is not None and sample < len(triples):
        order = torch.randperm(len(triples), generator=torch.Generator().manual_seed(seed))
        triples = triples[order[:sample].sort().values]
    if filtered and known is None:
        known = kg.known()
    by_side = {
        side: rank_triples(
            model,
            triples,
            side,
            known if filtered else None,
            batch_size=batch_size,
            candidates=_draw(kg, side, candidates, candidates_by, seed, model.entity.device),
            progress=progress,
        )
        for side in ("head", "tail")
    }
    both = SideRanks.cat(list(by_side.values()))
    result: dict[str, Any] = {**metrics_of(both, ties), "triples": len(triples), "unseen": int(strange.sum())}
    if details:
        result |= {side: metrics_of(ranks, ties) for side, ranks in by_side.items()}
        result["ties"] = {rule: metrics_of(both, rule) for rule in TIES}
        result["categories"] = _by_category(kg, by_side, ties)
    return result


def _draw(
    kg: KnowledgeGraph, side: str, count: int | None, by: str, seed: int, device: torch.device
) -> Callable[[int], Tensor] | None:
    """What draws the candidates of a batch, by the position of its first triple."""
    if count is None or count >= kg.num_entities:
        return None
    share = None
    if by == "degree":
        ends = np.concatenate([kg.train.head.numpy(), kg.train.tail.numpy()])
        share = np.bincount(ends, minlength=kg.num_entities) / len(ends)
        count = min(count, int((share > 0).sum()))

    def draw(start: int) -> Tensor:
        generator = np.random.default_rng([seed, start, int(side == "head")])
        return torch.from_numpy(generator.choice(kg.num_entities, count, replace=False, p=share)).to(device)

    return draw


def _unseen(kg: KnowledgeGraph, triples: Triples) -> Tensor:
    entity, relation = torch.zeros(kg.num_entities, dtype=torch.bool), torch.zeros(kg.num_relations, dtype=torch.bool)
    entities, relations = kg.unseen()
    entity[torch.from_numpy(entities)] = True
    relation[torch.from_numpy(relations)] = True
    return entity[triples.head] | entity[triples.tail] | relation[triples.relation]


def _by_category(kg: KnowledgeGraph, by_side: dict[str, SideRanks], ties: str) -> dict[str, Any]:
    category = relation_statistics(Triples.cat([kg.train, kg.valid, kg.test]), kg.num_relations).category
    found = {}
    for i, name in enumerate(CATEGORIES):
        masks = {side: category[ranks.relation] == i for side, ranks in by_side.items()}
        count = int(masks["tail"].sum())
        if count:
            sides = {side: metrics_of(by_side[side][mask], ties) for side, mask in masks.items()}
            found[name] = {"triples": count, **sides}
    return found
