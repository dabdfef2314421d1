"""What users write today: rows gathered, then reduced; torch's one fused op for the same; and torch_geometric's layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

PROVIDERS: dict[str, Callable[..., Tensor]] = {}
MISSING: dict[str, str] = {}


def edge_list(nbr: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Neighbour and root of each edge, and the offsets of the roots, int64."""
    live = torch.arange(nbr.shape[1], device=nbr.device) < count.unsqueeze(1)
    root = torch.arange(len(count), device=nbr.device).repeat_interleave(count.long())
    indptr = torch.cat([count.new_zeros(1, dtype=torch.int64), count.long().cumsum(0)])
    return nbr[live].long(), root, indptr


def _rows(table: Tensor, ids: Tensor, scale: Tensor | None) -> Tensor:
    rows = table.index_select(0, ids)
    return rows if scale is None else rows.float() * scale.index_select(0, ids).unsqueeze(1)


def segment_reduce(
    table: Tensor, ids: Tensor, root: Tensor, indptr: Tensor, reduce: str, weight: Tensor | None, scale: Tensor | None
) -> Tensor:
    rows = _rows(table, ids, scale)
    rows = rows if weight is None else rows * weight.unsqueeze(1)
    return torch.segment_reduce(rows, reduce, offsets=indptr)


def index_add(
    table: Tensor, ids: Tensor, root: Tensor, indptr: Tensor, reduce: str, weight: Tensor | None, scale: Tensor | None
) -> Tensor:
    rows = _rows(table, ids, scale)
    rows = rows if weight is None else rows * weight.unsqueeze(1)
    out = rows.new_zeros(len(indptr) - 1, rows.shape[1])
    if reduce == "max":
        return out.scatter_reduce(0, root.unsqueeze(1).expand_as(rows), rows, "amax", include_self=False)
    out = out.index_add(0, root, rows)
    return out / indptr.diff().clamp(min=1).unsqueeze(1) if reduce == "mean" else out


def embedding_bag(
    table: Tensor, ids: Tensor, root: Tensor, indptr: Tensor, reduce: str, weight: Tensor | None, scale: Tensor | None
) -> Tensor:
    """torch's fused op: sums may have weights; floating tables only."""
    return F.embedding_bag(ids, table, indptr[:-1], mode=reduce, per_sample_weights=weight)


PROVIDERS |= {
    "index_select+segment_reduce": segment_reduce,
    "index_select+index_add": index_add,
    "F.embedding_bag": embedding_bag,
}

try:
    from torch_geometric.nn import SimpleConv
except ImportError as error:
    MISSING["torch_geometric"] = str(error)
else:

    def pyg(
        table: Tensor,
        ids: Tensor,
        root: Tensor,
        indptr: Tensor,
        reduce: str,
        weight: Tensor | None,
        scale: Tensor | None,
    ) -> Tensor:
        """`propagate` of a layer over the edges."""
        table = table if scale is None else table.float() * scale.unsqueeze(1)
        conv = SimpleConv(aggr=reduce)
        size = (len(table), len(indptr) - 1)
        return conv.propagate(torch.stack([ids, root]), x=(table, None), edge_weight=weight, size=size)

    PROVIDERS["torch_geometric"] = pyg
