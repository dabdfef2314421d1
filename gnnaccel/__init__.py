"""gnnaccel: kernels for graph learning in PyTorch.

Ops are functions here (`gnnaccel.time_encode`, ...); modules are in `gnnaccel.nn`, reference models in `gnnaccel.models`.
Importing needs neither a GPU nor Triton nor CuPy: those load on the first call of an op on a CUDA tensor.
"""

from gnnaccel.graph import Block, TemporalGraph, TimeSemantics, temporal_sample, temporal_sample_hops
from gnnaccel.ops import (
    gather_rows,
    latest_per_node,
    memory_update,
    quantize_rows,
    temporal_attention,
    time_encode,
    unique_nodes,
)

__version__ = "0.1.0"

__all__ = [
    "Block",
    "TemporalGraph",
    "TimeSemantics",
    "__version__",
    "gather_rows",
    "latest_per_node",
    "memory_update",
    "quantize_rows",
    "temporal_attention",
    "temporal_sample",
    "temporal_sample_hops",
    "time_encode",
    "unique_nodes",
]
