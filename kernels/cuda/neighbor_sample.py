"""Launcher of `neighbor_sample.cu` through CuPy, on torch's current stream."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gnnaccel.kernels.cuda.temporal_sample import source

BLOCK_ROOTS = 64  # kNeighborRoots
THREADS = 128
NAMES = {torch.int32: "neighbor_sample_i32", torch.int64: "neighbor_sample_i64"}


@functools.cache
def _kernel(device: int, name: str) -> Any:
    import cupy

    # a module belongs to one device
    with cupy.cuda.Device(device):
        return cupy.RawModule(code=source("neighbor_sample.cu"), options=("--std=c++17",)).get_function(name)


def neighbor_sample(
    indptr: Tensor,
    nbr: Tensor,
    eid: Tensor | None,
    relation: Tensor | None,
    weight: Tensor | None,
    exclude: Tensor | None,
    nodes: Tensor,
    fanout: Sequence[int],
    typed: bool,
    weighted: bool,
    replace: bool,
    edge_ids: bool,
    seed: int,
    epoch: int,
    batch: int,
    hop: int,
    counters: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The op's arguments and results; everything contiguous and on one device.

    `counters`, int64 `[2]`, takes the places of epoch and batch.
    """
    from gnnaccel.kernels.cuda._stream import torch_stream

    roots, slots, device = nodes.shape[0], sum(fanout), nbr.device
    out_nbr, out_eid = nbr.new_empty((roots, slots)), nbr.new_empty((roots if edge_ids else 0, slots))
    out_count = torch.empty(roots, dtype=torch.int32, device=device)
    out_relation = nbr.new_empty((0 if relation is None else roots, slots), dtype=torch.int16)
    out_weight = nbr.new_empty((0 if weight is None else roots, slots), dtype=torch.float32)
    if roots == 0:
        return out_nbr, out_eid, out_count, out_relation, out_weight
    keys = torch.empty((roots if weighted else 0, slots), dtype=torch.float64, device=device)
    fanouts = torch.tensor(fanout, dtype=torch.int64, device=device) if typed else None
    inputs = (indptr, nbr, eid, relation, weight, exclude, fanouts, nodes, counters)
    tensors = (*inputs, out_nbr, out_eid, out_relation, out_weight, out_count, keys)
    scalars = (
        *(indptr.shape[0] - 1, nbr.shape[0], roots, slots, len(fanout), 0 if exclude is None else exclude.shape[0]),
        *(nodes.dtype == torch.int64, weighted, replace, seed, epoch, batch, hop),
    )
    pointers = (0 if x is None or x.numel() == 0 else x.data_ptr() for x in tensors)
    kernel = _kernel(device.index, NAMES[nbr.dtype])
    with torch_stream(device):
        kernel(((roots + BLOCK_ROOTS - 1) // BLOCK_ROOTS,), (THREADS,), (*pointers, *(int(x) for x in scalars)))
    return out_nbr, out_eid, out_count, out_relation, out_weight
