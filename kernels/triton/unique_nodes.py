"""Distinct ids in order of first appearance: open-addressing hash in global memory, then a prefix sum. No sort.

Which slot an id gets depends on who came first, but no output does: `first` holds the smallest position of each id (an
integer minimum), and rows are numbered by it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gnnaccel.kernels.aot import KernelSpec
from gnnaccel.kernels.triton._tuning import tuned

EMPTY = tl.constexpr(-1)
NEVER = tl.constexpr(-2)  # equals no key and no empty slot


@triton.jit
def unique_nodes_insert_kernel(ids, keys, first, slot, n, bits, BLOCK: tl.constexpr):
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m = o < n
    b_id = tl.load(ids + o, mask=m, other=-1)
    b_real = b_id >= 0
    mask = (tl.full((), 1, tl.int64) << bits) - 1
    # Fibonacci hashing
    b_at = ((b_id.to(tl.int64).to(tl.uint64) * 0x9E3779B97F4A7C15) >> (64 - bits).to(tl.uint64)).to(tl.int64)
    b_at = tl.where(b_real, b_at, 0)
    b_wait = b_real
    while tl.max(b_wait.to(tl.int32), axis=0) > 0:
        # a hub's many positions find their id by a plain load; only newcomers pay for the atomic
        b_key = tl.load(keys + b_at, mask=b_wait, other=NEVER)
        b_try = b_wait & (b_key == EMPTY)
        # atomic_cas has no mask: the others compare with what no slot holds, each at a place of its own
        b_cmp = tl.where(b_try, EMPTY, NEVER).to(b_id.dtype)
        b_old = tl.atomic_cas(keys + tl.where(b_try, b_at, o & mask), b_cmp, b_id, sem="relaxed")
        b_key = tl.where(b_try, b_old, b_key)
        b_wait = b_wait & (b_key != b_id) & ~(b_try & (b_key == EMPTY))
        b_at = tl.where(b_wait, (b_at + 1) & mask, b_at)
    b_first = tl.load(first + b_at, mask=b_real, other=-1)
    tl.atomic_min(first + b_at, o, mask=b_real & (b_first > o), sem="relaxed")
    tl.store(slot + o, tl.where(b_real, b_at, -1), mask=m)


@triton.jit
def unique_nodes_mark_kernel(first, slot, is_first, n, BLOCK: tl.constexpr):
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    b_slot = tl.load(slot + o, mask=o < n, other=-1)
    b_first = tl.load(first + b_slot, mask=b_slot >= 0, other=-1)
    tl.store(is_first + o, (b_first == o).to(tl.int64), mask=o < n)


@triton.jit
def unique_nodes_number_kernel(ids, first, slot, rank, unique, inverse, n, BLOCK: tl.constexpr):
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    b_slot = tl.load(slot + o, mask=o < n, other=-1)
    b_real = b_slot >= 0
    b_first = tl.load(first + b_slot, mask=b_real, other=-1)
    b_row = tl.load(rank + b_first, mask=b_real, other=0) - 1
    tl.store(inverse + o, b_row, mask=o < n)
    b_new = b_real & (b_first == o)
    tl.store(unique + b_row, tl.load(ids + o, mask=b_new, other=0), mask=b_new)


BLOCK = tuned("unique_nodes")["BLOCK"]  # of the default


def unique_nodes_fwd(ids: Tensor) -> tuple[Tensor, Tensor]:
    unique, inverse, count = unique_nodes_padded_fwd(ids)
    return unique[: int(count)].clone(), inverse


def unique_nodes_padded_fwd(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct ids and then -1, `[n]`; the row of each id; and how many are distinct, `[1]`, on the device."""
    n = ids.numel()
    inverse = torch.empty(ids.shape, dtype=torch.int64, device=ids.device)
    unique = ids.new_full((n,), -1)
    if n == 0:
        return unique, inverse, inverse.new_zeros(1)
    bits = max(4, (2 * n - 1).bit_length())
    keys = ids.new_full((1 << bits,), -1)
    first = torch.full((1 << bits,), n, dtype=torch.int64, device=ids.device)
    slot, is_first = torch.empty((2, n), dtype=torch.int64, device=ids.device)
    sizes = tuned("unique_nodes", ids.device)
    grid = (triton.cdiv(n, sizes["BLOCK"]),)
    unique_nodes_insert_kernel[grid](ids, keys, first, slot, n, bits, **sizes)
    unique_nodes_mark_kernel[grid](first, slot, is_first, n, **sizes)
    rank = is_first.cumsum(0)
    unique_nodes_number_kernel[grid](ids, first, slot, rank, unique, inverse, n, **sizes)
    return unique, inverse, rank[-1:].clone()


KERNELS = [
    KernelSpec(
        f"unique_nodes_insert_{name}",
        unique_nodes_insert_kernel,
        {"ids": pointer, "keys": pointer, "first": "*i64", "slot": "*i64", "n": "i32", "bits": "i32"},
        {"BLOCK": BLOCK},
    )
    for name, pointer in (("int64", "*i64"), ("int32", "*i32"))
] + [
    KernelSpec(
        "unique_nodes_mark",
        unique_nodes_mark_kernel,
        {"first": "*i64", "slot": "*i64", "is_first": "*i64", "n": "i32"},
        {"BLOCK": BLOCK},
    ),
    KernelSpec(
        "unique_nodes_number",
        unique_nodes_number_kernel,
        {
            "ids": "*i64",
            "first": "*i64",
            "slot": "*i64",
            "rank": "*i64",
            "unique": "*i64",
            "inverse": "*i64",
            "n": "i32",
        },
        {"BLOCK": BLOCK},
    ),
]
