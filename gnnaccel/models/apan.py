"""Asynchronous Propagation Attention Network (APAN, Wang et al., SIGMOD 2021), as in TGL."""

from __future__ import annotations

import torch
from torch import Tensor

from gnnaccel.graph.batch import Sampling
from gnnaccel.models.composed import ComposedModel
from gnnaccel.nn import IdentityAggregator, LinkDecoder, MailboxAttention


class APAN(ComposedModel):
    """Attention over a mailbox that neighbours fill; a prediction reads no neighbour.

    After its prediction, an event's mail goes to its ends and to their most recent neighbours.

    Args: those of `TGN` that it has, and
        slots: Mails a node keeps.
        neighbors: Recent neighbours of an end that get its mail.
        combine: What a node keeps of the mails it gets in one batch, the "last" or the "mean".
    """

    def __init__(
        self,
        num_nodes: int,
        *,
        dim_edge: int = 0,
        node_feat: Tensor | None = None,
        dim_memory: int = 100,
        dim_time: int = 100,
        heads: int = 2,
        dropout: float = 0.1,
        slots: int = 10,
        neighbors: int = 10,
        combine: str = "last",
        time_dtype: torch.dtype = torch.int64,
    ) -> None:
        super().__init__(
            num_nodes,
            sampling=Sampling((neighbors,), ends_only=True, per_time=True),
            updater=MailboxAttention(2 * dim_memory + dim_edge, dim_time, dim_memory, heads=heads, dropout=dropout),
            aggregator=IdentityAggregator(dim_memory),
            decoder=LinkDecoder(dim_memory),
            slots=slots,
            deliver="neighbors",
            combine=combine,
            dim_edge=dim_edge,
            node_feat=node_feat,
            time_dtype=time_dtype,
        )
