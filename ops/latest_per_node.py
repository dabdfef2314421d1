"""`latest_per_node`: the last event of each node in a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from gnnaccel.ops._library import define, fake, impl

define("latest_per_node(Tensor nodes, Tensor t, Tensor? eid) -> (Tensor, Tensor)")


@impl("latest_per_node", "CUDA")
def _cuda(nodes: Tensor, t: Tensor, eid: Tensor | None) -> tuple[Tensor, Tensor]:
    from gnnaccel.kernels.triton.latest_per_node import latest_per_node_fwd

    return latest_per_node_fwd(nodes.contiguous(), t.contiguous(), None if eid is None else eid.contiguous())


@impl("latest_per_node", "CompositeExplicitAutograd")
def _composite(nodes: Tensor, t: Tensor, eid: Tensor | None) -> tuple[Tensor, Tensor]:
    # stable sorts by the least significant key first: position, eid, t, node
    order = (nodes >= 0).nonzero().squeeze(1)
    first = order
    for key in (eid, t, nodes):
        if key is not None:
            order = order[key[order].argsort(stable=True)]
    values, count = torch.unique_consecutive(nodes[order], return_counts=True)
    # the node's first position orders the output
    by_node = first[nodes[first].argsort(stable=True)]
    appearance = by_node[count.cumsum(0) - count].argsort()
    return values[appearance], order[count.cumsum(0) - 1][appearance]


@fake("latest_per_node")
def _fake(nodes: Tensor, t: Tensor, eid: Tensor | None) -> tuple[Tensor, Tensor]:
    distinct = torch.library.get_ctx().new_dynamic_size()
    return nodes.new_empty((distinct,)), nodes.new_empty((distinct,), dtype=torch.int64)


def latest_per_node(nodes: Tensor, t: Tensor, eid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The last event of each node: what is left of a batch when every node keeps one mail (Rossi et al., TGN, 2020, 3.1).

    Args:
        nodes: Node of each event, int32 or int64 `[n]`. Negative nodes are padding and ignored.
        t: Time of each event, int64 or float64 `[n]`, not NaN.
        eid: Event ids, int32 or int64 `[n]`, or None.

    Returns:
        `(nodes, position)`, both `[U]`: the distinct nodes in order of first appearance (as `unique_nodes` gives them), and
        int64 positions of their last events. Last is the largest `(t, eid, position)`, without `eid` the largest
        `(t, position)`.

    Cost: O(n) on every device. The size of the output depends on the data, so a CUDA call waits for the device once.

    Determinism: the same on every device; no result depends on the order in which threads run.

    Raises:
        TypeError: An argument has an unsupported dtype.
        ValueError: `nodes` is not `[n]`, or `t` or `eid` has another shape.
    """
    if nodes.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"latest_per_node: nodes must be int32 or int64, got {nodes.dtype}")
    if t.dtype not in (torch.int64, torch.float64):
        raise TypeError(f"latest_per_node: t must be int64 or float64, got {t.dtype}")
    if nodes.dim() != 1:
        raise ValueError(f"latest_per_node: nodes must be [n], got {list(nodes.shape)}")
    if t.shape != nodes.shape:
        raise ValueError(f"latest_per_node: t must be {list(nodes.shape)} like nodes, got {list(t.shape)}")
    if eid is not None:
        if eid.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"latest_per_node: eid must be int32 or int64, got {eid.dtype}")
        if eid.shape != nodes.shape:
            raise ValueError(f"latest_per_node: eid must be {list(nodes.shape)} like nodes, got {list(eid.shape)}")
    return torch.ops.gnnaccel.latest_per_node(nodes, t, eid)
