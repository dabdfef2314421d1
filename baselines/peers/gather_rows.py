"""What users call today to fetch feature rows."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def index_select(table: Tensor, ids: Tensor, scale: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
    rows = table.index_select(0, ids.reshape(-1))
    if scale is not None:
        rows = rows.to(dtype or torch.float32) * scale.index_select(0, ids.reshape(-1)).unsqueeze(1)
    return rows.to(dtype or rows.dtype).reshape(*ids.shape, table.shape[1])


def indexing(table: Tensor, ids: Tensor, scale: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """`table[ids]`, as most training scripts have it."""
    rows = table[ids]
    if scale is not None:
        rows = rows.to(dtype or torch.float32) * scale[ids].unsqueeze(-1)
    return rows.to(dtype or rows.dtype)


def embedding(table: Tensor, ids: Tensor, scale: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """`torch.nn.functional.embedding`."""
    rows = F.embedding(ids, table)
    if scale is not None:
        rows = rows.to(dtype or torch.float32) * F.embedding(ids, scale.unsqueeze(1))
    return rows.to(dtype or rows.dtype)


def numpy_take(table: Tensor, ids: Tensor, scale: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """`numpy.take`, as loaders over memory-mapped features have it."""
    rows = np.take(table.detach().cpu().numpy(), ids.cpu().numpy(), axis=0)
    if scale is not None:
        rows = rows.astype(np.float32) * np.take(scale.cpu().numpy(), ids.cpu().numpy())[..., None]
    out = torch.from_numpy(rows)
    return out.to(dtype or out.dtype)


PROVIDERS = {
    "torch.index_select": index_select,
    "indexing": indexing,
    "F.embedding": embedding,
}
NO_GRAD = {**PROVIDERS, "numpy.take": numpy_take}
