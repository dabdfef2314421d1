"""`last_neighbors`, `last_neighbors_insert_`: the latest neighbours of nodes in tables. Internal; `gnnaccel.pyg` calls them."""

from __future__ import annotations

import torch
from torch import Tensor

from gnnaccel.ops._library import define, fake, impl

define("last_neighbors(Tensor neighbors, Tensor e_id, Tensor n_id) -> (Tensor, Tensor, Tensor)")
define("last_neighbors_insert_(Tensor(a!) neighbors, Tensor(b!) e_id, Tensor src, Tensor dst, SymInt first) -> ()")


def _check_nodes(what: str, ids: Tensor, limit: int) -> None:
    if ids.device.type == "cpu" and len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < limit:
        bad = ids[(ids < 0) | (ids >= limit)][0]
        raise ValueError(f"{what} must be in [0, {limit}), got {int(bad)}")


@impl("last_neighbors", "CompositeExplicitAutograd")
def _composite(neighbors: Tensor, e_id: Tensor, n_id: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    _check_nodes("last_neighbors: n_id", n_id, len(neighbors))
    kept = e_id[n_id] >= 0
    nodes, row = torch.unique(torch.cat([n_id, neighbors[n_id][kept]]), return_inverse=True)
    own, other = row[: len(n_id)], row[len(n_id) :]
    return nodes, torch.stack([other, own.unsqueeze(1).expand_as(kept)[kept]]), e_id[n_id][kept]


@impl("last_neighbors_insert_", "CompositeExplicitAutograd")
def _composite_insert(neighbors: Tensor, e_id: Tensor, src: Tensor, dst: Tensor, first: int) -> None:
    _check_nodes("last_neighbors_insert_: src", src, len(neighbors))
    _check_nodes("last_neighbors_insert_: dst", dst, len(neighbors))
    if len(src) == 0:
        return
    slot = torch.arange(e_id.shape[1], device=src.device)
    event = torch.arange(first, first + len(src), device=src.device).repeat_interleave(2)
    ends = torch.stack([src, dst], dim=1).reshape(-1)
    order = torch.argsort(ends, stable=True)
    nodes, count = torch.unique_consecutive(ends[order], return_counts=True)
    new = slot < count.unsqueeze(1)
    newest = (count.cumsum(0).unsqueeze(1) - 1 - slot).clamp(min=0)
    older = (slot - count.unsqueeze(1)).clamp(min=0)
    for table, values in ((neighbors, torch.stack([dst, src], dim=1).reshape(-1)), (e_id, event)):
        table[nodes] = torch.where(new, values[order][newest], table[nodes].gather(1, older))


@fake("last_neighbors")
def _fake(neighbors: Tensor, e_id: Tensor, n_id: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    context = torch.library.get_ctx()
    nodes, edges = context.new_dynamic_size(), context.new_dynamic_size()
    return n_id.new_empty((nodes,)), n_id.new_empty((2, edges)), n_id.new_empty((edges,))


@fake("last_neighbors_insert_")
def _fake_insert(neighbors: Tensor, e_id: Tensor, src: Tensor, dst: Tensor, first: int) -> None:
    return None


def _check_tables(op: str, neighbors: Tensor, e_id: Tensor, **ids: Tensor) -> None:
    for name, tensor in {"neighbors": neighbors, "e_id": e_id, **ids}.items():
        if tensor.dtype != torch.int64:
            raise TypeError(f"{op}: {name} must be int64, got {tensor.dtype}")
    if neighbors.dim() != 2 or e_id.shape != neighbors.shape:
        shapes = f"{list(neighbors.shape)} and {list(e_id.shape)}"
        raise ValueError(f"{op}: neighbors and e_id must be [N, size], got {shapes}")
    for name, tensor in {"neighbors": neighbors, "e_id": e_id}.items():
        if not tensor.is_contiguous():
            raise ValueError(f"{op}: {name} must be contiguous, got strides {list(tensor.stride())}")
    for name, tensor in ids.items():
        if tensor.dim() != 1:
            raise ValueError(f"{op}: {name} must have one dimension, got {list(tensor.shape)}")


def last_neighbors(neighbors: Tensor, e_id: Tensor, n_id: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The kept neighbours of nodes, as edges between the distinct nodes among both.

    Args:
        neighbors, e_id: Other end and number of the events kept of each node, int64 `[N, size]`, newest first, -1 in `e_id`
            after them; contiguous.
        n_id: Nodes, int64 `[n]`. Not checked on CUDA.

    Returns:
        Distinct nodes, ascending, `[u]`; positions in them of the edges, neighbour over node, `[2, m]`, grouped by node in the
        order of `n_id`, newest first; numbers of their events `[m]`.

    Determinism: the same everywhere.

    Raises:
        TypeError: An argument is not int64.
        ValueError: Shapes do not fit, a table is not contiguous, or (CPU) a node is out of range.
    """
    _check_tables("last_neighbors", neighbors, e_id, n_id=n_id)
    return torch.ops.gnnaccel.last_neighbors(neighbors, e_id, n_id)


def last_neighbors_insert_(neighbors: Tensor, e_id: Tensor, src: Tensor, dst: Tensor, first: int) -> None:
    """Put events in front of the tables of `last_neighbors`, at both ends, in place; the oldest fall out.

    Args:
        neighbors, e_id: As there.
        src, dst: Ends, int64 `[B]`, oldest first. Not checked on CUDA.
        first: Number of the first event.

    Raises:
        TypeError: An argument is not int64.
        ValueError: Shapes do not fit, a table is not contiguous, or (CPU, before anything is written) a node is out of range.
    """
    _check_tables("last_neighbors_insert_", neighbors, e_id, src=src, dst=dst)
    if len(src) != len(dst):
        raise ValueError(f"last_neighbors_insert_: dst must be [{len(src)}] like src, got {list(dst.shape)}")
    torch.ops.gnnaccel.last_neighbors_insert_(neighbors, e_id, src, dst, first)
