"""GraphMixer (Cong et al., ICLR 2023)."""

from __future__ import annotations

from torch import Tensor

from gnnaccel.graph.batch import Sampling
from gnnaccel.models.composed import ComposedModel
from gnnaccel.nn import LinkDecoder, MixerAggregator


class GraphMixer(ComposedModel):
    """An MLP-Mixer over a node's recent links and the mean of its neighbours' features; no memory, no attention.

    Args:
        num_nodes: Number of nodes N.
        neighbors: Recent links K.
        window: Only links at most this old, None for all.

    The others are those of `TGAT`.
    """

    def __init__(
        self,
        num_nodes: int,
        *,
        dim_edge: int = 0,
        node_feat: Tensor | None = None,
        dim_time: int = 100,
        dim_embed: int = 100,
        neighbors: int = 10,
        window: int | float | None = None,
    ) -> None:
        super().__init__(
            num_nodes,
            sampling=Sampling((neighbors,), window=window),
            aggregator=MixerAggregator(
                0 if node_feat is None else node_feat.shape[1], dim_edge, dim_embed, fanout=neighbors, dim_time=dim_time
            ),
            decoder=LinkDecoder(dim_embed),
            dim_edge=dim_edge,
            node_feat=node_feat,
        )
