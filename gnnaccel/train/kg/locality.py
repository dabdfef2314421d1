"""Orders of training triples in which the triples of a batch share rows of the tables."""

from __future__ import annotations

from typing import Any

from gnnaccel.data.kg import KnowledgeGraph
from gnnaccel.graph import locality_order, metis_partition, relation_partition


def triple_order(kg: KnowledgeGraph, order: str, parts: int, seed: int) -> dict[str, Any]:
    """Options of `TripleBatches` for a `train.order`.

    Args:
        kg: Its training triples are ordered.
        order: "random"; "relation": batches of one part of the relations, dealt anew each epoch (DGL-KE); "metis": batches
            between two parts of the entities that METIS cut the graph into, in the order of Marius.
        parts: How many parts, at most as many as entities.
        seed: Of the draws.

    Raises:
        ImportError: "metis" without pymetis.
        ValueError: An unknown order, or too many parts.
    """
    train = kg.train
    if order == "relation":
        relations = {"num_relations": kg.num_relations, "seed": seed}
        return {"order": lambda epoch: relation_partition(train.relation, parts, epoch=epoch, **relations).part}
    if order == "metis":
        book = metis_partition(train.head, train.tail, parts, num_nodes=kg.num_entities, seed=seed)
        ends = book.part[train.head], book.part[train.tail]
        return {"positions": lambda epoch: locality_order(*ends, parts, seed=seed, epoch=epoch).positions}
    if order != "random":
        raise ValueError(f"triple_order: order must be random, relation or metis, got {order!r}")
    return {}
