"""A temporal model from parts: memory, mailbox, updater, aggregator, decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gnnaccel.graph.batch import Sampling, TemporalBatch
from gnnaccel.models.base import TemporalModel
from gnnaccel.nn import Linear, Mailbox, NodeMemory, deliver_mails, end_mails, neighbor_mails
from gnnaccel.nn.delivery import COMBINE
from gnnaccel.ops import gather_rows, latest_per_node
from gnnaccel.ops._commit_events import commit_events

DELIVER = ("self", "neighbors")


class MemoryRows(NamedTuple):
    """Memory of a batch's nodes after their pending mail: what `commit` stores."""

    memory: Tensor  # [U, dim_memory], detached
    last_update: Tensor  # [U]


class ComposedModel(TemporalModel):
    """Memory that mail updates, then an aggregator over sampled neighbours; every part can be exchanged.

    A node's mail is `[memory_self | memory_other | edge feature]` of one of its events. Mail is applied when the node is next
    read (`embed`), and what comes of it is stored when the node next has an event (`commit`), so gradients reach the updater
    through every prediction. Events of a batch see the memory from before the batch, and neighbours as the sampler's semantics
    allow.

    Args:
        num_nodes: Number of nodes N.
        sampling: Neighbours that the aggregator reads.
        aggregator: Module `(x [U, dim_in], batch, edge_feat, state) -> [R, D]` (see `gnnaccel.nn.aggregators`).
        decoder: `LinkDecoder` or a module with its methods, over embeddings of size D.
        updater: Module with `dim_memory` and `read(memory, mailbox, nodes, times, seed)`, or None for a model without memory.
            With an attribute `timeless` that is true, what it reads must not depend on `times` and `seed`.
        slots: Mails a node keeps.
        deliver: Who gets an event's mail: "self", its ends, or "neighbors", their sampled neighbours too.
        combine: What a node keeps of the mails it gets in one batch: the "last" or the "mean" (see `nn.deliver`).
        dim_edge: Size of an edge feature, 0 for none.
        node_feat: Node features `[N, dim_node]`: mapped to the memory's size and added to it, or, without memory, the
            aggregator's input itself. None: memory alone.
        time_dtype: dtype of the times, int64 or float64.

    Determinism: the memory of a node does not depend on which other nodes are in the batch (same bits).
    """

    node_feat: Tensor | None

    def __init__(
        self,
        num_nodes: int,
        *,
        sampling: Sampling,
        aggregator: nn.Module,
        decoder: nn.Module,
        updater: Any = None,
        slots: int = 1,
        deliver: str = "self",
        combine: str = "last",
        dim_edge: int = 0,
        node_feat: Tensor | None = None,
        time_dtype: torch.dtype = torch.int64,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if node_feat is not None and node_feat.shape[0] != num_nodes:
            raise ValueError(f"{name}: node_feat must have {num_nodes} rows, one a node, got {node_feat.shape[0]}")
        for option, given, known in (("deliver", deliver, DELIVER), ("combine", combine, COMBINE)):
            if given not in known:
                raise ValueError(f"{name}: {option} must be one of {list(known)}, got {given!r}")
        self.deliver, self.combine = deliver, combine
        self.sampling = sampling
        self.dim_node = 0 if node_feat is None else node_feat.shape[1]
        self.memory: NodeMemory | None = None
        self.feature: Linear | None = None
        if updater is not None:
            dim = updater.dim_memory
            self.memory = NodeMemory(num_nodes, dim, time_dtype=time_dtype)
            self.mailbox = Mailbox(num_nodes, 2 * dim + dim_edge, time_dtype=time_dtype, slots=slots)
            self.updater = updater
            self.feature = None if node_feat is None else Linear(self.dim_node, dim, bias=False)
        self.register_buffer("node_feat", node_feat, persistent=False)
        self.aggregator = aggregator
        self.decoder = decoder

    @property
    def has_memory(self) -> bool:
        return self.memory is not None

    def reset(self, start_time: float = 0) -> None:
        if self.memory is not None:
            self.memory.reset(start_time)
            self.mailbox.reset()

    def read(self, nodes: Tensor, times: Tensor | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Memory `[U, dim_memory]` of `nodes` with their pending mail applied, and the time of its last update.

        `times [U]` is when they are read, for updaters that look at the age of mail.
        """
        assert self.memory is not None
        return self.updater.read(self.memory, self.mailbox, nodes, times, seed)

    def embed(
        self,
        batch: TemporalBatch,
        edge_feat: Tensor | None = None,
        read: Callable[[Tensor, Tensor | None, int], tuple[Tensor, Tensor]] | None = None,
    ) -> tuple[Tensor, MemoryRows | None]:
        """As of any model; `read` is where memory rows come from, `self.read` by default.

        Edge features of another dtype than the model's, say float16 in a memory-mapped file, are converted a batch at a time.
        """
        if edge_feat is not None and edge_feat.dtype != (dtype := next(self.parameters()).dtype):
            batch, edge_feat = batch.gather_edges(edge_feat, dtype)
        if self.memory is None:
            x = None if self.node_feat is None else gather_rows(self.node_feat, batch.nodes)
            if x is None:
                x = next(self.aggregator.parameters()).new_empty(len(batch.nodes), 0)
            return self.aggregator(x, batch, edge_feat, None), None
        memory, last_update = (read or self.read)(batch.nodes, batch.node_times, batch.seed)
        x = memory
        if self.feature is not None:
            x = x + self.feature(gather_rows(self.node_feat, batch.nodes))
        state = MemoryState(last_update, self.memory.start_time)
        return self.aggregator(x, batch, edge_feat, state), MemoryRows(memory.detach(), last_update)

    @property
    def commit_sampling(self) -> Sampling:
        return self.sampling if self.deliver == "neighbors" else replace(self.sampling, fanouts=(), snapshots=1)

    def advance(self, batch: TemporalBatch, edge_feat: Tensor | None = None) -> MemoryRows | None:
        if self.memory is None:
            return None
        memory, last_update = self.read(batch.nodes, batch.node_times, batch.seed)
        return MemoryRows(memory.detach(), last_update)

    @torch.no_grad()
    def settle(self, nodes: Tensor) -> None:
        # mail that comes by way of a neighbour takes the place of mail that was never stored: applied early, both would count
        if self.memory is not None and self.deliver == "self" and getattr(self.updater, "timeless", False):
            self.memory.update(nodes, *self.read(nodes))
            self.mailbox.clear(nodes)

    @torch.no_grad()
    def commit(
        self, batch: TemporalBatch, rows: MemoryRows | None, event_ids: Tensor, edge_feat: Tensor | None = None
    ) -> None:
        if self.memory is None or rows is None:
            return
        ends = slice(0, 2 * len(event_ids))
        nodes, times, row = batch.roots[ends], batch.times[ends], batch.root_row[ends]
        if (self.mailbox.slots, self.deliver, self.combine) == (1, "self", "last"):
            commit_events(
                self.memory.memory,
                self.memory.last_update,
                self.mailbox.mail,
                self.mailbox.mail_time,
                self.mailbox.has_mail,
                ends=nodes,
                times=times,
                row=row,
                rows_memory=rows.memory,
                rows_time=rows.last_update,
                event_ids=event_ids,
                edge_feat=edge_feat,
            )
            return
        nodes, last = latest_per_node(nodes, times, event_ids.repeat(2))
        self.memory.update(nodes, rows.memory[row[last]], rows.last_update[row[last]])
        mails = (neighbor_mails if self.deliver == "neighbors" else end_mails)(batch, event_ids)
        deliver_mails(self.mailbox, mails, rows.memory, edge_feat, self.combine)

    @torch.no_grad()
    def grow(self, num_nodes: int, node_feat: Tensor | None = None) -> None:
        """Make room for nodes up to `num_nodes`; `node_feat` are the features of the new ones, zero by default."""
        if self.memory is not None:
            self.memory.grow(num_nodes)
            self.mailbox.grow(num_nodes)
        if self.node_feat is not None:
            new = num_nodes - len(self.node_feat)
            more = self.node_feat.new_zeros(new, self.dim_node) if node_feat is None else node_feat.to(self.node_feat)
            if tuple(more.shape) != (new, self.dim_node):
                name = type(self).__name__
                raise ValueError(f"{name}.grow: node_feat must be [{new}, {self.dim_node}], got {list(more.shape)}")
            self.node_feat = torch.cat([self.node_feat, more])


class MemoryState(NamedTuple):
    """What aggregators may know of the memory beside its rows."""

    last_update: Tensor  # [U]
    start_time: Tensor  # []
