from contextlib import nullcontext

import pytest
import torch

from gnnaccel.baselines.reference.commit_events import commit_events as reference
from gnnaccel.ops._commit_events import commit_events
from tests.harness import DEVICE, INTERPRET, Case, check_op, served_by

I32, I64, F64 = torch.int32, torch.int64, torch.float64


def GEN():
    return torch.Generator().manual_seed(5)


TABLES = ("memory", "last_update", "mail", "mail_time", "has_mail")


def make(B, N, D, De, times=5, id_dtype=I64, row_dtype=I64, time_dtype=I64, feature_dtype=None):
    """Times and event ids from short ranges, so that there are ties; with B > N / 2 nodes come again."""

    def build(gen):
        def draw(low, high, *shape):
            return torch.randint(low, high, shape, generator=gen)

        ends = draw(0, N, 2 * B)
        nodes, row = ends.unique(return_inverse=True)
        U, E = len(nodes), 2 * B + 1
        t = draw(-times, times, B)
        features = torch.randn(E, De, generator=gen, dtype=F64) if De else None
        return {
            "memory": torch.randn(N, D, generator=gen, dtype=F64),
            "last_update": draw(-99, 0, N).to(time_dtype),
            "mail": torch.randn(N, 2 * D + De, generator=gen, dtype=F64),
            "mail_time": draw(-99, 0, N).to(time_dtype),
            "has_mail": torch.rand(N, generator=gen) < 0.5,
            "ends": ends.to(id_dtype),
            "times": t.repeat(2).to(time_dtype),
            "row": row.to(row_dtype),
            "rows_memory": torch.randn(U, D, generator=gen, dtype=F64),
            "rows_time": draw(-9, 9, U).to(time_dtype),
            "event_ids": draw(0, E, B),
            "edge_feat": features if feature_dtype is None or features is None else features.to(feature_dtype),
        }

    return build


def on_copies(op):
    def call(**args):
        tables = {name: args[name].clone() for name in TABLES}
        op(**{**args, **tables})
        return tuple(tables.values())

    return call


CAST = ("memory", "mail", "rows_memory")
CASES = [
    Case("empty", make(0, 3, 2, 1)),
    Case("one", make(1, 2, 1, 0)),
    Case("self_loops", make(5, 1, 2, 3)),
    Case("odd", make(7, 9, 3, 5)),
    Case("no_features", make(7, 9, 3, 0)),
    Case("no_memory", make(3, 4, 0, 2)),
    Case("float_times_int32", make(11, 6, 4, 2, id_dtype=I32, row_dtype=I32, time_dtype=F64)),
    Case("half_features", make(6, 7, 3, 17, feature_dtype=torch.float16)),
    Case("float_features", make(6, 7, 3, 4, feature_dtype=torch.float32)),
    Case("batch", make(600, 500, 33, 20, times=10**9), small=False),
]

TestCommitEvents = check_op(
    op=on_copies(commit_events),
    reference=on_copies(reference),
    cases=CASES,
    schemas=["commit_events"],
    cast=CAST,
)


def tables(**changes):
    args = make(4, 6, 2, 3)(torch.Generator().manual_seed(0))
    return {k: v.to(DEVICE) for k, v in {**args, **changes}.items()}


def test_by_hand():
    """Events (0, 1) at 5 and (1, 2) at 7: node 1 keeps the second, from the other side."""
    args = {
        "memory": torch.zeros(4, 1),
        "last_update": torch.zeros(4, dtype=I64),
        "mail": torch.zeros(4, 3),
        "mail_time": torch.zeros(4, dtype=I64),
        "has_mail": torch.zeros(4, dtype=torch.bool),
        "ends": torch.tensor([0, 1, 1, 2]),
        "times": torch.tensor([5, 7, 5, 7]),
        "row": torch.tensor([0, 1, 1, 2]),
        "rows_memory": torch.tensor([[10.0], [11.0], [12.0]]),
        "rows_time": torch.tensor([1, 2, 3]),
        "event_ids": torch.tensor([0, 1]),
        "edge_feat": torch.tensor([[0.25], [0.5]]),
    }
    args = {k: v.to(DEVICE) for k, v in args.items()}
    commit_events(**args)
    assert args["memory"].tolist() == [[10], [11], [12], [0]]
    assert args["last_update"].tolist() == [1, 2, 3, 0]
    assert args["mail"].tolist() == [[10, 11, 0.25], [11, 12, 0.5], [12, 11, 0.5], [0, 0, 0]]
    assert args["mail_time"].tolist() == [5, 7, 7, 0]
    assert args["has_mail"].tolist() == [True, True, True, False]


def test_autograd_knows_that_the_tables_changed():
    args = tables()
    w = torch.ones(6, 2, dtype=F64, device=DEVICE, requires_grad=True)
    loss = (w * args["memory"]).sum()
    commit_events(**args)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.skipif(DEVICE != "cpu", reason="CUDA does not check ids")
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ends", 6, r"ends must be in \[0, 6\), got"),
        ("row", -1, r"row must be in"),
        ("event_ids", 9, "event_ids must be in"),
    ],
)
@pytest.mark.parametrize("fallback", [False, True])
def test_ids_out_of_range_change_nothing(name, value, message, fallback):
    args = tables()
    args[name][-1] = value
    before = {k: args[k].clone() for k in TABLES}
    with served_by("CompositeExplicitAutograd") if fallback else nullcontext():
        with pytest.raises(ValueError, match=message):
            commit_events(**args)
    assert all(torch.equal(before[k], args[k]) for k in TABLES)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"mail": torch.zeros(6, 5).double()}, ValueError, r"mail must be \[6, 7\], got \[6, 5\]"),
        ({"mail": torch.zeros(6).double()}, ValueError, "memory and mail must be matrices"),
        ({"ends": torch.zeros(7, dtype=I64)}, ValueError, r"ends must be \[8\], got \[7\]"),
        ({"rows_time": torch.zeros(1, dtype=I64)}, ValueError, "rows_time must be"),
        ({"times": torch.zeros(8)}, TypeError, "times must be torch.int64, got torch.float32"),
        ({"memory": torch.zeros(6, 2, dtype=I64)}, TypeError, "memory and edge_feat must be floating"),
        ({"mail": torch.zeros(6, 7)}, TypeError, "mail must be torch.float64, got torch.float32"),
        ({"row": torch.zeros(8)}, TypeError, "row must be torch.int32 or torch.int64"),
        ({"mail": torch.zeros(7, 6, dtype=F64).T}, ValueError, "mail must be contiguous"),
        ({"has_mail": torch.zeros(6)}, TypeError, "has_mail must be torch.bool"),
    ],
)
def test_bad_arguments(changes, error, message):
    with pytest.raises(error, match=f"commit_events: {message}"):
        commit_events(**tables(**changes))


def roomy(args, room):
    """The same events with room for `room` more, filled with what must not be looked at."""
    B, far = len(args["event_ids"]), 10**15

    def pad(x, n, value):
        return torch.cat([x, torch.full((n,), value, dtype=x.dtype)])

    of_ends = {"ends": far if args["ends"].dtype == I64 else 2**31 - 1, "times": far, "row": -7}
    padded = {name: pad(args[name], 2 * room, value) for name, value in of_ends.items()}
    return {**args, **padded, "event_ids": pad(args["event_ids"], room, far), "count": torch.tensor([B])}


@pytest.mark.interpret
@pytest.mark.parametrize("room", [0, 3])
@pytest.mark.parametrize("case", [c for c in CASES if c.small and c.name != "empty"], ids=lambda c: c.name)
def test_counted_events_are_all_there_is(case, room):
    args = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in case.make(GEN()).items()}
    more = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in roomy(case.make(GEN()), room).items()}
    with served_by("CUDA") if INTERPRET else nullcontext():
        want, got = on_copies(commit_events)(**args), on_copies(commit_events)(**more)
    assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))


def test_none_counted_changes_nothing():
    args = CASES[3].make(GEN())
    before = [args[name].clone() for name in TABLES]
    after = on_copies(commit_events)(**args, count=torch.tensor([0]))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    with pytest.raises(ValueError, match=r"commit_events: count must be int64 \[1\], got torch.int32 \[1\]"):
        commit_events(**args, count=torch.tensor([0], dtype=torch.int32))
