from contextlib import nullcontext

import pytest
import torch

import gnnaccel as ga
from gnnaccel.baselines.peers.topk_similar import PROVIDERS
from gnnaccel.baselines.reference.topk_similar import topk_similar as reference
from gnnaccel.ops._library import HAS_CPP
from gnnaccel.ops.topk_similar import METRICS
from tests.harness import DEVICE, INTERPRET, Case, check_op, served_by, threads


def make(metric, Q, N, D, k, exclude=False, twins=False, zeros=False, strided=False):
    def build(gen):
        query, table = (torch.randn(n, D, generator=gen, dtype=torch.float64) for n in (Q, N))
        if twins:
            table[1::2] = table[: N // 2]
        if zeros:
            query[0], table[::3] = 0, 0
        if strided:
            query, table = query.T.contiguous().T, table.T.contiguous().T
        left = torch.randint(-1, N, (Q,), generator=gen) if exclude else None
        return {"query": query, "table": table, "k": k, "metric": metric, "exclude": left}

    return build


CASES = [
    case
    for metric in METRICS
    for case in (
        Case(f"{metric}_no_query", make(metric, 0, 3, 4, 2)),
        Case(f"{metric}_no_row", make(metric, 2, 0, 4, 2)),
        Case(f"{metric}_one", make(metric, 1, 1, 1, 1)),
        Case(f"{metric}_odd", make(metric, 5, 31, 7, 4, exclude=True)),
        Case(f"{metric}_twins", make(metric, 4, 12, 6, 5, exclude=True, twins=True)),
        Case(f"{metric}_more_than_there_are", make(metric, 3, 6, 5, 9, exclude=True)),
        Case(f"{metric}_zeros", make(metric, 3, 9, 6, 9, zeros=True)),
        Case(f"{metric}_not_contiguous", make(metric, 4, 20, 6, 3, strided=True)),
    )
]


def finite(result):
    """-inf, which a bound on errors cannot compare, as the lowest number of all dtypes."""
    return result[0], result[1].clamp(min=-1e3)


def through_op(args):
    return (*(args[n] for n in ("query", "table", "exclude", "k", "metric")),)


TestTopkSimilar = check_op(
    op=lambda **args: finite(ga.topk_similar(**args)),
    reference=lambda **args: finite(reference(**args)),
    cases=CASES,
    schemas=["topk_similar"],
    cast=["query", "table"],
    length=lambda args: args["table"].shape[1],
    overload_args=through_op,
)


def test_by_hand():
    table = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 0.0]])
    query = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    best, scores = ga.topk_similar(query, table, 3)
    assert best.tolist() == [[2, 0, 1], [0, 1, 2]]
    assert scores.tolist() == [[3, 1, 0], [0, 0, 0]]
    best, scores = ga.topk_similar(query, table, 3, metric="cosine")
    assert best.tolist() == [[0, 2, 1], [0, 1, 2]]
    assert scores.tolist() == [[1, 1, 0], [0, 0, 0]]
    best, scores = ga.topk_similar(query, table, 5, metric="l2", exclude=torch.tensor([0, -1]))
    assert best.tolist() == [[3, 2, 1, -1, -1], [3, 0, 1, 2, -1]]
    assert scores[1].tolist() == [0, -1, -2, -3, -torch.inf]


@pytest.mark.parametrize("metric", METRICS)
def test_equal_rows_are_ties_wherever_they_stand(metric):
    gen = torch.Generator().manual_seed(0)
    table = torch.randn(40, 33, generator=gen)[torch.arange(400) % 40]
    best, scores = ga.topk_similar(table[:7], table, 400, metric=metric)
    assert (scores.view(7, 40, 10) == scores.view(7, 40, 10)[..., :1]).all()
    assert (best.view(7, 40, 10).diff() == 40).all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_cosine_of_rows_of_any_size(scale):
    gen = torch.Generator().manual_seed(0)
    table = torch.randn(30, 9, generator=gen)
    want = ga.topk_similar(table, table, 4, metric="cosine")
    got = ga.topk_similar(table * scale, table, 4, metric="cosine")
    assert torch.equal(got[0], want[0])
    torch.testing.assert_close(got[1], want[1])


@pytest.mark.parametrize("metric", METRICS)
def test_nan_is_nobody(metric):
    table = torch.tensor([[1.0, 1.0], [torch.nan, 1.0], [2.0, 1.0]])
    best, scores = ga.topk_similar(torch.ones(1, 2), table, 3, metric=metric)
    assert sorted(best[0].tolist()) == [-1, 0, 2]
    assert best[0, 2] == -1
    assert scores[0, 2] == -torch.inf


@pytest.mark.skipif(not HAS_CPP or INTERPRET or DEVICE != "cpu", reason="about the CPU extension")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [(300, 210, 34, 3), (3, 1700, 10, 150)])
def test_sizes_that_cross_blocks(metric, shape, monkeypatch):
    Q, N, D, k = shape
    gen = torch.Generator().manual_seed(0)
    args = make(metric, Q, N, D, k, exclude=True)(gen)
    with served_by("CompositeExplicitAutograd"):
        want = ga.topk_similar(**args)
    runs = []
    for n in (1, 2, 3):
        with threads(n):
            runs.append(ga.topk_similar(**args))
    monkeypatch.setitem(ga.topk_similar.__globals__, "_FOUND", 7 * k)
    runs.append(ga.topk_similar(**args))
    assert torch.equal(runs[0][0], want[0])
    torch.testing.assert_close(runs[0][1], want[1], rtol=1e-11, atol=1e-11)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@pytest.mark.interpret
@pytest.mark.skipif(not INTERPRET and DEVICE == "cpu", reason="about the Triton kernels")
@pytest.mark.parametrize("metric", METRICS)
def test_sizes_that_cross_tiles(metric, monkeypatch):
    monkeypatch.setattr("gnnaccel.ops._kg_candidates.COLUMNS", 70)
    args = make(metric, 35, 140, 18, 9, exclude=True)(torch.Generator().manual_seed(0))
    args = {name: x.to(DEVICE) if torch.is_tensor(x) else x for name, x in args.items()}
    want = reference(**{name: x.cpu() if torch.is_tensor(x) else x for name, x in args.items()})
    with served_by("CUDA") if INTERPRET else nullcontext():
        got = ga.topk_similar(**args)
    assert torch.equal(got[0].cpu(), want[0])
    torch.testing.assert_close(got[1].cpu(), want[1])


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_peers_agree(name, metric):
    gen = torch.Generator().manual_seed(0)
    query, table = torch.randn(20, 6, generator=gen), torch.randn(50, 6, generator=gen)
    want, got = ga.topk_similar(query, table, 4, metric=metric), PROVIDERS[name](query, table, 4, metric)
    assert torch.equal(got[0], want[0])
    torch.testing.assert_close(got[1].float(), want[1], rtol=1e-4, atol=1e-5)


def test_results_are_constants():
    x = torch.randn(3, 2, requires_grad=True)
    assert not any(y.requires_grad for y in ga.topk_similar(x, x, 2))


X = torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"metric": "l1"}, ValueError, "topk_similar: metric must be one of dot, cosine, l2, got 'l1'"),
        ({"query": X.long()}, TypeError, "query must be float64, float32, float16 or bfloat16, got torch.int64"),
        ({"table": X.double()}, TypeError, "table must be torch.float32 like query, got torch.float64"),
        ({"query": X[0]}, ValueError, r"query must be \[Q, D\], got \[2\]"),
        ({"table": torch.zeros(3, 4)}, ValueError, r"table must be \[N, 2\], got \[3, 4\]"),
        ({"exclude": X[:, 0]}, TypeError, "exclude must be int64 or int32, got torch.float32"),
        ({"exclude": torch.zeros(2).long()}, ValueError, r"exclude must be \[3\], got \[2\]"),
        ({"exclude": torch.tensor([0, -1, 3])}, ValueError, r"exclude must be in \[-1, 3\), got 3"),
        ({"k": 0}, ValueError, "k must be at least 1, got 0"),
    ],
)
def test_errors(change, error, match):
    with pytest.raises(error, match=match):
        ga.topk_similar(**{"query": X, "table": X, "k": 1, **change})
