"""What a batch of events leaves in memory and mailboxes: three integer maxima find each node's last end, then a program an end
writes if it is the one. Nothing waits for the host, and how many events there are may be a number on the device.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gnnaccel.kernels.aot import KernelSpec
from gnnaccel.kernels.triton._tuning import tuned
from gnnaccel.kernels.triton.latest_per_node import latest_per_node_kernel


@triton.jit(do_not_specialize=["B"])
def commit_events_kernel(
    memory,
    last_update,
    mail,
    mail_time,
    has_mail,
    ends,
    times,
    row,
    rows_memory,
    rows_time,
    event_ids,
    edge_feat,
    last,
    count,
    B,
    D,
    De,
    HAS_COUNT: tl.constexpr,
    HAS_EDGE: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    p = tl.program_id(0).to(tl.int64)
    n = p * 0 + B
    if HAS_COUNT:
        n = tl.load(count)
    if p < 2 * n:
        own = tl.load(row + p).to(tl.int64)
        if tl.load(last + own) == p:
            event = tl.where(p < n, p, p - n)
            other = tl.load(row + tl.where(p < n, p + n, p - n)).to(tl.int64)
            node = tl.load(ends + p).to(tl.int64)
            p_mail = mail + node * (2 * D + De)
            for i in range(0, D, BLOCK_D):
                o = i + tl.arange(0, BLOCK_D)
                b_own = tl.load(rows_memory + own * D + o, mask=o < D)
                b_other = tl.load(rows_memory + other * D + o, mask=o < D)
                tl.store(memory + node * D + o, b_own, mask=o < D)
                tl.store(p_mail + o, b_own, mask=o < D)
                tl.store(p_mail + D + o, b_other, mask=o < D)
            if HAS_EDGE:
                feature = edge_feat + tl.load(event_ids + event) * De
                for i in range(0, De, BLOCK_D):
                    o = i + tl.arange(0, BLOCK_D)
                    b_e = tl.load(feature + o, mask=o < De)
                    tl.store(p_mail + 2 * D + o, b_e.to(mail.dtype.element_ty), mask=o < De)
            tl.store(last_update + node, tl.load(rows_time + own))
            tl.store(mail_time + node, tl.load(times + p))
            tl.store(has_mail + node, tl.full([], 1, tl.uint8))


def commit_events(
    memory: Tensor,
    last_update: Tensor,
    mail: Tensor,
    mail_time: Tensor,
    has_mail: Tensor,
    ends: Tensor,
    times: Tensor,
    row: Tensor,
    rows_memory: Tensor,
    rows_time: Tensor,
    event_ids: Tensor,
    edge_feat: Tensor | None,
    count: Tensor | None = None,
) -> None:
    B, U = event_ids.numel(), rows_memory.shape[0]
    if B == 0 or U == 0:
        return
    ends, times, row, event_ids = (x.contiguous() for x in (ends, times, row, event_ids))
    position = torch.arange(2 * B, device=row.device)
    n = count.reshape(()) if count is not None else B
    event = torch.where(position < n, position, position - n).clamp(0, B - 1)
    live, eid = torch.where(position < 2 * n, row.to(torch.int64), -1), event_ids.index_select(0, event)
    best_t, best_eid, last = torch.full((3, U), torch.iinfo(torch.int64).min, dtype=torch.int64, device=row.device)
    sizes = tuned("latest_per_node", row.device)
    for key in (0, 1, 2):
        latest_per_node_kernel[(triton.cdiv(2 * B, sizes["BLOCK"]),)](
            live, times, eid, best_t, best_eid, last, 2 * B, HAS_EID=True, KEY=key, **sizes
        )
    De = 0 if edge_feat is None else edge_feat.shape[1]
    commit_events_kernel[(2 * B,)](
        memory,
        last_update,
        mail,
        mail_time,
        has_mail.view(torch.uint8),
        ends,
        times,
        row,
        rows_memory.contiguous(),
        rows_time.contiguous(),
        event_ids,
        memory if edge_feat is None else edge_feat.contiguous(),
        last,
        event_ids if count is None else count,
        B,
        memory.shape[1],
        De,
        HAS_COUNT=count is not None,
        HAS_EDGE=De > 0,
        **tuned("commit_events", row.device),
    )


_SIGNATURE = {
    **dict.fromkeys(("memory", "mail", "rows_memory", "edge_feat"), "*fp32"),
    **dict.fromkeys(
        ("last_update", "mail_time", "ends", "times", "row", "rows_time", "event_ids", "last", "count"), "*i64"
    ),
    "has_mail": "*u8",
    **dict.fromkeys(("B", "D", "De"), "i32"),
}
KERNELS = [
    KernelSpec(
        f"commit_events{name}",
        commit_events_kernel,
        {**_SIGNATURE, **other},
        {"HAS_COUNT": bool(name), "HAS_EDGE": True, "BLOCK_D": tuned("commit_events")["BLOCK_D"]},
    )
    for name, other in (("", {"last_update": "*fp64", "edge_feat": "*fp16"}), ("_counted", {}))
]
