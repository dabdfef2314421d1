"""DySAT (Sankar et al., WSDM 2020), on a stream as in TGL (Zhou et al., VLDB 2022)."""

from __future__ import annotations

from torch import Tensor

from gnnaccel.graph.batch import Sampling
from gnnaccel.models.composed import ComposedModel
from gnnaccel.nn import AttentionAggregator, LinkDecoder


class DySAT(ComposedModel):
    """Snapshots of the recent past, a stack of attention layers for each, an RNN over them; no memory, no time encoding.

    Snapshot j of a root at t holds the events with `t - (j + 1) * window <= t' < t - j * window`; all hops ask at the
    root's time. Semantics other than `strict` change what the newest one holds at its end, and, if they hide events of the
    batch, all of them; no event is ever in two.

    Args:
        num_nodes: Number of nodes N.
        window: Length of a snapshot in the unit of the data's times.
        snapshots: Number of snapshots.
        node_feat: Node features `[N, dim_node]`; without them only edge features tell neighbours apart.

    The others are those of `TGAT`.
    """

    def __init__(
        self,
        num_nodes: int,
        *,
        window: int | float,
        snapshots: int = 3,
        dim_edge: int = 0,
        node_feat: Tensor | None = None,
        dim_embed: int = 100,
        heads: int = 2,
        dropout: float = 0.1,
        neighbors: tuple[int, ...] = (10, 10),
        strategy: str = "uniform",
    ) -> None:
        super().__init__(
            num_nodes,
            sampling=Sampling(neighbors, strategy, window=window, hop_time="root", snapshots=snapshots),
            aggregator=AttentionAggregator(
                0 if node_feat is None else node_feat.shape[1],
                dim_edge,
                dim_embed,
                dim_time=0,
                hops=len(neighbors),
                snapshots=snapshots,
                heads=heads,
                dropout=dropout,
            ),
            decoder=LinkDecoder(dim_embed),
            dim_edge=dim_edge,
            node_feat=node_feat,
        )
