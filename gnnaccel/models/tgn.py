"""Temporal Graph Networks (Rossi et al., 2020)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gnnaccel.graph.batch import TemporalBatch
from gnnaccel.nn import Linear, LinkDecoder, Mailbox, MemoryUpdater, NodeMemory, TemporalAttention
from gnnaccel.ops import gather_rows
from gnnaccel.ops._commit_events import commit_events


class MemoryRows(NamedTuple):
    """Memory of a batch's nodes after their pending mail: what `TGN.commit` stores."""

    memory: Tensor  # [U, dim_memory], detached
    last_update: Tensor  # [U]


class TGN(nn.Module):
    """Memory, one mail a node, temporal attention over recent neighbours, link decoder.

    A node's mail is `[memory_self | memory_other | edge feature]` of its last event. The mail is applied when the node is
    next read (`embed`) and stored when the node next has an event (`commit`), so gradients reach the updater through every
    prediction. Events of a batch see the memory from before the batch, and neighbours as the sampler's semantics allow.

    Args:
        num_nodes: Number of nodes N.
        dim_edge: Size of an edge feature, 0 for none.
        node_feat: Node features `[N, dim_node]`, mapped to the memory's size and added to it, or None.
        dim_memory, dim_time, dim_embed: Sizes of the memory, the time encodings and the embeddings.
        heads: Attention heads.
        dropout: Dropout of attention and of its output.
        cell: Updater cell, "gru" or "rnn".
        time_dtype: dtype of the times, int64 or float64.

    Determinism: the memory of a node does not depend on which other nodes are in the batch (same bits).
    """

    def __init__(
        self,
        num_nodes: int,
        *,
        dim_edge: int = 0,
        node_feat: Tensor | None = None,
        dim_memory: int = 100,
        dim_time: int = 100,
        dim_embed: int = 100,
        heads: int = 2,
        dropout: float = 0.1,
        cell: str = "gru",
        time_dtype: torch.dtype = torch.int64,
    ) -> None:
        super().__init__()
        if node_feat is not None and node_feat.shape[0] != num_nodes:
            raise ValueError(f"TGN: node_feat must have {num_nodes} rows, one a node, got {node_feat.shape[0]}")
        self.memory = NodeMemory(num_nodes, dim_memory, time_dtype=time_dtype)
        self.mailbox = Mailbox(num_nodes, 2 * dim_memory + dim_edge, time_dtype=time_dtype)
        self.updater = MemoryUpdater(2 * dim_memory + dim_edge, dim_time, dim_memory, cell=cell)
        self.register_buffer("node_feat", node_feat, persistent=False)
        self.feature = None if node_feat is None else Linear(node_feat.shape[1], dim_memory, bias=False)
        self.attention = TemporalAttention(
            dim_memory, dim_memory, dim_edge, dim_time, dim_embed, heads=heads, dropout=dropout
        )
        self.decoder = LinkDecoder(dim_embed)

    def reset(self, start_time: float = 0) -> None:
        """Forget everything: memory to zero, mailboxes empty. `start_time` is when the stream begins."""
        self.memory.reset(start_time)
        self.mailbox.reset()

    def read(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Memory `[U, dim_memory]` of `nodes` with their pending mail applied, and the time of its last update."""
        return self.updater.read(self.memory, self.mailbox, nodes)

    def embed(self, batch: TemporalBatch, edge_feat: Tensor | None = None) -> tuple[Tensor, MemoryRows]:
        """Embeddings `[R, dim_embed]` of the roots, and the memory rows to pass to `commit`.

        Args:
            batch: Roots with their neighbours.
            edge_feat: Features of all edges by event id, `[E, dim_edge]`, read in place; None when `dim_edge` is 0.
        """
        memory, last_update = self.read(batch.nodes)
        x = memory
        if self.feature is not None:
            x = x + self.feature(gather_rows(self.node_feat, batch.nodes))
        block = batch.block
        h = self.attention(
            x,
            x,
            edge_feat,
            batch.nbr_row,
            block.eid,
            block.dt,
            block.count,
            seed=batch.seed,
            root_row=batch.root_row,
        )
        return h, MemoryRows(memory.detach(), last_update)

    @torch.no_grad()
    def commit(
        self, batch: TemporalBatch, rows: MemoryRows, event_ids: Tensor, edge_feat: Tensor | None = None
    ) -> None:
        """Store the memory of a batch's events and leave them as mail; in training after `backward`, which reads the old ones.

        Roots must start with sources, then destinations.

        Args:
            batch: The batch that `rows` came from.
            rows: Second result of `embed`.
            event_ids: Event ids `[B]`; root `i` and root `B + i` are the ends of event `i`.
            edge_feat: As in `embed`.
        """
        ends = slice(0, 2 * len(event_ids))
        commit_events(
            self.memory.memory,
            self.memory.last_update,
            self.mailbox.mail,
            self.mailbox.mail_time,
            self.mailbox.has_mail,
            ends=batch.roots[ends],
            times=batch.times[ends],
            row=batch.root_row[ends],
            rows_memory=rows.memory,
            rows_time=rows.last_update,
            event_ids=event_ids,
            edge_feat=edge_feat,
        )
