"""What users write or call for the most similar rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

try:
    from sklearn.neighbors import NearestNeighbors
except ImportError:  # the peer is optional
    NearestNeighbors = None

_CHUNK = 1 << 24  # scores that exist at a time


def torch_chunks(query: Tensor, table: Tensor, k: int, metric: str = "dot") -> tuple[Tensor, Tensor]:
    """A product with the table and `torch.topk`, some queries at a time."""
    if metric == "cosine":
        query, table = torch.nn.functional.normalize(query), torch.nn.functional.normalize(table)
    best = []
    for q in query.split(max(1, _CHUNK // len(table))):
        scores = -torch.cdist(q, table) if metric == "l2" else q @ table.T
        best.append(torch.topk(scores, k))
    return torch.cat([x.indices for x in best]), torch.cat([x.values for x in best])


def sklearn(query: Tensor, table: Tensor, k: int, metric: str = "cosine") -> tuple[Tensor, Tensor]:
    """scikit-learn's brute force, which has no inner product."""
    found = NearestNeighbors(n_neighbors=k, algorithm="brute", metric="euclidean" if metric == "l2" else metric)
    distance, ids = found.fit(table.numpy()).kneighbors(query.numpy())
    return torch.from_numpy(ids), torch.from_numpy(-distance if metric == "l2" else 1 - distance)


PROVIDERS: dict[str, Any] = {"torch_chunks": torch_chunks}
MISSING: dict[str, str] = {}
if NearestNeighbors is None:
    MISSING["sklearn"] = "scikit-learn is not installed"
else:
    PROVIDERS["sklearn"] = sklearn
