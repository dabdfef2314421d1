"""gnnaccel: kernels for graph learning in PyTorch.

Ops are functions here (`gnnaccel.time_encode`, ...); modules are in `gnnaccel.nn`, reference models in `gnnaccel.models`.
Importing needs neither a GPU nor Triton nor CuPy: those load on the first call of an op on a CUDA tensor.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gnnaccel.graph import (
    Block,
    Graph,
    HopBlock,
    Hops,
    NeighborBlock,
    TemporalGraph,
    TimeSemantics,
    neighbor_sample,
    random_walk,
    sample_hops,
    temporal_sample,
    temporal_sample_hops,
)
from gnnaccel.ops import (
    Ranks,
    edge_softmax_aggregate,
    gather_aggregate,
    gather_rows,
    kg_loss,
    kg_rank,
    kg_score,
    kg_score_negatives,
    kg_topk,
    latest_per_node,
    mailbox_attention,
    memory_update,
    quantize_rows,
    sparse_adagrad_,
    sparse_adam_,
    temporal_attention,
    time_encode,
    topk_similar,
    unique_nodes,
)

if TYPE_CHECKING:
    from gnnaccel import data, leakcheck, models, nn, ops, pyg, train

__version__ = "0.1.0"

__all__ = [
    "Block",
    "Graph",
    "HopBlock",
    "Hops",
    "NeighborBlock",
    "Ranks",
    "TemporalGraph",
    "TimeSemantics",
    "__version__",
    "data",
    "edge_softmax_aggregate",
    "gather_aggregate",
    "gather_rows",
    "kg_loss",
    "kg_rank",
    "kg_score",
    "kg_score_negatives",
    "kg_topk",
    "latest_per_node",
    "leakcheck",
    "mailbox_attention",
    "memory_update",
    "models",
    "neighbor_sample",
    "nn",
    "ops",
    "pyg",
    "quantize_rows",
    "random_walk",
    "sample_hops",
    "sparse_adagrad_",
    "sparse_adam_",
    "temporal_attention",
    "temporal_sample",
    "temporal_sample_hops",
    "time_encode",
    "topk_similar",
    "train",
    "unique_nodes",
]


def __getattr__(name: str) -> Any:
    # these packages load when they are first named, so that importing an op costs no more than the op
    if name in ("data", "leakcheck", "models", "nn", "pyg", "train"):
        return importlib.import_module(f"gnnaccel.{name}")
    raise AttributeError(f"module 'gnnaccel' has no attribute {name!r}")
