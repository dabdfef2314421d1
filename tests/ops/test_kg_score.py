import math
from contextlib import nullcontext

import pytest
import torch

import gnnaccel as ga
from gnnaccel.baselines.reference.kg_score import kg_score as reference
from gnnaccel.baselines.reference.kg_score import kg_score_negatives as reference_negatives
from gnnaccel.ops._library import HAS_CPP
from gnnaccel.ops.kg_score import KINDS, MODELS
from tests.harness import DEVICE, INTERPRET, Case, check_op, served_by, threads, to_device

M = 3  # TransR's width of relations


def relation_width(model, D):
    return {"rotate": D // 2, "rescal": D * D, "transr": M}.get(model, D)


def rows(gen, *shape):
    return torch.randn(*shape, generator=gen, dtype=torch.float64)


def relations(gen, model, B, D, table):
    """`r`, `projection` and `relation` of B triples; with `table`, of that many relations, the last of which is not used."""
    R = B if table is None else table
    args = {"r": rows(gen, R, relation_width(model, D))}
    args["projection"] = rows(gen, R, D, M) if model == "transr" else None
    args["relation"] = None if table is None else torch.randint(0, max(R - 1, 1), (B,), generator=gen)
    return args


def strided(x):
    return x.T.contiguous().T


def make(model, B, D, table=None, transposed=False):
    def build(gen):
        args = {"model": model, "h": rows(gen, B, D), **relations(gen, model, B, D, table), "t": rows(gen, B, D)}
        if transposed:
            args |= {name: strided(args[name]) for name in ("h", "r", "t")}
        return {name: args[name] for name in ("model", "h", "r", "t", "projection", "relation")}

    return build


def make_negatives(model, C, S, N, D, side="tail", table=None, duplicates=False, shared=False):
    def build(gen):
        kept, neg = rows(gen, C * S, D), rows(gen, *([N, D] if shared else [C, N, D]))
        if duplicates:
            neg[:, 1:] = neg[:, :1]
        args = {"model": model, "h": kept, **relations(gen, model, C * S, D, table), "t": None, "neg": neg}
        if side == "head":
            args |= {"h": None, "t": kept}
        order = ("model", "h", "r", "t", "neg", "projection", "relation")
        return {**{name: args[name] for name in order}, "side": side}

    return build


# the largest sizes cross the tiles of every kernel
CASES = [
    case
    for model in MODELS
    for case in (
        Case(f"{model}_none", make(model, 0, 4)),
        Case(f"{model}_one", make(model, 1, 2)),
        Case(f"{model}_odd", make(model, 5, 6 if model in ("complex", "rotate", "simple") else 7, transposed=True)),
        Case(f"{model}_table", make(model, 6, 4, table=3)),
        Case(f"{model}_many", make(model, 67, 14, table=9), small=False),
    )
]

NEGATIVE_CASES = [
    case
    for model in MODELS
    for side in ("tail", "head")
    for case in (
        Case(f"{model}_{side}_none", make_negatives(model, 2, 0, 3, 4, side)),
        Case(f"{model}_{side}_no_candidates", make_negatives(model, 1, 2, 0, 4, side)),
        Case(f"{model}_{side}_one", make_negatives(model, 1, 1, 1, 2, side)),
        Case(f"{model}_{side}_chunks", make_negatives(model, 3, 2, 5, 6, side, table=3)),
        Case(f"{model}_{side}_duplicates", make_negatives(model, 2, 3, 4, 4, side, duplicates=True)),
        Case(f"{model}_{side}_all", make_negatives(model, 1, 9, 131, 14, side, table=4, shared=True), small=False),
    )
    # heads differ from tails in the query alone
    if side == "tail" or case.name.endswith(("chunks", "all"))
]


def length(args):
    kept = args["h"] if args["h"] is not None else args["t"]
    candidates = args["neg"].shape[-2] if "neg" in args else 1
    return max(kept.shape[0] + kept.shape[1] ** 2 + candidates, 1)


def through_compare(args):
    """The first schema's arguments, of the model's own comparison."""
    q, n = (rows(torch.Generator().manual_seed(0), 2, k, 4).float().requires_grad_() for k in (3, 5))
    return q, n, KINDS[args["model"]], 12.0


SCHEMAS = ["kg_compare", "kg_compare_backward", "kg_project", "kg_project_backward"]

TestKgScore = check_op(
    op=ga.kg_score,
    reference=reference,
    cases=CASES,
    schemas=SCHEMAS,
    cast=["h", "r", "t", "projection"],
    grad=["h", "r", "t", "projection"],
    length=length,
    overload_args=through_compare,
)

TestKgScoreNegatives = check_op(
    op=ga.kg_score_negatives,
    reference=reference_negatives,
    cases=NEGATIVE_CASES,
    schemas=[*SCHEMAS, "kg_projected_l1", "kg_projected_l1_backward"],
    cast=["h", "r", "t", "neg", "projection"],
    grad=["h", "r", "t", "neg", "projection"],
    length=length,
    overload_args=through_compare,
)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("side", ["tail", "head"])
def test_the_true_entity_among_the_candidates_gets_the_score_of_the_triple(model, side):
    """What DGL-KE lacks: its RESCAL and TransR score corrupted tails by another formula."""
    gen = torch.Generator().manual_seed(0)
    C, S, D = 2, 3, 8
    args = make(model, C * S, D, table=4)(gen)
    true = args["t"] if side == "tail" else args["h"]
    scores = ga.kg_score_negatives(**args, neg=true.view(C, S, D), side=side)
    own = scores.diagonal(dim1=1, dim2=2).flatten()
    torch.testing.assert_close(own, ga.kg_score(**args), atol=1e-11, rtol=0)
    # and a table of relations is the same as a row a triple
    picked = {name: args[name][args["relation"]] for name in ("r", "projection") if args[name] is not None}
    alone = ga.kg_score(**{**args, **picked, "relation": None})
    torch.testing.assert_close(alone, ga.kg_score(**args), atol=1e-11, rtol=0)


BY_HAND = {
    # h = (1, 2), t = (3, 5), gamma 12
    "transe_l1": ([1.0, -1.0], 12 - (abs(1 + 1 - 3) + abs(2 - 1 - 5))),
    "transe_l2": ([1.0, -1.0], 12 - math.sqrt(1 + 16)),
    "distmult": ([1.0, -1.0], 3 - 10),
    # (1 + 2i) (1 - i) (3 - 5i) = (3 + i) (3 - 5i) = 14 - 12i
    "complex": ([1.0, -1.0], 14),
    # a quarter turn: (1 + 2i) i = -2 + i, less 3 + 5i
    "rotate": ([math.pi / 2], 12 - math.sqrt(25 + 16)),
    # (1, 2) [[1, 2], [3, 4]] = (7, 10)
    "rescal": ([1.0, 2.0, 3.0, 4.0], 21 + 50),
    # P = [[1], [2]]: h P = 5, t P = 13
    "transr": ([1.0], 12 - abs(5 + 1 - 13)),
    # (1 * 1 * 5 + 3 * -1 * 2) / 2
    "simple": ([1.0, -1.0], -0.5),
}


@pytest.mark.parametrize("model", MODELS)
def test_by_hand(model):
    relation, want = BY_HAND[model]
    h, r, t = (torch.tensor([x], dtype=torch.float64) for x in ([1.0, 2.0], relation, [3.0, 5.0]))
    p = torch.tensor([[[1.0], [2.0]]], dtype=torch.float64) if model == "transr" else None
    assert ga.kg_score(model, h, r, t, projection=p).item() == pytest.approx(want, abs=1e-12)
    for side, true in (("tail", t), ("head", h)):
        got = ga.kg_score_negatives(model, h, r, t, true, side, projection=p)
        assert got.shape == (1, 1, 1)
        assert got.item() == pytest.approx(want, abs=1e-12)


def with_gradients(args):
    args = {k: x.detach() if isinstance(x, torch.Tensor) else x for k, x in args.items()}
    leaves = [x.requires_grad_() for x in args.values() if isinstance(x, torch.Tensor) and x.is_floating_point()]
    score = ga.kg_score_negatives(**args)
    weights = torch.cos(torch.arange(score.numel(), dtype=torch.float64)).view_as(score).to(score)
    return [score, *torch.autograd.grad(score, leaves, weights)]


@pytest.mark.skipif(not HAS_CPP or INTERPRET or DEVICE != "cpu", reason="about the CPU extension")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shape", [(2, 45, 150, 70, 40), (1, 3, 300, 150, 2), (3, 130, 7, 34, 300)])
def test_sizes_that_cross_blocks(model, shape):
    """Blocks of candidates and columns, slices, panels, batches of relations: against the fallback, and itself."""
    C, S, N, D, R = shape
    D = min(D, 40) if model in ("rescal", "transr") else D
    make_args = make_negatives(model, C, S, N, D, "head", table=R)
    with served_by("CompositeExplicitAutograd"):
        want = with_gradients(make_args(torch.Generator().manual_seed(0)))
    runs = []
    for n in (1, 2, 3):
        with threads(n):
            runs.append(with_gradients(make_args(torch.Generator().manual_seed(0))))
    for a, b in zip(runs[0], want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11 * max(b.abs().max().item(), 1))
    assert all(torch.equal(a, b) for other in runs[1:] for a, b in zip(runs[0], other, strict=True))


@pytest.mark.interpret
@pytest.mark.skipif(not INTERPRET and DEVICE == "cpu", reason="about the Triton kernels")
@pytest.mark.parametrize("model", ["transe_l1", "transe_l2", "rotate"])
def test_sizes_that_cross_tiles(model):
    args = make_negatives(model, 2, 33, 35, 70)(torch.Generator().manual_seed(0))
    want = with_gradients(args)
    with served_by("CUDA") if INTERPRET else nullcontext():
        got = with_gradients(to_device(args))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=0, atol=1e-11 * max(b.abs().max().item(), 1))


@pytest.mark.parametrize("model", ["transe_l1", "transe_l2", "distmult", "rotate", "rescal", "transr"])
def test_rows_without_columns(model):
    want = 12.0 if model in ("transe_l1", "transe_l2", "rotate", "transr") else 0.0
    p = torch.zeros(2, 0, 0) if model == "transr" else None
    none = torch.zeros(2, 0)
    assert torch.equal(ga.kg_score(model, none, none, none, projection=p), torch.full((2,), want))
    got = ga.kg_score_negatives(model, none, none, None, torch.zeros(3, 0), projection=p)
    assert torch.equal(got, torch.full((1, 2, 3), want))


@pytest.mark.parametrize("model", ["transe_l1", "transe_l2", "rotate"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_distance_has_no_gradient(model, dtype):
    h = torch.ones(2, 4, dtype=dtype, requires_grad=True)
    r = torch.zeros(2, relation_width(model, 4), dtype=dtype, requires_grad=True)
    neg = torch.ones(1, 2, 4, dtype=dtype, requires_grad=True)
    score = ga.kg_score_negatives(model, h, r, None, neg)
    assert torch.equal(score, torch.full_like(score, 12.0))
    assert all(torch.equal(g, torch.zeros_like(g)) for g in torch.autograd.grad(score.sum(), (h, r, neg)))


@pytest.mark.parametrize("shift", [0.0, 300.0])
def test_l2_of_near_rows_keeps_its_digits(shift):
    """|q|^2 + |n|^2 - 2 q n alone would lose them: here distances are 1e-3 of the norms, and less."""
    gen = torch.Generator().manual_seed(0)
    h = (rows(gen, 40, 32) + shift).float()
    neg = (h + 1e-3 * rows(gen, 40, 32)).float().requires_grad_()
    r = torch.zeros(40, 32)
    score = ga.kg_score_negatives("transe_l2", h, r, None, neg, gamma=0.0)
    distance = torch.cdist(h.double(), neg.double())[None]
    torch.testing.assert_close(-score.double(), distance, rtol=1e-5, atol=0)
    (grad,) = torch.autograd.grad(score.sum(), neg)
    unit = (h.double()[:, None] - neg.double()[None]) / distance[0].unsqueeze(-1)
    torch.testing.assert_close(grad.double(), unit.sum(0), rtol=0, atol=1e-3)


def test_only_what_is_read_gets_a_gradient():
    h, r, t = (torch.rand(2, 4, requires_grad=True) for _ in range(3))
    score = ga.kg_score_negatives("distmult", h, r, t, torch.rand(3, 4), "head").sum()
    assert [g is None for g in torch.autograd.grad(score, (h, r, t), allow_unused=True)] == [True, False, False]


@pytest.mark.skipif(INTERPRET, reason="not about the kernel")
@pytest.mark.parametrize("model", MODELS)
def test_every_model_compiles(model):
    torch._dynamo.reset()
    args = make_negatives(model, 2, 3, 5, 8, table=3)(torch.Generator().manual_seed(0))
    compiled = torch.compile(ga.kg_score_negatives, fullgraph=True, dynamic=True, backend="aot_eager")
    assert torch.equal(compiled(**args), ga.kg_score_negatives(**args))


def test_double_backward_raises():
    h, r, t = (torch.rand(2, 4, requires_grad=True) for _ in range(3))
    (grad,) = torch.autograd.grad(ga.kg_score("distmult", h, r, t).sum(), h, create_graph=True)
    with pytest.raises(RuntimeError, match="once differentiable"):
        grad.sum().backward()


PYKEEN = {
    "transe_l1": ("TransEInteraction", {"p": 1}),
    "transe_l2": ("TransEInteraction", {"p": 2}),
    "distmult": ("DistMultInteraction", {}),
    "complex": ("ComplExInteraction", {}),
    "rotate": ("RotatEInteraction", {}),
    "rescal": ("RESCALInteraction", {}),
    "simple": ("SimplEInteraction", {}),
}


@pytest.mark.parametrize("model", PYKEEN)
def test_agrees_with_pykeen(model):
    modules = pytest.importorskip("pykeen.nn.modules")
    name, options = PYKEEN[model]
    # one complex dimension for RotatE: PyKEEN takes the norm over all of them, the paper the sum of their moduli
    args = make(model, 5, 2 if model == "rotate" else 6)(torch.Generator().manual_seed(0))
    h, r, t = args["h"], args["r"], args["t"]
    ours = ga.kg_score(model, h, r, t, gamma=0.0)
    if model in ("complex", "rotate"):
        h, t = (torch.complex(*x.chunk(2, 1)) for x in (h, t))
        r = torch.complex(*r.chunk(2, 1)) if model == "complex" else torch.polar(torch.ones_like(r), r)
    elif model == "rescal":
        r = r.view(-1, 6, 6)
    elif model == "simple":
        # PyKEEN 1.11 pairs forward with forward halves, against the formula in its own documentation: swap the tail's
        h, r, t = h.chunk(2, 1), r.chunk(2, 1), t.chunk(2, 1)[::-1]
    theirs = getattr(modules, name)(**options)(h, r, t).flatten()
    torch.testing.assert_close(ours, theirs)


H, R, T, NEG = torch.rand(4, 6), torch.rand(4, 6), torch.rand(4, 6), torch.rand(2, 3, 6)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"model": "transe"}, ValueError, "model must be one of transe_l1, .*, got 'transe'"),
        ({"h": H.long()}, TypeError, "h must be float64, float32, float16 or bfloat16, got torch.int64"),
        ({"h": H[0]}, ValueError, r"h must be \[B, D\], got \[6\]"),
        ({"t": T.double()}, TypeError, r"t must have the dtype of h \(torch.float32\), got torch.float64"),
        ({"t": T[:3]}, ValueError, r"t must be \[4, 6\] like h, got \[3, 6\]"),
        ({"r": R.half()}, TypeError, r"r must have the dtype of the entity rows \(torch.float32\), got torch.float16"),
        ({"r": R[:, :5]}, ValueError, r"r must be \[B, 6\], got \[4, 5\]"),
        ({"r": R[:3]}, ValueError, "r must have 4 rows, or come with `relation`, got 3"),
        ({"model": "rotate"}, ValueError, r"r must be \[B, 3\], got \[4, 6\]"),
        ({"model": "rescal"}, ValueError, r"r must be \[B, 36\], got \[4, 6\]"),
        ({"model": "complex", "h": H[:, :5]}, ValueError, "h must have an even number of columns for complex, got 5"),
        ({"relation": torch.zeros(4)}, TypeError, "relation must be int64 or int32, got torch.float32"),
        ({"relation": torch.zeros(3).long()}, ValueError, r"relation must be \[4\], got \[3\]"),
        ({"projection": torch.rand(4, 6, 2)}, ValueError, "projection must be None for distmult, got a tensor"),
        ({"model": "transr"}, ValueError, "projection must be given for transr, got None"),
        (
            {"model": "transr", "projection": torch.rand(4, 5, 6)},
            ValueError,
            r"projection must be \[4, 6, 6\], got \[4, 5, 6\]",
        ),
        (
            {"model": "rescal", "r": torch.rand(2, 36), "relation": torch.tensor([0, 1, 2, 0])},
            ValueError,
            r"relation must be in \[0, 2\), got 2",
        ),
    ],
)
def test_errors(change, error, match):
    with pytest.raises(error, match=match):
        ga.kg_score(**{"model": "distmult", "h": H, "r": R, "t": T, **change})


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"side": "both"}, ValueError, "side must be head or tail, got 'both'"),
        ({"h": None}, ValueError, "h must be given for side='tail', got None"),
        ({"t": None, "side": "head"}, ValueError, "t must be given for side='head', got None"),
        ({"neg": NEG.double()}, TypeError, "neg must have the dtype of h"),
        ({"neg": NEG[:, :, :5]}, ValueError, r"neg must be \[C, N, 6\] or \[N, 6\], got \[2, 3, 5\]"),
        ({"neg": NEG[0, 0]}, ValueError, r"neg must be \[C, N, 6\] or \[N, 6\], got \[6\]"),
        ({"neg": torch.rand(3, 2, 6)}, ValueError, "neg must have a number of chunks that divides 4, got 3"),
    ],
)
def test_errors_of_negatives(change, error, match):
    with pytest.raises(error, match=match):
        ga.kg_score_negatives(**{"model": "distmult", "h": H, "r": R, "t": T, "neg": NEG, **change})
