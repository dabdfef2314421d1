import pytest
import torch

from gnnaccel.baselines.peers.keep_events import PROVIDERS
from gnnaccel.baselines.reference.keep_events import keep_events as reference
from gnnaccel.ops._apply_messages import PENDING
from gnnaccel.ops._keep_events import keep_events_
from tests.harness import BF16, DEVICE, F16, F32, F64, Case, check_op, served_by, to_device

I64 = torch.int64
TABLES = ("memory", "last_update", "status", "other", "time", "raw")
CAST = ("memory", "raw", "raw_msg", "rows")
KEYS = pytest.mark.parametrize("key", ["CPU", "CompositeExplicitAutograd"])


def make(B, N, D, F, times=3, extra=2, missing=None, hub=False, ordered=False, strided=False):
    """Times from a short range, so that there are ties. `extra` nodes have no event; that of end `missing` is not given."""

    def build(gen):
        def draw(low, high, *shape):
            return torch.randint(low, max(high, low + 1), shape, generator=gen)

        def randn(*shape):
            return torch.randn(*shape, generator=gen, dtype=F64)

        ends = draw(0, N, 2, B)
        if hub:
            ends[0, B // 4 :] = N // 2
        t = draw(-times, times, B)
        t = t.sort().values if ordered else t
        order = torch.randperm(N, generator=gen)
        active = torch.isin(order, ends)
        nodes = torch.cat([order[active], order[~active][:extra]])
        nodes = nodes[torch.randperm(len(nodes), generator=gen)]
        if missing is not None:
            nodes = nodes[nodes != ends.reshape(-1)[missing]]
        U = len(nodes)
        src, dst, raw_msg, rows, rows_time = *ends, randn(B, F), randn(U, D), draw(-9, 9, U)
        if strided:
            src, dst = ends.T.contiguous().T
            t, nodes, rows_time = (x.repeat_interleave(2)[::2] for x in (t, nodes, rows_time))
            raw_msg, rows = raw_msg.T.contiguous().T, rows.T.contiguous().T
        return {
            "memory": randn(N, D),
            "last_update": draw(-99, 0, N),
            "status": draw(0, 3, N).byte(),
            "other": draw(0, N, N),
            "time": draw(-99, 0, N),
            "raw": randn(N, F),
            # some of it looks like rows
            "place": draw(-3, N + 3, N),
            "src": src,
            "dst": dst,
            "t": t,
            "raw_msg": raw_msg,
            "nodes": nodes,
            "rows": rows,
            "rows_time": rows_time,
        }

    return build


def on_copies(op):
    def call(**args):
        tables = {name: args[name].clone() for name in (*TABLES, "place")}
        done = op(**{**args, **tables})
        return (*(tables[name] for name in TABLES), torch.as_tensor(done))

    return call


CASES = [
    Case("no_table", make(0, 0, 2, 1)),
    Case("empty", make(0, 5, 2, 1)),
    Case("nothing_read", make(0, 5, 2, 1, extra=0)),
    Case("one", make(1, 2, 1, 1)),
    Case("self_loops", make(5, 1, 2, 3)),
    Case("odd", make(7, 9, 3, 5)),
    Case("ties", make(40, 5, 3, 2, times=1)),
    Case("ordered", make(40, 11, 3, 2, ordered=True)),
    Case("no_raw_message", make(7, 9, 3, 0)),
    Case("no_memory", make(7, 9, 0, 2)),
    Case("only_ends", make(6, 30, 2, 2, extra=0)),
    Case("all_nodes", make(6, 30, 2, 2, extra=30)),
    Case("hub", make(80, 60, 3, 2, hub=True, times=9)),
    Case("strided", make(13, 9, 4, 3, strided=True)),
    Case("a_source_missing", make(6, 9, 3, 2, missing=0)),
    Case("a_destination_missing", make(6, 9, 3, 2, missing=-1)),
    Case("all_missing", make(1, 1, 3, 2, missing=0)),
    Case("batch", make(600, 500, 33, 20, times=10**9), small=False),
]

# the op itself: the public function makes a bool of its result, which fake tensors do not have
TestKeepEvents = check_op(
    op=on_copies(torch.ops.gnnaccel.keep_events_.default),
    reference=on_copies(reference),
    cases=CASES,
    schemas=["keep_events_"],
    cast=CAST,
    compile=False,
)


def arguments(build=None, dtype=F32, **changes):
    args = (build or make(4, 6, 2, 3))(torch.Generator().manual_seed(0))
    args = {k: v.to(dtype) if k in CAST else v for k, v in args.items()}
    return to_device({**args, **changes})


@KEYS
@pytest.mark.parametrize("dtype", [F16, BF16, F32, F64])
def test_rows_are_copied_bit_for_bit(key, dtype):
    args = arguments(make(70, 90, 9, 7), dtype)
    for name in ("rows", "raw_msg"):
        bits = torch.randint(-(2**15), 2**15, args[name].shape, generator=torch.Generator().manual_seed(1))
        # among them infinities, subnormals and NaN of many kinds
        words = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
        args[name] = (bits.to(words) << (8 * dtype.itemsize - 16)).view(dtype).to(DEVICE)
    with served_by(key):
        assert keep_events_(**args) is True
    want = {name: args[name].cpu().clone() for name in args}
    assert reference(**want)
    assert all(torch.equal(args[k].cpu().view(torch.uint8), want[k].view(torch.uint8)) for k in TABLES)


def test_by_hand():
    """Events 3-1 at 7, 1-2 at 5 and 2-2 at 5: node 1 keeps the first, node 2 the third."""
    args = arguments(
        memory=torch.zeros(5, 1),
        last_update=torch.zeros(5, dtype=I64),
        status=torch.zeros(5, dtype=torch.uint8),
        other=torch.zeros(5, dtype=I64),
        time=torch.zeros(5, dtype=I64),
        raw=torch.zeros(5, 1),
        place=torch.tensor([0, 1, 0, 2, 1]),
        src=torch.tensor([3, 1, 2]),
        dst=torch.tensor([1, 2, 2]),
        t=torch.tensor([7, 5, 5]),
        raw_msg=torch.tensor([[0.5], [0.25], [0.125]]),
        nodes=torch.tensor([3, 2, 4, 1]),
        rows=torch.tensor([[13.0], [12.0], [14.0], [11.0]]),
        rows_time=torch.tensor([3, 2, 4, 1]),
    )
    assert keep_events_(**args) is True
    assert args["memory"].tolist() == [[0], [11], [12], [13], [0]]
    assert args["last_update"].tolist() == [0, 1, 2, 3, 0]
    assert args["status"].tolist() == [0, PENDING, PENDING, PENDING, 0]
    assert args["other"].tolist() == [0, 3, 2, 1, 0]
    assert args["time"].tolist() == [0, 7, 5, 7, 0]
    assert args["raw"].tolist() == [[0], [0.5], [0.125], [0.5], [0]]


@KEYS
def test_a_node_missing_changes_nothing(key):
    """Whatever is left in `place`: at worst its row of the batch before, where another node is now."""
    for left in (-1, 0, 3, 4, 2**62, -(2**62)):
        args = arguments(make(6, 9, 3, 2, missing=3))
        args["place"].fill_(left)
        before = {k: args[k].clone() for k in TABLES}
        with served_by(key):
            assert keep_events_(**args) is False
        assert all(torch.equal(before[k], args[k]) for k in TABLES)


def test_the_peer_agrees():
    for case in CASES:
        if case.name in ("ordered", "a_source_missing", "all_missing"):
            got, want = (on_copies(op)(**arguments(case.make, F64)) for op in (PROVIDERS["torch"], keep_events_))
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True)), case.name


@KEYS
@pytest.mark.parametrize("table", ["memory", "raw"])
def test_autograd_knows_that_the_tables_changed(key, table):
    args = arguments()
    w = torch.ones_like(args[table], requires_grad=True)
    loss = (w * args[table]).sum()
    with served_by(key):
        assert keep_events_(**args)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_inference_mode():
    with torch.inference_mode():
        args = arguments()
        assert keep_events_(**args)
    assert int((args["status"] == PENDING).sum()) > 0
    with torch.inference_mode():
        assert keep_events_(**arguments())


@pytest.mark.skipif(DEVICE != "cpu", reason="CUDA does not check ids")
@KEYS
@pytest.mark.parametrize("name", ["src", "dst", "nodes"])
@pytest.mark.parametrize("bad", [-1, 6, 2**40])
def test_ids_out_of_range_change_nothing(key, name, bad):
    args = arguments()
    args[name][-1] = bad
    before = {k: args[k].clone() for k in (*TABLES, "place")}
    with served_by(key), pytest.raises(ValueError, match=rf"keep_events: {name} must be in \[0, 6\), got {bad}"):
        keep_events_(**args)
    assert all(torch.equal(v, args[k]) for k, v in before.items())


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"memory": torch.zeros(6)}, ValueError, r"memory and raw must be matrices, got \[6\] and \[6, 3\]"),
        ({"raw": torch.zeros(6)}, ValueError, r"memory and raw must be matrices, got \[6, 2\] and \[6\]"),
        ({"memory": torch.zeros(6, 2).long()}, TypeError, "memory must be floating, got torch.int64"),
        ({"last_update": torch.zeros(6)}, TypeError, "last_update must be torch.int64, got torch.float32"),
        ({"status": torch.zeros(6).bool()}, TypeError, "status must be torch.uint8, got torch.bool"),
        ({"other": torch.zeros(6).int()}, TypeError, "other must be torch.int64, got torch.int32"),
        ({"time": torch.zeros(5).long()}, ValueError, r"time must be \[6\], got \[5\]"),
        ({"raw": torch.zeros(6, 3).double()}, TypeError, "raw must be torch.float32, got torch.float64"),
        ({"raw": torch.zeros(5, 3)}, ValueError, r"raw must be \[6, 3\], got \[5, 3\]"),
        ({"place": torch.zeros(6, 1).long()}, ValueError, r"place must be \[6\], got \[6, 1\]"),
        ({"src": torch.zeros(3).long()}, ValueError, r"dst must be \[3\], got \[4\]"),
        ({"src": torch.zeros(4)}, TypeError, "src must be torch.int64, got torch.float32"),
        ({"src": torch.tensor(1)}, ValueError, r"src must be \[1\], got \[\]"),
        ({"t": torch.zeros(4)}, TypeError, "t must be torch.int64, got torch.float32"),
        ({"raw_msg": torch.zeros(4, 2)}, ValueError, r"raw_msg must be \[4, 3\], got \[4, 2\]"),
        ({"raw_msg": torch.zeros(4, 3).half()}, TypeError, "raw_msg must be torch.float32, got torch.float16"),
        ({"nodes": torch.arange(6).int()}, TypeError, "nodes must be torch.int64, got torch.int32"),
        ({"rows": torch.zeros(1, 2)}, ValueError, r"rows must be \[\d, 2\], got \[1, 2\]"),
        ({"rows_time": torch.zeros(1).long()}, ValueError, r"rows_time must be \[\d\], got \[1\]"),
        ({"memory": torch.zeros(2, 6).T}, ValueError, r"memory must be contiguous, got strides \[1, 6\]"),
        ({"place": torch.zeros(12).long()[::2]}, ValueError, r"place must be contiguous, got strides \[2\]"),
    ],
)
def test_errors(change, error, match):
    args = arguments(**change)
    before = {k: args[k].clone() for k in TABLES}
    with pytest.raises(error, match=f"keep_events: {match}"):
        keep_events_(**args)
    assert all(torch.equal(before[k], args[k]) for k in TABLES)
