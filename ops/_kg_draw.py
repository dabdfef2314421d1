"""`kg_draw`: the entities that stand in for heads or tails, drawn where the counters of the batch lie. Internal."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gnnaccel.ops._library import define, fake, impl

# at: int64 [2], epoch and number of the batch
define("kg_draw(Tensor at, int n, int bound, int seed, int stream, int part) -> Tensor")


@impl("kg_draw", "CUDA")
def _cuda(at: Tensor, n: int, bound: int, seed: int, stream: int, part: int) -> Tensor:
    from gnnaccel.kernels.triton.kg_draw import kg_draw_fwd

    return kg_draw_fwd(at, n, bound, seed, stream, part)


@impl("kg_draw", "CompositeExplicitAutograd")
def _composite(at: Tensor, n: int, bound: int, seed: int, stream: int, part: int) -> Tensor:
    epoch, batch = at.tolist()
    key, counter = np.array([seed % 2**64, stream], np.uint64), np.array([0, part, batch, epoch], np.uint64)
    w = np.random.Philox(key=key, counter=counter).random_raw(n)
    low, b, half = w & np.uint64(0xFFFFFFFF), np.uint64(bound), np.uint64(32)
    ids = ((w >> half) * b + ((low * b) >> half)) >> half
    return torch.from_numpy(ids.astype(np.int64)).to(at.device)


@fake("kg_draw")
def _fake(at: Tensor, n: int, bound: int, seed: int, stream: int, part: int) -> Tensor:
    return at.new_empty((n,))


def kg_draw(at: Tensor, n: int, bound: int, *, seed: int, stream: int, part: int = 0) -> Tensor:
    """`n` uniform integers in `[0, bound)`, a function of (seed, stream, part, epoch, batch) and the position alone.

    The words of Philox4x64-10 as NumPy has them (`gnnaccel.data.philox.words`), times `bound`, their upper 64 bits: what
    `ChunkedNegatives` draws. Unlike there, epoch and batch are read from the device, so that a captured step can count on.

    Args:
        at: int64 `[2]`: epoch and number of the batch, at least 0.
        bound: Below 2^31.
        seed: 64 bits.

    Returns:
        int64 `[n]` on the device of `at`.

    Raises:
        TypeError: `at` is not int64.
        ValueError: `at` is not `[2]`, or a number is out of its range.
    """
    if at.dtype != torch.int64:
        raise TypeError(f"kg_draw: at must be int64, got {at.dtype}")
    if tuple(at.shape) != (2,):
        raise ValueError(f"kg_draw: at must be [2], got {list(at.shape)}")
    if not 1 <= bound < 2**31:
        raise ValueError(f"kg_draw: bound must be in [1, 2^31), got {bound}")
    for name, value in (("n", n), ("stream", stream), ("part", part)):
        if value < 0:
            raise ValueError(f"kg_draw: {name} must be at least 0, got {value}")
    # an op's numbers are signed
    seed = (seed + 2**63) % 2**64 - 2**63
    return torch.ops.gnnaccel.kg_draw(at, n, bound, seed, stream, part)
