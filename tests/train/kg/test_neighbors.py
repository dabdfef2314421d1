"""Neighbours against plain float64 comparisons."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gnnaccel.models.kge import KGE
from gnnaccel.train.kg import neighbors as module
from gnnaccel.train.kg.neighbors import METRICS, pair_similarity, similar, table_of

TABLE = torch.randn(50, 12, generator=torch.Generator().manual_seed(0))
TABLE[7] = 0
TABLE[20] = TABLE[4]


def value(metric: str, x: Tensor, y: Tensor) -> float:
    x, y = x.double(), y.double()
    if metric in ("l1", "l2"):
        return float((x - y).abs().sum() if metric == "l1" else (x - y).square().sum().sqrt())
    dot = x @ y
    below = {"dot": torch.tensor(1.0), "cosine": (x @ x * (y @ y)).sqrt(), "jaccard": x @ x + y @ y - dot}[metric]
    return float(dot / below) if below else 0.0


@pytest.mark.parametrize("keep_self", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_neighbours(metric: str, keep_self: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_QUERIES", 3)
    monkeypatch.setattr(module, "_ROWS", 16)
    queries, pool = torch.tensor([4, 7, 31, 4]), torch.tensor([*range(0, 40), 45, 20, 7])
    parts = list(similar(TABLE, queries, 6, metric=metric, candidates=pool, keep_self=keep_self))
    assert [len(p.ids) for p in parts] == [3, 1]
    ids, values = (torch.cat(x) for x in zip(*parts, strict=True))
    sign = -1 if METRICS[metric][1] else 1
    for q, found, numbers in zip(queries.tolist(), ids.tolist(), values, strict=True):
        others = [i for i in pool.unique().tolist() if keep_self or i != q]
        want = sorted((sign * round(value(metric, TABLE[q], TABLE[i]), 5), i) for i in others)[:6]
        # rows of the same value may change places by rounding
        torch.testing.assert_close(
            numbers.double(), torch.tensor([sign * v for v, _ in want]).double(), atol=2e-5, rtol=1e-4
        )
        torch.testing.assert_close(
            numbers.double(),
            torch.tensor([value(metric, TABLE[q], TABLE[i]) for i in found]).double(),
            atol=2e-5,
            rtol=1e-4,
        )
        assert len(set(found)) == 6 and (keep_self or q not in found)
    if metric in ("l1", "l2", "cosine", "jaccard") and not keep_self:
        assert ids[0, 0] == 20  # its copy


def test_ties_and_few_candidates() -> None:
    table = torch.ones(30, 4)
    for k in (5, 40):
        (got,) = similar(table, torch.tensor([3]), k, metric="l1", candidates=torch.arange(29, -1, -1))
        want = [i for i in range(30) if i != 3][:k]
        assert got.ids[0].tolist() == want + [-1] * (k - len(want))
        assert got.value[0, : len(want)].eq(0).all() and got.value[0, len(want) :].isnan().all()


def test_all_rows_and_half_types() -> None:
    parts = list(similar(TABLE.bfloat16(), k=3, metric="dot"))
    ids = torch.cat([p.ids for p in parts])
    assert ids.shape == (50, 3)
    exact = TABLE.bfloat16().double() @ TABLE.bfloat16().double().T
    exact.fill_diagonal_(-torch.inf)
    assert torch.equal(ids, exact.sort(dim=1, descending=True, stable=True).indices[:, :3])


@pytest.mark.parametrize("metric", METRICS)
def test_pairs(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS", 2)
    left, right = torch.tensor([0, 4, 7, 7, 9]), torch.tensor([1, 20, 7, 3, 0])
    want = [value(metric, TABLE[a], TABLE[b]) for a, b in zip(left, right, strict=True)]
    got = pair_similarity(TABLE, left, right, metric)
    torch.testing.assert_close(got, torch.tensor(want), atol=2e-5, rtol=1e-4)
    assert pair_similarity(TABLE, left[:0], right[:0], metric).shape == (0,)


def test_tables_of_a_model() -> None:
    model = KGE("rotate", 5, 3, 6, reciprocal=True)
    assert torch.equal(table_of(model), model.entity)
    turns = table_of(model, "relation")
    assert turns.shape == (3, 6)
    torch.testing.assert_close(turns.square().sum(1), torch.full((3,), 3.0))
    assert table_of(KGE("distmult", 5, 3, 6), "relation").shape == (3, 6)


def test_bad_arguments() -> None:
    for text, call in {
        r"metric must be one of cosine, .*, got 'x'": lambda: list(similar(TABLE, metric="x")),
        r"queries must be in \[0, 50\), got 50": lambda: list(similar(TABLE, torch.tensor([50]))),
        r"candidates must be in \[0, 50\), got -1": lambda: list(similar(TABLE, candidates=torch.tensor([-1]))),
        r"k must be at least 1, got 0": lambda: list(similar(TABLE, k=0)),
        r"table must be floating \[N, D\]": lambda: list(similar(torch.arange(3))),
        r"left and right must be equally long": lambda: pair_similarity(TABLE, torch.arange(3), torch.arange(2)),
        r"kind must be entity or relation, got 'x'": lambda: table_of(KGE("distmult", 5, 3, 6), "x"),
    }.items():
        with pytest.raises(ValueError, match=text):
            call()


def test_threads_change_no_bit() -> None:
    before, got = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            got.append([x for m in METRICS for part in similar(TABLE, k=5, metric=m) for x in part])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*got, strict=True))
