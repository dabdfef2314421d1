"""`unique_nodes`: ids -> distinct ids in order of first appearance, and the row of each id among them."""

from __future__ import annotations

import torch
from torch import Tensor

from gnnaccel.ops._library import define, fake, impl

define("unique_nodes(Tensor ids, SymInt? num_nodes) -> (Tensor, Tensor)")
define("unique_nodes_padded(Tensor ids) -> (Tensor, Tensor, Tensor)")


@impl("unique_nodes", "CUDA")
def _cuda(ids: Tensor, num_nodes: int | None) -> tuple[Tensor, Tensor]:
    from gnnaccel.kernels.triton.unique_nodes import unique_nodes_fwd

    return unique_nodes_fwd(ids.contiguous())


@impl("unique_nodes_padded", "CUDA")
def _cuda_padded(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    from gnnaccel.kernels.triton.unique_nodes import unique_nodes_padded_fwd

    return unique_nodes_padded_fwd(ids.contiguous())


@impl("unique_nodes_padded", "CompositeExplicitAutograd")
def _composite_padded(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    unique, inverse = torch.ops.gnnaccel.unique_nodes(ids, None)
    padded = ids.new_full((ids.numel(),), -1)
    padded[: len(unique)] = unique
    return padded, inverse, torch.full((1,), len(unique), device=ids.device)


@fake("unique_nodes_padded")
def _fake_padded(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    inverse = torch.empty(ids.shape, dtype=torch.int64, device=ids.device)
    return ids.new_empty((ids.numel(),)), inverse, inverse.new_empty((1,))


@impl("unique_nodes", "CompositeExplicitAutograd")
def _composite(ids: Tensor, num_nodes: int | None) -> tuple[Tensor, Tensor]:
    flat = ids.reshape(-1)
    real = (flat >= 0).nonzero().squeeze(1)
    if num_nodes is not None and len(real) and int(flat.max()) >= num_nodes:
        raise ValueError(f"unique_nodes: ids must be below num_nodes = {num_nodes}, got {int(flat.max())}")
    values, group = torch.unique(flat[real], return_inverse=True)
    first = group.new_full((len(values),), len(flat)).scatter_reduce_(0, group, real, "amin")
    order = first.argsort()
    row = torch.empty_like(order)
    row[order] = torch.arange(len(order), device=ids.device)
    inverse = torch.full_like(flat, -1, dtype=torch.int64)
    inverse[real] = row[group]
    return values[order], inverse.reshape(ids.shape)


@fake("unique_nodes")
def _fake(ids: Tensor, num_nodes: int | None) -> tuple[Tensor, Tensor]:
    distinct = torch.library.get_ctx().new_dynamic_size()
    return ids.new_empty((distinct,)), torch.empty(ids.shape, dtype=torch.int64, device=ids.device)


def unique_nodes(ids: Tensor, num_nodes: int | None = None) -> tuple[Tensor, Tensor]:
    """Distinct ids in order of first appearance, and where each id went.

    Args:
        ids: Ids of any shape, int32 or int64. Negative ids are padding.
        num_nodes: Upper bound of the ids. On CPU it lets small id ranges be numbered by a table that outlives the call,
            instead of by hashing, and is checked; on CUDA it is ignored.

    Returns:
        `(unique, inverse)`: `unique` `[U]`, dtype of `ids`, without padding; `inverse` int64, shape of `ids`, with
        `unique[inverse] == ids`, and -1 at padding.

    Cost: O(n) on every device (hashing, no sort). The size of the output depends on the data, so a CUDA call waits for the
    device once.

    Determinism: the order is that of first appearance on every device.

    Raises:
        TypeError: `ids` is neither int32 nor int64.
        ValueError: `num_nodes` is negative, or (on CPU) an id is not below it.
    """
    if ids.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"unique_nodes: ids must be int32 or int64, got {ids.dtype}")
    if num_nodes is not None and num_nodes < 0:
        raise ValueError(f"unique_nodes: num_nodes must be at least 0, got {num_nodes}")
    return torch.ops.gnnaccel.unique_nodes(ids, num_nodes)


def unique_nodes_padded(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`unique_nodes` with results of one size whatever the ids, so that no call waits for a CUDA device.

    Args:
        ids: As there.

    Returns:
        `(unique, inverse, count)`: `unique` `[n]` for n ids, -1 after the U distinct ones; `inverse` as there; `count` int64
        `[1]`, U.

    Cost, determinism and errors as there.
    """
    if ids.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"unique_nodes_padded: ids must be int32 or int64, got {ids.dtype}")
    return torch.ops.gnnaccel.unique_nodes_padded(ids)
