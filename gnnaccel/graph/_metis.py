"""METIS: what it is given is made sound here, since on anything else it ends the process."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnnaccel.ops._tcsr import tcsr_build

__all__ = ["metis_parts", "symmetric_rows"]


def symmetric_rows(src: Tensor, dst: Tensor, num_nodes: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """The undirected graph of some edges: both directions of every pair of neighbours, no loop, nothing twice. O(E).

    Args:
        src, dst: int64 `[E]` in [0, num_nodes), checked.

    Returns:
        `(indptr, nbr, count)`, all int64: rows of neighbours, ascending, and how many edges there are between each pair; None
        if all pairs have as many.
    """
    apart = src != dst
    low, high = torch.minimum(src, dst), torch.maximum(src, dst)
    if not bool(apart.all()):
        low, high = low[apart], high[apart]
    del apart
    # pairs by the lower end, ascending, equal ones beside each other
    indptr, _, _, high = tcsr_build(low, high, high, num_nodes, False, len(low) >= 2**31)
    low = torch.repeat_interleave(torch.arange(num_nodes), indptr.diff(), output_size=len(high))
    new = torch.ones(len(high), dtype=torch.bool)
    torch.logical_or(low[1:] != low[:-1], high[1:] != high[:-1], out=new[1:])
    count = torch.cat([new.nonzero().squeeze(1), torch.tensor([len(new)])]).diff()
    low, high = low[new], high[new]
    # `low` as the time: it never falls, so that rows need no sort and come out ascending
    indptr, nbr, pair, _ = tcsr_build(low, high, low, num_nodes, True, True)
    if len(count) == 0 or bool((count == count[0]).all()):
        return indptr, nbr, None
    return indptr, nbr, count[pair]


def _pymetis(owner: str) -> Any:
    try:
        import pymetis
    except ImportError as error:
        raise ImportError(
            f"{owner}: pymetis is not installed; pip install 'gnnaccel[partition]' or pip install pymetis"
        ) from error
    return pymetis


def metis_parts(
    owner: str,
    indptr: Tensor,
    nbr: Tensor,
    edge_weight: Tensor | None,
    node_weight: Tensor | None,
    num_parts: int,
    imbalance: float,
    seed: int,
) -> Tensor:
    """Part of each node, int64 `[N]`, of a graph as `symmetric_rows` makes it; node weights are int64, at least 0."""
    pymetis = _pymetis(owner)
    # integers of METIS' own width are not copied
    width = pymetis.zero_copy_dtype() if hasattr(pymetis, "zero_copy_dtype") else np.dtype(np.int32)
    if width == np.int32 and len(nbr) >= 2**31:
        raise ValueError(f"{owner}: pairs of neighbours must be below 2^30 with this pymetis, got {len(nbr) // 2}")

    def given(x: Tensor | None) -> np.ndarray | None:
        return None if x is None else x.numpy().astype(width, copy=False)

    _, parts = pymetis.part_graph(
        num_parts,
        pymetis.CSRAdjacency(given(indptr), given(nbr)),
        eweights=given(edge_weight),
        vweights=given(node_weight),
        # to the C library's generator seeds 0 and 1 are the same
        options=pymetis.Options(seed=(seed + 1) & 0x7FFFFFFF, ufactor=round(1000 * imbalance)),
    )
    return torch.from_numpy(np.asarray(parts, dtype=np.int64))
