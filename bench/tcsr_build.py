"""Benchmark of `tcsr_build`, beside a sort and, as a yardstick, beside reading the events once and writing the rows once.

The yardstick writes fresh arrays in large pages, as the build does; `pct_copy` compares with a copy between warm ones.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.reference.tcsr import tcsr_build as reference
from gnnaccel.bench.harness import Args, Entry, register
from gnnaccel.data.synthetic import power_law_events
from gnnaccel.ops._tcsr import tcsr_build


def make(params: Mapping[str, Any], device: str, seed: int) -> Args:
    events = power_law_events(params["N"], params["E"], seed=seed)
    src, dst, t = (x.to(device) for x in (events.src, events.dst, events.t))
    return {"src": src, "dst": dst, "t": t, "num_nodes": params["N"], "add_reverse": True, "wide": False}


def torch_sort(src: Tensor, dst: Tensor, t: Tensor, num_nodes: int, add_reverse: bool, wide: bool) -> tuple[Any, ...]:
    """One stable sort by node; `t` is in order."""
    node = torch.stack([src, dst], 1).flatten()
    other = torch.stack([dst, src], 1).flatten()
    node, order = node.sort(stable=True)
    event = order >> 1
    indptr = torch.searchsorted(node, torch.arange(num_nodes + 1, device=node.device))
    return indptr, other[order].int(), event.int(), t[event]


def fresh(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory that nothing has touched, in large pages where the system has them for those who ask."""
    if device.type != "cpu" or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(n, dtype=dtype, device=device)
    memory = mmap.mmap(-1, n * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype, count=n)


def read_and_write_once(
    src: Tensor, dst: Tensor, t: Tensor, num_nodes: int, add_reverse: bool, wide: bool
) -> tuple[Any, ...]:
    """The yardstick: all inputs into all outputs, in no useful order."""
    n = len(src)
    nbr, eid, out_t = (fresh(2 * n, dtype, src.device) for dtype in (torch.int32, torch.int32, torch.int64))
    for part, ids in ((slice(0, n), src), (slice(n, 2 * n), dst)):
        nbr[part].copy_(ids)
        out_t[part].copy_(t)
    return fresh(num_nodes + 1, torch.int64, src.device).zero_(), nbr, eid.zero_(), out_t


def rows_equal(provider: str, got: list[Tensor], want: list[Tensor]) -> str | None:
    if provider == "read_and_write_once":
        return None
    return None if all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(got, want, strict=True)) else "rows differ"


register(
    Entry(
        op="tcsr_build",
        cases={
            "wikipedia_size": {"N": 9227, "E": 157_474},
            "1m_nodes_20m_events": {"N": 1_000_000, "E": 20_000_000},
        },
        tiny={"N": 50, "E": 700},
        make=make,
        providers={"gnnaccel": tcsr_build, "torch_sort": torch_sort, "read_and_write_once": read_and_write_once},
        check=rows_equal,
        reference=reference,
        reference_cases=("tiny",),
        bytes=lambda a: len(a["src"]) * (24 + 2 * (4 + 4 + 8)) + a["num_nodes"] * 8,
    )
)
