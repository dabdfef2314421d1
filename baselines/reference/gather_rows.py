"""Reference for `gather_rows`."""

import torch
from torch import Tensor


def gather_rows(
    table: Tensor,
    ids: Tensor,
    scale: Tensor | None = None,
    *,
    dtype: torch.dtype | None = None,
    deterministic: bool = True,
) -> Tensor:
    """Row after row in float64, `[*ids.shape, F]`; zeros at negative ids. `dtype` rounds the result."""
    rows = table.double() if scale is None else table.double() * scale.double()[:, None]
    zeros = torch.zeros(table.shape[1], dtype=torch.float64)
    picked = [rows[i] if i >= 0 else zeros for i in ids.reshape(-1).tolist()]
    out = torch.stack(picked) if picked else rows[:0]
    return out.reshape(*ids.shape, table.shape[1]).to(dtype or torch.float64)
