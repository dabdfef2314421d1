"""Reference for `unique_nodes`."""

import torch
from torch import Tensor


def unique_nodes(ids: Tensor, num_nodes: int | None = None) -> tuple[Tensor, Tensor]:
    """Distinct non-negative ids in order of first appearance, and each id's row (-1 at negative ids)."""
    rows: dict[int, int] = {}
    inverse = [rows.setdefault(v, len(rows)) if v >= 0 else -1 for v in ids.reshape(-1).tolist()]
    return torch.tensor(list(rows), dtype=ids.dtype), torch.tensor(inverse, dtype=torch.int64).reshape(ids.shape)
