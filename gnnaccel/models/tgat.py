"""Temporal graph attention (Xu et al., ICLR 2020)."""

from __future__ import annotations

from torch import Tensor

from gnnaccel.graph.batch import Sampling
from gnnaccel.models.composed import ComposedModel
from gnnaccel.nn import AttentionAggregator, LinkDecoder


class TGAT(ComposedModel):
    """Two layers of temporal attention over uniformly drawn neighbours; no memory.

    Args:
        num_nodes: Number of nodes N.
        node_feat: Node features `[N, dim_node]`, or None (then time and edge features are all there is).
        neighbors: Neighbours a root, hop by hop from the roots outwards.
        strategy: "uniform" or "recent".

    The others are those of `TGN`.
    """

    def __init__(
        self,
        num_nodes: int,
        *,
        dim_edge: int = 0,
        node_feat: Tensor | None = None,
        dim_time: int = 100,
        dim_embed: int = 100,
        heads: int = 2,
        dropout: float = 0.1,
        neighbors: tuple[int, ...] = (10, 10),
        strategy: str = "uniform",
    ) -> None:
        super().__init__(
            num_nodes,
            sampling=Sampling(neighbors, strategy),
            aggregator=AttentionAggregator(
                0 if node_feat is None else node_feat.shape[1],
                dim_edge,
                dim_embed,
                dim_time=dim_time,
                hops=len(neighbors),
                heads=heads,
                dropout=dropout,
            ),
            decoder=LinkDecoder(dim_embed),
            dim_edge=dim_edge,
            node_feat=node_feat,
        )
