"""Philox4x32-10 in plain torch, for the fallbacks of the ops that draw. Internal."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

LOW = 0xFFFFFFFF


def philox4x32(counter: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Four random 32-bit words for each counter (Salmon et al., SC 2011).

    Args:
        counter: Four int64 tensors of 32-bit words, broadcast against each other.
        seed: The key, of which the low 64 bits count.

    Returns:
        Four int64 tensors of 32-bit words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = seed & LOW, (seed >> 32) & LOW
    for _ in range(10):
        # int64 products wrap; their 32-bit halves are right all the same
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((p1 >> 32) & LOW) ^ c1 ^ k0, p1 & LOW, ((p0 >> 32) & LOW) ^ c3 ^ k1, p0 & LOW
        k0, k1 = (k0 + 0x9E3779B9) & LOW, (k1 + 0xBB67AE85) & LOW
    return [c0, c1, c2, c3]
