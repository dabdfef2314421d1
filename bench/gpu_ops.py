"""Entries of the size that keeps a GPU busy: rows far beyond its caches, a million roots. Registered where there is a GPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers import gather_rows as gather_peers
from gnnaccel.baselines.reference.gather_rows import gather_rows as gather_reference
from gnnaccel.baselines.reference.temporal_sample import temporal_sample as one_by_one
from gnnaccel.bench.harness import Args, Entry, register
from gnnaccel.data.synthetic import power_law_events
from gnnaccel.graph import TemporalGraph, temporal_sample
from gnnaccel.ops.gather_rows import gather_rows

# --- rows -----------------------------------------------------------------------------------------------------------------


def make_rows(params: Mapping[str, Any], device: str, seed: int) -> Args:
    """A table made where it lies, since copying it there takes longer than measuring."""
    gen = torch.Generator(device).manual_seed(seed)
    shape, pinned = (params["N"], params["F"]), params.get("pinned", False) and device != "cpu"
    dtype = getattr(torch, params["dtype"])
    table = torch.empty(shape, dtype=dtype, device="cpu" if pinned else device, pin_memory=pinned)
    if pinned:
        table.fill_(1.0)
    else:
        table.uniform_(-1, 1, generator=gen)
    ids = torch.randint(0, params["N"], (params["n"],), generator=gen, device=device)
    return {"table": table, "ids": ids, "dtype": torch.float32}


def moved(args: Args) -> int:
    """Rows in, rows out, ids."""
    table, n = args["table"], args["ids"].numel()
    return n * (table.shape[1] * (table.element_size() + 4) + 8)


@torch.compile(dynamic=False)
def compiled_rows(table: Tensor, ids: Tensor, dtype: torch.dtype) -> Tensor:
    return table[ids].to(dtype)


def expected_rows(table: Tensor, ids: Tensor, dtype: torch.dtype) -> Tensor:
    return gather_reference(table, ids, None)


def host_rows(table: Tensor, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of a table in host memory without reading them in place: gathered on the host, then copied."""
    if table.device == ids.device:
        return table.index_select(0, ids).to(dtype)
    return table.index_select(0, ids.to(table.device)).to(ids.device, dtype)


WIDE = {"N": 20_000_000, "F": 128, "n": 4_000_000, "dtype": "float32"}
ROWS = Entry(
    op="gather_rows_gpu",
    cases={
        "4m_of_20m_f128": WIDE,
        "4m_of_20m_f100": {**WIDE, "F": 100},
        "4m_of_20m_half": {**WIDE, "dtype": "float16"},
    },
    tiny={"N": 60, "F": 12, "n": 40, "dtype": "float32"},
    make=make_rows,
    providers={
        "gnnaccel": gather_rows,
        "torch": lambda table, ids, dtype: table.index_select(0, ids).to(dtype),
        "torch.compile": compiled_rows,
        "indexing": gather_peers.indexing,
    },
    reference=expected_rows,
    reference_cases=("tiny",),
    modes=("fwd",),
    bytes=moved,
)
# in place over the bus, against gathering on the host and copying
PINNED = Entry(
    op="gather_rows_pinned",
    cases={"200k_of_2m_f128": {"N": 2_000_000, "F": 128, "n": 200_000, "dtype": "float32", "pinned": True}},
    tiny={"N": 60, "F": 12, "n": 40, "dtype": "float32", "pinned": True},
    make=make_rows,
    providers={"gnnaccel": gather_rows, "host": host_rows},
    reference=expected_rows,
    reference_cases=("tiny",),
    modes=("fwd",),
    bytes=moved,
)


# --- sampling -------------------------------------------------------------------------------------------------------------

FANOUT = 10


def make_events(params: Mapping[str, Any], device: str, seed: int) -> Args:
    events = power_law_events(params["N"], params["E"], seed=seed, bipartite=True)
    gen = torch.Generator().manual_seed(seed)
    src, dst, t = (x.to(device) for x in (events.src, events.dst, events.t))
    # roots of the second half, each at its own time, ends of events in proportion to their number
    at = torch.randint(params["E"] // 2, params["E"], (params["R"],), generator=gen).to(device)
    return {"src": src, "dst": dst, "t": t, "num_nodes": params["N"], "nodes": src[at], "times": t[at]}


def sample(g: TemporalGraph, nodes: Tensor, times: Tensor) -> Any:
    return temporal_sample(g, nodes, times, FANOUT)


def prepared(a: Args) -> Args:
    return {
        "g": TemporalGraph.from_events(a["src"], a["dst"], a["t"], a["num_nodes"]),
        "nodes": a["nodes"],
        "times": a["times"],
    }


def search(g: TemporalGraph, nodes: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Recent neighbours in plain PyTorch: a binary search of each root's row, all rows at once, then the last entries."""
    low, high = g.row_start[nodes], g.row_end[nodes]
    first = low.clone()
    for _ in range(int((high - low).max()).bit_length()):
        middle = (low + high) // 2
        earlier = (low < high) & (g.t[middle.clamp(max=len(g.t) - 1)] < times)
        low, high = torch.where(earlier, middle + 1, low), torch.where(earlier, high, middle)
    at = low.unsqueeze(1) - 1 - torch.arange(FANOUT, device=nodes.device)
    live = at >= first.unsqueeze(1)
    at = at.clamp(min=0)
    nbr, eid = (torch.where(live, x[at], -1) for x in (g.nbr, g.eid))
    return nbr, eid, torch.where(live, times.unsqueeze(1) - g.t[at], 0)


def sampled_parts(result: Any) -> list[Tensor]:
    """Judged: neighbour, event and time difference of every slot."""
    parts = (result.nbr, result.eid, result.dt) if hasattr(result, "nbr") else result[:3]
    return [torch.as_tensor(x).long() for x in parts]


def reference_sample(src: Tensor, dst: Tensor, t: Tensor, num_nodes: int, nodes: Tensor, times: Tensor) -> Any:
    return one_by_one(src, dst, t, nodes, times, FANOUT)


SAMPLE = Entry(
    op="temporal_sample_gpu",
    # 1x10 recent: edges/s are R * 10 over the time
    cases={"wikipedia_size_1m_roots_k10": {"N": 9228, "E": 157_474, "R": 1_000_000}},
    tiny={"N": 60, "E": 900, "R": 50},
    make=make_events,
    providers={"gnnaccel": sample, "torch": search},
    prepare={"gnnaccel": prepared, "torch": prepared},
    view=dict.fromkeys(("gnnaccel", "torch", "reference"), sampled_parts),
    reference=reference_sample,
    reference_cases=("tiny",),
    bytes=lambda a: len(a["nodes"]) * FANOUT * 2 * (4 + 4 + 8),
)

ENTRIES = (ROWS, PINNED, SAMPLE)
if torch.cuda.is_available() or os.environ.get("GNNACCEL_BENCH_GPU"):
    for entry in ENTRIES:
        register(entry)
