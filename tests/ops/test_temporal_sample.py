import math

import pytest
import torch

import gnnaccel as ga
from gnnaccel.baselines.reference.temporal_sample import temporal_sample as reference
from tests.harness import DEVICE, F64, INTERPRET, Case, check_op, threads

if INTERPRET:
    pytest.skip("the kernel is CUDA C++: tests/kernels/test_cuda.py runs it on the host", allow_module_level=True)


def sample(src, dst, t, nodes, times, *, add_reverse=True, id_dtype=None, **options):
    g = ga.TemporalGraph.from_events(src, dst, t, add_reverse=add_reverse, id_dtype=id_dtype)
    for name in ("event_ids", "draw_keys"):
        if options.get(name) is not None:
            options[name] = options[name].to(g.device)
    block = ga.temporal_sample(g, nodes.to(g.device), times.to(g.device), **options)
    return block.nbr, block.eid, block.dt, block.count, block.t


def make(events=60, nodes=8, roots=40, span=30, time=torch.int64, order="sorted", hub=False, **options):
    """Events on `nodes` nodes with many equal times, self-loops and a node without events; roots everywhere, some padding."""

    def build(gen):
        src, dst = torch.randint(0, nodes, (2, events), generator=gen)
        if hub:
            src[:] = 0
        t = torch.randint(-span, span, (events,), generator=gen)
        if order == "sorted":
            t = t.sort().values
        if time == torch.float64:
            t = t.double() / 7
        if events:
            # a node without events, and one of the largest id
            src[0], dst[0] = nodes + 1, nodes + 1
        who = torch.randint(-1, nodes + 2 if events else 0, (roots,), generator=gen)
        if events:
            when = t[torch.randint(0, events, (roots,), generator=gen)] + torch.randint(-1, 2, (roots,), generator=gen)
        else:
            when = torch.randint(-5, 5, (roots,), generator=gen).to(time)
        args = {"src": src, "dst": dst, "t": t.to(time), "nodes": who, "times": when.to(time), **options}
        if options.get("semantics") == "by_event_id":
            ids = torch.randint(0, max(events, 1), (roots,), generator=gen)
            args["event_ids"] = ids
            if events:
                args["times"] = t[ids].to(time)
        if options.get("semantics") == "before_batch":
            middle = events // 2
            args["batch_start"] = (t[middle].item(), middle) if events else (0, 0)
        return args

    return build


def keyed(**options):
    def build(gen):
        args = make(fanout=4, strategy="uniform", epoch=3, batch=2, root_offset=9, **options)(gen)
        keys = torch.randint(-(2**63), 2**63 - 1, args["nodes"].shape, generator=gen)
        keys[::3] = torch.arange(len(keys))[::3] % 4  # small ones, and equal ones
        return {**args, "draw_keys": keys}

    return build


def wide(gen):
    args = make(strategy="uniform", fanout=3)(gen)
    return {**args, "id_dtype": torch.int64, "nodes": args["nodes"].to(torch.int32)}


MODES = ("strict", "inclusive", "before_batch", "by_event_id")
PICKS = {
    "recent": {"strategy": "recent"},
    "uniform": {"strategy": "uniform", "seed": 2**40 + 3, "epoch": 1, "batch": 2, "hop": 1, "root_offset": 5},
    "replace": {"strategy": "uniform", "replace": True, "seed": -7},
}
CASES = [
    Case("no_events", make(events=0)),
    Case("no_events_uniform", make(events=0, time=torch.float64, strategy="uniform", window=1.0)),
    Case("no_roots", make(roots=0)),
    Case("one", make(events=1, nodes=1, roots=1, fanout=1)),
    Case("wide_ids", wide),
    Case("unsorted", make(order="random", fanout=5)),
    Case("directed", make(add_reverse=False, fanout=3)),
    Case("float_time", make(time=torch.float64, fanout=4)),
    Case("float_window", make(time=torch.float64, fanout=4, window=2.0, strategy="uniform")),
    Case("fanout_over_a_vector", make(events=400, fanout=37)),
    *(
        Case(f"{mode}_{pick}{'_window' if window else ''}", make(fanout=4, semantics=mode, window=window, **options))
        for mode in (*MODES, "tgl_compat")
        for pick, options in PICKS.items()
        for window in (None, 3)
    ),
    Case(
        "tgl_compat_float", make(time=torch.float64, fanout=4, semantics="tgl_compat", strategy="uniform", window=1.0)
    ),
    Case("keyed", keyed()),
    Case("keyed_replace", keyed(replace=True, time=torch.float64)),
    Case("keyed_tgl_compat", keyed(semantics="tgl_compat")),
    Case("tgl_compat_one", make(events=1, nodes=1, roots=3, semantics="tgl_compat")),
    Case("tgl_compat_no_events", make(events=0, semantics="tgl_compat", strategy="uniform")),
    Case("tgl_compat_several_groups", make(events=3000, nodes=50, roots=1031, semantics="tgl_compat"), small=False),
    Case("hub", make(events=3000, nodes=3, hub=True, span=700, fanout=20, strategy="uniform"), small=False),
    Case("several_groups", make(events=3000, nodes=50, roots=1031, span=900), small=False),
]


def by_value(src, dst, t, nodes, times, **options):
    options["id_dtype"] = options.get("id_dtype") or torch.int32
    return reference(src, dst, t, nodes, times, **options)


# integers, and float times that are differences of the inputs: the same bits for every dtype, so one will do
TestTemporalSample = check_op(
    op=sample,
    reference=by_value,
    cases=CASES,
    schemas=["temporal_sample"],
    dtypes=[F64],
    compile=False,
    overload_args=lambda args: raw(**args),
)
# building a graph depends on the data; TestCompiles below compiles the sampling itself
del TestTemporalSample.test_fake, TestTemporalSample.test_compiles


def raw(src, dst, t, nodes, times, fanout=10, event_ids=None, **options):
    g = ga.TemporalGraph.from_events(src, dst, t)
    return (
        *(g.row_start, g.row_end, g.nbr, g.eid, g.t, nodes, times, None, options.get("draw_keys")),
        *(fanout, 0, options.get("strategy") == "uniform", bool(options.get("replace")), 2**62, 0, 0, 0, 0, 0, 0, 0),
    )


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x, y)


def line(times, **options):
    """A graph in which node 0 meets nodes 1, 2, ... at the given times."""
    n = len(times)
    return ga.TemporalGraph.from_events([0] * n, list(range(1, n + 1)), times, **options).to(DEVICE)


def rows(block):
    return [r[:c] for r, c in zip(block.eid.tolist(), block.count.tolist(), strict=True)]


def ask(g, node, time, **options):
    for name in ("event_ids",):
        if name in options:
            options[name] = torch.tensor(options[name], device=DEVICE)
    return ga.temporal_sample(
        g, torch.tensor([node], device=DEVICE), torch.tensor([time], device=DEVICE, dtype=g.t.dtype), **options
    )


def test_by_hand():
    g = line([10, 20, 20, 30])
    block = ask(g, 0, 30, fanout=5)
    assert block.nbr.tolist() == [[3, 2, 1, -1, -1]]
    assert block.eid.tolist() == [[2, 1, 0, -1, -1]]
    assert block.dt.tolist() == [[10, 10, 20, 0, 0]]
    assert block.t.tolist() == [[20, 20, 10, 0, 0]]
    assert block.count.tolist() == [3]
    assert block.count.dtype == torch.int32


@pytest.mark.parametrize(
    ("semantics", "options", "want"),
    [
        ("strict", {}, [0]),
        ("inclusive", {}, [2, 1, 0]),
        ("by_event_id", {"event_ids": [2]}, [1, 0]),
        ("by_event_id", {"event_ids": [1]}, [0]),
        ("before_batch", {"batch_start": (20, 2)}, [1, 0]),
        ("before_batch", {"batch_start": (20, 1)}, [0]),
        ("before_batch", {"batch_start": (10, 0)}, []),
        # a batch that starts after the root's own time shows nothing later than that
        ("before_batch", {"batch_start": (99, 9)}, [2, 1, 0]),
    ],
)
def test_who_is_seen_among_ties(semantics, options, want):
    assert rows(ask(line([10, 20, 20, 30]), 0, 20, semantics=semantics, **options)) == [want]


def test_ties_do_not_use_up_slots():
    """Five older and five tied events: TGL's sampler returns nothing for 3 slots."""
    g = line([1, 2, 3, 4, 5, 9, 9, 9, 9, 9])
    assert rows(ask(g, 0, 9, fanout=3)) == [[4, 3, 2]]


def test_the_oldest_event_is_sampled():
    assert rows(ask(line([7]), 0, 8)) == [[0]]


def test_window_includes_its_edge():
    g = line([10, 20, 30])
    assert rows(ask(g, 0, 30, window=10)) == [[1]]
    assert rows(ask(g, 0, 30, window=9)) == [[]]
    assert rows(ask(g, 0, 30, window=20)) == [[1, 0]]
    assert rows(ask(g, 0, 30, window=0, semantics="inclusive")) == [[2]]
    assert rows(ask(g, 0, 30, window=math.inf)) == [[1, 0]]
    assert rows(ask(g, 0, 30, window=2**63 - 1)) == [[1, 0]]


def test_times_at_the_ends_of_int64():
    g = line([-(2**63), 0, 2**63 - 1])
    assert rows(ask(g, 0, 2**63 - 1, semantics="inclusive")) == [[2, 1, 0]]
    assert rows(ask(g, 0, 2**63 - 1, semantics="inclusive", window=2**62)) == [[2]]
    block = ask(g, 0, 2**63 - 1)
    assert block.t.tolist()[0][:2] == [0, -(2**63)]


def test_unix_seconds_a_second_apart():
    """float32 would merge them."""
    g = line([1_700_000_000, 1_700_000_001, 1_700_000_002])
    assert rows(ask(g, 0, 1_700_000_002)) == [[1, 0]]


def test_self_loop_stands_once():
    g = ga.TemporalGraph.from_events([0, 0], [0, 1], [1, 2]).to(DEVICE)
    assert rows(ask(g, 0, 9)) == [[1, 0]]


def test_padding_and_isolated_roots():
    g = ga.TemporalGraph.from_events([0], [1], [1], num_nodes=5).to(DEVICE)
    block = ga.temporal_sample(g, torch.tensor([-1, 3, 0], device=DEVICE), torch.tensor([9, 9, 9], device=DEVICE), 2)
    assert block.count.tolist() == [0, 0, 1]
    assert block.nbr.tolist() == [[-1, -1], [-1, -1], [1, -1]]
    assert block.dt.tolist() == [[0, 0], [0, 0], [8, 0]]


def test_hub():
    n = 100_000
    g = ga.TemporalGraph.from_events(torch.zeros(n).long(), torch.arange(n) + 1, torch.arange(n) // 3).to(DEVICE)
    times = torch.arange(0, n // 3, 97, device=DEVICE)
    block = ga.temporal_sample(g, torch.zeros_like(times), times)
    newest = times[:, None] * 3 - 1 - torch.arange(10, device=DEVICE)
    assert torch.equal(block.eid.long(), torch.where(newest >= 0, newest, -1))


@pytest.mark.parametrize("replace", [False, True])
def test_uniform_is_uniform(replace):
    """Chi-square over 20 visible events with a fixed seed: each as often, and each pair of slots' subsets as often."""
    n, fanout, roots = 20, 5, 40_000
    g = line(list(range(n + 2)))
    nodes = torch.zeros(roots, dtype=torch.int64, device=DEVICE)
    block = ga.temporal_sample(g, nodes, torch.full_like(nodes, n), fanout, "uniform", replace, seed=11)
    assert (block.count == fanout).all()
    assert (block.dt[:, 1:] >= block.dt[:, :-1]).all(), "newest first"
    if not replace:
        assert (block.eid[:, 1:] < block.eid[:, :-1]).all(), "an event twice"
    seen = torch.bincount(block.eid.flatten().long().cpu(), minlength=n)
    assert len(seen) == n
    expected = roots * fanout / n
    chi2 = ((seen - expected) ** 2 / expected).sum().item()
    # without replacement the counts vary less, by (n - fanout) / (n - 1)
    chi2 /= 1.0 if replace else (n - fanout) / (n - 1)
    assert 5.4 < chi2 < 45.3, "beyond the 0.1% points of chi-square with 19 degrees of freedom"
    newest_pair = block.eid[:, 0].long().cpu() * n + block.eid[:, 1].long().cpu()
    pairs = torch.bincount(newest_pair, minlength=n * n).reshape(n, n).double()
    if not replace:
        # P(two newest are a > b) = C(b, 3) / C(20, 5)
        a, b = torch.tril_indices(n, n, -1)
        want = roots * torch.tensor([math.comb(int(j), fanout - 2) for j in b]).double() / math.comb(n, fanout)
        keep = want >= 5
        chi2 = (((pairs[a, b] - want) ** 2 / want.clamp(min=1e-9))[keep]).sum().item()
        degrees = int(keep.sum()) - 1
        assert abs(chi2 - degrees) < 4 * math.sqrt(2 * degrees)


def test_draws_depend_on_each_part_of_the_key_and_on_nothing_else():
    g = line(list(range(200)))
    roots = torch.zeros(300, dtype=torch.int64, device=DEVICE)
    times = torch.full_like(roots, 300)

    def draw(lo=0, hi=300, **key):
        return ga.temporal_sample(g, roots[lo:hi], times[lo:hi], 4, "uniform", **key).eid

    first = draw(seed=1)
    assert torch.equal(first, draw(seed=1))
    for other in (
        {"seed": 2},
        {"seed": 1 + 2**32},
        {"seed": 1, "epoch": 1},
        {"seed": 1, "batch": 1},
        {"seed": 1, "hop": 1},
    ):
        assert not torch.equal(first, draw(**other)), other
    parts = [draw(0, 77, seed=1), draw(77, 300, seed=1, root_offset=77)]
    assert torch.equal(first, torch.cat(parts))
    assert not torch.equal(first[0], first[1])
    for n in (1, 2, 3):
        with threads(n):
            assert torch.equal(first, draw(seed=1))


def test_draws_follow_their_keys():
    """Wherever a root stands; by all 64 bits; and the indices as keys change nothing."""
    g = line(list(range(200)))
    gen = torch.Generator().manual_seed(4)
    n = 300
    roots = torch.zeros(n, dtype=torch.int64, device=DEVICE)
    times = torch.full_like(roots, 300)
    keys = torch.randint(-(2**63), 2**63 - 1, (n,), generator=gen).to(DEVICE)

    def draw(keys, lo=0, hi=n, strategy="uniform", **key):
        return ga.temporal_sample(g, roots[lo:hi], times[lo:hi], 4, strategy, seed=1, draw_keys=keys, **key).eid

    first = draw(keys, epoch=2)
    moved = torch.randperm(n, generator=gen).to(DEVICE)
    assert torch.equal(draw(keys[moved], epoch=2), first[moved])
    assert torch.equal(draw(keys[100:], 100, epoch=2), first[100:])
    assert torch.equal(draw(keys, epoch=2, root_offset=5), first)
    assert torch.equal(draw(torch.stack([keys, keys], 1)[:, 0], epoch=2), first), "strided"
    for other in ({"epoch": 3}, {"epoch": 2, "batch": 1}, {"epoch": 2, "hop": 1}):
        assert not torch.equal(draw(keys, **other), first), other
    bits = torch.tensor([1 << b if b < 63 else -(2**63) for b in range(64)], device=DEVICE) ^ keys[0]
    one = torch.cat([keys[:1], bits])
    assert len(draw(one, 0, 65, epoch=2).unique(dim=0)) == 65
    index = torch.arange(n, device=DEVICE)
    assert torch.equal(draw(index, epoch=2), draw(None, epoch=2))
    assert torch.equal(draw(index + 7, epoch=2), draw(None, epoch=2, root_offset=7))
    assert torch.equal(draw(keys, strategy="recent"), draw(None, strategy="recent"))


def test_random_words_are_philox():
    """Known answers of Philox4x32-10 (Random123's kat_vectors), for the reference and the fallback."""
    from gnnaccel.baselines.reference.temporal_sample import philox4x32
    from gnnaccel.ops._philox import philox4x32 as fallback

    answers = [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for counter, key, want in answers:
        assert philox4x32(counter, key) == want
        words = fallback([torch.tensor([c]) for c in counter], key[1] << 32 | key[0])
        assert tuple(int(w) for w in words) == want


@pytest.mark.parametrize("strategy", ["recent", "uniform"])
@pytest.mark.parametrize("semantics", MODES)
def test_no_later_event_changes_a_sample(semantics, strategy):
    gen = torch.Generator().manual_seed(3)
    n = 400
    src, dst = torch.randint(0, 12, (2, n), generator=gen)
    t = torch.randint(0, 60, (n,), generator=gen).sort().values
    nodes = torch.arange(12).repeat(2)
    for i in (100, 250):
        time = t[i].item()
        # events that no root may see: those at or after t; with "inclusive" those after it; else those from event i on
        first = {"strict": time, "inclusive": time + 1}.get(semantics)
        later = torch.arange(n) >= i if first is None else t >= first
        options = {"by_event_id": {"event_ids": torch.full((24,), i)}, "before_batch": {"batch_start": (time, i)}}
        times = torch.full((24,), time)

        more = options.get(semantics, {})

        def run(src, dst, t, times=times, more=more):
            return sample(src, dst, t, nodes, times, semantics=semantics, strategy=strategy, fanout=5, **more)

        want = run(src, dst, t)
        dropped = run(src[~later], dst[~later], t[~later])
        moved_src, moved_dst, moved_t = src.clone(), dst.clone(), t.clone()
        moved_src[later] = torch.randint(0, 12, (int(later.sum()),), generator=gen)
        moved_dst[later] = 3
        moved_t[later] = moved_t[later] + torch.arange(int(later.sum()))
        assert_same(want, run(moved_src, moved_dst, moved_t))
        # dropping the last events may drop the last nodes
        assert_same(want, dropped)


def test_count_alone_says_nothing_about_the_label():
    """Positive roots must not get fewer neighbours than random ones because their own edge uses a slot (TGL's leak)."""
    from sklearn.metrics import roc_auc_score

    gen = torch.Generator().manual_seed(0)
    n = 4000
    src, dst = torch.randint(0, 50, (n,), generator=gen), torch.randint(50, 100, (n,), generator=gen)
    t = torch.arange(n)
    g = ga.TemporalGraph.from_events(src, dst, t)
    half = slice(n // 4, n)
    negative = torch.randint(50, 100, (n,), generator=gen)
    counts = [ga.temporal_sample(g, who[half], t[half], 40).count for who in (dst, negative)]
    labels = torch.cat([torch.ones_like(counts[0]), torch.zeros_like(counts[1])])
    assert 0.48 < roc_auc_score(labels, torch.cat(counts)) < 0.52


@pytest.mark.parametrize(
    ("times", "time", "fanout", "window", "want"),
    [
        ([7], 8, 10, None, []),  # S3: a single event is the oldest, and that is never taken
        ([1, 2, 3], 9, 10, None, [2, 1]),
        ([1, 2, 3], 9, 2, None, [2, 1]),
        ([1, 2, 3], 9, 1, None, [2]),
        ([1, 2, 3, 4, 5], 5, 3, None, [3, 2]),  # S1: a positive root, whose own event stands at t, gets one fewer
        ([1, 2, 3, 4, 6], 5, 3, None, [3, 2, 1]),  # ... than a negative one at the same time
        ([1, 2, 3, 4, 5, 9, 9, 9, 9, 9], 9, 3, None, []),  # S4: five older and five tied events
        ([1, 2, 3, 4, 5, 9, 9], 9, 3, None, [4]),
        ([10, 20, 30], 5, 3, None, []),
        ([10, 20, 30, 40], 45, 9, 25, [3, 2]),  # an event exactly a window ago is not seen; nor is the first within it,
        ([10, 20, 30, 40], 44, 9, 35, [3, 2, 1]),  # if there is none before the window
        ([10, 20, 30, 40], 99, 9, 10, []),
    ],
)
def test_what_tgl_takes(times, time, fanout, window, want):
    assert rows(ask(line(times), 0, time, fanout=fanout, window=window, semantics="tgl_compat")) == [want]


def test_what_tgl_draws():
    """S6: k draws from all events up to t, the oldest and those at t among them, with replacement; those at t are dropped."""
    g, n = line([1, 2, 3, 4, 9, 9]), 20_000
    roots = torch.zeros(n, dtype=torch.int64, device=DEVICE)
    block = ga.temporal_sample(g, roots, torch.full_like(roots, 9), 3, "uniform", semantics="tgl_compat", seed=5)
    assert abs(block.count.double().mean().item() - 3 * 4 / 6) < 0.03
    seen = torch.bincount(block.eid[block.eid >= 0].long().cpu(), minlength=6).double()
    assert (seen[4:] == 0).all()
    assert (abs(seen[:4] / (n * 3) - 1 / 6) < 0.006).all()
    assert ((block.eid[:, 1:] == block.eid[:, :-1]) & (block.eid[:, 1:] >= 0)).any(), "with replacement"
    # with no more than k places after the first it walks instead
    assert rows(ask(g, 0, 4, fanout=4, strategy="uniform", semantics="tgl_compat")) == [[2, 1]]


def test_strided_and_int32_roots():
    g = line(list(range(20)))
    nodes, times = torch.tensor([0, 9, 0, 9], device=DEVICE)[::2], torch.tensor([5, 0, 9, 0], device=DEVICE)[::2]
    a, b = ga.temporal_sample(g, nodes, times), ga.temporal_sample(g, nodes.contiguous().int(), times.contiguous())
    assert_same((a.nbr, a.eid, a.dt, a.count), (b.nbr, b.eid, b.dt, b.count))


@pytest.mark.parametrize("time", [torch.int64, torch.float64])
def test_compiles(time):
    g = line(torch.tensor([1, 2, 3, 4], dtype=time))

    def f(nodes, times):
        block = ga.temporal_sample(g, nodes, times, 3)
        return block.nbr + 1, block.dt, block.count

    args = torch.tensor([0, 1, 2], device=DEVICE), torch.tensor([4, 3, 2], device=DEVICE, dtype=time)
    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend="aot_eager")
    assert_same(f(*args), compiled(*args))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("time", [torch.int64, torch.float64])
def test_fake(device, time):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        rows = torch.empty(4, dtype=torch.int64, device=device)
        ids = torch.empty(6, dtype=torch.int32, device=device)
        t = torch.empty(6, dtype=time, device=device)
        nodes, times = torch.empty(7, dtype=torch.int64, device=device), torch.empty(7, dtype=time, device=device)
        outs = torch.ops.gnnaccel.temporal_sample(
            rows, rows, ids, ids, t, nodes, times, None, None, 3, 0, False, False, 0, 0, 0, 0, 0, 0, 0, 0
        )
    shapes = [(7, 3), (7, 3), (7, 3), (7,), (7 if time == torch.float64 else 0, 3)]
    dtypes = [torch.int32, torch.int32, time, torch.int32, time]
    assert [tuple(o.shape) for o in outs] == shapes
    assert [o.dtype for o in outs] == dtypes
    assert all(o.device.type == device for o in outs)


def test_block_moves():
    block = ask(line([1, 2]), 0, 9)
    assert_same((block.nbr.cpu(), block.t.cpu()), (block.to("cpu").nbr, block.to("cpu").t))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (
            {"times": torch.tensor([1.0, 2.0])},
            TypeError,
            r"times must be torch.int64 like the graph's, got torch.float32",
        ),
        ({"nodes": torch.tensor([1.0, 2.0])}, TypeError, "nodes must be int64 or int32, got torch.float32"),
        ({"nodes": torch.tensor([[1, 2]])}, ValueError, r"nodes must be \[R\], got \[1, 2\]"),
        ({"times": torch.tensor([1, 2, 3])}, ValueError, r"times must be \[2\] like nodes, got \[3\]"),
        ({"fanout": 0}, ValueError, r"fanout must be in \[1, 2\*\*24\), got 0"),
        ({"fanout": 2.5}, TypeError, "fanout must be an int, got 2.5"),
        ({"fanout": True}, TypeError, "fanout must be an int, got True"),
        ({"strategy": "best"}, ValueError, r"strategy must be one of \['recent', 'uniform'\], got 'best'"),
        ({"semantics": "loose"}, ValueError, "semantics must be one of .*'strict'.*, got 'loose'"),
        ({"hop": 256}, ValueError, r"hop must be in \[0, 256\), got 256"),
        ({"window": -1}, ValueError, "window must be >= 0, got -1"),
        ({"window": 1.5}, TypeError, "window must be an integer on a graph with torch.int64 times, got 1.5"),
        ({"window": 2**63}, ValueError, "window must fit int64"),
        ({"window": float("nan")}, TypeError, "window must be an integer"),
        ({"semantics": "by_event_id"}, ValueError, "event_ids must be given with semantics='by_event_id', got None"),
        (
            {"semantics": "by_event_id", "event_ids": torch.tensor([1, 2], dtype=torch.int32)},
            TypeError,
            "event_ids must be int64, got torch.int32",
        ),
        (
            {"semantics": "by_event_id", "event_ids": torch.tensor([1])},
            ValueError,
            r"event_ids must be \[2\] like nodes, got \[1\]",
        ),
        ({"draw_keys": torch.tensor([1, 2], dtype=torch.int32)}, TypeError, "draw_keys must be int64, got torch.int32"),
        ({"draw_keys": torch.tensor([1])}, ValueError, r"draw_keys must be \[2\] like nodes, got \[1\]"),
        (
            {"semantics": "before_batch"},
            ValueError,
            "batch_start must be given with semantics='before_batch', got None",
        ),
        ({"semantics": "before_batch", "batch_start": (0.5, 1)}, TypeError, r"batch_start\[0\] must be an integer"),
        (
            {"semantics": ga.TimeSemantics(window=3), "window": 4},
            ValueError,
            "window must be given once, got 4 and 3 in semantics",
        ),
    ],
)
def test_errors(change, error, match):
    g = line([1, 2, 3])
    args = {"nodes": torch.tensor([0, 1]), "times": torch.tensor([2, 2]), **change}
    args = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in args.items()}
    with pytest.raises(error, match=f"temporal_sample: {match}"):
        ga.temporal_sample(g, **args)


@pytest.mark.skipif(DEVICE != "cpu", reason="checking would wait for the GPU")
@pytest.mark.parametrize("node", [-2, 4, 2**40])
def test_roots_out_of_range(node):
    with pytest.raises(ValueError, match=rf"nodes must be in \[-1, 4\), got {node} at position 1"):
        ga.temporal_sample(line([1, 2, 3]), torch.tensor([0, node]), torch.tensor([2, 2]))


@pytest.mark.skipif(DEVICE != "cpu", reason="checking would wait for the GPU")
def test_nan_times():
    with pytest.raises(ValueError, match="times must not be NaN, got NaN at position 0"):
        ga.temporal_sample(line([1.0, 2.0]), torch.tensor([0]), torch.tensor([float("nan")], dtype=torch.float64))


def test_wrong_device():
    with pytest.raises(ValueError, match=r"nodes and times must be on .* like the graph"):
        ga.temporal_sample(
            line([1, 2]), torch.empty(1, dtype=torch.int64, device="meta"), torch.tensor([1], device=DEVICE)
        )
    with pytest.raises(ValueError, match=r"draw_keys must be on .* like the graph, got meta"):
        ask(line([1, 2]), 0, 3, draw_keys=torch.empty(1, dtype=torch.int64, device="meta"))


@pytest.mark.parametrize("strategy", ["recent", "uniform"])
@pytest.mark.parametrize("semantics", ["strict", "before_batch"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_counters_in_a_tensor_are_the_numbers(strategy, semantics, dtype):
    gen = torch.Generator().manual_seed(3)
    src, dst = torch.randint(0, 9, (2, 200), generator=gen)
    t = torch.randint(0, 50, (200,), generator=gen).sort().values.to(dtype)
    g = ga.TemporalGraph.from_events(src.to(DEVICE), dst.to(DEVICE), t.to(DEVICE), num_nodes=9)
    nodes, times = torch.arange(-1, 9, device=DEVICE), torch.full((10,), 40, dtype=dtype, device=DEVICE)
    options = {"strategy": strategy, "semantics": semantics, "fanout": 3, "seed": 7}
    start = (t[120].item(), 120)
    bits = t[120:121].view(torch.int64).item()
    counters = torch.tensor([5, 6, bits, 120], device=DEVICE)
    want = ga.temporal_sample(g, nodes, times, epoch=5, batch=6, batch_start=start, **options)
    got = ga.temporal_sample(g, nodes, times, counters=counters, **options)
    assert all(torch.equal(getattr(want, f), getattr(got, f)) for f in ("nbr", "eid", "dt", "count", "t"))
    counters[1] += 1
    if strategy == "uniform":
        again = ga.temporal_sample(g, nodes, times, counters=counters, **options)
        assert not torch.equal(want.eid, again.eid)


def test_counters_must_be_four_numbers():
    g = ga.TemporalGraph.from_events([0], [1], [1])
    with pytest.raises(ValueError, match=r"counters must be int64 \[4\] on cpu like the graph, got torch.int64 \[3\]"):
        ga.temporal_sample(g, torch.tensor([0]), torch.tensor([2]), counters=torch.zeros(3, dtype=torch.int64))
