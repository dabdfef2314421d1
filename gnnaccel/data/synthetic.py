"""Deterministic streams: a small one to learn from, and a fast power-law one to measure with.

Only integers, and single IEEE additions and multiplications, decide what comes out, and the bits come from Philox by
`BitGenerator.random_raw`, whose stream NumPy keeps fixed: the same arguments give the same stream on every machine.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch

from gnnaccel.data.events import TemporalEvents

__all__ = ["power_law_events", "synthetic_events"]

_32 = np.uint64(32)


class _Bits:
    """Streams of random bits that do not depend on how much of another stream was used."""

    def __init__(self, seed: int):
        self.seed = seed

    def raw(self, stream: int, n: int) -> np.ndarray:
        key = np.array([self.seed % 2**64, stream], np.uint64)
        return np.random.Philox(key=key).random_raw(n)

    def below(self, stream: int, n: int, bound: np.ndarray | int) -> np.ndarray:
        """Uniform in [0, bound), bound < 2^31."""
        b = np.asarray(bound).astype(np.uint64)
        return (((self.raw(stream, n) >> _32) * b) >> _32).astype(np.int64)

    def chance(self, stream: int, n: int, p: float) -> np.ndarray:
        return (self.raw(stream, n) >> _32) < np.uint64(round(p * 2**32))

    def weighted(self, stream: int, n: int, weights: np.ndarray) -> np.ndarray:
        """Index by integer weights, their sum below 2^31."""
        total = np.cumsum(weights)
        return np.searchsorted(total, self.below(stream, n, int(total[-1])), side="right")

    def geometric(self, stream: int, n: int, p: float) -> np.ndarray:
        """0, 1, 2, ... with probability p (1 - p)^k, cut off at 63."""
        q, tail = Fraction(p).limit_denominator(10**6), []
        rest = Fraction(1)
        for _ in range(63):
            rest *= 1 - q
            tail.append(round((1 - rest) * 2**32))
        return np.searchsorted(np.array(tail, np.uint64), self.raw(stream, n) >> _32, side="right")


def synthetic_events(
    num_events: int = 20_000,
    num_src: int = 600,
    num_dst: int = 300,
    communities: int = 6,
    recency: float = 0.5,
    repetition: float = 0.6,
    feat_dim: int = 8,
    seed: int = 0,
) -> TemporalEvents:
    """A bipartite stream with structure in time.

    Sources are active by a power law. Each has a home community that holds a share of the destinations. An event repeats an
    earlier destination of its source with probability `repetition`, likely a recent one; otherwise it goes to a destination of
    the home community (9 of 10 times) or to any, mildly popular ones first. So history tells far more than popularity.
    Events come in bursts with ties; time is in seconds from 0.

    Args:
        num_events, num_src, num_dst: Sizes. Sources are nodes [0, num_src), destinations follow.
        communities: Number of communities, at most `num_dst`.
        recency: Of repeats: k events of the source back with probability recency (1 - recency)^k, k cut off at 63. In (0, 1].
        repetition: Share of events that repeat, in [0, 1].
        feat_dim: Columns of edge features: a noisy picture of the destination's community. 0 for none.
        seed: 64 bits.

    Returns:
        Events named "synthetic"; `label` is 1 where the event left the home community.
    """
    sizes = {"num_events": num_events, "num_src": num_src, "num_dst": num_dst, "communities": communities}
    for arg, n in sizes.items():
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"synthetic_events: {arg} must be an int >= 1, got {n!r}")
    if communities > num_dst:
        raise ValueError(f"synthetic_events: communities must be <= num_dst ({num_dst}), got {communities}")
    if not 0 < recency <= 1:
        raise ValueError(f"synthetic_events: recency must be in (0, 1], got {recency}")
    if not 0 <= repetition <= 1:
        raise ValueError(f"synthetic_events: repetition must be in [0, 1], got {repetition}")
    if feat_dim < 0:
        raise ValueError(f"synthetic_events: feat_dim must be >= 0, got {feat_dim}")
    E, bits = num_events, _Bits(seed)
    src = bits.weighted(0, E, (2**20 // np.arange(8, num_src + 8)).astype(np.int64))
    home = np.arange(num_src) * 7919 % communities

    # A fresh destination for every event; repeats then point to an earlier event of the same source
    size = (num_dst - np.arange(communities) - 1) // communities + 1
    stray = bits.chance(1, E, 0.1)
    com = np.where(stray, bits.below(2, E, communities), home[src])
    # The smaller of two uniform draws: the first of a community is the most popular, by a gentle slope
    member = np.minimum(bits.below(3, E, size[com]), bits.below(4, E, size[com]))
    fresh = member * communities + com

    order = np.argsort(src, kind="stable")
    turn = np.empty(E, np.int64)
    starts = np.searchsorted(src[order], np.arange(num_src))
    turn[order] = np.arange(E) - starts[src[order]]
    back = np.minimum(bits.geometric(5, E, recency) + 1, turn)
    back[~bits.chance(6, E, repetition)] = 0
    place = np.empty(E, np.int64)
    place[order] = np.arange(E)
    parent = order[place - back]
    # Follow the pointers to the event that drew afresh: they double in reach each time
    while True:
        further = parent[parent]
        if np.array_equal(further, parent):
            break
        parent = further
    dst = fresh[parent]

    gap = bits.below(7, E, 20) * np.where(bits.chance(8, E, 0.1), 30, 1)
    gap[0] = 0
    t = np.cumsum(gap)
    feat = None
    if feat_dim:
        sign = (bits.below(9, communities * feat_dim, 2) * 2 - 1).reshape(communities, feat_dim).astype(np.float32)
        noise = bits.below(10, E * feat_dim, 2**16).reshape(E, feat_dim).astype(np.float32)
        feat = torch.from_numpy(sign[dst % communities] + (noise - np.float32(2**15)) * np.float32(2**-14))
    return TemporalEvents(
        name="synthetic",
        src=torch.from_numpy(src.astype(np.int64)),
        dst=torch.from_numpy(dst + num_src),
        t=torch.from_numpy(t),
        label=torch.from_numpy((dst % communities != home[src]).astype(np.int64)),
        edge_feat=feat,
        num_nodes=num_src + num_dst,
        bipartite=True,
        time_unit="s",
    )


def power_law_nodes(words: np.ndarray, n: int, skew: int) -> np.ndarray:
    """A node of [0, n) for each random word: that of rank floor(n u^skew), ids scattered. int64."""
    u = (words >> np.uint64(11)).astype(np.float64)
    u *= 2.0**-53
    p = u.copy()
    for _ in range(skew - 1):
        p *= u
    p *= n
    rank = p.astype(np.int64)
    # A stride coprime to n visits every id once
    stride = next(a for a in range(int(n * 0.6180339887) | 1, 2 * n + 3, 2) if np.gcd(a, n) == 1)
    rank *= stride
    rank %= n
    return rank


def power_law_events(
    num_nodes: int, num_events: int, *, skew: int = 3, mean_gap: int = 2, seed: int = 0, bipartite: bool = False
) -> TemporalEvents:
    """A large stream with power-law degrees and no other structure, for measuring. 20M events take seconds.

    Both endpoints have rank floor(n u^skew) for uniform u: the node of rank i is drawn with probability ~ i^(1/skew - 1), so
    degrees follow a power law with exponent 2 + 1 / (skew - 1) (2.5 for skew 3). Ids are scattered, hubs are not neighbours in
    memory.

    Args:
        num_nodes: At least 2.
        num_events: At least 1.
        skew: 1 is uniform.
        mean_gap: Times are int64, steps uniform in 0..2 mean_gap, so there are ties.
        seed: 64 bits.
        bipartite: The first half of the ids are the sources, the other half the destinations.

    Returns:
        Events named "power_law", without self-loops and features.
    """
    if num_nodes < 2 or num_events < 1 or skew < 1 or mean_gap < 0:
        given = f"{num_nodes}, {num_events}, {skew}, {mean_gap}"
        raise ValueError(
            f"power_law_events: num_nodes >= 2, num_events >= 1, skew >= 1, mean_gap >= 0 expected, got {given}"
        )
    bits = _Bits(seed)

    half = num_nodes // 2
    src = power_law_nodes(bits.raw(0, num_events), half if bipartite else num_nodes, skew)
    dst = power_law_nodes(bits.raw(1, num_events), num_nodes - half if bipartite else num_nodes, skew)
    if bipartite:
        dst += half
    else:
        dst += src == dst
        dst %= num_nodes
    t = np.cumsum(bits.below(2, num_events, 2 * mean_gap + 1))
    return TemporalEvents(
        name="power_law",
        src=torch.from_numpy(src),
        dst=torch.from_numpy(dst),
        t=torch.from_numpy(t),
        num_nodes=num_nodes,
        bipartite=bipartite,
    )
