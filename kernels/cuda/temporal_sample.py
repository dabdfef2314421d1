"""Launcher of `temporal_sample.cu` through CuPy, on torch's current stream."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = Path(__file__).parent
BLOCK_ROOTS = 64  # kBlockRoots
THREADS = 128
NAMES = {
    (torch.int32, torch.int64): "temporal_sample_i32_i64",
    (torch.int32, torch.float64): "temporal_sample_i32_f64",
    (torch.int64, torch.int64): "temporal_sample_i64_i64",
    (torch.int64, torch.float64): "temporal_sample_i64_f64",
}


def source(name: str = "temporal_sample.cu") -> str:
    """The kernel and its headers as one text: caches of compiled kernels do not look into headers."""
    text = (FOLDER / name).read_text(encoding="utf-8").replace("#pragma once\n", "")
    return re.sub(r'#include "(.+)"\n', lambda include: source(include[1]), text)


@functools.cache
def _kernel(device: int, name: str) -> Any:
    import cupy

    # a module belongs to one device
    with cupy.cuda.Device(device):
        return cupy.RawModule(code=source(), options=("--std=c++17",)).get_function(name)


def temporal_sample(
    row_start: Tensor,
    row_end: Tensor,
    nbr: Tensor,
    eid: Tensor,
    t: Tensor,
    nodes: Tensor,
    times: Tensor,
    event_ids: Tensor | None,
    draw_keys: Tensor | None,
    fanout: int,
    visibility: int,
    uniform: bool,
    replace: bool,
    window: int,
    bound_t: int,
    bound_eid: int,
    seed: int,
    epoch: int,
    batch: int,
    root_offset: int,
    hop: int,
    counters: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The op's arguments and results; everything contiguous and on one device.

    `counters`, int64 `[4]`, takes the places of epoch, batch, bound_t and bound_eid.
    """
    from gnnaccel.kernels.cuda._stream import torch_stream

    roots = nodes.shape[0]
    out_nbr, out_eid = nbr.new_empty((roots, fanout)), eid.new_empty((roots, fanout))
    out_dt = t.new_empty((roots, fanout))
    out_t = t.new_empty((roots if t.dtype == torch.float64 else 0, fanout))
    out_count = torch.empty(roots, dtype=torch.int32, device=t.device)
    if roots == 0:
        return out_nbr, out_eid, out_dt, out_count, out_t
    inputs = (row_start, row_end, nbr, eid, t, nodes, times, event_ids, draw_keys, counters)
    tensors = (*inputs, out_nbr, out_eid, out_dt, out_t, out_count)
    scalars = (
        *(row_start.shape[0], roots, fanout, nodes.dtype == torch.int64, visibility, uniform, replace),
        *(window, bound_t, bound_eid, seed, epoch, batch, root_offset, hop),
    )
    pointers = (0 if x is None or x.numel() == 0 else x.data_ptr() for x in tensors)
    kernel = _kernel(t.device.index, NAMES[nbr.dtype, t.dtype])
    with torch_stream(t.device):
        kernel(((roots + BLOCK_ROOTS - 1) // BLOCK_ROOTS,), (THREADS,), (*pointers, *(int(x) for x in scalars)))
    return out_nbr, out_eid, out_dt, out_count, out_t
