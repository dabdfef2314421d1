from contextlib import nullcontext

import pytest
import torch

import gnnaccel as ga
from gnnaccel.baselines.reference.sparse_adam import sparse_adam_ as reference
from gnnaccel.ops._sparse_rows import accumulate_type
from tests.harness import BF16, DEVICE, F64, INTERPRET, Case, check_op, served_by, threads


def make(n, D, sizes, step=3, id_dtype=torch.int64, strided=False, hub=0, **options):
    def build(gen):
        m = sum(sizes)
        ids = torch.randint(n, (m,), generator=gen)
        ids[:hub] = n // 2
        grad = torch.randn(D, m, generator=gen, dtype=F64).T
        return {
            "table": torch.randn(n, D, generator=gen, dtype=F64),
            "exp_avg": torch.randn(n, D, generator=gen).double(),
            "exp_avg_sq": torch.rand(n, D, generator=gen).double(),
            "ids": ids.to(id_dtype),
            "grad": grad if strided else grad.contiguous(),
            "sizes": sizes,
            "step": step,
            "lr": 0.1,
            **options,
        }

    return build


def on_copies(op):
    def call(*, table, exp_avg, exp_avg_sq, sizes, ids, grad, **rest):
        acc = accumulate_type(table.dtype)
        tables = table.clone(), exp_avg.to(acc, copy=True), exp_avg_sq.to(acc, copy=True)
        op(*tables, list(ids.split(sizes)), list(grad.split(sizes)), **rest)
        return tables

    return call


def positional(args):
    acc = accumulate_type(args["table"].dtype)
    tables = (args["table"].clone(), args["exp_avg"].to(acc, copy=True), args["exp_avg_sq"].to(acc, copy=True))
    ids, grad = list(args["ids"].split(args["sizes"])), list(args["grad"].split(args["sizes"]))
    numbers = (*args.get("betas", (0.9, 0.999)), args.get("eps", 1e-8), args.get("regularization", 0.0))
    return (*tables, ids, grad, args["step"], args["lr"], *numbers, args.get("norm", 3), args.get("seed"))


CASES = [
    Case("nothing", make(3, 2, [0])),
    Case("no_columns", make(3, 0, [2])),
    Case("one", make(1, 1, [1], step=1)),
    Case("odd", make(7, 5, [4, 0, 9], id_dtype=torch.int32)),
    Case("hub", make(9, 17, [20, 11], hub=19, regularization=0.01, betas=(0.5, 0.9))),
    Case("strided", make(5, 6, [8], strided=True, regularization=0.1, norm=1, eps=1e-3)),
    Case("no_decay", make(5, 6, [8], betas=(0.0, 0.0), regularization=0.1, norm=4)),
    Case("stochastic", make(11, 9, [7, 5], seed=5)),
    Case("batch", make(300, 130, [256, 200, 100], step=1000, regularization=1e-2, norm=2), small=False),
]

TestSparseAdam = check_op(
    op=on_copies(ga.sparse_adam_),
    reference=on_copies(reference),
    cases=CASES,
    schemas=["sparse_adam_"],
    cast=["table", "grad"],
    length=lambda args: 32,
    overload_args=positional,
)


@pytest.fixture(autouse=True)
def _interpreted():
    with served_by("CUDA") if INTERPRET else nullcontext():
        yield


@pytest.mark.interpret
def test_by_hand():
    """First step: corrected moments are g and g^2, so that the row moves by lr times the sign; row 0 keeps its moments."""
    table = torch.zeros(2, 3, device=DEVICE)
    m, v = torch.ones(2, 3, device=DEVICE), torch.ones(2, 3, device=DEVICE)
    m[1], v[1] = 0, 0
    ids, grad = torch.tensor([1, 1], device=DEVICE), torch.tensor([[3.0, -1, 2], [1.0, -1, -2]], device=DEVICE)
    assert ga.sparse_adam_(table, m, v, ids, grad, 1, 0.5) is table
    torch.testing.assert_close(table, torch.tensor([[0.0, 0, 0], [-0.5, 0.5, 0]], device=DEVICE))
    torch.testing.assert_close(m[1], torch.tensor([0.4, -0.2, 0], device=DEVICE))
    torch.testing.assert_close(v[1], torch.tensor([0.016, 0.004, 0], device=DEVICE))
    assert (m[0] == 1).all()
    assert (v[0] == 1).all()


@torch.sparse.check_sparse_tensor_invariants(True)
def test_is_torchs_sparse_adam():
    gen = torch.Generator().manual_seed(0)
    weight = torch.randn(20, 6, generator=gen)
    table, m, v = weight.clone(), torch.zeros(20, 6), torch.zeros(20, 6)
    parameter = torch.nn.Parameter(weight)
    optimiser = torch.optim.SparseAdam([parameter], lr=0.1)
    for step in range(1, 5):
        ids, grad = torch.randint(20, (12,), generator=gen), torch.randn(12, 6, generator=gen)
        parameter.grad = torch.sparse_coo_tensor(ids[None], grad, (20, 6))
        optimiser.step()
        ga.sparse_adam_(table, m, v, ids, grad, step, 0.1)
    torch.testing.assert_close(table, parameter.detach(), rtol=1e-5, atol=1e-5)


def test_on_all_rows_it_is_torchs_adam():
    gen = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 4, generator=gen)
    table, m, v = weight.clone(), torch.zeros(5, 4), torch.zeros(5, 4)
    parameter = torch.nn.Parameter(weight)
    optimiser = torch.optim.Adam([parameter], lr=0.1, eps=0.1)
    for step in range(1, 5):
        parameter.grad = torch.randn(5, 4, generator=gen)
        optimiser.step()
        ga.sparse_adam_(table, m, v, torch.arange(5), parameter.grad, step, 0.1, eps=0.1)
    torch.testing.assert_close(table, parameter.detach())


def test_any_number_of_threads_gives_the_same_bits_with_a_hub():
    args = make(50, 200, [3000, 1000], hub=2500, regularization=1e-3, seed=1)(torch.Generator().manual_seed(3))
    for dtype in (torch.float32, BF16):
        results = []
        for n in (1, 2, 3):
            with threads(n):
                results.append(
                    on_copies(ga.sparse_adam_)(
                        **{**args, "table": args["table"].to(dtype), "grad": args["grad"].to(dtype)}
                    )
                )
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.skipif(DEVICE != "cpu", reason="CUDA does not check ids")
@pytest.mark.parametrize("fallback", [False, True])
def test_ids_out_of_range_change_nothing(fallback):
    tables = [torch.ones(4, 3) for _ in range(3)]
    with served_by("CompositeExplicitAutograd") if fallback else nullcontext():
        with pytest.raises(ValueError, match=r"sparse_adam_: ids must be in \[0, 4\) \(rows of table\), got -3"):
            ga.sparse_adam_(*tables, torch.tensor([0, -3]), torch.ones(2, 3), 1, 0.1)
    assert all((t == 1).all() for t in tables)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"exp_avg": torch.zeros(4)}, ValueError, r"exp_avg must be \[4, 3\], got \[4\]"),
        ({"exp_avg_sq": torch.zeros(4, 3).half()}, TypeError, "exp_avg_sq must be torch.float32 for a table of"),
        ({"exp_avg_sq": torch.zeros(3, 4).T}, ValueError, "exp_avg_sq must be contiguous"),
        ({"grad": torch.zeros(3, 3)}, ValueError, r"grad must be \[2, 3\], got \[3, 3\]"),
        ({"step": 0}, ValueError, "step must be at least 1, got 0"),
        ({"betas": (1.0, 0.9)}, ValueError, r"betas must be in \[0, 1\), got \(1.0, 0.9\)"),
        ({"lr": -1.0}, ValueError, "lr must be at least 0, got -1.0"),
    ],
)
def test_bad_arguments(changes, error, message):
    args = {
        "table": torch.zeros(4, 3),
        "exp_avg": torch.zeros(4, 3),
        "exp_avg_sq": torch.zeros(4, 3),
        "ids": torch.tensor([0, 1]),
        "grad": torch.zeros(2, 3),
        "step": 1,
        "lr": 0.1,
    }
    with pytest.raises(error, match=f"sparse_adam_: {message}"):
        ga.sparse_adam_(**{**args, **changes})


def test_autograd_knows_that_the_table_changed():
    table = torch.ones(3, 2, requires_grad=True)
    loss = (table**2).sum()
    ga.sparse_adam_(table, torch.zeros(3, 2), torch.zeros(3, 2), torch.tensor([1]), torch.ones(1, 2), 1, 0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
