"""Categories by hand and by loops; degree-weighted draws."""

import itertools

import numpy as np
import pytest
import torch

from gnnaccel.data.kg import DegreeTable, Triples, entity_degrees, relation_statistics


def test_categories_by_hand() -> None:
    one = [(0, 0, 1), (2, 0, 3), (4, 0, 5)]
    many_tails = [(0, 1, t) for t in range(1, 5)]
    many_heads = [(h, 2, 0) for h in range(1, 5)]
    both = [(h, 3, t) for h, t in itertools.product(range(3), range(3))]
    # 3 triples over 2 heads: exactly 1.5 is many
    edge = [(0, 5, 1), (0, 5, 2), (1, 5, 3)]
    s = relation_statistics(Triples.of([*one, *many_tails, *many_heads, *both, *edge, one[0]]), 6)
    assert s.names() == ["1-1", "1-N", "N-1", "N-N", "none", "1-N"]
    assert s.count.tolist() == [4, 4, 4, 9, 0, 3] and s.empty().tolist() == [4]
    assert s.tails_per_head.tolist() == [1, 4, 1, 3, 0, 1.5] and s.heads_per_tail.tolist() == [1, 1, 4, 3, 0, 1]
    assert s.share() == {"1-1": 1, "1-N": 2, "N-1": 1, "N-N": 1}
    assert relation_statistics(Triples.of(edge), 6, threshold=1.6).names()[5] == "1-1"


@pytest.mark.parametrize("n", [0, 1, 300])
def test_averages_against_loops(n: int) -> None:
    rng = np.random.default_rng(n)
    rows = np.stack([rng.integers(b, size=n) for b in (20, 4, 9)], 1)
    s = relation_statistics(Triples.of(rows), 4)
    for r in range(4):
        facts = {(h, t) for h, q, t in rows.tolist() if q == r}
        heads, tails = len({h for h, _ in facts}), len({t for _, t in facts})
        assert s.count[r] == sum(q == r for _, q, _ in rows.tolist())
        assert s.tails_per_head[r] == (len(facts) / heads if facts else 0)
        assert s.heads_per_tail[r] == (len(facts) / tails if facts else 0)


def test_statistics_refuse() -> None:
    with pytest.raises(ValueError, match=r"relation ids must be in \[0, 1\), got 1"):
        relation_statistics(Triples.of([[0, 1, 0]]), 1)
    with pytest.raises(ValueError, match="threshold must be > 0, got 0"):
        relation_statistics(Triples.of([]), 1, threshold=0)
    with pytest.raises(ValueError, match=r"entity ids must be in \[0, 2\), got 2"):
        entity_degrees(Triples.of([[0, 0, 2]]), 2)


def test_degrees() -> None:
    head, tail = entity_degrees(Triples.of([[0, 0, 1], [0, 1, 1], [3, 0, 1], [0, 0, 0]]), 5)
    assert head.tolist() == [3, 0, 0, 1, 0] and tail.tolist() == [1, 3, 0, 0, 0]


def test_degree_table() -> None:
    triples = Triples.of([[0, 0, 1], [0, 1, 1], [3, 0, 1], [0, 0, 0]])
    both = DegreeTable(triples, 5)
    assert both.total.tolist() == [4, 7, 7, 8, 8]
    assert DegreeTable(triples, 5, side="head").total.tolist() == [3, 3, 3, 4, 4]
    assert DegreeTable(triples, 5, side="tail", smoothing=1).total.tolist() == [2, 6, 7, 8, 9]
    assert DegreeTable(Triples.of([]), 3, smoothing=1).total.tolist() == [1, 2, 3]
    root = DegreeTable(triples, 5, power=0.5)
    weights = np.diff(np.append(0, root.total.numpy())) / 2**30
    want = np.sqrt([4, 3, 0, 1, 0])
    np.testing.assert_allclose(weights, want / want.sum(), atol=2e-9, rtol=0)
    flat = DegreeTable(triples, 5, power=0.0)
    np.testing.assert_allclose(
        np.diff(np.append(0, flat.total.numpy())) / 2**30, np.array([1, 1, 0, 1, 0]) / 3, atol=2e-9
    )


def test_draws_follow_the_weights_and_the_key_alone() -> None:
    table = DegreeTable(Triples.of([[0, 0, 1], [0, 1, 1], [3, 0, 1], [0, 0, 0]]), 5, seed=3)
    x = table.draw(torch.arange(2000), 8)
    assert x.dtype == torch.int64 and x.shape == (2000, 8)
    share = np.bincount(x.reshape(-1), minlength=5) / 16000
    np.testing.assert_allclose(share, np.array([4, 3, 0, 1, 0]) / 8, atol=0.02)
    assert share[2] == share[4] == 0
    assert table.draw([1999, 7], 8).equal(x[[1999, 7]]) and table.draw([5], 3).equal(x[5:6, :3])
    assert not table.draw([5], 8, epoch=1).equal(x[5:6]) and table.draw([], 4).shape == (0, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": "x"}, "side must be 'head', 'tail' or 'both', got 'x'"),
        ({"power": 2}, r"power must be in \[0, 1\], got 2"),
        ({"smoothing": -1}, "smoothing must be finite and >= 0, got -1"),
        ({}, "triples must not be empty without smoothing"),
    ],
)
def test_degree_table_refuses(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"DegreeTable: {message}"):
        DegreeTable(Triples.of([]), 3, **options)
