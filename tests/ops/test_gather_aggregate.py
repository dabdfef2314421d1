import pytest
import torch

import gnnaccel as ga
from gnnaccel.baselines.reference.gather_aggregate import gather_aggregate as reference
from gnnaccel.ops.gather_aggregate import REDUCE
from tests.harness import BF16, DEVICE, F16, F32, F64, INTERPRET, Case, check_op, served_by, threads

I32, I64, I8 = torch.int32, torch.int64, torch.int8


def make(
    N, F, R, K, reduce="mean", *, weight=False, bases=None, csr=False, ids_dtype=I64, count_dtype=I32, padded=0.0,
    holes=0.0, counts=True, columns=None, strided=False, dtype=None, hub=0,
):  # fmt: skip
    """Blocks of R roots; `padded` of the roots have no neighbour, `holes` of the used slots are -1."""

    def build(gen):
        table = torch.rand((N, columns or F), generator=gen, dtype=F64) - 0.5
        count = torch.randint(0, K + 1, (R,), generator=gen) if counts else torch.full((R,), K)
        count = count.masked_fill(torch.rand(R, generator=gen) < padded, 0)
        if hub and R:
            count[R // 2] = hub
        if csr:
            indptr = torch.cat([torch.zeros(1, dtype=I64), count.cumsum(0)])
            shape = (int(indptr[-1]),)
        else:
            shape = (R, max(K, hub))
        nbr = torch.randint(0, max(N, 1), shape, generator=gen)
        nbr = nbr.masked_fill(torch.rand(shape, generator=gen) < holes, -1)
        if not csr:
            # what lies past the count must not be read
            nbr = torch.where(torch.arange(shape[1]) < count[:, None], nbr, -1 if not counts else N + 7)
        args = {"table": table[:, :F], "nbr": nbr.to(ids_dtype), "count": None, "reduce": reduce, "weight": None}
        if csr:
            args["indptr"] = indptr
        elif counts:
            args["count"] = count.to(count_dtype)
        if weight or bases is not None:
            args["weight"] = torch.rand((*shape, *(() if bases is None else (bases,))), generator=gen, dtype=F64) - 0.5
        if strided:
            args["table"], args["nbr"] = table.T.contiguous().T[:, :F], args["nbr"].T.contiguous().T
        return {**args, "dtype": dtype}

    return build


CASES = [
    Case("no_roots", make(3, 4, 0, 2)),
    Case("no_slots", make(3, 4, 3, 0)),
    Case("no_rows", make(0, 4, 3, 2, padded=2.0)),
    Case("no_columns", make(3, 0, 2, 2)),
    Case("one", make(1, 1, 1, 1, counts=False)),
    Case("all_empty", make(5, 3, 4, 3, padded=2.0)),
    Case("mean", make(5, 7, 6, 5, padded=0.2)),
    Case("sum", make(5, 7, 6, 5, "sum", ids_dtype=I32, count_dtype=I64)),
    Case("max", make(5, 7, 6, 5, "max", padded=0.2)),
    Case("holes", make(6, 5, 7, 4, holes=0.4)),
    Case("holes_without_count", make(6, 5, 7, 4, "sum", holes=0.4, counts=False)),
    Case("weighted_mean", make(6, 5, 7, 4, weight=True, holes=0.2)),
    Case("weighted_sum", make(6, 5, 7, 4, "sum", weight=True)),
    Case("bases", make(6, 5, 7, 4, "sum", bases=3, holes=0.2)),
    Case("bases_mean", make(6, 5, 7, 4, bases=2)),
    Case("one_base", make(6, 5, 7, 4, bases=1)),
    Case("no_bases", make(6, 5, 7, 4, bases=0)),
    Case("csr_mean", make(6, 5, 7, 4, csr=True)),
    Case("csr_max", make(6, 5, 7, 4, "max", csr=True, ids_dtype=I32, holes=0.3)),
    Case("csr_weighted", make(6, 5, 7, 4, "sum", csr=True, weight=True, holes=0.3)),
    Case("csr_bases", make(6, 5, 7, 4, csr=True, bases=3)),
    Case("csr_empty", make(6, 5, 3, 4, csr=True, padded=2.0)),
    Case("strided", make(6, 5, 7, 4, strided=True)),
    Case("some_columns", make(6, 3, 7, 4, columns=8)),
    Case("hub_max", make(9, 5, 5, 3, "max", csr=True, hub=80)),
    Case("hub", make(9, 19, 5, 3, csr=True, weight=True, hub=80)),
    Case("wide", make(60, 611, 20, 9, weight=True), small=False),
    Case("wide_max", make(60, 611, 20, 9, "max"), small=False),
    Case("many_max", make(500, 100, 700, 10, "max", ids_dtype=I32), small=False),
    Case("many_bases", make(300, 33, 300, 10, "sum", bases=5), small=False),
    Case("hub_of_many", make(50, 130, 200, 10, csr=True, hub=3000), small=False),
    Case("many", make(500, 128, 700, 10, padded=0.1), small=False),
]


def longest(args):
    ids = args["nbr"]
    return max(ids.shape[-1], int(torch.bincount(ids.clamp(0, 10_000).flatten()).max()), 1) if ids.numel() else 1


def overload_args(args):
    table, dtype = args["table"], args.get("dtype")
    dtype = dtype or (F32 if table.dtype == I8 else table.dtype)
    others = [args.get(name) for name in ("nbr", "count", "weight", "indptr", "scale")]
    return table, *others, REDUCE[args["reduce"]], dtype


TestGatherAggregate = check_op(
    op=ga.gather_aggregate,
    reference=reference,
    cases=CASES,
    schemas=["gather_aggregate", "gather_aggregate_backward"],
    cast=["table", "weight"],
    grad=["table", "weight"],
    length=longest,
    overload_args=overload_args,
)


def make_int8(*sizes, **options):
    def build(gen):
        args = make(*sizes, **options)(gen)
        N, F = args["table"].shape
        if args["weight"] is not None:
            args["weight"] = args["weight"].to(F32)
        scale = torch.rand(N, generator=gen)
        return {**args, "table": torch.randint(-127, 128, (N, F), generator=gen, dtype=I8), "scale": scale}

    return build


TestGatherAggregateInt8 = check_op(
    op=ga.gather_aggregate,
    reference=reference,
    cases=[
        Case("mean", make_int8(5, 7, 6, 5, holes=0.2)),
        Case("max", make_int8(5, 7, 6, 5, "max")),
        Case("weighted", make_int8(5, 7, 6, 5, "sum", weight=True)),
        Case("bases", make_int8(5, 7, 6, 5, bases=2, csr=True)),
        Case("to_float64", make_int8(5, 7, 6, 5, dtype=F64)),
        Case("many", make_int8(500, 172, 300, 10, weight=True), small=False),
    ],
    schemas=["gather_aggregate"],
    grad=["weight"],
    dtypes=(F32,),
    length=longest,
    overload_args=overload_args,
)


def test_by_hand():
    table = torch.tensor([[1.0, 2.0], [3.0, 40.0], [5.0, 6.0]], requires_grad=True)
    nbr, count = torch.tensor([[2, 1, 0], [1, -1, 9], [0, 0, 0]]), torch.tensor([2, 2, 0])
    assert ga.gather_aggregate(table, nbr, count).tolist() == [[4, 23], [3, 40], [0, 0]]
    assert ga.gather_aggregate(table, nbr, count, "sum").tolist() == [[8, 46], [3, 40], [0, 0]]
    top = ga.gather_aggregate(table, nbr, count, "max")
    assert top.tolist() == [[5, 40], [3, 40], [0, 0]]
    top.backward(torch.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]))
    assert table.grad.tolist() == [[0, 0], [2, 30], [1, 0]]


def test_weighted_mean_divides_by_the_number():
    table = torch.tensor([[1.0], [3.0]])
    nbr, weight = torch.tensor([0, 1, 1]), torch.tensor([10.0, 1.0, 5.0], requires_grad=True)
    out = ga.gather_aggregate(table, nbr, weight=weight, indptr=torch.tensor([0, 2, 3]))
    assert out.tolist() == [[6.5], [15.0]]
    out.backward(torch.tensor([[2.0], [7.0]]))
    assert weight.grad.tolist() == [1.0, 3.0, 21.0]


@pytest.mark.interpret
def test_first_of_equals_gets_the_gradient_of_a_maximum():
    table = torch.ones((3, 20), device=DEVICE, requires_grad=True)
    nbr = torch.tensor([[-1, 2, 0, 1]], device=DEVICE)
    with served_by("CUDA") if INTERPRET else threads(1):
        ga.gather_aggregate(table, nbr, reduce="max").sum().backward()
    assert table.grad.sum(1).tolist() == [0, 0, 20]


@pytest.mark.interpret
def test_maximum_of_nan_and_infinity():
    nan, inf = float("nan"), float("inf")
    table = torch.tensor([[nan], [-inf], [2.0], [inf]], device=DEVICE)
    for served in ("CUDA",) if INTERPRET else ("CompositeExplicitAutograd", None):
        with served_by(served) if served else threads(1):
            for row in ([0, 2], [2, 0], [3, 0], [0, 3]):
                assert ga.gather_aggregate(table, torch.tensor([row], device=DEVICE), reduce="max").isnan().all()
            for row, want in (([1, 1], -inf), ([1, 2], 2.0), ([3, 2], inf)):
                assert ga.gather_aggregate(table, torch.tensor([row], device=DEVICE), reduce="max").item() == want


@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
def test_padded_and_csr_agree_bitwise(reduce):
    args = make(50, 37, 60, 8, reduce)(torch.Generator().manual_seed(0))
    table, nbr, count = args["table"].to(F32), args["nbr"], args["count"]
    live = torch.arange(8) < count[:, None]
    indptr = torch.cat([torch.zeros(1, dtype=I64), count.long().cumsum(0)])
    a = ga.gather_aggregate(table, nbr, count, reduce)
    assert torch.equal(a, ga.gather_aggregate(table, nbr[live], None, reduce, indptr=indptr))


@pytest.mark.parametrize("dtype", [F64, F32, F16, BF16], ids=str)
@pytest.mark.parametrize("table_dtype", [F64, F32, F16, BF16], ids=str)
def test_every_pair_of_dtypes(table_dtype, dtype):
    args = make(30, 37, 20, 4, weight=True)(torch.Generator().manual_seed(1))
    table = args["table"].to(table_dtype).requires_grad_()
    weight = args["weight"].to(F32).requires_grad_()
    got = ga.gather_aggregate(table, args["nbr"], args["count"], weight=weight, dtype=dtype)
    assert got.dtype == dtype
    oracle, factor = table.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    want = reference(oracle, args["nbr"], args["count"], weight=factor)
    eps = max(torch.finfo(dtype).eps, 1e-6)
    torch.testing.assert_close(got.double(), want, rtol=eps, atol=eps)
    grad = torch.cos(torch.arange(got.numel(), dtype=F64)).view(got.shape).to(dtype)
    got.backward(grad)
    want.backward(grad.double())
    eps = max(torch.finfo(table_dtype).eps, 1e-6)
    torch.testing.assert_close(table.grad.double(), oracle.grad, rtol=4 * eps, atol=4 * eps)
    assert weight.grad.dtype == F32
    torch.testing.assert_close(weight.grad.double(), factor.grad, rtol=1e-5, atol=1e-5)


def test_every_half_converts_exactly():
    bits = torch.arange(2**16, dtype=I32).to(torch.int16).reshape(256, 256)
    for dtype in (F16, BF16):
        table = bits.view(dtype)
        for F in (256, 250):
            got = ga.gather_aggregate(table[:, :F], torch.arange(256)[:, None], reduce="sum", dtype=F32)
            torch.testing.assert_close(got, table[:, :F].to(F32), rtol=0, atol=0, equal_nan=True)


def test_halves_sum_in_float32():
    """4096 ones: a float16 sum would stop at 2048."""
    table = torch.ones(1, 3, dtype=F16, requires_grad=True)
    out = ga.gather_aggregate(table, torch.zeros((1, 4096), dtype=I64), reduce="sum")
    assert out.tolist() == [[4096.0] * 3]
    ga.gather_aggregate(table, torch.zeros((4096, 1), dtype=I64), reduce="sum").sum().backward()
    assert table.grad.tolist() == [[4096.0] * 3]


def test_only_wanted_gradients():
    table, nbr = torch.rand(4, 3), torch.tensor([[1, 2], [3, -1]])
    weight = torch.rand(2, 2, requires_grad=True)
    ga.gather_aggregate(table, nbr, weight=weight).sum().backward()
    assert weight.grad[1, 1] == 0
    assert table.grad is None


def test_once_differentiable():
    table = torch.rand(4, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(ga.gather_aggregate(table, torch.tensor([[1, 2]])).sum(), table, create_graph=True)
    with pytest.raises(RuntimeError, match="once differentiable"):
        grad.sum().backward()


TABLE, NBR, COUNT = torch.zeros(3, 2), torch.zeros((4, 5), dtype=I64), torch.full((4,), 5)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"table": torch.zeros(3, 2, dtype=I64)}, TypeError, "table must be float64, float32, .* got torch.int64"),
        ({"table": torch.zeros(3)}, ValueError, r"table must be \[N, F\], got \[3\]"),
        ({"nbr": torch.zeros(4, 5)}, TypeError, "nbr must be int32 or int64, got torch.float32"),
        ({"nbr": torch.zeros(4, dtype=I64)}, ValueError, r"nbr must be \[R, K\] without indptr, got \[4\]"),
        ({"count": torch.zeros(4)}, TypeError, "count must be int32 or int64, got torch.float32"),
        ({"count": torch.zeros(3, dtype=I32)}, ValueError, r"count must be \[4\] like nbr, got \[3\]"),
        ({"indptr": torch.tensor([0, 4])}, ValueError, r"nbr must be \[M\] with indptr, got \[4, 5\]"),
        ({"nbr": NBR[0], "indptr": torch.tensor([0, 5])}, ValueError, "count must be None with indptr, got a tensor"),
        (
            {"nbr": NBR[0], "count": None, "indptr": torch.tensor([0, 5]).int()},
            TypeError,
            "indptr must be int64, got torch.int32",
        ),
        ({"nbr": NBR[0], "count": None, "indptr": torch.zeros(0, dtype=I64)}, ValueError, r"indptr must be \[R \+ 1\]"),
        ({"reduce": "min"}, ValueError, "reduce must be 'sum', 'mean' or 'max', got 'min'"),
        ({"reduce": "max", "weight": torch.ones(4, 5)}, ValueError, "weight must be None with reduce='max'"),
        ({"weight": NBR}, TypeError, "weight must be float64, .* got torch.int64"),
        ({"weight": torch.ones(4, 6)}, ValueError, r"weight must be \[4, 5\] like nbr, or \[4, 5, B\], got \[4, 6\]"),
        ({"weight": torch.ones(4, 5, 2, 1)}, ValueError, r"weight must be \[4, 5\] like nbr, or \[4, 5, B\], got"),
        ({"weight": torch.ones(4)}, ValueError, "weight must be"),
        ({"table": TABLE.to(I8)}, ValueError, "scale must be given with an int8 table, got None"),
        ({"table": TABLE.to(I8), "scale": torch.ones(3, dtype=F64)}, TypeError, "scale must be float32"),
        ({"table": TABLE.to(I8), "scale": torch.ones(2)}, ValueError, r"scale must be \[3\] like table, got \[2\]"),
        ({"table": TABLE.to(I8), "scale": torch.ones(3, requires_grad=True)}, ValueError, "scale must not require"),
        ({"scale": torch.ones(3)}, ValueError, "scale must be None with a table of torch.float32"),
        ({"dtype": I64}, TypeError, "dtype must be float64, float32, float16 or bfloat16, got torch.int64"),
    ],
)
def test_errors(change, error, match):
    with pytest.raises(error, match=f"gather_aggregate: {match}"):
        ga.gather_aggregate(**{"table": TABLE, "nbr": NBR, "count": COUNT, **change})


@pytest.mark.skipif(INTERPRET or DEVICE != "cpu", reason="values are checked on CPU")
@pytest.mark.parametrize("fallback", [False, True], ids=["cpp", "fallback"])
@pytest.mark.parametrize("reduce", ["mean", "max"])
@pytest.mark.parametrize("ids_dtype", [I32, I64], ids=str)
def test_values_out_of_range(ids_dtype, reduce, fallback):
    table = torch.rand(5, 3, requires_grad=True)
    nbr = torch.arange(600, dtype=ids_dtype).remainder(5)
    with served_by("CompositeExplicitAutograd") if fallback else threads(2):
        for id in (5, 2**31 - 1):
            bad = nbr.clone()
            bad[431] = id
            match = rf"gather_aggregate: nbr must be below 5 \(rows of the table\), got {id}"
            with pytest.raises(ValueError, match=match):
                ga.gather_aggregate(table, bad.view(60, 10), reduce=reduce)
            with pytest.raises(ValueError, match=match):
                ga.gather_aggregate(table, bad, reduce=reduce, indptr=torch.tensor([0, 300, 600]))
            with pytest.raises(ValueError, match=match):
                torch.ops.gnnaccel.gather_aggregate_backward(
                    torch.rand(60, 3), table.detach(), bad.view(60, 10), None, None, None, None,
                    torch.zeros((60, 3) if reduce == "max" else 0, dtype=I32), REDUCE[reduce], True, False,
                )  # fmt: skip
        for wrong in (-1, 11):
            count = torch.full((60,), 10)
            count[7] = wrong
            with pytest.raises(ValueError, match=rf"gather_aggregate: count must be in \[0, 10\], got {wrong}"):
                ga.gather_aggregate(table, nbr.view(60, 10), count, reduce)
        for indptr in ([0, 599], [1, 600], [0, 601], [600]):
            with pytest.raises(ValueError, match="indptr must begin with 0 and end with 600"):
                ga.gather_aggregate(table, nbr, reduce=reduce, indptr=torch.tensor(indptr))
        for indptr in ([0, 300, 200, 600], [0, -5, 600], [0, 700, 600]):
            with pytest.raises(ValueError, match="indptr must not decrease"):
                ga.gather_aggregate(table, nbr, reduce=reduce, indptr=torch.tensor(indptr))
