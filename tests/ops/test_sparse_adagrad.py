from contextlib import nullcontext

import pytest
import torch

import gnnaccel as ga
from gnnaccel.baselines.reference.relu_norm import philox4x32
from gnnaccel.baselines.reference.sparse_adagrad import sparse_adagrad_ as reference
from gnnaccel.ops._sparse_rows import accumulate_type
from gnnaccel.ops.sparse_adagrad import MODES
from tests.harness import BF16, DEVICE, F16, F32, F64, INTERPRET, Case, check_op, served_by, threads


def make(n, D, sizes, mode="row", id_dtype=torch.int64, strided=False, hub=0, **options):
    """`sizes`: entries of each list. The state is not zero and exact in float32."""

    def build(gen):
        m = sum(sizes)
        ids = torch.randint(n, (m,), generator=gen)
        ids[:hub] = n // 2
        grad = torch.randn(D, m, generator=gen, dtype=F64).T
        state = torch.rand((n, D) if mode == "full" else (n,), generator=gen).double()
        return {
            "table": torch.randn(n, D, generator=gen, dtype=F64),
            "state": state,
            "ids": ids.to(id_dtype),
            "grad": grad if strided else grad.contiguous(),
            "sizes": sizes,
            "lr": 0.1,
            "mode": mode,
            **options,
        }

    return build


def lists(args):
    return args["ids"].split(args["sizes"]), args["grad"].split(args["sizes"])


def on_copies(op):
    def call(*, table, state, sizes, ids, grad, **rest):
        table, state = table.clone(), state.to(accumulate_type(table.dtype), copy=True)
        op(table, state, list(ids.split(sizes)), list(grad.split(sizes)), **rest)
        return table, state

    return call


def positional(args):
    ids, grad = lists(args)
    state = args["state"].to(accumulate_type(args["table"].dtype), copy=True)
    numbers = (args.get("eps", 1e-10), args.get("regularization", 0.0), args.get("norm", 3), args.get("seed"))
    return (args["table"].clone(), state, list(ids), list(grad), args["lr"], MODES.index(args["mode"]), *numbers)


CASES = [
    Case("nothing", make(3, 2, [0])),
    Case("no_columns", make(3, 0, [2])),
    Case("one", make(1, 1, [1])),
    Case("stochastic", make(11, 9, [7, 5], seed=(3 << 40) - 1)),
] + [
    case
    for mode in MODES
    for case in (
        Case(f"{mode}_odd", make(7, 5, [4, 0, 9], mode, torch.int32)),
        Case(f"{mode}_hub", make(9, 17, [20, 11], mode, hub=19, regularization=0.01)),
        Case(f"{mode}_strided", make(5, 6, [8], mode, strided=True, regularization=0.1, norm=1, eps=1e-3)),
        Case(f"{mode}_batch", make(300, 130, [256, 200, 100], mode, regularization=1e-2, norm=2), small=False),
    )
]

TestSparseAdagrad = check_op(
    op=on_copies(ga.sparse_adagrad_),
    reference=on_copies(reference),
    cases=CASES,
    schemas=["sparse_adagrad_"],
    cast=["table", "grad"],
    length=lambda args: 32,
    overload_args=positional,
)


def tensors(*values, dtype=F32):
    return [torch.tensor(v, dtype=dtype, device=DEVICE) for v in values]


@pytest.fixture(autouse=True)
def _interpreted():
    with served_by("CUDA") if INTERPRET else nullcontext():
        yield


def by_hand(mode, state, *lists):
    """Row 1 of three, twice, with gradients (3, 1) and (1, -1); lr 1, eps too small to matter."""
    table = torch.zeros(3, 2, device=DEVICE)
    ids, grad = tensors([1], [1], dtype=torch.int64), tensors([[3.0, 1.0]], [[1.0, -1.0]])
    if "together" in lists:
        ids, grad = torch.cat(ids), torch.cat(grad)
    assert ga.sparse_adagrad_(table, state, ids, grad, 1.0, mode) is table
    assert table[[0, 2]].abs().sum() == 0
    return table[1]


@pytest.mark.interpret
def test_by_hand():
    (state,) = tensors([0.0, 1.0, 0.0])
    # (4, 0): mean square 8
    torch.testing.assert_close(by_hand("row", state), torch.tensor([-4 / 3, 0.0], device=DEVICE))
    assert state.tolist() == [0, 9, 0]

    (state,) = tensors([[0.0, 0.0], [9.0, 4.0], [0.0, 0.0]])
    torch.testing.assert_close(by_hand("full", state), torch.tensor([-4 / 5, 0.0], device=DEVICE))
    assert state.tolist() == [[0, 0], [25, 4], [0, 0]]

    # one trace: mean squares 5 and 1, and both move by the final state 9
    (state,) = tensors([0.0, 3.0, 0.0])
    torch.testing.assert_close(by_hand("row_dup", state, "together"), torch.tensor([-4 / 3, 0.0], device=DEVICE))
    assert state.tolist() == [0, 9, 0]

    # two traces: the first moves by state 8, the second by 9
    (state,) = tensors([0.0, 3.0, 0.0])
    want = torch.tensor([-3 / 8**0.5 - 1 / 3, -1 / 8**0.5 + 1 / 3], device=DEVICE)
    torch.testing.assert_close(by_hand("row_dup", state), want)
    assert state.tolist() == [0, 9, 0]


@pytest.mark.interpret
@pytest.mark.parametrize("mode", MODES)
def test_penalty_by_hand(mode):
    """w = -2, c = 0.5, norm 3: each of two occurrences adds 0.5 * 3 * 4 * -1 = -6 to its gradient."""
    table, state = tensors([[-2.0]], [[0.0]] if mode == "full" else [0.0])
    ids, grad = tensors([0, 0], dtype=torch.int64)[0], tensors([[2.0], [3.0]])[0]
    ga.sparse_adagrad_(table, state, ids, grad, 1.0, mode, regularization=0.5)
    square = 4.0**2 + 3.0**2 if mode == "row_dup" else 7.0**2
    torch.testing.assert_close(state.item(), square)
    torch.testing.assert_close(table.item(), -2 + 7 / square**0.5)


@torch.sparse.check_sparse_tensor_invariants(True)
def test_full_is_torchs_adagrad_on_sparse_gradients():
    gen = torch.Generator().manual_seed(0)
    weight = torch.randn(20, 6, generator=gen)
    table, state = weight.clone(), torch.zeros(20, 6)
    parameter = torch.nn.Parameter(weight)
    optimiser = torch.optim.Adagrad([parameter], lr=0.1)
    for _ in range(3):
        ids, grad = torch.randint(20, (12,), generator=gen), torch.randn(12, 6, generator=gen)
        parameter.grad = torch.sparse_coo_tensor(ids[None], grad, (20, 6))
        optimiser.step()
        ga.sparse_adagrad_(table, state, ids, grad, 0.1, "full")
    torch.testing.assert_close(table, parameter.detach())


def test_lists_are_one_list_unless_they_are_traces():
    args = make(20, 7, [15, 0, 20])(torch.Generator().manual_seed(1))
    ids, grad = lists(args)
    for mode in MODES:
        results = []
        for given in ((args["ids"], args["grad"]), (list(ids), list(grad))):
            table, state = args["table"].clone(), torch.zeros(20, 7) if mode == "full" else torch.zeros(20)
            ga.sparse_adagrad_(table, state.double(), *given, 0.1, mode)
            results.append(table)
        assert torch.equal(*results) == (mode != "row_dup")


@pytest.mark.interpret
def test_gradients_may_be_float32_and_lie_anywhere():
    gen = torch.Generator().manual_seed(2)
    wide, ids = torch.randn(6, 9, generator=gen).to(DEVICE), torch.tensor([0, 3, 3, 1, 2, 0], device=DEVICE)
    alike = torch.randn(1, 5, generator=gen).to(DEVICE).expand(6, 5)
    for dtype in (BF16, F16, F32):
        for grad in (wide[:, 2:7], alike):
            table = torch.randn(4, 5, generator=gen).to(DEVICE, dtype)
            want, s = table.double(), torch.zeros(4, dtype=F64)
            state = torch.zeros(4, device=DEVICE)
            reference(want.cpu(), s, [ids.cpu()], [grad.cpu()], 0.1)
            ga.sparse_adagrad_(table, state, ids, grad, 0.1)
            torch.testing.assert_close(state.cpu(), s.float(), rtol=1e-5, atol=0)


def words(rows, D, seed):
    key = (seed % 2**32, seed // 2**32 % 2**32)
    return [[philox4x32((r % 2**32, j // 4, r // 2**32, 0x726F756E), key)[j % 4] for j in range(D)] for r in rows]


@pytest.mark.interpret
@pytest.mark.parametrize("dtype", [BF16, F16])
def test_stochastic_rounding_bit_by_bit(dtype):
    """Every gradient is 1, so that a row moves by lr in all columns; the fraction that is cut off meets the word."""
    D, seed, lr = 70, -7, 2.0**-13 + 2.0**-20
    ids = torch.tensor([5, 2], device=DEVICE)
    start = torch.linspace(-1, 1, D).to(dtype)
    start[:8] = torch.tensor([0.0, 2.0**-15, 2.0**-24, -(2.0**-16), 3.0, 100.0, -0.5, 2.0**-14])
    table = start.repeat(6, 1).to(DEVICE)
    state = torch.zeros(6, device=DEVICE)
    ga.sparse_adagrad_(table, state, ids, torch.ones(2, D, device=DEVICE), lr, seed=seed)
    assert torch.equal(table[0].cpu(), start)
    exact = start.float() - torch.tensor(lr)
    mantissa = 2.0**-7 if dtype == BF16 else 2.0**-10
    for row, drawn in zip((5, 2), words((5, 2), D, seed), strict=True):
        for x, word, got in zip(exact.tolist(), drawn, table[row].tolist(), strict=True):
            unit = mantissa * 2.0 ** (torch.frexp(torch.tensor(x)).exponent.item() - 1)
            unit = max(unit, 2.0**-24) if dtype == F16 else unit
            bits = 16 if dtype == BF16 else 13
            share = (word >> (32 - bits)) / 2**bits
            want = (abs(x) / unit + share) // 1 * unit
            assert abs(got) == want


def test_stochastic_rounding_keeps_the_mean_and_nearest_does_not():
    lr, steps = 2.0**-12, 64
    drift = {}
    for seeded in (False, True):
        table, state = torch.ones(1, 4096, dtype=BF16), torch.zeros(1)
        for step in range(steps):
            ga.sparse_adagrad_(
                table, state.zero_(), torch.tensor([0]), torch.ones(1, 4096), lr, seed=step if seeded else None
            )
        drift[seeded] = 1 - table.float().mean().item()
    assert drift[False] == 0
    assert abs(drift[True] / (lr * steps) - 1) < 0.1


@pytest.mark.interpret
def test_values_that_are_exact_or_not_finite_are_not_rounded():
    values = torch.tensor([[1.0, -3.0, 0.0, 2.0**-24, float("inf"), float("nan"), 65504.0]]).to(DEVICE)
    for dtype in (F16, BF16):
        table = values.to(dtype)
        before = table.clone()
        ga.sparse_adagrad_(
            table,
            torch.zeros(1, device=DEVICE),
            torch.tensor([0], device=DEVICE),
            torch.zeros_like(values),
            0.1,
            seed=4,
        )
        assert torch.equal(torch.nan_to_num(table, 7), torch.nan_to_num(before, 7))


@pytest.mark.interpret
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of NumPy, in the interpreter
def test_gradients_that_are_not_finite_reach_their_rows_only():
    table, state = torch.ones(3, 2, device=DEVICE), torch.zeros(3, device=DEVICE)
    grad = torch.tensor([[float("nan"), 1.0], [float("inf"), 1.0], [1.0, 1.0]], device=DEVICE)
    ga.sparse_adagrad_(table, state, torch.arange(3, device=DEVICE), grad, 0.1)
    assert state.isnan().tolist() == [True, False, False]
    assert state[1].isinf()
    assert table[0].isnan().all()
    torch.testing.assert_close(table[2], torch.full((2,), 0.9, device=DEVICE))


def test_a_big_table_of_which_little_is_read():
    """More rows than the table of ids keeps, most of them never touched by memory."""
    n = 5_000_000
    table, state = torch.zeros(n, 2), torch.zeros(n)
    ids = torch.tensor([n - 1, 0, 4_194_304, 0])
    ga.sparse_adagrad_(table, state, ids, torch.ones(4, 2), 1.0)
    assert state.nonzero().flatten().tolist() == [0, 4_194_304, n - 1]
    assert state[0] == 4


def test_any_number_of_threads_gives_the_same_bits_with_a_hub():
    args = make(50, 200, [3000, 1000], hub=2500)(torch.Generator().manual_seed(3))
    for mode in MODES:
        results = []
        for n in (1, 2, 3):
            with threads(n):
                table, state = args["table"].float(), torch.zeros(50, 200) if mode == "full" else torch.zeros(50)
                ids, grad = lists(args)
                ga.sparse_adagrad_(table, state, ids, [g.float() for g in grad], 0.1, mode, regularization=1e-3)
                results.append((table, state))
        for table, state in results[1:]:
            assert torch.equal(table, results[0][0])
            assert torch.equal(state, results[0][1])


def test_autograd_knows_that_the_table_changed():
    table = torch.ones(3, 2, requires_grad=True)
    loss = (table**2).sum()
    ga.sparse_adagrad_(table, torch.zeros(3), torch.tensor([1]), torch.ones(1, 2, requires_grad=True), 0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.skipif(DEVICE != "cpu", reason="CUDA does not check ids")
@pytest.mark.parametrize("bad", [-1, 4, 1 << 40])
@pytest.mark.parametrize("fallback", [False, True])
def test_ids_out_of_range_change_nothing(bad, fallback):
    table, state = torch.ones(4, 3), torch.ones(4)
    ids = [torch.tensor([0, 1]), torch.tensor([2, bad])]
    with served_by("CompositeExplicitAutograd") if fallback else nullcontext():
        with pytest.raises(ValueError, match=rf"sparse_adagrad_: ids must be in \[0, 4\) \(rows of table\), got {bad}"):
            ga.sparse_adagrad_(table, state, ids, [torch.ones(2, 3)] * 2, 0.1)
    assert (table == 1).all()
    assert (state == 1).all()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"table": torch.zeros(4, 3, dtype=torch.int64)}, TypeError, "table must be float64, float32, float16 or"),
        ({"table": torch.zeros(4)}, ValueError, r"table must be \[n, D\], got \[4\]"),
        ({"table": torch.zeros(3, 4).T}, ValueError, "table must be contiguous"),
        ({"state": torch.zeros(4).double()}, TypeError, "state must be torch.float32 for a table of torch.float32"),
        ({"state": torch.zeros(4, 3)}, ValueError, r"state must be \[4\], got \[4, 3\]"),
        ({"mode": "full"}, ValueError, r"state must be \[4, 3\], got \[4\]"),
        ({"mode": "rows"}, ValueError, "mode must be one of row, row_dup, full, got 'rows'"),
        ({"ids": torch.zeros(2)}, TypeError, "ids must be int64 or int32, got torch.float32"),
        ({"ids": torch.zeros(2, 1, dtype=torch.int64)}, ValueError, r"ids must be \[n\], got \[2, 1\]"),
        ({"ids": [torch.zeros(2, dtype=torch.int64)]}, TypeError, "ids and grad must be two tensors or two lists"),
        ({"ids": [], "grad": [torch.zeros(2, 3)]}, ValueError, "ids and grad must be equally long lists, got 0 and 1"),
        ({"grad": torch.zeros(2, 4)}, ValueError, r"grad must be \[2, 3\], got \[2, 4\]"),
        ({"grad": torch.zeros(2, 3).half()}, TypeError, "grad must be all torch.float32, got torch.float16"),
        ({"lr": float("nan")}, ValueError, "lr must be at least 0, got nan"),
        ({"eps": 0.0}, ValueError, "eps must be positive, got 0.0"),
        ({"regularization": -1.0}, ValueError, "regularization must be at least 0, got -1.0"),
        ({"norm": 0}, ValueError, "norm must be an integer of at least 1, got 0"),
    ],
)
def test_bad_arguments(changes, error, message):
    args = {
        "table": torch.zeros(4, 3),
        "state": torch.zeros(4),
        "ids": torch.tensor([0, 1]),
        "grad": torch.zeros(2, 3),
        "lr": 0.1,
    }
    with pytest.raises(error, match=f"sparse_adagrad_: {message}"):
        ga.sparse_adagrad_(**{**args, **changes})


@pytest.mark.interpret
@pytest.mark.parametrize("mode", ["row", "row_dup"])
def test_empty_lists(mode):
    table, state = torch.ones(2, 2, device=DEVICE), torch.zeros(2, device=DEVICE)
    nothing = torch.empty(0, dtype=torch.int64, device=DEVICE), torch.empty(0, 2, device=DEVICE)
    ga.sparse_adagrad_(table, state, [], [], 0.1, mode)
    ga.sparse_adagrad_(table, state, *([x, x] for x in nothing), 0.1, mode)
    assert (table == 1).all()
