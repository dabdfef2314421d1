"""Position of each node's last event: lexicographic maximum by integer maxima, one key after the other."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gnnaccel.kernels.aot import KernelSpec
from gnnaccel.kernels.triton._tuning import tuned
from gnnaccel.kernels.triton.unique_nodes import unique_nodes_fwd


@triton.jit
def _ordered(b_t):
    """int64 that orders as the time does."""
    b_key = b_t
    if b_t.dtype == tl.float64:
        b_bits = tl.where(b_t == 0.0, 0.0, b_t).to(tl.int64, bitcast=True)  # -0.0 equals 0.0
        b_key = tl.where(b_bits < 0, b_bits ^ 0x7FFFFFFFFFFFFFFF, b_bits)
    return b_key


@triton.jit
def latest_per_node_kernel(
    row,
    t,
    eid,
    best_t,
    best_eid,
    best,
    n,
    HAS_EID: tl.constexpr,
    KEY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """KEY 0: largest time of each row. 1: largest eid among these. 2: largest position among these."""
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    b_row = tl.load(row + o, mask=o < n, other=-1)
    m = b_row >= 0
    b_t = _ordered(tl.load(t + o, mask=m, other=0))
    if KEY == 0:
        tl.atomic_max(best_t + b_row, b_t, mask=m, sem="relaxed")
    else:
        m = m & (tl.load(best_t + b_row, mask=m, other=0) == b_t)
        if HAS_EID:
            b_eid = tl.load(eid + o, mask=m, other=0).to(tl.int64)
            if KEY == 1:
                tl.atomic_max(best_eid + b_row, b_eid, mask=m, sem="relaxed")
            else:
                m = m & (tl.load(best_eid + b_row, mask=m, other=0) == b_eid)
        if KEY == 2:
            tl.atomic_max(best + b_row, o, mask=m, sem="relaxed")


def latest_per_node_fwd(nodes: Tensor, t: Tensor, eid: Tensor | None) -> tuple[Tensor, Tensor]:
    n = nodes.numel()
    distinct, row = unique_nodes_fwd(nodes)
    lowest = torch.iinfo(torch.int64).min
    best_t, best_eid, best = torch.full((3, len(distinct)), lowest, dtype=torch.int64, device=nodes.device)
    if len(distinct) == 0:
        return distinct, best
    sizes = tuned("latest_per_node", nodes.device)
    for key in (0, 1, 2) if eid is not None else (0, 2):
        latest_per_node_kernel[(triton.cdiv(n, sizes["BLOCK"]),)](
            row,
            t,
            eid,
            best_t,
            best_eid,
            best,
            n,
            HAS_EID=eid is not None,
            KEY=key,
            **sizes,
        )
    return distinct, best.clone()


KERNELS = [
    KernelSpec(
        f"latest_per_node_{key}_{name}",
        latest_per_node_kernel,
        {
            "row": "*i64",
            "t": "*fp64" if name == "float64" else "*i64",
            "eid": "*i64",
            "best_t": "*i64",
            "best_eid": "*i64",
            "best": "*i64",
            "n": "i32",
        },
        {"HAS_EID": True, "KEY": key, "BLOCK": tuned("latest_per_node")["BLOCK"]},
    )
    for key in (0, 1, 2)
    for name in ("int64", "float64")
]
