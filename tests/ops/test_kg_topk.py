from contextlib import nullcontext

import pytest
import torch

import gnnaccel as ga
from gnnaccel.baselines.reference.kg_topk import kg_topk as reference
from gnnaccel.ops._library import HAS_CPP
from gnnaccel.ops.kg_score import MODELS
from tests.harness import DEVICE, INTERPRET, Case, check_op, served_by, threads, to_device
from tests.ops.test_kg_rank import ENTITY, NO_LIST, RELATION, R, ids, lists, tables


def found(indptr=None, excluded=None, op=ga.kg_topk, **args):
    """check_op's arguments are tensors: the two of `exclude` come one by one."""
    return op(**args, exclude=None if indptr is None else (indptr, excluded))


def referenced(**args):
    return found(op=reference, **args)


def make(model, B, E, D, k, side="tail", longest=None, sampled=None, twins=False):
    def build(gen):
        args = tables(gen, model, E, D)
        if twins:
            args["entity_table"][1::2] = args["entity_table"][: E // 2]
        args |= {"queries": ids(gen, B, E, R)[:, :2], "k": k, "side": side}
        args["indptr"], args["excluded"] = (None, None) if longest is None else lists(gen, B, E, longest)
        args["candidates"] = None if sampled is None else torch.randint(0, E, (sampled,), generator=gen)
        return args

    return build


CASES = [
    case
    for model in MODELS
    for side in ("tail", "head")
    for case in (
        Case(f"{model}_{side}_none", make(model, 0, 3, 4, 2, side, longest=2)),
        Case(f"{model}_{side}_one", make(model, 2, 1, 2, 1, side)),
        Case(f"{model}_{side}_first", make(model, 3, 7, 4, 1, side)),
        Case(f"{model}_{side}_excluded", make(model, 5, 30, 6, 4, side, longest=20)),
        Case(f"{model}_{side}_twins", make(model, 4, 12, 6, 5, side, longest=3, twins=True)),
        Case(f"{model}_{side}_more_than_there_are", make(model, 3, 9, 6, 12, side, longest=7)),
        Case(f"{model}_{side}_sampled", make(model, 5, 40, 6, 7, side, longest=30, sampled=13)),
        Case(f"{model}_{side}_no_candidates", make(model, 2, 4, 2, 2, side, longest=3, sampled=0)),
    )
    if side == "tail" or case.name.endswith("excluded")
]


def through_op(args):
    names = (
        "entity_table",
        "relation_table",
        "projection_table",
        "queries",
        "indptr",
        "excluded",
        "candidates",
        "k",
        "model",
    )
    return *(args[name].detach() if torch.is_tensor(args[name]) else args[name] for name in names), True, 12.0


def finite(result):
    """-inf, which a bound on errors cannot compare, as the lowest number of all dtypes."""
    best, scores = result
    return best, scores.clamp(min=-1e3)


TestKgTopk = check_op(
    op=lambda **args: finite(found(**args)),
    reference=lambda **args: finite(referenced(**args)),
    cases=CASES,
    schemas=["kg_topk", "kg_topk_queries"],
    cast=["entity_table", "relation_table", "projection_table"],
    length=lambda args: args["entity_table"].shape[1] ** 2,
    overload_args=through_op,
)


def test_by_hand():
    # distmult of width 1 and r = 1: the scores of head 1 are the entities' values
    entity = torch.tensor([[1.0], [1.0], [3.0], [2.0], [3.0], [-1.0], [2.0]])
    queries = torch.tensor([[1, 0], [5, 0]])
    best, scores = ga.kg_topk("distmult", entity, torch.ones(1, 1), queries, 4)
    assert best.tolist() == [[2, 4, 3, 6], [5, 0, 1, 3]]
    assert scores.tolist() == [[3, 3, 2, 2], [1, -1, -1, -2]]
    exclude = torch.tensor([0, 3, 3]), torch.tensor([4, 2, 4])
    best, scores = ga.kg_topk("distmult", entity, torch.ones(1, 1), queries, 6, exclude=exclude)
    assert best.tolist() == [[3, 6, 0, 1, 5, -1], [5, 0, 1, 3, 6, 2]]
    assert scores[0].tolist() == [2, 2, 1, 1, -1, -torch.inf]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_places_are_ranks(model, dtype):
    """Both ops score alike: the entity at place i has i better ones, or as many less its equals."""
    gen = torch.Generator().manual_seed(0)
    E, k = 120, 40
    args = tables(gen, model, E, 12)
    args = {name: x.to(dtype) if torch.is_tensor(x) else x for name, x in args.items()}
    args["entity_table"][60:90] = args["entity_table"][:30].clone()
    queries = ids(gen, 5, E, R)[:, :2]
    best, _ = ga.kg_topk(**args, queries=queries, k=k)
    triples = torch.cat([queries.repeat_interleave(k, 0), best.view(-1, 1)], 1)
    ranks = ga.kg_rank(**args, triples=triples)
    place = torch.arange(k).repeat(5)
    assert (ranks.greater <= place).all()
    assert (place <= ranks.greater + ranks.equal).all()


@pytest.mark.parametrize("model", MODELS)
def test_nan_and_infinities(model):
    gen = torch.Generator().manual_seed(0)
    args = tables(gen, model, 8, 2)
    args["entity_table"][3] = torch.nan
    best, scores = ga.kg_topk(**args, queries=torch.tensor([[0, 0], [3, 1]]), k=8)
    assert sorted(best[0].tolist()) == [-1, 0, 1, 2, 4, 5, 6, 7]
    assert best[0, 7] == -1
    assert best[1].tolist() == [-1] * 8
    assert not scores.isnan().any()
    if model == "transe_l1":
        args["entity_table"][[1, 2]] = torch.inf
        best, scores = ga.kg_topk(**args, queries=torch.tensor([[0, 0]]), k=8)
        assert best[0, 5:].tolist() == [1, 2, -1]
        assert (scores[0, 5:] == -torch.inf).all()


@pytest.mark.parametrize("model", ["transe_l2", "distmult", "transr", "rescal"])
def test_many_queries_are_answered_in_blocks(model, monkeypatch):
    gen = torch.Generator().manual_seed(0)
    args = {
        **tables(gen, model, 12, 4),
        "queries": ids(gen, 41, 12, R)[:, :2],
        "exclude": lists(gen, 41, 12, 5),
        "k": 4,
    }
    whole = ga.kg_topk(**args)
    monkeypatch.setattr("gnnaccel.ops._kg_candidates._BLOCK", 28)
    for a, b in zip(whole, ga.kg_topk(**args), strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(not HAS_CPP or INTERPRET or DEVICE != "cpu", reason="about the CPU extension")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shape", [(300, 210, 34, 3, False), (5, 1700, 10, 150, True), (1, 2100, 6, 2000, False)])
def test_sizes_that_cross_blocks(model, shape):
    """Blocks of queries and candidates, ranges of threads, selection: against the fallback, and itself."""
    B, E, D, k, sampled = shape
    gen = torch.Generator().manual_seed(0)
    args = {
        **tables(gen, model, E, D),
        "queries": ids(gen, B, E, R)[:, :2],
        "exclude": lists(gen, B, E, E // 3),
        "k": k,
    }
    args["candidates"] = torch.randperm(E, generator=gen)[: E // 2] if sampled else None
    with served_by("CompositeExplicitAutograd"):
        want = ga.kg_topk(**args)
    runs = []
    for n in (1, 2, 3):
        with threads(n):
            runs.append(ga.kg_topk(**args))
    assert torch.equal(runs[0][0], want[0])
    torch.testing.assert_close(runs[0][1], want[1], rtol=1e-11, atol=1e-11)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@pytest.mark.interpret
@pytest.mark.skipif(not INTERPRET and DEVICE == "cpu", reason="about the Triton kernels")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("model", ["transe_l1", "distmult", "transr"])
def test_sizes_that_cross_tiles(model, dtype, monkeypatch):
    monkeypatch.setattr("gnnaccel.ops._kg_candidates.COLUMNS", 70)
    gen = torch.Generator().manual_seed(0)
    E, k = 140, 9
    args = {name: x.to(dtype) if torch.is_tensor(x) else x for name, x in tables(gen, model, E, 18).items()}
    args["entity_table"][[0, 31, 32, 63, 64, 75, 130]] = args["entity_table"][3].clone()
    args["entity_table"][40] = torch.nan
    args |= {"queries": ids(gen, 35, 30, R)[:, :2], "exclude": lists(gen, 35, E, 50), "k": k}
    with served_by("CompositeExplicitAutograd"):
        want = ga.kg_topk(**args)
    with served_by("CUDA") if INTERPRET else nullcontext():
        on = {name: tuple(y.to(DEVICE) for y in x) if name == "exclude" else x for name, x in to_device(args).items()}
        got = ga.kg_topk(**on)
    assert torch.equal(got[0].cpu(), want[0])
    torch.testing.assert_close(got[1].cpu(), want[1])


def test_order_that_is_the_worst_for_a_selection():
    entity = torch.arange(5000.0).unsqueeze(1)
    for values in (entity, -entity):
        best, scores = ga.kg_topk("distmult", values, torch.ones(1, 1), torch.tensor([[1, 0]]), 7, candidates=None)
        want = torch.sort(values[:, 0] * values[1, 0], descending=True, stable=True)
        assert torch.equal(best[0], want.indices[:7])
        assert torch.equal(scores[0], want.values[:7])


def test_results_are_constants():
    gen = torch.Generator().manual_seed(0)
    args = tables(gen, "distmult", 5, 4)
    args["entity_table"].requires_grad_()
    assert not any(x.requires_grad for x in ga.kg_topk(**args, queries=ids(gen, 2, 5, R)[:, :2]))


QUERIES = torch.tensor([[0, 1], [3, 0]])


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"model": "transe"}, ValueError, "kg_topk: model must be one of transe_l1, .*, got 'transe'"),
        ({"side": "both"}, ValueError, "side must be head or tail, got 'both'"),
        ({"k": 0}, ValueError, "k must be at least 1, got 0"),
        ({"queries": QUERIES.float()}, TypeError, "queries must be int64 or int32, got torch.float32"),
        ({"queries": torch.zeros(2, 3).long()}, ValueError, r"queries must be \[B, 2\], got \[2, 3\]"),
        ({"queries": QUERIES + 2}, ValueError, r"queries' entities must be in \[0, 4\), got 5"),
        ({"relation_table": RELATION[:1]}, ValueError, r"queries' relations must be in \[0, 1\), got 1"),
        ({"exclude": (NO_LIST[0][1:], NO_LIST[1])}, ValueError, r"exclude indptr must be \[3\], got \[2\]"),
        (
            {"exclude": (torch.tensor([0, 1, 1]), torch.tensor([4]))},
            ValueError,
            r"exclude ids must be in \[0, 4\), got 4",
        ),
        ({"candidates": torch.tensor([1, 4])}, ValueError, r"candidates must be in \[0, 4\), got 4"),
    ],
)
def test_errors(change, error, match):
    args = {"model": "distmult", "entity_table": ENTITY, "relation_table": RELATION, "queries": QUERIES}
    with pytest.raises(error, match=match):
        ga.kg_topk(**{**args, **change})
