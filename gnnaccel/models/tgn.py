"""Temporal Graph Networks (Rossi et al., 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from gnnaccel.graph.batch import Sampling
from gnnaccel.models.composed import ComposedModel
from gnnaccel.nn import AttentionAggregator, LinkDecoder, MemoryUpdater


class TGN(ComposedModel):
    """Memory, one mail a node, temporal attention over recent neighbours, link decoder.

    Args:
        num_nodes: Number of nodes N.
        dim_edge: Size of an edge feature, 0 for none.
        node_feat: Node features `[N, dim_node]`, mapped to the memory's size and added to it, or None.
        dim_memory, dim_time, dim_embed: Sizes of the memory, the time encodings and the embeddings.
        heads: Attention heads.
        dropout: Dropout of attention and of its output.
        cell: Updater cell, "gru" or "rnn".
        neighbors: Recent neighbours a root, hop by hop; one layer of attention each.
        time_dtype: dtype of the times, int64 or float64.
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
        neighbors: tuple[int, ...] = (10,),
        time_dtype: torch.dtype = torch.int64,
    ) -> None:
        super().__init__(
            num_nodes,
            sampling=Sampling(neighbors),
            updater=MemoryUpdater(2 * dim_memory + dim_edge, dim_time, dim_memory, cell=cell),
            aggregator=AttentionAggregator(
                dim_memory, dim_edge, dim_embed, dim_time=dim_time, hops=len(neighbors), heads=heads, dropout=dropout
            ),
            decoder=LinkDecoder(dim_embed),
            dim_edge=dim_edge,
            node_feat=node_feat,
            time_dtype=time_dtype,
        )
