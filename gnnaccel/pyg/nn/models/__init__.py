"""Models that torch_geometric has in `torch_geometric.nn.models`."""

from gnnaccel.pyg.nn.models.tgn import TGNMemory

__all__ = ["TGNMemory"]
