"""Reference for `tcsr_build`."""

import torch
from torch import Tensor


def tcsr_build(
    src: Tensor, dst: Tensor, t: Tensor, num_nodes: int, add_reverse: bool, wide: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(indptr, nbr, eid, t), rows sorted by (t, eid)."""
    rows: list[list[tuple]] = [[] for _ in range(num_nodes)]
    for e, (u, v, time) in enumerate(zip(src.tolist(), dst.tolist(), t.tolist(), strict=True)):
        rows[u].append((time, e, v))
        if add_reverse and u != v:
            rows[v].append((time, e, u))
    entries = [entry for row in rows for entry in sorted(row)]
    indptr = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    ids = torch.int64 if wide else torch.int32
    columns = list(zip(*entries, strict=True)) or [(), (), ()]
    return (
        indptr,
        torch.tensor(columns[2], dtype=ids),
        torch.tensor(columns[1], dtype=ids),
        torch.tensor(columns[0], dtype=t.dtype),
    )
