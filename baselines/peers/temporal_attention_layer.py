"""What users write today: rows of the roots gathered, then the projected layer of `temporal_attention`'s peers."""

from typing import Any

from torch import Tensor

from gnnaccel.baselines.peers.temporal_attention import layer


def eager(node_table: Tensor, root_row: Tensor, **args: Any) -> Tensor:
    """`temporal_attention_layer` with roots in the node table, without dropout."""
    return layer(node_table[root_row], node_table, **args)


PROVIDERS = {"torch": eager}
