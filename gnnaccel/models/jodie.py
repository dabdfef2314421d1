"""JODIE (Kumar et al., KDD 2019), as in TGL."""

from __future__ import annotations

import torch
from torch import Tensor

from gnnaccel.graph.batch import Sampling
from gnnaccel.models.composed import ComposedModel
from gnnaccel.nn import IdentityAggregator, LinkDecoder, MemoryUpdater


class JODIE(ComposedModel):
    """Memory updated by an RNN, projected forward in time; no neighbours.

    Args: those of `TGN` that it has.
    """

    def __init__(
        self,
        num_nodes: int,
        *,
        dim_edge: int = 0,
        node_feat: Tensor | None = None,
        dim_memory: int = 100,
        dim_time: int = 100,
        cell: str = "rnn",
        time_dtype: torch.dtype = torch.int64,
    ) -> None:
        super().__init__(
            num_nodes,
            sampling=Sampling(()),
            updater=MemoryUpdater(2 * dim_memory + dim_edge, dim_time, dim_memory, cell=cell),
            aggregator=IdentityAggregator(dim_memory, time_projection="jodie"),
            decoder=LinkDecoder(dim_memory),
            dim_edge=dim_edge,
            node_feat=node_feat,
            time_dtype=time_dtype,
        )
