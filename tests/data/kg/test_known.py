"""The index of true triples against sets and loops, and the packed keys against plain sorting."""

import itertools

import numpy as np
import pytest
import torch

from gnnaccel.data.kg import KnowledgeGraph, KnownTriples, Triples, _keys


def random_triples(n: int, entities: int, relations: int, seed: int = 0) -> Triples:
    rng = np.random.default_rng(seed)
    return Triples.of(np.stack([rng.integers(b, size=n) for b in (entities, relations, entities)], 1))


CASES = [(0, 5, 2), (1, 1, 1), (60, 7, 3), (500, 12, 2), (300, 400, 9)]


@pytest.mark.parametrize(("n", "entities", "relations"), CASES)
@pytest.mark.parametrize("packed", [True, False])
def test_against_sets(n: int, entities: int, relations: int, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not packed:
        monkeypatch.setattr(_keys, "packs", lambda *bounds: False)
    parts = [random_triples(n, entities, relations, s) for s in range(2)]
    known = KnownTriples.build(parts, entities, relations)
    facts = {tuple(row) for p in parts for row in p.tensor().tolist()}
    assert len(known) == len(facts)
    e, r = (x.reshape(-1) for x in np.meshgrid(np.arange(entities), np.arange(relations), indexing="ij"))
    for side, (asked, given) in {"tail": (2, 0), "head": (0, 2)}.items():
        offsets, ids = known.lookup(e, r, side)
        assert offsets.dtype == ids.dtype == torch.int64
        got = [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)]
        groups: dict = {}
        for fact in facts:
            groups.setdefault((fact[given], fact[1]), []).append(fact[asked])
        assert got == [sorted(groups.get(key, [])) for key in zip(e.tolist(), r.tolist(), strict=True)]
        assert known.counts(e, r, side).tolist() == [len(x) for x in got]
    if entities <= 12:
        every = known.contains(e[:, None], r[:, None], torch.arange(entities))
        want = [[(h, q, t) in facts for t in range(entities)] for h, q in zip(e.tolist(), r.tolist(), strict=True)]
        assert every.dtype == torch.bool and every.tolist() == want
    for p in parts:
        assert known.contains(p.head, p.relation, p.tail).all()


@pytest.mark.parametrize("packed", [True, False])
def test_repeats_against_a_loop(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not packed:
        monkeypatch.setattr(_keys, "packs", lambda *bounds: False)
    for n in (0, 1, 2, 400):
        triples, seen, want = random_triples(n, 8, 3), set(), []
        for row in map(tuple, triples.tensor().tolist()):
            want.append(row in seen)
            seen.add(row)
        assert triples.repeats().tolist() == want


def test_keys_that_do_not_fit_one_integer() -> None:
    """Freebase has 86 million entities and 15 thousand relations: head * relation * tail is beyond int64."""
    E, R = 86_054_151, 14_824
    assert _keys.packs(E, R) and not _keys.packs(E, R, E)
    rows = [[E - 1, R - 1, E - 1], [E - 1, R - 1, 0], [0, R - 1, E - 1], [E - 1, R - 1, E - 1], [E - 2, 0, 5]]
    triples = Triples.of(rows)
    assert triples.repeats().tolist() == [False, False, False, True, False]
    known = KnownTriples.build([triples], E, R)
    assert known.lookup([E - 1, E - 2, 3], [R - 1, 0, 0]).ids.tolist() == [0, E - 1, 5]
    assert known.lookup([E - 1], [R - 1], side="head").ids.tolist() == [0, E - 1]
    assert known.contains([E - 1, E - 1], [R - 1, R - 1], [E - 1, 1]).tolist() == [True, False]


def test_order_and_repetition_do_not_matter() -> None:
    triples = random_triples(200, 9, 3)
    shuffled = triples[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    a, b = KnownTriples.build([triples], 9, 3), KnownTriples.build([shuffled, triples], 9, 3)
    e, r = torch.arange(9).repeat(3), torch.arange(3).repeat_interleave(9)
    for side in ("tail", "head"):
        for x, y in zip(a.lookup(e, r, side), b.lookup(e, r, side), strict=True):
            assert x.equal(y)
    assert a.nbytes == b.nbytes <= 2 * (4 * 200 + 16 * 27 + 8)


def test_empty_batch_and_broadcast() -> None:
    known = KnownTriples.build([Triples.of([[0, 0, 1], [0, 0, 2]])], 3, 1)
    offsets, ids = known.lookup([], [])
    assert offsets.tolist() == [0] and ids.tolist() == []
    assert known.contains(0, 0, [[0, 1], [2, 2]]).tolist() == [[False, True], [True, True]]
    assert known.contains([], [], []).shape == (0,)
    assert known.to("cpu").lookup([0, 0], [0, 0]).ids.tolist() == [1, 2, 1, 2]
    assert KnownTriples.build([], 3, 1).contains([0], [0], [1]).tolist() == [False]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: k.lookup([3], [0]), r"head must be in \[0, 3\), got 3"),
        (lambda k: k.lookup([3], [0], "head"), r"tail must be in \[0, 3\), got 3"),
        (lambda k: k.lookup([0], [-1]), r"relation must be in \[0, 2\), got -1"),
        (lambda k: k.contains([0], [0], [5]), r"tail must be in \[0, 3\), got 5"),
        (lambda k: k.lookup([0], [0], "both"), "side must be 'tail' or 'head', got 'both'"),
        (lambda k: k.lookup([0, 1], [0]), r"must both be \[B\], got \[2\] and \[1\]"),
        (lambda k: k.lookup([0.5], [0]), "head must be integer ids"),
        (lambda k: KnownTriples.build([Triples.of([[0, 0, 3]])], 3, 1), r"tail must be in \[0, 3\), got 3"),
    ],
)
def test_errors(call, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call(KnownTriples.build([Triples.of([[0, 1, 2]])], 3, 2))


def test_with_reciprocals() -> None:
    """A question for the head is the question for the tail by the inverse relation."""
    parts = [random_triples(50, 9, 3, s) for s in range(3)]
    kg = KnowledgeGraph("x", *parts, num_entities=9, num_relations=3)
    both = kg.with_reciprocals()
    e, r = torch.arange(9).repeat(3), torch.arange(3).repeat_interleave(9)
    for splits in (("train",), ("train", "valid", "test")):
        plain, twice = kg.known(splits), both.known(splits)
        assert len(twice) == 2 * len(plain)
        for x, y in zip(plain.lookup(e, r, "head"), twice.lookup(e, r + 3, "tail"), strict=True):
            assert x.equal(y)
        for x, y in zip(plain.lookup(e, r, "tail"), twice.lookup(e, r, "tail"), strict=True):
            assert x.equal(y)
