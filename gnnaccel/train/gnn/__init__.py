"""Training on static graphs: classes of nodes, links; cheap inference."""

from gnnaccel.train.gnn.config import GNNConfig, describe_gnn, gnn_presets, load_gnn_config, validate_gnn
from gnnaccel.train.gnn.model import GraphModel, infer_all, make_graph_model
from gnnaccel.train.gnn.steps import STAGES, MiniBatch, Seeds, make_stages
from gnnaccel.train.gnn.store import PartitionStore, TableStore
from gnnaccel.train.gnn.task import LinkTask, NodeTask, graph_task

__all__ = [
    "STAGES",
    "GNNConfig",
    "GraphModel",
    "LinkTask",
    "MiniBatch",
    "NodeTask",
    "PartitionStore",
    "Seeds",
    "TableStore",
    "describe_gnn",
    "gnn_presets",
    "graph_task",
    "infer_all",
    "load_gnn_config",
    "make_graph_model",
    "make_stages",
    "validate_gnn",
]
