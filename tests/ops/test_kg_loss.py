import math
import os
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import gnnaccel as ga
from gnnaccel.baselines.reference.kg_loss import kg_loss as reference_loss
from gnnaccel.baselines.reference.kg_loss import row_loss
from gnnaccel.baselines.reference.kg_score import kg_score, kg_score_negatives
from gnnaccel.ops._kg_loss import LOSSES
from gnnaccel.ops._library import HAS_CPP
from gnnaccel.ops.kg_loss import kg_loss_grads, kg_loss_grads_by_id
from gnnaccel.ops.kg_score import MODELS
from tests.harness import DEVICE, INTERPRET, Case, check_op, served_by, threads, to_device

M = 3  # TransR's width of relations
WEIGHTED = ("logsigmoid", "hinge", "pairwise_hinge", "pairwise_logistic")


def rows(gen, *shape):
    return torch.randn(*shape, generator=gen, dtype=torch.float64)


def exclusions(gen, B, N, dtype=torch.int64):
    """A few candidates a triple, out of order and repeated; all of them of the last triple, none of the first."""
    lists = [
        torch.randint(0, max(N, 1), (int(k),), generator=gen) for k in torch.randint(0, N + 1, (B,), generator=gen)
    ]
    lists = [torch.arange(N) if b == B - 1 else x[:0] if b == 0 else x for b, x in enumerate(lists)]
    indptr = torch.tensor([0, *(len(x) for x in lists)]).cumsum(0)
    return indptr, (torch.cat(lists) if lists else torch.zeros(0, dtype=torch.int64)).to(dtype)


def make(
    model,
    loss,
    C,
    S,
    N,
    D,
    side="tail",
    temperature=None,
    margin=None,
    table=None,
    exclude=False,
    weight=False,
    shared=False,
):
    def build(gen):
        B = C * S
        R = B if table is None else table
        width = {"rotate": D // 2, "rescal": D * D, "transr": M}.get(model, D)
        indptr, position = exclusions(gen, B, N) if exclude else (None, None)
        return {
            "model": model,
            "h": rows(gen, B, D),
            "r": rows(gen, R, width),
            "t": rows(gen, B, D),
            "neg": rows(gen, *([N, D] if shared else [C, N, D])),
            "side": side,
            "loss": loss,
            "adversarial_temperature": temperature,
            # distances near the margin, where losses bend
            "gamma": 3.0,
            "margin": margin,
            "relation": None if table is None else torch.randint(0, max(R - 1, 1), (B,), generator=gen),
            "projection": rows(gen, R, D, M) if model == "transr" else None,
            "weight": torch.rand(B, generator=gen, dtype=torch.float64) + 0.5 if weight else None,
            "indptr": indptr,
            "position": position,
        }

    return build


def flat(op):
    """With the tensors of `exclude` as arguments, which the harness can move and fake."""

    def call(indptr=None, position=None, **args):
        return op(**args, exclude=None if indptr is None else (indptr, position))

    return call


CASES = [
    Case("none", make("distmult", "softmax", 2, 0, 3, 4)),
    Case("no_chunks", make("transe_l1", "bce", 0, 2, 3, 4)),
    Case("no_candidates", make("transe_l1", "logsigmoid", 1, 2, 0, 4, margin=0.5)),
    Case("no_candidates_softmax", make("rotate", "softmax", 1, 2, 0, 4)),
    Case("one", make("transe_l2", "hinge", 1, 1, 1, 2)),
    *(
        Case(
            f"{model}_{loss}",
            make(
                model,
                loss,
                2,
                2,
                3,
                4,
                side=("tail", "head")[(i + j) // 2 % 2],
                table=3 if (i + 2 * j) % 3 == 0 else None,
                exclude=j % 2 == 1,
                weight=i % 4 < 2,
            ),
        )
        for i, model in enumerate(MODELS)
        for j, loss in enumerate(LOSSES)
        # all of them in float64: test_every_loss_and_option
        if (i + j) % 2 == 0
    ),
    *(
        Case(
            f"{model}_many",
            make(model, "logsigmoid", 1, 9, 131, 14, table=4, exclude=True, weight=True, shared=True),
            small=False,
        )
        for model in MODELS
    ),
]

# their weights are constants to autograd, but not to differences
ADVERSARIAL = [
    Case("no_candidates", make("transe_l1", "logsigmoid", 1, 2, 0, 4, temperature=1.0)),
    *(
        Case(f"{model}_{WEIGHTED[i % 4]}", make(model, WEIGHTED[i % 4], 2, 2, 3, 4, "head", 0.7, exclude=True))
        for i, model in enumerate(MODELS)
    ),
    Case("many", make("rotate", "logsigmoid", 1, 9, 131, 14, temperature=0.3, exclude=True), small=False),
]


def length(args):
    return max(args["h"].shape[0] + args["h"].shape[1] ** 2 + args["neg"].shape[-2], 1)


def overload_args(args):
    """The first schema's arguments, whatever the model: translated rows and L1."""
    q, o, n = (rows(torch.Generator().manual_seed(0), *k).float().requires_grad_() for k in ((4, 3), (4, 3), (2, 5, 3)))
    return q, q.detach(), o, n, None, None, None, 1, 1, LOSSES.index(args["loss"]), 3.0, 0.5, None, True


def checks(cases):
    return check_op(
        op=flat(ga.kg_loss),
        reference=flat(reference_loss),
        cases=cases,
        schemas=["kg_loss_rows", "kg_loss_projected", "kg_loss_backward"],
        cast=["h", "r", "t", "neg", "projection"],
        grad=["h", "r", "t", "neg", "projection"],
        length=length,
        overload_args=overload_args,
    )


TestKgLoss = checks(CASES)


class TestAdversarial(checks(ADVERSARIAL)):
    test_gradcheck = None


@pytest.mark.skipif(INTERPRET, reason="not about the kernel")
@pytest.mark.parametrize("side", ["tail", "head"])
@pytest.mark.parametrize("model", MODELS)
def test_every_loss_and_option(model, side):
    gen = torch.Generator().manual_seed(0)
    args = make(model, "bce", 2, 3, 4, 6, side, table=3, exclude=True, weight=True)(gen)
    indptr, position = args.pop("indptr"), args.pop("position")
    weights = args.pop("weight")
    leaves = [args[k].requires_grad_() for k in ("h", "r", "t", "neg", "projection") if args[k] is not None]
    B, N = 6, 4
    rest = {k: args[k] for k in ("gamma", "projection", "relation")}
    own = kg_score(model, args["h"], args["r"], args["t"], **rest)
    every = kg_score_negatives(model, args["h"], args["r"], args["t"], args["neg"], side, **rest).reshape(B, N)
    for loss in LOSSES:
        for temperature in (None, 0.0, 0.6) if loss in WEIGHTED else (None,):
            for margin in (None, 0.4) if loss in WEIGHTED else (None,):
                for exclude in (None, (indptr, position), (indptr, position.int())):
                    for weight in (None, weights):
                        options = {"loss": loss, "adversarial_temperature": temperature, "margin": margin}
                        options |= {"exclude": exclude, "weight": weight}
                        want = own.sum() * 0 + every.sum() * 0
                        for b in range(B):
                            out = set() if exclude is None else set(position[indptr[b] : indptr[b + 1]].tolist())
                            kept = every[b, [j for j in range(N) if j not in out]]
                            scale = (1 if weight is None else weight[b]) / B
                            want = want + scale * row_loss(own[b], kept, loss, temperature, margin)
                        wants = [want, *torch.autograd.grad(want, leaves, retain_graph=True)]
                        got = ga.kg_loss(**{**args, **options})
                        gots = [got, *torch.autograd.grad(got, leaves)]
                        for a, b in zip(gots, wants, strict=True):
                            torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * max(b.abs().max().item(), 1))
                        # the trainer's way in
                        made = kg_loss_grads(**{**args, **options})
                        assert all(torch.equal(a, b) for a, b in zip(made, gots, strict=True))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("scale", [1e4, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_scores_stay_finite(loss, scale, dtype):
    h = torch.tensor([[1.0], [scale]], dtype=dtype, requires_grad=True)
    r = torch.ones(2, 1, dtype=dtype)
    t = torch.tensor([[scale], [1.0]], dtype=dtype, requires_grad=True)
    neg = torch.tensor([[[scale], [-scale], [0.0]]], dtype=dtype, requires_grad=True)
    for temperature in (None, 2.0) if loss in WEIGHTED else (None,):
        got = ga.kg_loss("distmult", h, r, t, neg, loss=loss, adversarial_temperature=temperature)
        want = reference_loss("distmult", h, r, t, neg, loss=loss, adversarial_temperature=temperature)
        grads = torch.autograd.grad(got, (h, t, neg))
        wants = torch.autograd.grad(want, (h, t, neg))
        for a, b in zip([got, *grads], [want, *wants], strict=True):
            assert torch.isfinite(a).all()
            torch.testing.assert_close(a.double(), b.double(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("loss", LOSSES)
def test_nan_shows(loss):
    h, r, t, neg = (torch.rand(2, 4) for _ in range(4))
    h[1, 2] = math.nan
    for model in ("distmult", "transe_l1", "transe_l2", "rotate"):
        assert ga.kg_loss(model, h, r[:, :2] if model == "rotate" else r, t, neg, loss=loss).isnan()


def test_one_against_all_is_cross_entropy():
    gen = torch.Generator().manual_seed(0)
    E, B, D = 37, 8, 6
    table, r = rows(gen, E, D).requires_grad_(), rows(gen, B, D).requires_grad_()
    head, tail = torch.randint(0, E, (2, B), generator=gen)
    own = torch.arange(B + 1), tail
    got = ga.kg_loss("distmult", table[head], r, table[tail], table, loss="softmax", exclude=own)
    want = torch.nn.functional.cross_entropy((table[head] * r) @ table.T, tail)
    for a, b in zip(
        [got, *torch.autograd.grad(got, (table, r))], [want, *torch.autograd.grad(want, (table, r))], strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("model", ["transe_l1", "transe_l2", "rotate"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_distance_has_no_gradient(model, dtype):
    h, t = (torch.ones(2, 4, dtype=dtype, requires_grad=True) for _ in range(2))
    r = torch.zeros(2, 2 if model == "rotate" else 4, dtype=dtype, requires_grad=True)
    neg = torch.ones(1, 2, 4, dtype=dtype, requires_grad=True)
    loss = ga.kg_loss(model, h, r, t, neg)
    assert all(torch.equal(g, torch.zeros_like(g)) for g in torch.autograd.grad(loss, (h, r, t, neg)))


def test_gradients_are_scaled():
    h, r, t, neg = (torch.rand(4, 6, dtype=torch.float64, requires_grad=True) for _ in range(4))
    plain = torch.autograd.grad(ga.kg_loss("complex", h, r, t, neg), (h, r, t, neg))
    scaled = torch.autograd.grad(3 * ga.kg_loss("complex", h, r, t, neg), (h, r, t, neg))
    for a, b in zip(plain, scaled, strict=True):
        torch.testing.assert_close(3 * a, b)
    loss = ga.kg_loss("complex", h, r, t, neg)
    twice = [torch.autograd.grad(loss, h, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*twice)


def test_no_gradients_without_autograd():
    h, r, t, neg = (torch.rand(4, 6, requires_grad=True) for _ in range(4))
    with torch.no_grad():
        alone = ga.kg_loss("transe_l2", h, r, t, neg)
    assert not alone.requires_grad
    assert torch.equal(alone, ga.kg_loss("transe_l2", h, r, t, neg))


def test_double_backward_raises():
    h, r, t, neg = (torch.rand(2, 4, requires_grad=True) for _ in range(4))
    (grad,) = torch.autograd.grad(ga.kg_loss("distmult", h, r, t, neg), h, create_graph=True)
    with pytest.raises(RuntimeError, match="once differentiable"):
        grad.sum().backward()


@pytest.mark.skipif(INTERPRET, reason="not about the kernel")
@pytest.mark.parametrize("model", MODELS)
def test_every_model_compiles(model):
    torch._dynamo.reset()
    args = make(model, "bce", 2, 3, 5, 4, table=3, exclude=True)(torch.Generator().manual_seed(0))
    compiled = torch.compile(flat(ga.kg_loss), fullgraph=True, dynamic=True, backend="aot_eager")
    assert torch.equal(compiled(**args), flat(ga.kg_loss)(**args))


H, R, T, NEG = torch.rand(4, 6), torch.rand(4, 6), torch.rand(4, 6), torch.rand(2, 3, 6)
PTR, POS = torch.tensor([0, 1, 1, 2, 2]), torch.tensor([0, 2])


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"model": "transe"}, ValueError, "kg_loss: model must be one of transe_l1, .*, got 'transe'"),
        ({"side": "both"}, ValueError, "kg_loss: side must be head or tail, got 'both'"),
        ({"h": H.long()}, TypeError, "h must be float64, float32, float16 or bfloat16, got torch.int64"),
        ({"t": T[:3]}, ValueError, r"t must be \[4, 6\] like h, got \[3, 6\]"),
        ({"neg": NEG.double()}, TypeError, "neg must have the dtype of h"),
        ({"neg": NEG[0, 0]}, ValueError, r"neg must be \[C, N, 6\] or \[N, 6\], got \[6\]"),
        ({"neg": torch.rand(3, 2, 6)}, ValueError, "neg must have a number of chunks that divides 4, got 3"),
        ({"r": R[:, :5]}, ValueError, r"r must be \[B, 6\], got \[4, 5\]"),
        ({"loss": "mse"}, ValueError, "loss must be one of logsigmoid, .*, softmax, got 'mse'"),
        (
            {"loss": "bce", "adversarial_temperature": 1.0},
            ValueError,
            "adversarial_temperature must be None for bce, got 1.0",
        ),
        (
            {"adversarial_temperature": -1.0},
            ValueError,
            "adversarial_temperature must be at least 0 and finite, got -1.0",
        ),
        ({"adversarial_temperature": math.nan}, ValueError, "adversarial_temperature must be .*, got nan"),
        ({"loss": "softmax", "margin": 1.0}, ValueError, "margin must be None for softmax, got 1.0"),
        ({"margin": math.inf}, ValueError, "margin must be finite, got inf"),
        ({"weight": torch.ones(4).long()}, TypeError, "weight must be floating, got torch.int64"),
        ({"weight": torch.ones(3)}, ValueError, r"weight must be \[4\], got \[3\]"),
        ({"exclude": PTR}, TypeError, r"exclude must be a pair \(indptr, position\), got Tensor"),
        ({"exclude": (PTR.int(), POS)}, TypeError, r"exclude\[0\] must be int64, got torch.int32"),
        ({"exclude": (PTR[1:], POS)}, ValueError, r"exclude\[0\] must be \[5\], got \[4\]"),
        ({"exclude": (PTR, POS.float())}, TypeError, r"exclude\[1\] must be int64 or int32, got torch.float32"),
        ({"exclude": (PTR, POS[None])}, ValueError, r"exclude\[1\] must be \[P\], got \[1, 2\]"),
        ({"exclude": (PTR, POS[:1])}, ValueError, r"exclude\[0\] must ascend from 0 to 1"),
        ({"exclude": (PTR[[0, 2, 3, 1, 4]], POS)}, ValueError, r"exclude\[0\] must ascend from 0 to 2"),
        ({"exclude": (PTR, POS + 1)}, ValueError, r"exclude\[1\] must be in \[0, 3\)"),
        ({"exclude": (PTR, POS - 1)}, ValueError, r"exclude\[1\] must be in \[0, 3\)"),
        (
            {"model": "rescal", "r": torch.rand(2, 36), "relation": torch.tensor([0, 1, 2, 0])},
            ValueError,
            r"relation must be in \[0, 2\), got 2",
        ),
    ],
)
def test_errors(change, error, match):
    with pytest.raises(error, match=match):
        ga.kg_loss(**{"model": "distmult", "h": H, "r": R, "t": T, "neg": NEG, **change})


def results(args, loss, temperature=None, exclude=None):
    args = {
        k: v for k, v in args.items() if k not in ("loss", "adversarial_temperature", "margin", "indptr", "position")
    }
    return kg_loss_grads(**args, loss=loss, adversarial_temperature=temperature, exclude=exclude)


def fallback_and_threads(args, loss, temperature=None, exclude=None):
    """The extension against the fallback, and its bits on one to three threads."""
    with served_by("CompositeExplicitAutograd"):
        want = results(args, loss, temperature, exclude)
    runs = []
    for n in (1, 2, 3):
        with threads(n):
            runs.append(results(args, loss, temperature, exclude))
    for a, b in zip(runs[0], want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11 * max(b.abs().max().item(), 1e-3))
    assert all(torch.equal(a, b) for other in runs[1:] for a, b in zip(runs[0], other, strict=True))


def rows_by_id(gen, model, dtype=torch.float32):
    """Tables, and the ids of 12 triples in 3 chunks of 70 candidates: more than a block."""
    entity = torch.randn(50, 40, generator=gen, dtype=dtype)
    relation = torch.randn(5, 20 if model == "rotate" else 40, generator=gen, dtype=dtype)
    h, t = torch.randint(50, (2, 12), generator=gen)
    ids = (h, torch.randint(5, (12,), generator=gen), t, torch.randint(50, (3, 70), generator=gen))
    return [x.to(DEVICE) for x in (entity, relation, *ids)]


@pytest.mark.parametrize("side", ["head", "tail"])
@pytest.mark.parametrize("model", [m for m in MODELS if m not in ("rescal", "transr")])
def test_rows_by_id(model, side):
    gen = torch.Generator().manual_seed(5)
    entity, relation, h, r, t, neg = rows_by_id(gen, model)
    indptr, position = (x.to(DEVICE) for x in exclusions(gen, 12, 70))
    weight = torch.rand(12, generator=gen).to(DEVICE)
    options = {"adversarial_temperature": 0.5, "weight": weight, "exclude": (indptr, position)}
    want = kg_loss_grads(model, entity[h], relation[r], entity[t], entity[neg], side, **options)
    for n in (1, 2, 3):
        with threads(n):
            got = kg_loss_grads_by_id(model, entity, relation, h, r, t, neg, side, **options)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_rows_by_id_shapes():
    entity, relation, h, r, t, neg = rows_by_id(torch.Generator().manual_seed(5), "complex", torch.float64)
    args = (entity, relation, h, r, t, neg, None, None, None, 3, 0, 0, 12.0, 0.0, None)
    torch.library.opcheck(torch.ops.gnnaccel.kg_loss_ids, args, test_utils=("test_schema", "test_faketensor"))
    empty = kg_loss_grads_by_id("complex", entity, relation, h[:0], r[:0], t[:0], neg)
    assert empty[0] == 0 and empty[4].shape == (3, 70, 40) and not empty[4].any()


@pytest.mark.skipif(not HAS_CPP or DEVICE != "cpu", reason="ids are checked on CPU")
@pytest.mark.parametrize("which", [2, 3, 4, 5])
def test_rows_by_id_out_of_range(which):
    args = rows_by_id(torch.Generator().manual_seed(5), "distmult")
    args[which].view(-1)[-1] = -1
    with pytest.raises((ValueError, RuntimeError), match=r"ids must be in \[0, (50|5)\) \(rows of a table\), got -1"):
        kg_loss_grads_by_id("distmult", *args)


cpu_only = pytest.mark.skipif(not HAS_CPP or INTERPRET or DEVICE != "cpu", reason="about the CPU extension")


@cpu_only
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shape", [(2, 45, 150, 70, 40), (1, 300, 140, 34, 2), (3, 130, 7, 34, 300)])
def test_sizes_that_cross_blocks(model, shape):
    """Blocks of candidates and rows, slices, panels, batches of relations."""
    C, S, N, D, R = shape
    D = min(D, 40) if model in ("rescal", "transr") else D
    gen = torch.Generator().manual_seed(0)
    args = make(model, "bce", C, S, N, D, "head", table=R, weight=True)(gen)
    exclude = exclusions(gen, C * S, N)
    fallback_and_threads(args, "logsigmoid", 0.5, exclude)
    fallback_and_threads(args, "softmax")


@cpu_only
@pytest.mark.parametrize("model", ["distmult", "transe_l1"])
def test_waves(model):
    """More scores than exist at a time."""
    gen = torch.Generator().manual_seed(0)
    args = make(model, "bce", 1, 130, 60_000, 2, shared=True)(gen)
    fallback_and_threads(args, "softmax")


@cpu_only
@pytest.mark.parametrize("loss", ["hinge", "softmax"])
def test_near_candidates(loss):
    """Distances that norms do not give: formed pair by pair, among others and alone."""
    gen = torch.Generator().manual_seed(0)
    args = make("transe_l2", "bce", 1, 40, 90, 32, shared=True)(gen)
    args["neg"][:40] = args["h"] + args["r"] + 1e-5 * rows(gen, 40, 32)
    args["neg"][40:45] = (args["h"] + args["r"])[:5]
    fallback_and_threads(args, loss)
    args["neg"] += 300.0
    args["h"] += 300.0
    args["t"] += 300.0
    fallback_and_threads(args, loss)


@pytest.mark.interpret
@pytest.mark.skipif(not INTERPRET and DEVICE == "cpu", reason="about the Triton kernels")
@pytest.mark.parametrize("model", ["transe_l1", "transe_l2", "rotate", "distmult"])
def test_sizes_that_cross_tiles(model):
    gen = torch.Generator().manual_seed(0)
    args = make(model, "bce", 2, 34, 37, 18, weight=True)(gen)
    exclude = exclusions(gen, 68, 37)
    for loss, temperature in (("logsigmoid", 0.5), ("softmax", None)):
        want = results(args, loss, temperature, exclude)
        with served_by("CUDA") if INTERPRET else nullcontext():
            got = results(to_device(args), loss, temperature, tuple(x.to(DEVICE) for x in exclude))
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a.cpu(), b, rtol=0, atol=1e-11 * max(b.abs().max().item(), 1e-3))


@cpu_only
def test_memory_does_not_grow_with_pairs():
    """2,000 x 20,000 scores would take 160 MB, their differences 2.5 GB."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not os.access(clear, os.W_OK) or not status.exists():
        pytest.skip("the system does not say how much memory was used")

    def kilobytes(name):
        return int(next(line for line in status.read_text().splitlines() if line.startswith(name)).split()[1])

    h, r, t, neg = (torch.rand(n, 16) for n in (2000, 2000, 2000, 20_000))
    for model in ("distmult", "transe_l1"):
        kg_loss_grads(model, h[:10], r[:10], t[:10], neg, loss="softmax")
        before = kilobytes("VmRSS")
        clear.write_text("5")
        kg_loss_grads(model, h, r, t, neg, loss="softmax")
        assert kilobytes("VmHWM") - before < 60_000
