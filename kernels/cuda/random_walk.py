"""Launcher of `random_walk.cu` through CuPy, on torch's current stream."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from gnnaccel.kernels.cuda.temporal_sample import source

THREADS = 128
NAMES = {torch.int32: "random_walk_i32", torch.int64: "random_walk_i64"}


@functools.cache
def _kernel(device: int, name: str) -> Any:
    import cupy

    # a module belongs to one device
    with cupy.cuda.Device(device):
        return cupy.RawModule(code=source("random_walk.cu"), options=("--std=c++17",)).get_function(name)


def random_walk(
    indptr: Tensor,
    nbr: Tensor,
    start: Tensor,
    length: int,
    back: int,
    near: int,
    away: int,
    restart: int,
    sorted_rows: bool,
    seed: int,
    epoch: int,
    offset: int,
) -> Tensor:
    """The op's arguments and result; everything contiguous and on one device."""
    from gnnaccel.kernels.cuda._stream import torch_stream

    walks, device = start.shape[0], nbr.device
    out = nbr.new_empty((walks, length + 1))
    if walks == 0:
        return out
    pointers = (0 if x.numel() == 0 else x.data_ptr() for x in (indptr, nbr, start, out))
    scalars = (
        *(indptr.shape[0] - 1, walks, length, start.dtype == torch.int64),
        *(back, near, away, restart, sorted_rows, seed, epoch, offset),
    )
    with torch_stream(device):
        kernel = _kernel(device.index, NAMES[nbr.dtype])
        kernel(((walks + THREADS - 1) // THREADS,), (THREADS,), (*pointers, *(int(x) for x in scalars)))
    return out
