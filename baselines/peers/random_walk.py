"""What users write or call for random walks. A walk at a dead end stays there in some of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

try:
    from torch_cluster import random_walk as cluster_walk
except ImportError:  # the peer is optional
    cluster_walk = None


def torch_steps(indptr: Tensor, nbr: Tensor, start: Tensor, length: int) -> Tensor:
    """Vectorised over the walks, a step at a time."""
    degree = indptr.diff()
    out = [start]
    for _ in range(length):
        at = out[-1]
        pick = (torch.rand(len(at), dtype=torch.float64, device=at.device) * degree[at]).long()
        place = (indptr[at] + pick).clamp(max=len(nbr) - 1)
        out.append(torch.where(degree[at] > 0, nbr[place].to(at.dtype), at))
    return torch.stack(out, 1)


def torch_node2vec(indptr: Tensor, nbr: Tensor, start: Tensor, length: int, p: float, q: float) -> Tensor:
    """The same with rejections, whose adjacency is a search in the sorted pairs (row, entry)."""
    degree, N = indptr.diff(), len(indptr) - 1
    pairs = torch.repeat_interleave(torch.arange(N, device=nbr.device), degree) * N + nbr
    largest = max(1 / p, 1.0, 1 / q)
    out = [start, torch_steps(indptr, nbr, start, 1)[:, 1]]
    for _ in range(length - 1):
        before, at = out[-2], out[-1]
        new, rest = at.clone(), torch.arange(len(at), device=at.device)
        while len(rest):
            v, t = at[rest], before[rest]
            x = torch_steps(indptr, nbr, v, 1)[:, 1]
            key = t * N + x
            near = pairs[torch.searchsorted(pairs, key).clamp(max=len(pairs) - 1)] == key
            weight = torch.where(x == t, 1 / p, torch.where(near, 1.0, 1 / q)) / largest
            taken = torch.rand(len(x), device=x.device) < weight
            new[rest[taken]] = x[taken]
            rest = rest[~taken]
        out.append(new)
    return torch.stack(out[: length + 1], 1)


def torch_cluster(indptr: Tensor, nbr: Tensor, start: Tensor, length: int, p: float = 1.0, q: float = 1.0) -> Tensor:
    """torch_cluster's, which takes pairs and sorts them; with the sorting, as it is called."""
    row = torch.repeat_interleave(torch.arange(len(indptr) - 1, device=nbr.device), indptr.diff())
    return cluster_walk(row, nbr.long(), start, length, p=p, q=q, num_nodes=len(indptr) - 1)


PROVIDERS: dict[str, Any] = {"torch_steps": torch_steps}
SECOND_ORDER: dict[str, Any] = {"torch_node2vec": torch_node2vec}
MISSING: dict[str, str] = {}
if cluster_walk is None:
    MISSING["torch_cluster"] = "torch_cluster is not installed"
else:
    PROVIDERS["torch_cluster"] = SECOND_ORDER["torch_cluster"] = torch_cluster
