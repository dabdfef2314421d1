"""Streams of interactions: reading, fetching, generating, splitting, and negative sampling.

events = gnnaccel.data.load("wikipedia")          # a name, or a path to CSV, TSV, Parquet, npz, TGL, JODIE, PyG
split = gnnaccel.data.chronological_split(events.t)
negatives = gnnaccel.data.NegativeSampler(events, seed=0).sample(split.test, n=100)
"""

from gnnaccel.data import kg
from gnnaccel.data.candidates import RaggedNegatives, draw_negatives, read_negatives, write_negatives
from gnnaccel.data.download import DownloadError
from gnnaccel.data.edges import read_graph
from gnnaccel.data.events import DataError, TemporalEvents
from gnnaccel.data.negatives import NegativeSampler
from gnnaccel.data.nodes import NodeData, load_nodes, split_nodes, split_stats
from gnnaccel.data.readers import read_events
from gnnaccel.data.registry import REGISTRY, Dataset, cache_dir, fetch, load
from gnnaccel.data.splits import Split, chronological_split, inductive_mask
from gnnaccel.data.synthetic import power_law_events, synthetic_events
from gnnaccel.data.synthetic_nodes import power_law_edges, synthetic_nodes

__all__ = [
    "REGISTRY",
    "DataError",
    "Dataset",
    "DownloadError",
    "NegativeSampler",
    "NodeData",
    "RaggedNegatives",
    "Split",
    "TemporalEvents",
    "cache_dir",
    "chronological_split",
    "draw_negatives",
    "fetch",
    "inductive_mask",
    "kg",
    "load",
    "load_nodes",
    "power_law_edges",
    "power_law_events",
    "read_events",
    "read_graph",
    "read_negatives",
    "split_nodes",
    "split_stats",
    "synthetic_events",
    "synthetic_nodes",
    "write_negatives",
]
