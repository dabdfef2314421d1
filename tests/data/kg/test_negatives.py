"""Batches and shared negatives: keyed draws, distributions, and masks against plain loops."""

from __future__ import annotations

import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from gnnaccel.data.kg import (
    ChunkedNegatives,
    DegreeTable,
    KnownTriples,
    NegativeBatch,
    TripleBatches,
    Triples,
    subsampling_weights,
)
from gnnaccel.data.kg import _exclude as exclude_module
from gnnaccel.data.kg.negatives import chunk_size
from gnnaccel.data.philox import words


def random_triples(n: int, entities: int, relations: int, seed: int = 0) -> Triples:
    rng = np.random.default_rng(seed)
    return Triples.of(np.stack([rng.integers(b, size=n) for b in (entities, relations, entities)], 1))


def rows(got: NegativeBatch) -> list[list[int]]:
    assert got.exclude is not None
    indptr, position = got.exclude
    assert indptr.dtype == position.dtype == torch.int64
    return [position[a:b].tolist() for a, b in itertools.pairwise(indptr.tolist())]


def test_words_are_numpy_philox() -> None:
    """Philox4x64-10's published answer for counter 0 (NumPy steps the counter first, so ours starts one before)."""
    zero = np.random.Philox(key=np.zeros(2, np.uint64), counter=2**256 - 1).random_raw(4)
    assert [hex(x) for x in zero.tolist()] == [
        "0x16554d9eca36314c",
        "0xdb20fe9d672d0fdc",
        "0xd7e772cee186176b",
        "0x7e68b68aec7ba23b",
    ]
    want = np.random.Philox(key=7 + (9 << 64), counter=(3 << 64) + (4 << 128) + (5 << 192)).random_raw(10)
    assert np.array_equal(words(10, seed=7, stream=9, part=3, batch=4, epoch=5), want)
    assert np.array_equal(words(3, seed=7, stream=9, part=3, batch=4, epoch=5), want[:3])


@pytest.mark.parametrize(("count", "size"), [(0, 3), (1, 3), (10, 3), (1000, 64), (1024, 256)])
def test_every_position_once_an_epoch(count: int, size: int) -> None:
    batches = TripleBatches(random_triples(count, 5, 2), size, seed=3)
    assert len(batches) == -(-count // size)
    epochs = [[batches.batch(e, i) for i in range(len(batches))] for e in range(2)]
    for parts in epochs:
        assert all(len(p) == size for p in parts[:-1])
        assert sorted(torch.cat([*parts, torch.empty(0, dtype=torch.int64)]).tolist()) == list(range(count))
    if count > 10:
        assert not torch.equal(torch.cat(epochs[0]), torch.cat(epochs[1]))


def test_batches_by_key_only() -> None:
    """Any order of asking, a pickle, four threads at once: the same batches."""
    want = [TripleBatches(500, 64, seed=5).batch(e, i) for e in range(3) for i in range(8)]
    keys = [(e, i) for e in range(3) for i in range(8)]
    batches: TripleBatches = pickle.loads(pickle.dumps(TripleBatches(500, 64, seed=5)))
    back = [batches.batch(*k) for k in reversed(keys)]
    with ThreadPoolExecutor(4) as pool:
        threads = list(pool.map(lambda k: batches.batch(*k), keys))
    for a, b, c in zip(want, reversed(back), threads, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    assert not torch.equal(TripleBatches(500, 64, seed=6).batch(0, 0), want[0])


def test_a_batch_is_a_copy() -> None:
    batches = TripleBatches(10, 5)
    batches.batch(0, 0).zero_()
    assert sorted(batches.permutation(0).tolist()) == list(range(10))


def test_the_permutation_is_uniform() -> None:
    orders = np.array([TripleBatches(4, 4, seed=s).batch(0, 0).tolist() for s in range(4800)])
    _, count = np.unique(orders @ [64, 16, 4, 1], return_counts=True)
    assert len(count) == 24 and ((count - 200) ** 2 / 200).sum() < 55  # 23 degrees of freedom, p = 2e-4


def test_groups_come_one_after_another() -> None:
    group = torch.tensor([7, 0, 7, 3, 0, 7, 3, 3, 7, 0])
    seen = set()
    for given in (group, group.numpy(), lambda epoch: group):
        batches = TripleBatches(10, 4, order=given)
        for epoch in range(20):
            order = torch.cat([batches.batch(epoch, i) for i in range(3)])
            assert sorted(order.tolist()) == list(range(10))
            runs = [g for g, _ in itertools.groupby(group[order].tolist())]
            assert sorted(runs) == [0, 3, 7]
            seen.add(tuple(runs))
    assert len(seen) > 3  # their order is new each epoch
    fresh = TripleBatches(10, 4, order=lambda epoch: np.arange(10) // (epoch + 1))
    assert not torch.equal(fresh.permutation(1), fresh.permutation(4))


def test_chunk_sizes() -> None:
    want = {
        0: 0,
        1: 1,
        100: 100,
        256: 256,
        257: 257,
        997: 997,
        998: 499,
        1000: 250,
        1024: 256,
        2048: 256,
        514: 257,
        300: 150,
    }
    assert {b: chunk_size(b, 256) for b in want} == want
    assert [chunk_size(b, 1) for b in (1, 2, 7)] == [1, 1, 1]
    for b in range(1, 400):
        s = chunk_size(b, 32)
        assert b % s == 0 and (s >= 16 or s == b)


def draw(sampler: ChunkedNegatives, triples: Triples, side: str, epoch: int = 0, batch: int = 0) -> NegativeBatch:
    return sampler.draw(triples.head, triples.relation, triples.tail, side, epoch, batch)


def test_draws_by_key_only() -> None:
    triples = random_triples(24, 50, 3)
    options: dict[str, Any] = {"negatives": 10, "chunk": 8, "seed": 4}
    keys = list(itertools.product(("head", "tail"), range(3), range(3)))
    want = {k: draw(ChunkedNegatives(50, **options), triples, *k).ids for k in keys}
    assert all(x.shape == (3, 10) and x.dtype == torch.int64 for x in want.values())
    assert len({tuple(x.reshape(-1).tolist()) for x in want.values()}) == len(keys)
    one = ChunkedNegatives(50, **options)
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda k: draw(one, triples, *k), reversed(keys)))
    for k, x in zip(reversed(keys), got, strict=True):
        assert torch.equal(x.ids, want[k]) and x.exclude is None and x.chunk == 8
    assert not torch.equal(
        draw(ChunkedNegatives(50, negatives=10, chunk=8, seed=5), triples, *keys[0]).ids, want[keys[0]]
    )


def test_uniform_draws_are_uniform() -> None:
    triples = random_triples(1, 7, 1)
    sampler = ChunkedNegatives(7, negatives=700)
    ids = torch.stack([draw(sampler, triples, "tail", 0, b).ids for b in range(100)])
    count = torch.bincount(ids.reshape(-1), minlength=7).double()
    assert len(count) == 7 and ((count - 1e4) ** 2 / 1e4).sum() < 26  # 6 degrees of freedom, p = 2e-4


def test_draws_by_degree() -> None:
    triples = Triples.of([(0, 0, 3), (0, 0, 3), (0, 0, 1), (2, 0, 3)])
    tables = (DegreeTable(triples, 5, side="head"), DegreeTable(triples, 5, side="tail"))
    pair = ChunkedNegatives(5, negatives=4000, strategy="degree", degree=tables)
    both = ChunkedNegatives(5, negatives=4000, strategy="degree", degree=DegreeTable(triples, 5))
    for sampler, side, want in (
        (pair, "head", [3, 0, 1, 0, 0]),
        (pair, "tail", [0, 1, 0, 3, 0]),
        (both, "tail", [1.5, 0.5, 0.5, 1.5, 0]),
    ):
        expected = torch.tensor(want, dtype=torch.float64) * 2500
        ids = torch.cat([draw(sampler, triples, side, 0, b).ids for b in range(10)])
        count = torch.bincount(ids.reshape(-1), minlength=5).double() / 4
        live = expected > 0
        assert (count[~live] == 0).all()
        assert ((count - expected)[live] ** 2 / expected[live]).sum() * 4 < 20


@pytest.mark.parametrize("in_batch", [0, 3, 100, True])
@pytest.mark.parametrize("side", ["head", "tail"])
def test_masks_against_loops(side: str, in_batch: int | bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exclude_module, "_BLOCK", 40)  # several blocks of short lists
    E, R = 40, 2
    known_triples = random_triples(900, E, R, 1)  # lists longer and shorter than 2 N
    known_triples = Triples.cat([known_triples, Triples.of([(h, 0, t) for h in (3, 4) for t in range(E)])])
    known = KnownTriples.build([known_triples], E, R)
    facts = set(map(tuple, known_triples.tensor().tolist()))
    # triples of the index, and others that are in no list
    triples = Triples.cat([known_triples[::10], random_triples(30, E, R, 2), known_triples[-60:]])[:144]
    for options in ({"mask_own": True}, {"filtered": known}, {"filtered": known, "negatives": 60}):
        sampler = ChunkedNegatives(E, **{"negatives": 6, "chunk": 24, "in_batch": in_batch, **options})
        got = draw(sampler, triples, side)
        own = min(24, 24 if in_batch is True else in_batch)
        assert got.chunk == 24 and got.ids.shape == (6, sampler.negatives + own)
        bare = draw(ChunkedNegatives(E, negatives=sampler.negatives, chunk=24), triples, side)
        assert torch.equal(got.ids[:, own:], bare.ids)
        true = triples.tail if side == "tail" else triples.head
        assert torch.equal(got.ids[:, :own], true.reshape(6, 24)[:, :own])
        want = []
        for b, (h, r, t) in enumerate(triples.tensor().tolist()):
            made = [(h, r, c) if side == "tail" else (c, r, t) for c in got.ids[b // 24].tolist()]
            want.append([j for j, x in enumerate(made) if x == (h, r, t) or (x in facts and "filtered" in options)])
        assert rows(got) == want
        assert any(len(x) > 1 for x in want)


def test_masks_of_large_ids() -> None:
    """Chunk times entities beyond int32."""
    E = 2**30
    triples = Triples.of([(E - 1, 0, E - 2), (5, 1, E - 3)] * 8)
    known = KnownTriples.build([triples], E, 2)
    got = draw(ChunkedNegatives(E, negatives=3, chunk=2, in_batch=True, filtered=known), triples, "tail")
    assert rows(got) == [[0], [1]] * 8


def test_empty_and_short_batches() -> None:
    known = KnownTriples.build([], 9, 2)
    for sampler in (ChunkedNegatives(9, negatives=4), ChunkedNegatives(9, negatives=4, in_batch=2, filtered=known)):
        got = draw(sampler, Triples.of([]), "head")
        assert got.ids.shape == (0, 4) and got.chunk == 0
        got = draw(sampler, random_triples(1, 9, 2), "head")
        assert got.ids.shape[0] == 1 and got.chunk == 1


def test_subsampling_weights_by_hand() -> None:
    triples = Triples.of([(0, 0, 1), (0, 0, 2), (0, 1, 1), (3, 0, 1)])
    # (h, r): 2 2 1 1, (r, t): 2 1 1 2, each + 3
    want = torch.tensor([10, 9, 8, 9]) ** -0.5
    weight = subsampling_weights(triples, 2)
    assert weight.dtype == torch.float32 and torch.allclose(weight, want)
    assert torch.allclose(subsampling_weights(triples, 2, 1), torch.tensor([4, 3, 2, 3]) ** -0.5)
    scaled = subsampling_weights(triples, 2, normalize=True)
    assert torch.allclose(scaled, want / want.mean())
    assert replace(triples, weight=scaled).weight is scaled
    assert len(subsampling_weights(Triples.of([]), 2)) == 0


def test_bad_arguments() -> None:
    triples = random_triples(8, 9, 2)
    table = DegreeTable(triples, 9)
    for text, call in {
        r"TripleBatches: batch_size must be an int >= 1, got 0": lambda: TripleBatches(triples, 0),
        r"TripleBatches: triples must be Triples or an int >= 0, got -1": lambda: TripleBatches(-1, 2),
        r"TripleBatches: order must be .* int \[8\], got int64\[3\]": lambda: TripleBatches(8, 2, order=np.arange(3)),
        r"TripleBatches: index must be in \[0, 4\), got 4": lambda: TripleBatches(8, 2).batch(0, 4),
        r"TripleBatches: epoch must be >= 0, got -1": lambda: TripleBatches(8, 2).batch(-1, 0),
        r"num_entities must be below 2\^31": lambda: ChunkedNegatives(2**31),
        r"negatives must be an int >= 1, got True": lambda: ChunkedNegatives(9, negatives=True),
        r"chunk must be an int >= 1, got 2.5": lambda: ChunkedNegatives(9, chunk=2.5),  # type: ignore[arg-type]
        r"strategy must be one of uniform, degree, got 'x'": lambda: ChunkedNegatives(9, strategy="x"),
        r"degree must be given for strategy 'degree' .*, got None": lambda: ChunkedNegatives(9, strategy="degree"),
        r"degree must be given .*, got one with strategy 'uniform'": lambda: ChunkedNegatives(9, degree=table),
        r"degree must be of 8 entities, got 9": lambda: ChunkedNegatives(8, strategy="degree", degree=table),
        r"in_batch must be True or >= 0, got -1": lambda: ChunkedNegatives(9, in_batch=-1),
        r"filtered must know 9 entities, got 8": lambda: ChunkedNegatives(9, filtered=KnownTriples.build([], 8, 2)),
        r"side must be 'head' or 'tail', got 'x'": lambda: draw(ChunkedNegatives(9), triples, "x"),
        r"epoch and batch must be >= 0, got 0 and -1": lambda: draw(ChunkedNegatives(9), triples, "head", 0, -1),
        r"heads must be in \[0, 2\), got another id": lambda: draw(ChunkedNegatives(2, mask_own=True), triples, "head"),
        r"smoothing must be finite and >= 1, got 0": lambda: subsampling_weights(triples, 2, 0),
        r"relation ids must be in \[0, 1\), got 1": lambda: subsampling_weights(triples, 1),
    }.items():
        with pytest.raises(ValueError, match=text):
            call()


def test_a_given_order_is_taken_as_it_is():
    batches = TripleBatches(5, 2, positions=lambda epoch: torch.arange(5).roll(epoch))
    assert [batches.batch(1, i).tolist() for i in range(3)] == [[4, 0], [1, 2], [3]]
    with pytest.raises(ValueError, match=r"every one of 5 positions once, got int64\[5\]"):
        TripleBatches(5, 2, positions=lambda epoch: torch.zeros(5, dtype=torch.int64)).batch(0, 0)
    with pytest.raises(ValueError, match="order must be None with positions"):
        TripleBatches(5, 2, order=torch.zeros(5, dtype=torch.int64), positions=lambda epoch: torch.arange(5))
