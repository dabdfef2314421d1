"""Drop-ins for what torch_geometric's TGN example imports, with the same names, signatures and results.

The modules lie where torch_geometric has them, so a program changes by its imports alone: `torch_geometric` becomes
`gnnaccel.pyg` (`gnnaccel.pyg.nn.TGNMemory`, `gnnaccel.pyg.loader.TemporalDataLoader`, ...); everything is also here at the top.
torch_geometric itself is not needed. `docs/pyg.md` tells what differs and why.
"""

from gnnaccel.pyg.data import TemporalData
from gnnaccel.pyg.loader import TemporalDataLoader
from gnnaccel.pyg.nn.conv import TransformerConv
from gnnaccel.pyg.nn.models.tgn import (
    IdentityMessage,
    LastAggregator,
    LastNeighborLoader,
    MeanAggregator,
    TGNMemory,
    TimeEncoder,
)

__all__ = [
    "IdentityMessage",
    "LastAggregator",
    "LastNeighborLoader",
    "MeanAggregator",
    "TGNMemory",
    "TemporalData",
    "TemporalDataLoader",
    "TimeEncoder",
    "TransformerConv",
]
