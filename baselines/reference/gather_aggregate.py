"""Reference for `gather_aggregate`."""

import torch
from torch import Tensor


def gather_aggregate(
    table: Tensor,
    nbr: Tensor,
    count: Tensor | None = None,
    reduce: str = "mean",
    weight: Tensor | None = None,
    *,
    indptr: Tensor | None = None,
    scale: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Root after root in float64, `[R, F]` or `[R, B, F]`. `dtype` rounds the result."""
    rows = table.double() if scale is None else table.double() * scale.double()[:, None]
    if indptr is not None:
        begin, end = indptr[:-1].tolist(), indptr[1:].tolist()
    else:
        R, K = nbr.shape
        begin = [r * K for r in range(R)]
        end = [r * K + (K if count is None else int(count[r])) for r in range(R)]
    ids = nbr.reshape(-1).tolist()
    bases = () if weight is None or weight.dim() == nbr.dim() else (weight.shape[-1],)
    weights = None if weight is None else weight.double().reshape(nbr.numel(), *bases)
    results = []
    for first, last in zip(begin, end, strict=True):
        slots = [i for i in range(first, last) if ids[i] >= 0]
        if not slots:
            results.append(torch.zeros((*bases, table.shape[1]), dtype=torch.float64))
            continue
        x = rows[[ids[i] for i in slots]]
        if reduce == "max":
            # the first of equals: its gradient is not shared
            results.append(x.gather(0, x.argmax(0, keepdim=True))[0])
            continue
        if weights is not None:
            x = weights[slots].unsqueeze(-1) * x.reshape(len(slots), *(1 for _ in bases), -1)
        results.append(x.sum(0) / (len(slots) if reduce == "mean" else 1))
    empty = torch.zeros((0, *bases, table.shape[1]), dtype=torch.float64)
    return (torch.stack(results) if results else empty).to(dtype or torch.float64)
