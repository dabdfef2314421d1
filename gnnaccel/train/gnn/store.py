"""Where feature rows lie: one table, or the files of the parts of a partition."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from gnnaccel.graph.partition import NodeBook
from gnnaccel.nn.conv import TableRows


class Plan(NamedTuple):
    """Which rows of a request each part serves.

    Attributes:
        ids: What is asked for, `[n]`.
        order: Positions in `ids`, sorted by part, `[n]`; None where one part serves all.
        counts: Rows of each part, `[P]`.
        remote: Rows of other parts than the asking one.
    """

    ids: Tensor
    order: Tensor | None = None
    counts: tuple[int, ...] = ()
    remote: int = 0


class Rows(Protocol):
    """Rows by global id; the door to tables that lie elsewhere."""

    num_rows: int
    width: int

    def plan(self, ids: Tensor) -> Plan:
        """Find out who owns `ids`, and how many rows each owner sends."""
        ...

    def rows(self, plan: Plan) -> Tensor:
        """The rows `[n, width]`, floating, in the order of the request."""
        ...


class TableStore:
    """Rows of one table in memory, or mapped from a file.

    Args:
        table: `[N, F]`, floating, or int8 with `scale`.
        scale: float32 `[N]`.
    """

    def __init__(self, table: Tensor, scale: Tensor | None = None) -> None:
        self.table, self.scale = table, scale
        self.num_rows, self.width = table.shape

    def plan(self, ids: Tensor) -> Plan:
        return Plan(ids, None, (len(ids),))

    def rows(self, plan: Plan) -> Tensor:
        return TableRows(self.table, plan.ids, self.scale).gather()

    def in_place(self, ids: Tensor, direct: bool = False) -> TableRows:
        """The rows, not gathered: what a first layer can read by itself; `direct` as of `TableRows`."""
        return TableRows(self.table, ids, self.scale, direct)


class PartitionStore:
    """Rows of a partition's parts, each with its own table. What crosses parts is counted, as a network would see it.

    Args:
        book: Who owns which node: `GraphParts.book`, or a `PartitionBook`.
        tables: Of each part the rows of its own nodes, in their local order.
        home: The part that asks.
        scales: Of int8 tables.
    """

    def __init__(self, book: NodeBook, tables: list[Tensor], home: int = 0, scales: list[Tensor] | None = None) -> None:
        if len(tables) != book.num_parts:
            raise ValueError(f"PartitionStore: tables must be {book.num_parts}, one a part, got {len(tables)}")
        for p, table in enumerate(tables):
            if len(table) != len(book.inner(p)):
                raise ValueError(
                    f"PartitionStore: the table of part {p} must have {len(book.inner(p))} rows, got {len(table)}"
                )
        if len({table.shape[1] for table in tables}) > 1:
            raise ValueError(f"PartitionStore: tables must be of one width, got {[t.shape[1] for t in tables]}")
        if scales is not None and len(scales) != book.num_parts:
            raise ValueError(f"PartitionStore: scales must be {book.num_parts}, one a part, got {len(scales)}")
        if not 0 <= home < book.num_parts:
            raise ValueError(f"PartitionStore: home must be a part, 0 to {book.num_parts - 1}, got {home}")
        self.book, self.tables, self.home, self.scales = book, tables, home, scales
        self.num_rows, self.width = len(book.part), tables[0].shape[1]
        self.fetched = 0  # rows of other parts, since the beginning

    def plan(self, ids: Tensor) -> Plan:
        owner = self.book.part[ids.long()]
        counts = torch.bincount(owner, minlength=self.book.num_parts).tolist()
        return Plan(ids, owner.argsort(stable=True), tuple(counts), len(ids) - counts[self.home])

    def rows(self, plan: Plan) -> Tensor:
        assert plan.order is not None
        self.fetched += plan.remote
        parts: list[Any] = []
        for p, positions in enumerate(plan.order.split(list(plan.counts))):
            local = self.book.local[plan.ids[positions].long()]
            parts.append(TableRows(self.tables[p], local, None if self.scales is None else self.scales[p]).gather())
        out = torch.empty((len(plan.ids), self.width), dtype=parts[0].dtype)
        out[plan.order] = torch.cat(parts)
        return out
