"""Ragged lists of negatives: drawn, written, read back, and refused when they cannot be meant."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gnnaccel.data import (
    DataError,
    NegativeSampler,
    RaggedNegatives,
    chronological_split,
    draw_negatives,
    read_negatives,
    synthetic_events,
    write_negatives,
)


@pytest.fixture(scope="module")
def events():
    plain = synthetic_events(num_events=500, num_src=30, num_dst=25, feat_dim=2, seed=1)
    return replace(plain, node_ids=np.array([f"n{i}" for i in range(plain.num_nodes)]))


@pytest.fixture(scope="module")
def part(events):
    return chronological_split(events.t).test


def test_csr_by_hand():
    lists = RaggedNegatives.from_lists([[3, 1], [], [2]])
    assert lists.indptr.tolist() == [0, 2, 2, 3]
    assert lists.ids.tolist() == [3, 1, 2]
    assert lists.counts.tolist() == [2, 0, 1]
    middle = lists.part(1, 3)
    assert (middle.indptr.tolist(), middle.ids.tolist()) == ([0, 0, 1], [2])
    assert len(RaggedNegatives.from_lists([])) == 0


@pytest.mark.parametrize("indptr", [[], [1, 2], [0, 3, 2], [0, 1]])
def test_indptr_must_fit(indptr):
    with pytest.raises(ValueError, match="RaggedNegatives: indptr must"):
        RaggedNegatives(torch.tensor(indptr, dtype=torch.int64), torch.arange(2))
    with pytest.raises(ValueError, match="ids must be an int64 vector"):
        RaggedNegatives(torch.tensor([0, 2]), torch.zeros(2))


def test_drawn_lists_are_distinct_and_half_of_them_history(events, part):
    lists = draw_negatives(events, part, count=8, historical=0.5, seed=3)
    lists.check(events, part)
    src, dst, t = (x.tolist() for x in (events.src, events.dst, events.t))
    known = 0
    for i in range(len(lists)):
        e = part.start + i
        own = lists.part(i, i + 1).ids.tolist()
        assert len(set(own)) == len(own) == 8
        now = {d for s, d, u in zip(src, dst, t, strict=True) if s == src[e] and u == t[e]}
        assert not now & set(own)
        past = {d for s, d, u in zip(src, dst, t, strict=True) if s == src[e] and u < t[e]} - now
        if past:  # draws of the history come first; those beyond it are made up for at random
            assert own[0] in past
            assert sum(d in past for d in own) < 8
            known += 1
    assert known > 30


def test_a_list_depends_on_its_event_alone(events, part):
    whole = draw_negatives(events, part, count=5, seed=3)
    later = draw_negatives(events, slice(part.start + 7, part.stop), count=5, seed=3)
    assert torch.equal(whole.part(7, len(whole)).ids, later.ids)
    assert not torch.equal(whole.ids, draw_negatives(events, part, count=5, seed=4).ids)


def test_a_short_pool_gives_short_lists(part):
    few = synthetic_events(num_events=500, num_src=30, num_dst=4, communities=2, feat_dim=2, seed=1)
    counts = draw_negatives(few, part, count=50).counts
    assert int(counts.max()) <= 3
    assert int(counts.min()) >= 1


@pytest.mark.parametrize(("name", "value"), [("count", 0), ("historical", 1.5)])
def test_draw_refuses(events, part, name, value):
    with pytest.raises(ValueError, match=f"draw_negatives: {name} must be"):
        draw_negatives(events, part, **{name: value})


def test_written_lists_come_back_and_speak_the_ids_of_the_data(events, part, tmp_path):
    lists = draw_negatives(events, part, count=6)
    path = tmp_path / "lists.npz"
    write_negatives(path, lists, events, part)
    assert [p.name for p in tmp_path.iterdir()] == ["lists.npz"]
    with np.load(path) as file:  # no pickles
        assert file["ids"].dtype.kind == "U"
        assert file["src"][0] == events.node_ids[events.src[part.start]]
    back = read_negatives(path, events, part)
    assert torch.equal(back.indptr, lists.indptr)
    assert torch.equal(back.ids, lists.ids)


def test_indptr_and_ids_are_enough(events, part, tmp_path):
    n = part.stop - part.start
    other = (events.dst[part] == events.dst[0]).long()
    ids = events.node_ids[torch.where(other.bool(), events.destinations[-1], events.dst[0]).numpy()]
    np.savez(tmp_path / "own.npz", indptr=np.arange(n + 1, dtype=np.int32), ids=ids)
    if (events.destinations[-1] == events.dst[0]).item():
        pytest.skip("the pool has one node")
    assert len(read_negatives(tmp_path / "own.npz", events, part)) == n


def damage(arrays, how, events, part):
    n = part.stop - part.start
    if how == "no ids":
        del arrays["ids"]
    elif how == "unknown id":
        arrays["ids"][3] = "zz"
    elif how == "short":
        arrays["indptr"] = arrays["indptr"][:-1]
    elif how == "step down":
        arrays["indptr"][2] = 0
    elif how == "empty list":
        arrays["indptr"][2] = arrays["indptr"][1]
    elif how == "own destination":
        arrays["ids"][0] = events.node_ids[events.dst[part.start]]
    elif how == "other data":
        arrays["t"] = arrays["t"] + 1
    elif how == "fewer":
        arrays |= {k: arrays[k][: n - 1] for k in ("src", "dst", "t")}
    elif how == "float ids":
        arrays["ids"] = np.zeros(len(arrays["ids"]))
    elif how == "float indptr":
        arrays["indptr"] = arrays["indptr"] * 1.0
    elif how == "newer":
        arrays["format"] = np.array("gnnaccel-negatives-9")
    return arrays


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("no ids", "has no 'ids'"),
        ("unknown id", "no node with id zz"),
        ("short", "indptr must never decrease"),
        ("step down", "indptr must never decrease"),
        ("empty list", "query 1 has an empty list"),
        ("own destination", "the true destination of query 0 is among its own negatives"),
        ("other data", "query 0 is not event 425"),
        ("fewer", "74 queries, but there are 75 events"),
        ("float ids", "ids must be integers or text"),
        ("float indptr", "indptr must be integers"),
        ("newer", "upgrade gnnaccel"),
    ],
)
def test_bad_files_are_told_in_one_line(events, part, tmp_path, how, says):
    write_negatives(tmp_path / "good.npz", draw_negatives(events, part, count=6), events, part)
    with np.load(tmp_path / "good.npz") as file:
        arrays = damage(dict(file), how, events, part)
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError) as error:
        read_negatives(tmp_path / "bad.npz", events, part)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 damaged"])
def test_not_an_npz(events, part, tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match="not a readable npz"):
        read_negatives(tmp_path / "x.npz", events, part)
    np.save(tmp_path / "one.npy", np.arange(3))
    with pytest.raises(DataError, match="not a readable npz"):
        read_negatives(tmp_path / "one.npy", events, part)
    with pytest.raises(DataError, match="no such file"):
        read_negatives(tmp_path / "absent.npz", events, part)


def test_pickles_are_not_opened(events, part, tmp_path):
    np.savez(tmp_path / "x.npz", indptr=np.array([0, 1]), ids=np.array([object()]))
    with pytest.raises(DataError, match="not a readable npz"):
        read_negatives(tmp_path / "x.npz", events, part)


def test_the_lists_of_another_split_are_refused(events, part, tmp_path):
    val = chronological_split(events.t).val
    write_negatives(tmp_path / "val.npz", draw_negatives(events, val, count=3), events, val)
    with pytest.raises(DataError, match=r"is not event|but there are"):
        read_negatives(tmp_path / "val.npz", events, part)


def test_the_sampler_is_the_source(events, part):
    """The first random one of each list without history is the sampler's first draw."""
    lists = draw_negatives(events, part, count=4, historical=0, seed=9)
    drawn = NegativeSampler(events, strategy="random", seed=9).sample(part, n=1)[:, 0]
    assert torch.equal(lists.ids[lists.indptr[:-1]], drawn)
