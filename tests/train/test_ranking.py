"""Ranks among lists of any length, against a loop in float64 and against the evaluation by equal counts."""

import math

import numpy as np
import pytest
import torch

from gnnaccel.data import DataError, RaggedNegatives
from gnnaccel.train.config import load_config
from gnnaccel.train.link import LinkTask
from gnnaccel.train.metrics import reciprocal_ranks
from gnnaccel.train.ranking import evaluate_ranking, ragged_ranks, ranking_metrics
from tests.train.test_link import events, small_config  # noqa: F401


def oracle(positive, scores, indptr):
    """The mean of the best and the worst place that ties allow, one query at a time."""
    out = []
    for i, p in enumerate(positive):
        own = [float(s) for s in scores[indptr[i] : indptr[i + 1]]]
        optimistic = 1 + sum(s > p for s in own)
        pessimistic = 1 + sum(s >= p for s in own)
        out.append((optimistic + pessimistic) / 2)
    return np.array(out, dtype=np.float64)


@pytest.mark.parametrize("seed", range(4))
def test_ranks_are_the_oracles(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 12, 60)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    positive = rng.integers(0, 5, 60) / 4  # many ties
    scores = rng.integers(0, 5, indptr[-1]) / 4
    got = ragged_ranks(positive, scores, indptr)
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, oracle(positive, scores, indptr))


def test_by_hand():
    ranks = ragged_ranks(np.array([2.0, 1.0, 5.0]), np.array([1.0, 2.0, 3.0, 1.0, 1.0, 1.0]), np.array([0, 3, 6, 6]))
    assert ranks.tolist() == [2.5, 2.5, 1.0]
    got = ranking_metrics(ranks, hits=(1, 2, 3))
    assert got == {"mrr": pytest.approx((0.4 + 0.4 + 1) / 3), "hits@1": 1 / 3, "hits@2": 1 / 3, "hits@3": 1.0}


def test_constant_scores_do_not_win():
    assert ragged_ranks(np.zeros(1), np.zeros(99), np.array([0, 99])).tolist() == [50.5]


def test_equal_counts_are_the_plain_metric():
    rng = np.random.default_rng(0)
    positive, negatives = rng.random(20), rng.random((20, 7))
    ranks = ragged_ranks(positive, negatives.reshape(-1), np.arange(0, 141, 7))
    np.testing.assert_array_equal(1 / ranks, reciprocal_ranks(positive, negatives))


def test_nothing_is_nan_and_nan_is_refused():
    assert all(math.isnan(v) for v in ranking_metrics(np.empty(0)).values())
    with pytest.raises(ValueError, match="scores must be numbers, got NaN"):
        ragged_ranks(np.array([np.nan]), np.array([1.0]), np.array([0, 1]))
    with pytest.raises(ValueError, match="indptr must be"):
        ragged_ranks(np.zeros(2), np.zeros(3), np.array([0, 3]))


@pytest.fixture
def task(events):  # noqa: F811
    task = LinkTask.create(small_config(), events)
    task.replay(slice(0, task.split.test.start))
    return task


def at_test(events, *settings):  # noqa: F811
    task = LinkTask.create(small_config(*settings), events)
    task.replay(slice(0, task.split.test.start))
    return task


def test_given_lists_of_equal_length_give_the_plain_evaluation(events):  # noqa: F811
    task, part = at_test(events), LinkTask.create(small_config(), events).split.test
    drawn = task.draw(task.negatives, part, 9, 0).cpu()
    lists = RaggedNegatives.from_lists(drawn.tolist())
    got = evaluate_ranking(task, part, lists)
    want = at_test(events).evaluate(part, negatives=9, historical=False)
    for key in ("mrr", "inductive_mrr", "events", "inductive_events"):
        assert str(got[key]) == str(want[key]), key  # as text: NaN where there are none
    assert got["candidates"] == 9 * got["events"]


@pytest.mark.parametrize("semantics", ["strict", "inclusive", "before_batch", "by_event_id"])
def test_the_size_of_a_chunk_changes_nothing(events, semantics):  # noqa: F811
    setting = f"data.semantics={semantics}"
    part = at_test(events, setting).split.test
    generator = torch.Generator().manual_seed(1)
    pool = events.destinations
    counts = torch.randint(1, 30, (part.stop - part.start,), generator=generator).tolist()
    lists = RaggedNegatives.from_lists(
        [
            [x for x in pool[torch.randperm(len(pool), generator=generator)[:c]].tolist() if x != true] or [0]
            for c, true in zip(counts, events.dst[part].tolist(), strict=True)
        ]
    )
    whole = evaluate_ranking(at_test(events, setting), part, lists)
    small = evaluate_ranking(at_test(events, setting), part, lists, chunk=17)
    assert [f"{k}={v}" for k, v in whole.items()] == [f"{k}={v}" for k, v in small.items()]


def test_edgebank_under_given_lists(events):  # noqa: F811
    task = LinkTask.create(load_config("edgebank"), events)
    part = task.split.test
    drawn = task.draw(task.negatives, part, 9, 0).cpu()
    got = evaluate_ranking(task, part, RaggedNegatives.from_lists(drawn.tolist()))
    assert got["mrr"] == task.evaluate(part, negatives=9, historical=False)["mrr"]


def test_lists_that_are_not_of_these_events_are_refused(task):
    part = task.split.test
    with pytest.raises(DataError, match="2 lists, but there are"):
        evaluate_ranking(task, part, RaggedNegatives.from_lists([[1], [2]]))
    far = RaggedNegatives.from_lists([[10**6]] * (part.stop - part.start))
    with pytest.raises(DataError, match="node 1000000 is not one of"):
        evaluate_ranking(task, part, far)
