"""Where feature tables lie: in the memory of the GPU, or in pinned host memory that it reads rows of in place (UVA)."""

from __future__ import annotations

import logging
import weakref
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnnaccel.train.settings import ConfigError

SHARE = 0.5  # of the free memory that a table may take with "auto": the rest is for graph, model and batches
CHUNK = 1 << 26  # bytes copied at a time
PAGE = 4096
OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation

log = logging.getLogger("gnnaccel.train")


def choose_place(size: int, free: int, mode: str = "auto") -> str:
    """`device` or `pinned`, for a table of `size` bytes on a GPU with `free` bytes."""
    if mode != "auto":
        return mode
    return "device" if size <= SHARE * free else "pinned"


def pinned_copy(table: Tensor) -> Tensor:
    """The table in pinned host memory; itself if it is there already.

    Copied by parts: of a table that is mapped from a file, no more than the copy is in memory at one time. The memory is
    allocated plainly and registered with CUDA until nothing refers to it any more: torch's own pinned memory comes in powers of
    two, up to twice the size of the table. Where registering is not possible it is that memory, though.

    Raises:
        RuntimeError: There is not enough host memory that can be pinned.
    """
    if table.is_pinned():
        return table
    out, memory = _plain(table)
    registered = _register(out, memory)
    rows = max(1, CHUNK // max(1, table[:1].nbytes))
    for first in range(0, len(table), rows):
        out[first : first + rows].copy_(table[first : first + rows])
    # `is_pinned` asks the driver whose memory an address is, and is True for memory that is registered
    return out if registered else out.pin_memory()


def _plain(table: Tensor) -> tuple[Tensor, np.ndarray]:
    """Room for a table at the start of a page, and the array that owns it, which lives as long as the tensor's memory."""
    memory = np.empty(table.nbytes + PAGE, np.uint8)
    first = -memory.ctypes.data % PAGE
    out = torch.from_numpy(memory[first : first + table.nbytes])
    return out.view(table.dtype).view(table.shape), memory


def _register(table: Tensor, memory: np.ndarray) -> bool:
    """Pin the memory of a table for as long as its owner lives; False if this is not possible here.

    Raises:
        RuntimeError: There is not enough memory that can be pinned.
    """
    cudart: Any = torch.cuda.cudart()
    register = getattr(cudart, "cudaHostRegister", None)
    if register is None or not table.nbytes:
        return False
    code = register(table.data_ptr(), table.nbytes, 0)
    if int(code) == 0:
        weakref.finalize(memory, _unregister, cudart, table.data_ptr())
        return True
    text = f"cudaHostRegister: {cudart.cudaGetErrorString(code)}"
    with suppress(RuntimeError, AssertionError):
        torch.ones(1, device="cuda")  # CUDA tells its last error once more, to the next launch
    if int(code) == OUT_OF_MEMORY:
        raise RuntimeError(text)
    log.warning("%s; the table goes to pinned memory of torch instead", text)
    return False


def _unregister(cudart: Any, address: int) -> None:
    if torch.cuda.is_initialized():
        with suppress(RuntimeError):
            torch.cuda.synchronize()  # kernels may still be reading it
    cudart.cudaHostUnregister(address)


def place_features(
    x: Tensor | None, scale: Tensor | None, device: torch.device | str, mode: str = "auto"
) -> tuple[Tensor | None, Tensor | None]:
    """A feature table (and the scale of int8 rows) where the kernels on `device` read it.

    Args:
        x: `[N, F]` in host memory, also mapped from a file, or None.
        scale: float32 `[N]`, or None; always goes to the device.
        device: Of the model.
        mode: `"device"`, `"pinned"`, or `"auto"`: on the device if it takes at most half of its free memory.

    Raises:
        ConfigError: `"pinned"` for a device that is no GPU, or too little host memory to pin.
    """
    device = torch.device(device)
    if device.type != "cuda":
        if mode == "pinned":
            raise ConfigError(f"setting train.features: must be 'auto' or 'device' on {device.type}, got 'pinned'")
        return (None if x is None else x.to(device)), (None if scale is None else scale.to(device))
    scale = None if scale is None else scale.to(device)
    if x is None or x.device.type == "cuda":
        return (None if x is None else x.to(device)), scale
    if choose_place(x.nbytes, torch.cuda.mem_get_info(device)[0], mode) == "device":
        return x.to(device), scale
    try:
        return pinned_copy(x), scale
    except RuntimeError as error:
        why = str(error).strip().partition("\n")[0]
        raise ConfigError(f"train.features: {x.nbytes / 1e9:.1f} GB of features cannot be pinned: {why}") from None
