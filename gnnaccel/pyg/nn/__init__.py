"""Modules that torch_geometric has in `torch_geometric.nn`."""

from gnnaccel.pyg.nn.conv import TransformerConv
from gnnaccel.pyg.nn.models.tgn import TGNMemory

__all__ = ["TGNMemory", "TransformerConv"]
