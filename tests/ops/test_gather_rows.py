import pytest
import torch

import gnnaccel as ga
from gnnaccel.baselines.reference.gather_rows import gather_rows as reference
from tests.harness import BF16, DEVICE, F16, F32, F64, INTERPRET, Case, check_op, served_by, threads

I32, I64, I8 = torch.int32, torch.int64, torch.int8


def make(rows, F, shape, ids_dtype=I64, padded=0.0, strided=False, columns=None, dtype=None):
    def build(gen):
        table = torch.rand((rows, columns or F), generator=gen, dtype=F64) - 0.5
        ids = torch.randint(0, max(rows, 1), shape, generator=gen)
        ids = ids.masked_fill(torch.rand(shape, generator=gen) < padded, -1).to(ids_dtype)
        if strided:
            table, ids = table.T.contiguous().T, ids.T
        return {"table": table[:, :F], "ids": ids, "dtype": dtype}

    return build


CASES = [
    Case("no_ids", make(3, 4, (0,))),
    Case("no_rows", make(0, 4, (3,), padded=2.0)),
    Case("no_columns", make(3, 0, (2, 2))),
    Case("scalar", make(3, 4, ())),
    Case("one", make(1, 1, (1,))),
    Case("all_padded", make(5, 3, (2, 3), padded=2.0)),
    Case("hub", make(1, 3, (41,))),
    Case("odd", make(5, 7, (3, 5), padded=0.3)),
    Case("odd_int32", make(5, 7, (3, 5), I32, padded=0.3)),
    Case("strided", make(6, 5, (3, 4), padded=0.2, strided=True)),
    Case("some_columns", make(6, 3, (9,), columns=8)),
    Case("untouched_rows", make(40, 3, (5,))),
    Case("several_blocks", make(30, 19, (70,), padded=0.1)),
    Case("hubs_across_windows", make(5, 33, (1031,), padded=0.1), small=False),
    Case("wide", make(60, 600, (30, 7), padded=0.1), small=False),
    Case("many", make(200, 100, (400, 3), padded=0.3), small=False),
]


def overload_args(args):
    table = args["table"]
    return table, args["ids"], args.get("scale"), args.get("dtype") or (F32 if table.dtype == I8 else table.dtype), True


TestGatherRows = check_op(
    op=ga.gather_rows,
    reference=reference,
    cases=CASES,
    schemas=["gather_rows", "gather_rows_backward"],
    cast=["table"],
    grad=["table"],
    length=lambda args: max(args["ids"].numel(), 1),
    overload_args=overload_args,
)


def make_int8(rows, F, shape, dtype=None, ids_dtype=I64, padded=0.0):
    def build(gen):
        # steps are powers of two where the output is rounded again, so that rounding once and twice agree
        scale = torch.rand(rows, generator=gen) if dtype in (None, F32) else 2.0 ** -torch.arange(rows).remainder(5)
        return {
            "table": torch.randint(-127, 128, (rows, F), generator=gen, dtype=I8),
            "ids": make(rows, F, shape, ids_dtype, padded)(gen)["ids"],
            "scale": scale.to(F32),
            "dtype": dtype,
        }

    return build


TestGatherRowsInt8 = check_op(
    op=ga.gather_rows,
    reference=reference,
    cases=[
        Case("no_ids", make_int8(3, 4, (0,))),
        Case("all_padded", make_int8(3, 4, (3,), padded=2.0)),
        Case("odd", make_int8(5, 7, (3, 5), padded=0.3)),
        Case("odd_int32", make_int8(5, 7, (3, 5), ids_dtype=I32, padded=0.3)),
        Case("to_float64", make_int8(5, 7, (9,), dtype=F64)),
        Case("to_float16", make_int8(5, 7, (9,), dtype=F16)),
        Case("to_bfloat16", make_int8(5, 7, (9,), dtype=BF16)),
        Case("many", make_int8(500, 172, (1800,), padded=0.1), small=False),
    ],
    schemas=["gather_rows", "gather_rows_backward"],
    dtypes=(F32,),
    overload_args=overload_args,
)


def test_by_hand():
    table = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], requires_grad=True)
    out = ga.gather_rows(table, torch.tensor([2, -1, 0, 2]))
    assert out.tolist() == [[5, 6], [0, 0], [1, 2], [5, 6]]
    out.backward(torch.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0], [8.0, 80.0]]))
    assert table.grad.tolist() == [[4, 40], [0, 0], [9, 90]]


def test_int8_by_hand():
    table, scale = torch.tensor([[127, -127], [2, 0]], dtype=I8), torch.tensor([0.5, 0.25])
    out = ga.gather_rows(table, torch.tensor([1, 0]), scale)
    assert out.dtype == F32
    assert out.tolist() == [[0.5, 0.0], [63.5, -63.5]]


@pytest.mark.parametrize("dtype", [F64, F32, F16, BF16], ids=str)
@pytest.mark.parametrize("table_dtype", [F64, F32, F16, BF16], ids=str)
def test_converts_as_torch_does(table_dtype, dtype):
    """Every pair of dtypes, values over the whole range, forward and gradient."""
    gen = torch.Generator().manual_seed(3)
    table = torch.randn(50, 33, generator=gen, dtype=F64) * 10.0 ** torch.randint(-9, 6, (50, 33), generator=gen)
    table = table.to(table_dtype).requires_grad_()
    ids = torch.randperm(50, generator=gen)
    got = ga.gather_rows(table, ids, dtype=dtype)
    assert got.dtype == dtype
    assert torch.equal(got, table.detach().to(dtype)[ids])
    grad = torch.randn(50, 33, generator=gen, dtype=F64).to(dtype)
    got.backward(grad)
    assert torch.equal(table.grad[ids], grad.to(table_dtype))


def test_every_half_converts_exactly():
    bits = torch.arange(2**16, dtype=I32).to(torch.int16).reshape(256, 256)
    for dtype in (F16, BF16):
        table = bits.view(dtype)
        got = ga.gather_rows(table, torch.arange(256), dtype=F32)
        torch.testing.assert_close(got, table.to(F32), rtol=0, atol=0, equal_nan=True)
        # and back, through every value that float32 rounds from between two neighbours
        for nudge in (-1, 0, 1):
            middle = (got.view(I32) + ((1 << (12 if dtype == F16 else 15)) + nudge)).view(F32)
            back = ga.gather_rows(middle, torch.arange(256), dtype=dtype)
            torch.testing.assert_close(back, middle.to(dtype), rtol=0, atol=0, equal_nan=True)


def test_halves_sum_in_float32():
    """4096 ones and one hub: a float16 sum would stop at 2048."""
    table = torch.zeros(2, 1, dtype=F16, requires_grad=True)
    ga.gather_rows(table, torch.zeros(4096, dtype=I64)).sum().backward()
    assert table.grad.tolist() == [[4096.0], [0.0]]


def test_double_backward():
    table = torch.rand(5, 3, dtype=F64, requires_grad=True)
    ids = torch.tensor([4, 0, -1, 4])
    assert torch.autograd.gradgradcheck(lambda x: ga.gather_rows(x, ids) ** 3, table)


@pytest.mark.interpret
def test_atomic_gradient_agrees():
    """deterministic=False may sum in any order."""
    args = CASES[-4].make(torch.Generator().manual_seed(0))
    table = args["table"].to(DEVICE).requires_grad_()
    grads = []
    key = "CUDA" if INTERPRET else "CompositeExplicitAutograd"
    for deterministic in (True, False):
        if INTERPRET or DEVICE == "cpu":
            with served_by(key):
                out = ga.gather_rows(table, args["ids"], deterministic=deterministic)
                grads += torch.autograd.grad(out.sin().sum(), table)
        else:
            out = ga.gather_rows(table, args["ids"].to(DEVICE), deterministic=deterministic)
            grads += torch.autograd.grad(out.sin().sum(), table)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-12, atol=1e-12)


def test_gradient_of_one_window_many_windows_and_threads():
    """Sums whose groups start, end and run over task borders at every offset."""
    gen = torch.Generator().manual_seed(0)
    for n in (1, 63, 64, 65, 127, 128, 129, 200, 640):
        for rows in (1, 2, 3, 7, 100):
            ids = torch.randint(-1, rows, (n,), generator=gen)
            grad = torch.randint(-8, 9, (n, 5), generator=gen).to(F32)
            want = torch.zeros(rows, 5).index_add_(0, ids[ids >= 0], grad[ids >= 0])
            for count in (1, 2):
                with threads(count):
                    table = torch.zeros(rows, 5, requires_grad=True)
                    (got,) = torch.autograd.grad(ga.gather_rows(table, ids), table, grad)
                assert torch.equal(got, want)


def test_output_is_where_the_ids_are():
    """Shapes only: a table in host memory, ids on a GPU."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        out = ga.gather_rows(torch.empty(5, 3), torch.empty(4, dtype=I64, device="cuda"))
        assert (out.device.type, list(out.shape)) == ("cuda", [4, 3])
        with pytest.raises(ValueError, match="table must be on cuda:0 like ids to get a gradient, got cpu"):
            ga.gather_rows(torch.empty(5, 3, requires_grad=True), torch.empty(4, dtype=I64, device="cuda"))


@pytest.mark.gpu
def test_pinned_table():
    table, ids = torch.rand(1000, 100).pin_memory(), torch.randint(0, 1000, (300,))
    assert torch.equal(ga.gather_rows(table, ids.cuda()).cpu(), table[ids])
    with pytest.raises(ValueError, match="table must be on cuda:0 like ids, or pinned, got cpu"):
        ga.gather_rows(torch.rand(5, 3), ids.cuda())
    with pytest.raises(ValueError, match="table must be on cpu like ids, or pinned, got cuda:0"):
        ga.gather_rows(table.cuda(), ids)


LARGE = [  # outputs past every cache (64 MiB and less), which are written another way
    ("lines", F32, F32, 128, 70_001),
    ("across_lines", F32, F32, 33, 260_003),
    ("odd_bytes", F16, F16, 37, 500_009),
    ("int8", I8, F32, 100, 90_001),
    ("double", F64, F64, 7, 600_011),
    ("wide_rows", F32, F32, 2100, 4_001),
]


@pytest.mark.parametrize(("table_dtype", "dtype", "F", "n"), [c[1:] for c in LARGE], ids=[c[0] for c in LARGE])
def test_large_outputs(table_dtype, dtype, F, n):
    gen = torch.Generator().manual_seed(0)
    table = torch.randint(-127, 128, (301, F), generator=gen).to(table_dtype).to(DEVICE)
    scale = 2.0 ** -torch.arange(301, device=DEVICE).remainder(5).float() if table_dtype == I8 else None
    ids = torch.randint(-1, 301, (n,), generator=gen).to(DEVICE)
    rows = table.to(dtype) if scale is None else table.to(dtype) * scale.unsqueeze(1)
    padded = torch.cat([rows, rows.new_zeros(1, F)])
    want = padded.index_select(0, ids.remainder(302))
    for count in (1, 2):
        with threads(count):
            assert torch.equal(ga.gather_rows(table, ids, scale), want)
    # a buffer whose rows do not start on a cache line
    buffer = torch.empty(n + 1, F, dtype=dtype, device=DEVICE)
    assert torch.equal(ga.gather_rows(table, ids, scale, out=buffer[1:]), want)


@pytest.mark.interpret
@pytest.mark.parametrize("dtype", [None, F32])
def test_out_is_written_and_returned(dtype):
    device = DEVICE
    table, ids = torch.rand(9, 5).to(device), torch.tensor([[3, -1], [8, 3]]).to(device)
    for rows, scale in ((table, None), (table.half(), None), ga.quantize_rows(table)):
        want = ga.gather_rows(rows, ids, scale, dtype=F32)
        buffer = torch.full((3, 2, 5), 7.0, device=device)
        got = ga.gather_rows(rows, ids, scale, dtype=dtype, out=buffer[:2])
        assert got.data_ptr() == buffer.data_ptr() and torch.equal(buffer[:2], want)
        assert bool((buffer[2] == 7).all())
    # where no gradient is recorded, a parameter may be read
    table.requires_grad_()
    with torch.no_grad():
        ga.gather_rows(table, ids, out=buffer[:2])


def test_out_in_the_compiler():
    table, ids, buffer = torch.rand(9, 5), torch.tensor([3, -1, 8]), torch.empty(3, 5)
    torch.library.opcheck(torch.ops.gnnaccel.gather_rows_out.default, (buffer, table, ids, None))
    composite = torch.empty(3, 5)
    with served_by("CompositeExplicitAutograd"):
        ga.gather_rows(table, ids, out=composite)
    assert torch.equal(composite, ga.gather_rows(table, ids))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"out": torch.zeros(2, 2)}, ValueError, r"out must be \[3, 2\], contiguous, got \[2, 2\]"),
        ({"out": torch.zeros(2, 3).T}, ValueError, r"out must be \[3, 2\], contiguous, got \[3, 2\] not contiguous"),
        ({"out": torch.zeros(3, 2, dtype=I32)}, TypeError, "out must be float64, .* got torch.int32"),
        ({"dtype": F64}, TypeError, "out must be torch.float64 as dtype says, got torch.float32"),
        ({"out": torch.zeros(3, 2, requires_grad=True)}, ValueError, "out must be None where a gradient is wanted"),
        ({"table": torch.zeros(4, 2, requires_grad=True)}, ValueError, "out must be None where a gradient is wanted"),
        ({"out": torch.zeros(3, 2, device="meta")}, ValueError, "out must be on cpu like ids, got meta"),
    ],
)
def test_out_errors(change, error, match):
    args = {"table": torch.zeros(4, 2), "ids": torch.arange(3), "out": torch.zeros(3, 2), **change}
    with pytest.raises(error, match=f"gather_rows: {match}"):
        ga.gather_rows(**args)


@pytest.mark.parametrize("id", [5, 2**31 - 1])
def test_id_past_the_table(id):
    table = torch.rand(5, 3)
    for dtype in (I32, I64):
        ids = torch.arange(600).remainder(5).to(dtype)
        ids[431] = id
        with pytest.raises(ValueError, match=rf"gather_rows: ids must be below 5 \(rows of table\), got {id}"):
            ga.gather_rows(table, ids)
        with pytest.raises(ValueError, match="ids must be below 5"):
            torch.ops.gnnaccel.gather_rows_backward(torch.rand(600, 3), ids, 5, F32, True)


def test_quantize_rows():
    gen = torch.Generator().manual_seed(0)
    table = torch.randn(1000, 33, generator=gen) * 10.0 ** torch.randint(-20, 20, (1000, 1), generator=gen)
    table[7] = 0
    rows, scale = ga.quantize_rows(table, chunk=300)
    assert rows.dtype == I8
    assert scale.dtype == F32
    assert rows.abs().amax(1).tolist() == [0 if i == 7 else 127 for i in range(1000)]
    error = (ga.gather_rows(rows, torch.arange(1000), scale) - table).abs()
    assert (error <= scale[:, None] * 0.5001).all()
    again, _ = ga.quantize_rows(table)
    assert torch.equal(rows, again)


@pytest.mark.parametrize("dtype", [F64, F16, BF16], ids=str)
def test_quantize_rows_of_other_dtypes(dtype):
    table = torch.tensor([[1.0, -2.0], [0.0, 0.0], [5e-8, 0.0]], dtype=dtype)
    rows, scale = ga.quantize_rows(table)
    torch.testing.assert_close(
        rows.double() * scale[:, None].double(), table.double(), rtol=0, atol=float(scale.max()) / 2
    )
    assert rows[1].tolist() == [0, 0]


def test_quantize_rows_of_nothing():
    assert [list(x.shape) for x in ga.quantize_rows(torch.zeros(0, 3))] == [[0, 3], [0]]
    assert [list(x.shape) for x in ga.quantize_rows(torch.zeros(3, 0))] == [[3, 0], [3]]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"table": torch.zeros(3, 2, dtype=I64)}, TypeError, "table must be float64, float32, .* got torch.int64"),
        ({"table": torch.zeros(3)}, ValueError, r"table must be \[N, F\], got \[3\]"),
        ({"ids": torch.zeros(2)}, TypeError, "ids must be int32 or int64, got torch.float32"),
        ({"scale": None}, ValueError, "scale must be given with an int8 table, got None"),
        ({"scale": torch.ones(3, dtype=F64)}, TypeError, "scale must be float32, got torch.float64"),
        ({"scale": torch.ones(2)}, ValueError, r"scale must be \[3\] like table, got \[2\]"),
        ({"scale": torch.ones(3, requires_grad=True)}, ValueError, "scale must not require grad"),
        ({"table": torch.zeros(3, 2)}, ValueError, "scale must be None with a table of torch.float32"),
        ({"dtype": I64}, TypeError, "dtype must be float64, float32, float16 or bfloat16, got torch.int64"),
    ],
)
def test_errors(change, error, match):
    args = {"table": torch.zeros(3, 2, dtype=I8), "ids": torch.arange(2), "scale": torch.ones(3), **change}
    with pytest.raises(error, match=f"gather_rows: {match}"):
        ga.gather_rows(**args)


@pytest.mark.parametrize(
    ("args", "error", "match"),
    [
        ((torch.zeros(3, 2, dtype=I8),), TypeError, "table must be floating, got torch.int8"),
        ((torch.zeros(3),), ValueError, r"table must be \[N, F\], got \[3\]"),
        ((torch.zeros(3, 2), 0), ValueError, "chunk must be at least 1, got 0"),
        ((torch.tensor([[0.0], [float("nan")]]), 1), ValueError, "table must be finite in float32, got row 1"),
    ],
)
def test_quantize_rows_errors(args, error, match):
    with pytest.raises(error, match=f"quantize_rows: {match}"):
        ga.quantize_rows(*args)
