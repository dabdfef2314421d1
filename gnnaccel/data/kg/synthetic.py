"""A deterministic knowledge graph with rules to learn."""

from __future__ import annotations

import numpy as np

from gnnaccel.data.kg._keys import repeated
from gnnaccel.data.kg.graph import KnowledgeGraph, Triples
from gnnaccel.data.synthetic import _Bits

__all__ = ["synthetic_kg"]

_RULES = ("shift", "inverse", "mirror", "group")


def synthetic_kg(entities: int = 200, relations: int = 8, triples: int = 1200, seed: int = 0) -> KnowledgeGraph:
    """Entities on a ring, and relations by rule, four in turn.

    - shift: to one of the two places a fixed way round the ring (N-N)
    - inverse: the shift of the relation before, backwards
    - mirror: to the place mirrored on a fixed axis (1-1, symmetric)
    - group: to the first place of its sixteenth of the ring (N-1)

    A model that finds the places answers a question up to the choice of two. The ring's order does not show in the ids.

    Only integers decide, by Philox: the same arguments give the same graph on every machine. Triples are distinct; a twentieth
    each is valid and test; train has every entity and relation.

    Args:
        entities: At least 32.
        relations: At least 2.
        triples: From 1.25 (entities + relations) to 0.8 entities * relations.
        seed: 64 bits.
    """
    for arg, n, least in (("entities", entities, 32), ("relations", relations, 2), ("triples", triples, 1)):
        if not isinstance(n, int) or isinstance(n, bool) or n < least:
            raise ValueError(f"synthetic_kg: {arg} must be an int >= {least}, got {n!r}")
    E, R, T = entities, relations, triples
    if E > 2**30 or R > 2**15:
        raise ValueError(f"synthetic_kg: entities must be <= 2^30 and relations <= 2^15, got {E} and {R}")
    least, most = -(-5 * (E + R) // 4), 4 * E * R // 5
    if not least <= T <= most:
        raise ValueError(f"synthetic_kg: triples must be in [{least}, {most}] for {E} entities, {R} relations, got {T}")
    bits = _Bits(seed)
    way = bits.below(0, R, E)
    n = max(2 * T, E)
    while True:
        head, relation, tail = _draw(bits, n, E, R, way)
        fresh = np.flatnonzero(~repeated(head, relation, tail))
        if len(fresh) >= T:
            break
        n *= 2
    head, relation, tail = (x[fresh[:T]] for x in (head, relation, tail))
    # Places -> ids, by a stride coprime to E
    stride = next(a for a in range(int(E * 0.6180339887) | 1, 2 * E + 3, 2) if np.gcd(a, E) == 1)
    rows = np.stack([head * stride % E, relation, tail * stride % E], 1)

    held = max(1, T // 20)
    free = np.ones(T, bool)
    for x in (rows[:, [0, 2]].reshape(-1) * 2, relation.repeat(2) * 2 + 1):
        free[np.unique(x, return_index=True)[1] // 2] = False  # the first triple of an entity or relation trains it
    turn = np.flatnonzero(free)
    turn = turn[np.argsort(bits.raw(6, T)[turn], kind="stable")]
    train = np.ones(T, bool)
    train[turn[: 2 * held]] = False
    return KnowledgeGraph(
        "synthetic-kg",
        Triples.of(rows[train]),
        Triples.of(rows[np.sort(turn[:held])]),
        Triples.of(rows[np.sort(turn[held : 2 * held])]),
        E,
        R,
        [f"e{i}" for i in range(E)],
        [f"{_RULES[i % 4]}{i // 4}" for i in range(R)],
    )


def _draw(bits: _Bits, n: int, E: int, R: int, way: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first n candidates, by places. A longer draw begins with the same ones; the first E have each place as head."""
    relation = bits.weighted(1, n, 2**20 // np.arange(R, 2 * R))
    head = bits.below(2, n, E)
    head[:E] = np.arange(E)
    step = bits.below(3, n, 2)
    rule, block = relation % 4, E // 16
    shift = head + way[relation] + step
    inverse = head - way[relation - (rule == 1)] - step
    group = head // block * block
    tail = np.choose(rule, [shift, inverse, way[relation] - head, group]) % E
    return head, relation, tail
