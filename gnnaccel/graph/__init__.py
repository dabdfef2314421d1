"""Graphs and batches."""

from gnnaccel.graph.batch import Hop, Sampling, TemporalBatch, build_batch
from gnnaccel.graph.block import Block, temporal_sample, temporal_sample_hops
from gnnaccel.graph.hops import HopBlock, Hops, NeighborBlock, neighbor_sample, sample_hops
from gnnaccel.graph.node_partition import (
    PartitionQuality,
    hash_partition,
    metis_node_partition,
    node_split,
    partition_nodes,
    partition_quality,
    random_partition,
)
from gnnaccel.graph.partition import (
    LocalityOrder,
    NodeBook,
    PartitionBook,
    RelationPartition,
    locality_order,
    metis_partition,
    relation_partition,
)
from gnnaccel.graph.partition_files import GraphPart, GraphParts, write_parts
from gnnaccel.graph.semantics import TimeSemantics
from gnnaccel.graph.static import Graph
from gnnaccel.graph.temporal import TemporalGraph
from gnnaccel.graph.walks import random_walk

__all__ = [
    "Block",
    "Graph",
    "GraphPart",
    "GraphParts",
    "Hop",
    "HopBlock",
    "Hops",
    "LocalityOrder",
    "NeighborBlock",
    "NodeBook",
    "PartitionBook",
    "PartitionQuality",
    "RelationPartition",
    "Sampling",
    "TemporalBatch",
    "TemporalGraph",
    "TimeSemantics",
    "build_batch",
    "hash_partition",
    "locality_order",
    "metis_node_partition",
    "metis_partition",
    "neighbor_sample",
    "node_split",
    "partition_nodes",
    "partition_quality",
    "random_partition",
    "random_walk",
    "relation_partition",
    "sample_hops",
    "temporal_sample",
    "temporal_sample_hops",
    "write_parts",
]
