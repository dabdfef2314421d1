"""Feature tables that are files: their pages go back to the system before they fill the process's memory."""

from __future__ import annotations

import mmap
import os
import weakref

import numpy as np
import torch
from torch import Tensor

LIMIT = 1 << 30  # bytes of files that a process may have mapped in before `trim` lets go of them

_tables: list[tuple[weakref.ref[Tensor], mmap.mmap]] = []


def as_tensor(array: np.memmap) -> Tensor:
    """The mapped array as a tensor whose pages `trim` may let go."""
    tensor = torch.from_numpy(array)
    if isinstance(pages := getattr(array, "_mmap", None), mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        _tables.append((weakref.ref(tensor), pages))
    return tensor


def trim(limit: int = LIMIT) -> None:
    """Let go of the pages of mapped tables if those of files take more than `limit` bytes.

    A read of one row maps some 64 KiB around it, so reading here and there soon counts the whole file as memory in use. The
    system keeps what it has room for, and a later read finds it there. Tables that were written to are left alone: their pages
    are the only place that has what was written.
    """
    if not _tables or _file_bytes() <= limit:
        return
    for tensor, pages in list(_tables):
        if (table := tensor()) is None:
            _tables.remove((tensor, pages))
        elif table._version == 0:
            pages.madvise(mmap.MADV_DONTNEED)


def _file_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[2]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux
        return 0
