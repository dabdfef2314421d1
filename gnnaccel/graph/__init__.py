"""Graphs and batches."""

from gnnaccel.graph.block import Block, temporal_sample, temporal_sample_hops
from gnnaccel.graph.semantics import TimeSemantics
from gnnaccel.graph.temporal import TemporalGraph

__all__ = ["Block", "TemporalGraph", "TimeSemantics", "temporal_sample", "temporal_sample_hops"]
