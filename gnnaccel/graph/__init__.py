"""Graphs and batches."""

from gnnaccel.graph.batch import Hop, Sampling, TemporalBatch, build_batch
from gnnaccel.graph.block import Block, temporal_sample, temporal_sample_hops
from gnnaccel.graph.semantics import TimeSemantics
from gnnaccel.graph.temporal import TemporalGraph

__all__ = [
    "Block",
    "Hop",
    "Sampling",
    "TemporalBatch",
    "TemporalGraph",
    "TimeSemantics",
    "build_batch",
    "temporal_sample",
    "temporal_sample_hops",
]
