"""Sizes of blocks and numbers of warps, by GPU and class of shapes: one table a kernel, in `tuning.json`.

`python -m gnnaccel.bench.tune` measures candidates on the present GPU and writes a row. `measured` says where and when; null:
nobody has. A kernel without a row for a GPU runs with the default's. Rows of a GPU change the order of sums, hence last bits,
between kinds of GPU; never between runs on one.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

FILE = Path(__file__).with_name("tuning.json")
#: Part of a device's name -> name in the tables.
GPUS = {
    "H200": "h200",
    "H100": "h100",
    "A100": "a100",
    "GH200": "gh200",
    "B200": "b200",
    "L40S": "l40s",
    "4090": "rtx4090",
}
_NOTES = ("gpu", "shape", "measured")

_forced: dict[str, dict[str, int]] = {}


@functools.cache
def tables() -> dict[str, list[dict[str, Any]]]:
    return json.loads(FILE.read_text("utf-8"))


def gpu_name(name: str) -> str:
    """As the tables have it: the longest known part of a device's name, else `default`."""
    known = [part for part in GPUS if part in name]
    return GPUS[max(known, key=len)] if known else "default"


@functools.cache
def _present(index: int) -> str:
    return gpu_name(torch.cuda.get_device_name(index))


def tuned(kernel: str, device: torch.device | None = None, shape: str = "any") -> dict[str, int]:
    """Keyword arguments of a launch on `device`; without a GPU (interpreter, ahead of time) the default's."""
    if kernel in _forced:
        return _forced[kernel]
    gpu = "default"
    if device is not None and device.type == "cuda":
        gpu = _present(torch.cuda.current_device() if device.index is None else device.index)
    return _row(kernel, gpu, shape)


@functools.cache
def _row(kernel: str, gpu: str, shape: str) -> dict[str, int]:
    rows = {(r["gpu"], r["shape"]): r for r in tables()[kernel]}
    wanted = ((gpu, shape), (gpu, "any"), ("default", shape), ("default", "any"))
    found = next(rows[key] for key in wanted if key in rows)
    return {k: v for k, v in found.items() if k not in _NOTES}


@contextmanager
def using(kernel: str, values: dict[str, int]) -> Iterator[None]:
    """Launch `kernel` with these, whatever the tables say."""
    _forced[kernel] = values
    try:
        yield
    finally:
        del _forced[kernel]


def without_warps(sizes: dict[str, int]) -> dict[str, int]:
    """What a kernel's text sees of them."""
    return {k: v for k, v in sizes.items() if k != "num_warps"}


def write(kernel: str, gpu: str, shape: str, values: dict[str, int], measured: str, file: Path = FILE) -> None:
    """Put a measured row into the tables."""
    found = json.loads(file.read_text("utf-8"))
    kept = [r for r in found[kernel] if (r["gpu"], r["shape"]) != (gpu, shape)]
    found[kernel] = [*kept, {"gpu": gpu, "shape": shape, **values, "measured": measured}]
    file.write_text(text_of(found), "utf-8")
    tables.cache_clear()
    _row.cache_clear()


def text_of(found: dict[str, list[dict[str, Any]]]) -> str:
    """JSON with a line a row, default first."""
    parts = []
    for kernel in sorted(found):
        rows = sorted(found[kernel], key=lambda r: (r["gpu"] != "default", r["gpu"], r["shape"]))
        parts.append(f'  "{kernel}": [\n' + ",\n".join(f"    {json.dumps(r)}" for r in rows) + "\n  ]")
    return "{\n" + ",\n".join(parts) + "\n}\n"
