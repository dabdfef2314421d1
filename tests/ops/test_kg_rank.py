from contextlib import nullcontext

import pytest
import torch

import gnnaccel as ga
from gnnaccel.baselines.reference.kg_rank import kg_rank as reference
from gnnaccel.ops._library import HAS_CPP
from gnnaccel.ops.kg_score import MODELS
from tests.harness import DEVICE, INTERPRET, Case, check_op, served_by, threads, to_device
from tests.ops.test_kg_score import relation_width, rows

R = 3


def tables(gen, model, E, D, R=R):
    return {
        "model": model,
        "entity_table": rows(gen, E, D),
        "relation_table": rows(gen, R, relation_width(model, D)),
        "projection_table": rows(gen, R, D, relation_width(model, D)) if model == "transr" else None,
    }


def lists(gen, B, E, longest):
    """Ids in any order, repeated."""
    count = torch.randint(0, longest + 1, (B,), generator=gen)
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), count.cumsum(0)])
    return indptr, torch.randint(0, E, (int(indptr[-1]),), generator=gen)


def ids(gen, B, E, R):
    h, r, t = (torch.randint(0, n, (B,), generator=gen) for n in (E, R, E))
    return torch.stack([h, r, t], 1)


def ranked(indptr=None, known_ids=None, op=ga.kg_rank, **args):
    """check_op's arguments are tensors: the two of `known` come one by one."""
    return op(**args, known=None if indptr is None else (indptr, known_ids))


def referenced(**args):
    return ranked(op=reference, **args)


def make(model, B, E, D, side="tail", longest=None, sampled=None, twins=False):
    def build(gen):
        args = tables(gen, model, E, D)
        if twins:
            args["entity_table"][1::2] = args["entity_table"][: E // 2]
        args |= {"triples": ids(gen, B, E, R), "side": side}
        args["indptr"], args["known_ids"] = (None, None) if longest is None else lists(gen, B, E, longest)
        args["candidates"] = None if sampled is None else torch.randint(0, E, (sampled,), generator=gen)
        return args

    return build


CASES = [
    case
    for model in MODELS
    for side in ("tail", "head")
    for case in (
        Case(f"{model}_{side}_none", make(model, 0, 3, 4, side, longest=2)),
        Case(f"{model}_{side}_one", make(model, 2, 1, 2, side)),
        Case(f"{model}_{side}_raw", make(model, 3, 7, 4, side)),
        Case(f"{model}_{side}_filtered", make(model, 5, 9, 6, side, longest=7)),
        Case(f"{model}_{side}_twins", make(model, 4, 8, 6, side, longest=3, twins=True)),
        Case(f"{model}_{side}_sampled", make(model, 5, 40, 6, side, longest=30, sampled=13)),
        Case(f"{model}_{side}_no_candidates", make(model, 2, 4, 2, side, longest=3, sampled=0)),
    )
    # heads differ from tails in the query alone
    if side == "tail" or case.name.endswith("filtered")
]


def through_op(args):
    names = (
        "entity_table",
        "relation_table",
        "projection_table",
        "triples",
        "indptr",
        "known_ids",
        "candidates",
        "model",
    )
    return *(args[name] for name in names), args["side"] == "tail", 12.0


TestKgRank = check_op(
    op=ranked,
    reference=referenced,
    cases=CASES,
    schemas=["kg_rank", "kg_rank_queries"],
    cast=["entity_table", "relation_table", "projection_table"],
    overload_args=through_op,
)


def test_by_hand():
    # distmult of width 1 and r = 1: the scores of head 1 are the entities' values
    entity = torch.tensor([[1.0], [1.0], [3.0], [2.0], [3.0], [-1.0], [2.0]])
    relation = torch.ones(1, 1)
    triples = torch.tensor([[1, 0, 3], [1, 0, 5], [0, 0, 2]])
    ranks = ga.kg_rank("distmult", entity, relation, triples)
    assert ranks.greater.tolist() == [2, 6, 0]
    assert ranks.equal.tolist() == [1, 0, 1]
    assert ranks.count.tolist() == [6, 6, 6]
    assert ranks.optimistic.tolist() == [3, 7, 1]
    assert ranks.pessimistic.tolist() == [4, 7, 2]
    assert ranks.realistic.tolist() == [3.5, 7.0, 1.5]
    # entity 2 is known to be true of the first; the last's own answer and the one as good are
    known = torch.tensor([0, 2, 2, 5]), torch.tensor([2, 2, 4, 2, 4])
    ranks = ga.kg_rank("distmult", entity, relation, triples, known=known)
    assert ranks.greater.tolist() == [1, 6, 0]
    assert ranks.equal.tolist() == [1, 0, 0]
    assert ranks.count.tolist() == [5, 6, 5]
    ranks = ga.kg_rank("distmult", entity, relation, triples, known=known, candidates=torch.tensor([4, 0, 3, 4]))
    assert ranks.greater.tolist() == [1, 3, 0]
    assert ranks.count.tolist() == [2, 3, 2]


def dtypes():
    return pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)


@dtypes()
@pytest.mark.parametrize("model", MODELS)
def test_equal_rows_are_ties(model, dtype):
    """Copies all over the table, among them at the ends of tiles: the same bits, whatever block they are scored in."""
    gen = torch.Generator().manual_seed(0)
    E, D, B = 230, 36, 37
    args = tables(gen, model, E, D)
    triples = ids(gen, B, 5, R)
    copies = [0, 1, 15, 16, 47, 48, 95, 96, 127, 128, 200, E - 1]
    for side, true in (("tail", 2), ("head", 0)):
        triples[:, true] = 3
        cast = {k: x.to(dtype) if isinstance(x, torch.Tensor) else x for k, x in args.items()}
        cast["entity_table"][copies] = cast["entity_table"][3].clone()
        ranks = ga.kg_rank(**cast, triples=triples, side=side)
        assert (ranks.equal >= len(copies)).all()
        if dtype == torch.float64:
            assert (ranks.equal == len(copies)).all()


@pytest.mark.parametrize("model", MODELS)
def test_every_score_equal(model):
    gen = torch.Generator().manual_seed(0)
    args = tables(gen, model, 50, 8)
    args["entity_table"][:] = args["entity_table"][0].clone()
    ranks = ga.kg_rank(**args, triples=ids(gen, 9, 50, R))
    assert ranks.greater.tolist() == [0] * 9
    assert ranks.equal.tolist() == [49] * 9


@pytest.mark.parametrize("model", MODELS)
def test_nan_never_wins(model):
    gen = torch.Generator().manual_seed(0)
    args = tables(gen, model, 20, 4)
    triples = ids(gen, 6, 10, R)
    triples[:, 0], triples[:, 2] = 0, 1
    sound = ga.kg_rank(**args, triples=triples)
    args["entity_table"][[15, 18]] = torch.nan
    ranks = ga.kg_rank(**args, triples=triples)
    assert (ranks.count == 19).all()
    assert (ranks.equal == 2).all()  # the two that cannot be compared
    assert (ranks.greater <= sound.greater).all()
    args["entity_table"][1] = torch.nan
    ranks = ga.kg_rank(**args, triples=triples)
    assert (ranks.optimistic == 20).all()


@pytest.mark.parametrize("model", ["transe_l2", "distmult", "rotate", "transr", "rescal"])
def test_many_triples_are_ranked_in_blocks(model, monkeypatch):
    gen = torch.Generator().manual_seed(0)
    args = {**tables(gen, model, 12, 4), "triples": ids(gen, 41, 12, R), "known": lists(gen, 41, 12, 5)}
    whole = ga.kg_rank(**args)
    monkeypatch.setattr("gnnaccel.ops._kg_candidates._BLOCK", 28)
    for a, b in zip(whole, ga.kg_rank(**args), strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(not HAS_CPP or INTERPRET or DEVICE != "cpu", reason="about the CPU extension")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shape", [(300, 210, 34, False), (5, 1700, 10, True)])
def test_sizes_that_cross_blocks(model, shape):
    """Blocks of queries and candidates, ranges of threads: against the fallback, and itself."""
    B, E, D, sampled = shape
    gen = torch.Generator().manual_seed(0)
    args = {**tables(gen, model, E, D), "triples": ids(gen, B, E, R), "known": lists(gen, B, E, E // 3)}
    args["candidates"] = torch.randperm(E, generator=gen)[: E // 2] if sampled else None
    with served_by("CompositeExplicitAutograd"):
        want = ga.kg_rank(**args)
    for n in (1, 2, 3):
        with threads(n):
            for a, b in zip(ga.kg_rank(**args), want, strict=True):
                assert torch.equal(a, b)


@pytest.mark.interpret
@pytest.mark.skipif(not INTERPRET and DEVICE == "cpu", reason="about the Triton kernels")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("model", ["transe_l1", "transe_l2", "distmult", "rotate", "transr"])
def test_sizes_that_cross_tiles(model, dtype):
    """With copies of rows at the ends of tiles, which must be ties."""
    gen = torch.Generator().manual_seed(0)
    B, E, D = 70, 140, 18
    args = tables(gen, model, E, D)
    args = {k: x.to(dtype) if torch.is_tensor(x) else x for k, x in args.items()}
    args["entity_table"][[0, 31, 32, 63, 64, 130]] = args["entity_table"][3].clone()
    args |= {"triples": ids(gen, B, E, R), "known": lists(gen, B, E, 50)}
    args["triples"][::3, 2] = 3
    with served_by("CompositeExplicitAutograd"):
        want = ga.kg_rank(**args)
    with served_by("CUDA") if INTERPRET else nullcontext():
        on = {k: tuple(y.to(DEVICE) for y in x) if k == "known" else x for k, x in to_device(args).items()}
        got = ga.kg_rank(**on)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a.cpu(), b)


def test_strided_tables_and_small_ids():
    gen = torch.Generator().manual_seed(0)
    args = {**tables(gen, "complex", 30, 8), "triples": ids(gen, 7, 30, R), "known": lists(gen, 7, 30, 9)}
    args["candidates"] = torch.arange(0, 30, 2)
    want = ga.kg_rank(**args)
    for name in ("entity_table", "relation_table"):
        args[name] = args[name].T.contiguous().T
    args["triples"] = args["triples"].int().T.contiguous().T
    args["known"] = tuple(x.int() for x in args["known"])
    args["candidates"] = args["candidates"].int()
    for a, b in zip(ga.kg_rank(**args), want, strict=True):
        assert torch.equal(a, b)


def test_known_triples_are_an_index_of_answers():
    from gnnaccel.data.kg import KnownTriples, synthetic_kg

    kg = synthetic_kg(40, 2, 60)
    parts = [kg.train, kg.valid, kg.test]
    index = KnownTriples.build(parts, 40, 2)
    gen = torch.Generator().manual_seed(0)
    test = kg.test
    triples = torch.stack([test.head, test.relation, test.tail], 1)
    args = {
        "model": "distmult",
        "entity_table": rows(gen, 40, 4),
        "relation_table": rows(gen, 2, 4),
        "triples": triples,
    }
    true = {tuple(x) for p in parts for x in torch.stack([p.head, p.relation, p.tail], 1).tolist()}
    for side in ("tail", "head"):
        answers = index.lookup(test.head if side == "tail" else test.tail, test.relation, side)
        ranks = ga.kg_rank(**args, side=side, known=answers)
        for b, (h, r, t) in enumerate(triples.tolist()):
            others = [(h, r, e) if side == "tail" else (e, r, t) for e in range(40)]
            assert int(ranks.count[b]) == len([x for x in others if x not in true])


def test_ranks_are_constants():
    gen = torch.Generator().manual_seed(0)
    args = tables(gen, "distmult", 5, 4)
    args["entity_table"].requires_grad_()
    assert not any(x.requires_grad for x in ga.kg_rank(**args, triples=ids(gen, 2, 5, R)))


ENTITY, RELATION, TRIPLES = torch.rand(4, 6), torch.rand(2, 6), torch.tensor([[0, 1, 2], [3, 0, 1]])
NO_LIST = torch.zeros(3, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"model": "transe"}, ValueError, "model must be one of transe_l1, .*, got 'transe'"),
        ({"side": "both"}, ValueError, "side must be head or tail, got 'both'"),
        ({"entity_table": ENTITY.long()}, TypeError, "entity_table must be float64, float32, .*, got torch.int64"),
        ({"entity_table": ENTITY[0]}, ValueError, r"entity_table must be \[E, D\], got \[6\]"),
        (
            {"model": "complex", "entity_table": ENTITY[:, :5]},
            ValueError,
            "an even number of columns for complex, got 5",
        ),
        ({"relation_table": RELATION.double()}, TypeError, "relation_table must have the dtype of entity_table"),
        ({"relation_table": RELATION[:, :5]}, ValueError, r"relation_table must be \[R, 6\], got \[2, 5\]"),
        ({"model": "rescal"}, ValueError, r"relation_table must be \[R, 36\], got \[2, 6\]"),
        (
            {"projection_table": torch.rand(2, 6, 3)},
            ValueError,
            "projection_table must be None for distmult, got a tensor",
        ),
        ({"model": "transr"}, ValueError, "projection_table must be given for transr, got None"),
        (
            {"model": "transr", "projection_table": torch.rand(2, 6, 5)},
            ValueError,
            r"must be \[2, 6, 6\], got \[2, 6, 5\]",
        ),
        (
            {"model": "transr", "projection_table": torch.rand(2, 6, 6).half()},
            TypeError,
            "projection_table must have the",
        ),
        ({"triples": TRIPLES.float()}, TypeError, "triples must be int64 or int32, got torch.float32"),
        ({"triples": TRIPLES[:, :2]}, ValueError, r"triples must be \[B, 3\], got \[2, 2\]"),
        ({"triples": TRIPLES + 2}, ValueError, r"triples' entities must be in \[0, 4\), got 5"),
        ({"triples": TRIPLES - 1}, ValueError, r"triples' entities must be in \[0, 4\), got -1"),
        ({"relation_table": RELATION[:1]}, ValueError, r"triples' relations must be in \[0, 1\), got 1"),
        (
            {"known": NO_LIST[0]},
            TypeError,
            r"known must be \(indptr, ids\), or have them as attributes, got something else",
        ),
        ({"known": (NO_LIST[0][1:], NO_LIST[1])}, ValueError, r"known indptr must be \[3\], got \[2\]"),
        ({"known": (NO_LIST[0].float(), NO_LIST[1])}, TypeError, "known indptr must be int64 or int32"),
        ({"known": (NO_LIST[0], NO_LIST[1].view(1, 0))}, ValueError, r"known ids must be \[P\], got \[1, 0\]"),
        ({"known": (torch.tensor([0, 1, 1]), NO_LIST[1])}, ValueError, "known indptr must ascend from 0 to 0"),
        ({"known": (torch.tensor([0, 1, 0]), torch.tensor([1]))}, ValueError, "known indptr must ascend from 0 to 1"),
        ({"known": (torch.tensor([0, 1, 1]), torch.tensor([4]))}, ValueError, r"known ids must be in \[0, 4\), got 4"),
        ({"candidates": torch.tensor([1, 4])}, ValueError, r"candidates must be in \[0, 4\), got 4"),
        ({"candidates": torch.tensor([1.0])}, TypeError, "candidates must be int64 or int32, got torch.float32"),
        ({"candidates": torch.tensor([[1]])}, ValueError, r"candidates must be \[M\], got \[1, 1\]"),
    ],
)
def test_errors(change, error, match):
    args = {"model": "distmult", "entity_table": ENTITY, "relation_table": RELATION, "triples": TRIPLES}
    with pytest.raises(error, match=match):
        ga.kg_rank(**{**args, **change})
