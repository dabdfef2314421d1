"""Ops: one file an op, each with schema, kernels by dispatch key, fake, autograd and the public function."""

from gnnaccel.ops.edge_softmax_aggregate import edge_softmax_aggregate
from gnnaccel.ops.gather_aggregate import gather_aggregate
from gnnaccel.ops.gather_rows import gather_rows, quantize_rows
from gnnaccel.ops.kg_loss import kg_loss
from gnnaccel.ops.kg_rank import Ranks, kg_rank
from gnnaccel.ops.kg_score import kg_score, kg_score_negatives
from gnnaccel.ops.kg_topk import kg_topk
from gnnaccel.ops.latest_per_node import latest_per_node
from gnnaccel.ops.mailbox_attention import mailbox_attention
from gnnaccel.ops.memory_update import memory_update
from gnnaccel.ops.neighbor_sample import neighbor_sample
from gnnaccel.ops.random_walk import random_walk
from gnnaccel.ops.sample_hops import sample_hops
from gnnaccel.ops.sparse_adagrad import sparse_adagrad_
from gnnaccel.ops.sparse_adam import sparse_adam_
from gnnaccel.ops.temporal_attention import temporal_attention
from gnnaccel.ops.temporal_sample import temporal_sample
from gnnaccel.ops.time_encode import time_encode
from gnnaccel.ops.topk_similar import topk_similar
from gnnaccel.ops.unique_nodes import unique_nodes

__all__ = [
    "Ranks",
    "edge_softmax_aggregate",
    "gather_aggregate",
    "gather_rows",
    "kg_loss",
    "kg_rank",
    "kg_score",
    "kg_score_negatives",
    "kg_topk",
    "latest_per_node",
    "mailbox_attention",
    "memory_update",
    "neighbor_sample",
    "quantize_rows",
    "random_walk",
    "sample_hops",
    "sparse_adagrad_",
    "sparse_adam_",
    "temporal_attention",
    "temporal_sample",
    "time_encode",
    "topk_similar",
    "unique_nodes",
]
