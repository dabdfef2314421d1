"""Philox4x32-10, the counter-based generator: a draw is a function of its key and counter, never of draws before it.

Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
"""

from __future__ import annotations

import numpy as np

__all__ = ["below", "normal_rows", "philox4x32", "uint64_below", "words"]

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)
# Counters worked on at once: eight rows of this many uint64 stay in the second-level cache
_CHUNK = 1 << 14


def philox4x32(counter: np.ndarray, key: tuple[int, int], rounds: int = 10) -> np.ndarray:
    """Random bits.

    Args:
        counter: Words of the counters, values below 2^32, uint64 [4, n].
        key: Two 32-bit words.
        rounds: 10 is the published generator.

    Returns:
        Words below 2^32, uint64 [4, n].
    """
    out = np.empty_like(counter)
    for i in range(0, counter.shape[1], _CHUNK):
        c0, c1, c2, c3 = (row[i : i + _CHUNK].copy() for row in counter)
        k0, k1 = key
        for _ in range(rounds):
            p0, p1 = c0 * _M0, c2 * _M1
            c0, c2 = (p1 >> _32) ^ c1 ^ np.uint64(k0), (p0 >> _32) ^ c3 ^ np.uint64(k1)
            c1, c3 = p1 & _LOW, p0 & _LOW
            k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
        out[:, i : i + _CHUNK] = c0, c1, c2, c3
    return out


def uint64_below(hi: np.ndarray, lo: np.ndarray, bound: np.ndarray | int) -> np.ndarray:
    """Map 64 random bits to [0, bound) by the high word of their product with it; bias below bound / 2^64.

    Args:
        hi, lo: 32-bit words as uint64.
        bound: Below 2^31, broadcast against them.
    """
    b = np.asarray(bound).astype(np.uint64)
    return ((hi * b + ((lo * b) >> _32)) >> _32).astype(np.int64)


def below(
    bound: np.ndarray | int, ids: np.ndarray, n: int, *, seed: int, epoch: int = 0, stream: int = 0
) -> np.ndarray:
    """Draw j of item i is a uniform integer in [0, bound[i]) that depends on (seed, epoch, stream, ids[i], j) only.

    Args:
        bound: In [1, 2^31), scalar or [len(ids)].
        ids: Items, int64 >= 0.
        n: Draws of each item.
        seed: 64 bits.
        epoch: In [0, 2^24).
        stream: In [0, 2^8): keeps the draws of different purposes apart.

    Returns:
        int64 [len(ids), n].
    """
    if not 0 <= epoch < 1 << 24:
        raise ValueError(f"epoch must be in [0, 2^24), got {epoch}")
    blocks = (n + 1) // 2
    item = np.repeat(np.asarray(ids, np.int64).astype(np.uint64), blocks)
    counter = np.empty((4, item.size), np.uint64)
    counter[0], counter[1] = item & _LOW, item >> _32
    counter[2] = np.tile(np.arange(blocks, dtype=np.uint64), len(ids))
    counter[3] = epoch << 8 | stream
    w = philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF)).reshape(4, len(ids), blocks)
    b = np.broadcast_to(np.asarray(bound), (len(ids),))[:, None]
    out = np.empty((len(ids), blocks, 2), np.int64)
    out[..., 0], out[..., 1] = uint64_below(w[0], w[1], b), uint64_below(w[2], w[3], b)
    return out.reshape(len(ids), 2 * blocks)[:, :n]


def normal_rows(first: int, count: int, dim: int, *, seed: int, stream: int = 0) -> np.ndarray:
    """Rows `first` to `first + count` of an endless table of standard normal numbers; row n depends on (seed, stream, n) only.

    Box and Muller's transform of Philox4x64-10, by NumPy's `random_raw`, whose stream is fixed.

    Returns:
        float32 [count, dim].
    """
    blocks = (dim + 7) // 8  # a block is 4 words, a word makes 2 numbers
    if count <= 0 or dim == 0:
        return np.zeros((max(count, 0), dim), np.float32)
    key = np.array([seed % 2**64, stream], np.uint64)
    words = np.random.Philox(key=key, counter=first * blocks).random_raw(count * blocks * 4).reshape(count, -1)
    radius = np.sqrt(-2 * np.log(((words >> _32) + np.uint64(1)) * 2.0**-32))
    angle = (words & _LOW) * (2 * np.pi * 2.0**-32)
    out = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2).reshape(count, -1)
    return out[:, :dim].astype(np.float32)


def words(n: int, *, seed: int, stream: int = 0, epoch: int = 0, batch: int = 0, part: int = 0) -> np.ndarray:
    """n random words that depend on (seed, stream, epoch, batch, part) only; fewer words are the first of more.

    Philox4x64-10 by NumPy's `random_raw`, whose stream is fixed: a thousand words take 20 us, where `philox4x32` takes 300.

    Args:
        seed: 64 bits, or a negative number modulo 2^64.
        stream: Below 2^64, as the next three: keeps the draws of different purposes apart.

    Returns:
        uint64 [n].
    """
    key, counter = np.array([seed % 2**64, stream], np.uint64), np.array([0, part, batch, epoch], np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(n)
