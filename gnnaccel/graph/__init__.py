"""Graphs and batches."""

from gnnaccel.graph.batch import Hop, Sampling, TemporalBatch, build_batch
from gnnaccel.graph.block import Block, temporal_sample, temporal_sample_hops
from gnnaccel.graph.hops import HopBlock, Hops, NeighborBlock, neighbor_sample, sample_hops
from gnnaccel.graph.partition import (
    LocalityOrder,
    PartitionBook,
    RelationPartition,
    locality_order,
    metis_partition,
    relation_partition,
)
from gnnaccel.graph.semantics import TimeSemantics
from gnnaccel.graph.static import Graph
from gnnaccel.graph.temporal import TemporalGraph
from gnnaccel.graph.walks import random_walk

__all__ = [
    "Block",
    "Graph",
    "Hop",
    "HopBlock",
    "Hops",
    "LocalityOrder",
    "NeighborBlock",
    "PartitionBook",
    "RelationPartition",
    "Sampling",
    "TemporalBatch",
    "TemporalGraph",
    "TimeSemantics",
    "build_batch",
    "locality_order",
    "metis_partition",
    "neighbor_sample",
    "random_walk",
    "relation_partition",
    "sample_hops",
    "temporal_sample",
    "temporal_sample_hops",
]
