"""`tcsr_build`: events -> rows of each node's events, sorted by (t, eid)."""

from __future__ import annotations

import torch
from torch import Tensor

from gnnaccel.ops._library import define, fake, impl

define(
    "tcsr_build(Tensor src, Tensor dst, Tensor t, int num_nodes, bool add_reverse, bool wide) "
    "-> (Tensor indptr, Tensor nbr, Tensor eid, Tensor t)"
)


@impl("tcsr_build", "CompositeExplicitAutograd")
def _composite(
    src: Tensor, dst: Tensor, t: Tensor, num_nodes: int, add_reverse: bool, wide: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    ids = torch.int64 if wide else torch.int32
    node, nbr, eid = src, dst, torch.arange(len(src), device=src.device)
    if add_reverse:
        back = eid[src != dst]
        node, nbr, eid = torch.cat([node, dst[back]]), torch.cat([nbr, src[back]]), torch.cat([eid, back])
    # least significant key first; every sort is stable
    order = eid.argsort(stable=True)
    order = order[t[eid[order]].argsort(stable=True)]
    order = order[node[order].argsort(stable=True)]
    indptr = node.new_zeros(num_nodes + 1)
    torch.cumsum(torch.bincount(node, minlength=num_nodes), 0, out=indptr[1:])
    return indptr, nbr[order].to(ids), eid[order].to(ids), t[eid[order]]


@fake("tcsr_build")
def _fake(
    src: Tensor, dst: Tensor, t: Tensor, num_nodes: int, add_reverse: bool, wide: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    entries = torch.library.get_ctx().new_dynamic_size() if add_reverse else src.shape[0]
    ids = src.new_empty((entries,), dtype=torch.int64 if wide else torch.int32)
    return src.new_empty((num_nodes + 1,)), ids, torch.empty_like(ids), t.new_empty((entries,))


def tcsr_build(
    src: Tensor, dst: Tensor, t: Tensor, num_nodes: int, add_reverse: bool, wide: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sort events into rows.

    Args:
        src: int64 `[E]`, in `[0, num_nodes)`: checked by the caller, as all of these.
        dst: int64 `[E]`, likewise.
        t: int64 or float64 `[E]`, in any order, no NaN.
        num_nodes: N.
        add_reverse: Whether an event (u, v) also stands in v's row. One with u == v stands there once.
        wide: Whether `nbr` and `eid` are int64 instead of int32.

    Returns:
        `indptr` int64 `[N + 1]`, `nbr` `[M]`, `eid` `[M]` (positions in `src`) and `t` `[M]`, rows sorted by (t, eid).
        The same bits for any number of threads.
    """
    return torch.ops.gnnaccel.tcsr_build.default(src, dst, t, num_nodes, add_reverse, wide)
