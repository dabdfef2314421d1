"""`group_edges`: edges by their target, as the tables that attention reads. Internal; `gnnaccel.pyg` calls it."""

from __future__ import annotations

import torch
from torch import Tensor

from gnnaccel.ops._library import define, fake, impl

define("group_edges(Tensor source, Tensor target, SymInt num_nodes, SymInt limit) -> (Tensor, Tensor, Tensor)")


@impl("group_edges", "CompositeExplicitAutograd")
def _composite(source: Tensor, target: Tensor, num_nodes: int, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    E, device = len(target), target.device
    if E and device.type == "cpu":
        bad = target[(target < 0) | (target >= num_nodes)]
        if len(bad):
            raise ValueError(f"group_edges: target must be in [0, {num_nodes}), got {int(bad[0])}")
    target, order = torch.sort(target, stable=True)
    count = torch.bincount(target, minlength=num_nodes)
    K = int(count.max()) if num_nodes else 0
    if K == 0 or num_nodes * K > limit:
        none = source.new_empty((num_nodes, 0))
        return none, none.clone(), count.to(torch.int32)
    slot = torch.arange(K, device=device)
    dead = slot >= count.unsqueeze(1)
    edge = order[((count.cumsum(0) - count).unsqueeze(1) + slot).masked_fill_(dead, 0)]
    return source[edge].masked_fill_(dead, -1), edge.masked_fill_(dead, -1), count.to(torch.int32)


@fake("group_edges")
def _fake(source: Tensor, target: Tensor, num_nodes: int, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    table = source.new_empty((num_nodes, torch.library.get_ctx().new_dynamic_size()))
    return table, torch.empty_like(table), source.new_empty((num_nodes,), dtype=torch.int32)


def group_edges(source: Tensor, target: Tensor, num_nodes: int, limit: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Edges by target, each target's in their own order; or None, where the tables would be large.

    Args:
        source: Where each edge comes from, int64 `[E]`.
        target: Where it goes, int64 `[E]`, in any order. Not checked on CUDA.
        num_nodes: Number of targets N.
        limit: Most slots of a table, N times the largest degree K; above it the result is None.

    Returns:
        Sources and numbers of the edges of each target, int64 `[N, K]`, -1 past their count; the counts, int32 `[N]`. Waits for
        the device.

    Determinism: the same everywhere.

    Raises:
        TypeError: An argument is not int64.
        ValueError: Shapes disagree, `num_nodes` is negative, or (CPU) a target is out of range.
    """
    E = target.numel()
    for name, tensor in (("target", target), ("source", source)):
        if tensor.dtype != torch.int64:
            raise TypeError(f"group_edges: {name} must be int64, got {tensor.dtype}")
        if tensor.shape != (E,):
            raise ValueError(f"group_edges: {name} must be [{E}], got {list(tensor.shape)}")
    if num_nodes < 0:
        raise ValueError(f"group_edges: num_nodes must be >= 0, got {num_nodes}")
    neighbor, edge, count = torch.ops.gnnaccel.group_edges(source, target, num_nodes, limit)
    return None if neighbor.shape[1] == 0 and E > 0 else (neighbor, edge, count)
