"""Partitions of a knowledge graph, as DGL-KE's distributed training reads them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv as pacsv
import torch
from torch import Tensor

from gnnaccel.data.kg.graph import KnowledgeGraph
from gnnaccel.graph.partition import PartitionBook, metis_partition

__all__ = ["PartSize", "partition_entities", "write_partitions"]


class PartSize(NamedTuple):
    """What is in a part.

    Attributes:
        entities: Its own.
        halo: Entities of other parts that share a triple with one of its own.
        triples: Those in its train.txt.
        inner: Of them, those between its own entities.
    """

    entities: int
    halo: int
    triples: int
    inner: int


def partition_entities(
    kg: KnowledgeGraph, num_parts: int, *, balance: str = "nodes", imbalance: float = 0.03, seed: int = 0
) -> PartitionBook:
    """Parts of the entities with few training triples between them, by METIS; arguments as in `metis_partition`.

    A triple belongs to the part of its tail, as in DGL-KE: in the book, the source of an edge is the tail.

    Raises:
        ImportError: pymetis is not installed.
        ValueError: An argument is out of its range.
    """
    options = {"balance": balance, "imbalance": imbalance, "seed": seed}
    return metis_partition(kg.train.tail, kg.train.head, num_parts, num_nodes=kg.num_entities, **options)


def write_partitions(
    kg: KnowledgeGraph,
    book: PartitionBook,
    folder: str | Path,
    *,
    progress: Callable[[int], Any] = lambda count: None,
) -> list[PartSize]:
    """Write `partition_0`, `partition_1`, ... into a folder, each with four files:

    - train.txt: the training triples of its tails, lines `head<TAB>relation<TAB>tail` with entities by local ids
    - local_to_global.txt: a line for each local id, the global one: its own entities, ascending, then its halo, ascending
    - partition_book.txt: a line for each entity, its part
    - relation_count.txt: the number of relations

    A file is written under a temporary name first. Parts are in memory one at a time.

    Args:
        kg: The graph that was partitioned.
        book: By `partition_entities`.
        folder: Made if absent.
        progress: Called with the number of triples of each part when it is written.

    Returns:
        The sizes of the parts.
    """
    sizes = []
    for p in range(book.num_parts):
        triples = kg.train[book.edges(p)]
        to = Path(folder) / f"partition_{p}"
        to.mkdir(parents=True, exist_ok=True)
        _write(to / "train.txt", book.to_local(p, triples.head), triples.relation, book.to_local(p, triples.tail))
        _write(to / "local_to_global.txt", book.local_to_global(p))
        _write(to / "partition_book.txt", book.part)
        _write(to / "relation_count.txt", torch.tensor([kg.num_relations]))
        inner = int((book.part[triples.head] == p).sum())
        sizes.append(PartSize(len(book.inner(p)), len(book.halo(p)), len(triples), inner))
        progress(len(triples))
    return sizes


def _write(path: Path, *columns: Tensor) -> None:
    """Integers as lines, tabs between columns."""
    table = pa.table([pa.array(x.numpy()) for x in columns], [str(i) for i in range(len(columns))])
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pacsv.write_csv(table, temporary, pacsv.WriteOptions(include_header=False, delimiter="\t"))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
