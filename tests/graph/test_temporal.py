import json

import numpy as np
import pytest
import torch

import gnnaccel as ga
from gnnaccel.baselines.reference.tcsr import tcsr_build as reference
from gnnaccel.ops._tcsr import tcsr_build
from tests.harness import INTERPRET, served_by, threads

pytestmark = pytest.mark.skipif(INTERPRET, reason="not about Triton")


def events(n=300, nodes=20, span=50, seed=0, order="sorted", time=torch.int64, loops=True):
    gen = torch.Generator().manual_seed(seed)
    src, dst = torch.randint(0, nodes, (2, n), generator=gen)
    if not loops:
        dst = torch.where(src == dst, (dst + 1) % nodes, dst)
    t = torch.randint(0, span, (n,), generator=gen)
    t = t.sort().values if order == "sorted" else t
    return src, dst, t.double() / 3 if time == torch.float64 else t


def arrays(g):
    return g.indptr, g.nbr, g.eid, g.t


def assert_same(a, b):
    assert a.num_nodes == b.num_nodes
    assert a.num_events == b.num_events
    assert a.add_reverse == b.add_reverse
    for x, y in zip(arrays(a.compact()), arrays(b.compact()), strict=True):
        assert x.dtype == y.dtype
        assert torch.equal(x, y)


BUILDS = {
    "no_events": {"n": 0},
    "sorted": {},
    "unsorted": {"order": "random"},
    "float_time": {"time": torch.float64, "order": "random"},
    "one_node": {"nodes": 1},
    "more_nodes_than_buckets": {"n": 5000, "nodes": 3000, "order": "random"},
    "few_events_on_many_nodes": {"n": 9000, "nodes": 70_000, "order": "random"},
    "very_many_nodes": {"n": 500, "nodes": 1_100_000, "order": "random"},
    "several_chunks": {"n": 300_000, "nodes": 700, "span": 10**6},
}


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("add_reverse", [False, True])
@pytest.mark.parametrize("name", BUILDS)
def test_build_matches_reference(name, add_reverse, wide):
    if name == "several_chunks" and (wide or not add_reverse):
        pytest.skip("the reference takes seconds")
    src, dst, t = events(**BUILDS[name])
    num_nodes = BUILDS[name].get("nodes", 20) + 3
    want = reference(src, dst, t, num_nodes, add_reverse, wide)
    for n in (1, 2, 3):
        with threads(n):
            got = tcsr_build(src, dst, t, num_nodes, add_reverse, wide)
        for x, y in zip(got, want, strict=True):
            assert x.dtype == y.dtype
            assert torch.equal(x, y)
    with served_by("CompositeExplicitAutograd"):
        for x, y in zip(tcsr_build(src, dst, t, num_nodes, add_reverse, wide), want, strict=True):
            assert torch.equal(x, y)


@pytest.mark.parametrize(("time", "wide"), [(torch.int64, False), (torch.float64, True)])
@pytest.mark.parametrize("order", ["sorted", "random"])
def test_build_past_the_cache(order, time, wide):
    graph = (*events(400_000, nodes=5000, span=10**6, order=order, time=time), 5000, True, wide)
    with served_by("CompositeExplicitAutograd"):
        want = tcsr_build(*graph)
    for n in (1, 2):
        with threads(n):
            assert all(map(torch.equal, tcsr_build(*graph), want))


def test_build_passes_opcheck():
    torch.library.opcheck(torch.ops.gnnaccel.tcsr_build.default, (*events(), 20, True, False))
    torch.library.opcheck(torch.ops.gnnaccel.tcsr_build.default, (*events(), 20, False, True))


def test_by_hand():
    g = ga.TemporalGraph.from_events(np.array([2, 0, 0], np.uint8), [0, 1, 0], [5, 5, 1])
    assert g.indptr.tolist() == [0, 3, 4, 5]
    assert g.nbr.tolist() == [0, 2, 1, 0, 0]
    assert g.eid.tolist() == [2, 0, 1, 1, 0]
    assert g.t.tolist() == [1, 5, 5, 5, 5]
    assert g.nbr.dtype == g.eid.dtype == torch.int32
    assert repr(g) == "TemporalGraph(num_nodes=3, num_events=3, entries=5, t=int64, ids=int32, device=cpu)"
    assert g.device == torch.device("cpu")


def test_time_is_never_float32():
    g = ga.TemporalGraph.from_events([0], [1], torch.tensor([0.5]))
    assert g.t.dtype == torch.float64
    assert ga.TemporalGraph.from_events([0], [1], np.array([3], np.int16)).t.dtype == torch.int64


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"dst": [1]}, ValueError, r"dst must be \[2\] like src, got \[1\]"),
        ({"t": [1, 2, 3]}, ValueError, r"t must be \[2\] like src, got \[3\]"),
        ({"src": [[0], [1]]}, ValueError, r"src must be \[E\], got \[2, 1\]"),
        ({"src": [0.0, 1.0]}, TypeError, "src must be integers, got torch.float32"),
        ({"src": [True, False]}, TypeError, "src must be numbers, got torch.bool"),
        ({"src": ["a", "b"]}, TypeError, "src must be a tensor or array of numbers, got list"),
        ({"src": [0, -3]}, ValueError, "src and dst must be >= 0, got -3"),
        ({"num_nodes": 2}, ValueError, "src and dst must be below num_nodes=2, got 2"),
        ({"t": [0.0, float("nan")]}, ValueError, "t must be finite, got nan at position 1"),
        ({"t": [float("inf"), 0.0]}, ValueError, "t must be finite, got inf at position 0"),
        ({"id_dtype": torch.int16}, TypeError, "id_dtype must be int32 or int64, got torch.int16"),
        (
            {"num_nodes": 2**31, "id_dtype": torch.int32},
            ValueError,
            "id_dtype must be int64 for 2147483648 nodes and 2 events, got torch.int32",
        ),
    ],
)
def test_errors(change, error, match):
    args = {"src": [0, 1], "dst": [1, 2], "t": [1, 2], **change}
    with pytest.raises(error, match=f"TemporalGraph.from_events: {match}"):
        ga.TemporalGraph.from_events(**args)


# --- append -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("add_reverse", [True, False])
@pytest.mark.parametrize("time", [torch.int64, torch.float64])
@pytest.mark.parametrize("first", [0, 1, 150])
def test_append_equals_rebuild(first, time, add_reverse):
    src, dst, t = events(n=400, time=time)
    g = ga.TemporalGraph.from_events(src[:first], dst[:first], t[:first], add_reverse=add_reverse)
    if first == 0 and time == torch.int64:
        g = ga.TemporalGraph.from_events([], [], torch.empty(0, dtype=torch.int64), add_reverse=add_reverse)
    at, size = first, 1
    while at < len(src):
        g.append(src[at : at + size], dst[at : at + size], t[at : at + size])
        at, size = at + size, size * 2 % 61 + 1
    whole = ga.TemporalGraph.from_events(src, dst, t, add_reverse=add_reverse)
    assert_same(g, whole)
    assert g.num_entries == whole.num_entries
    nodes = torch.arange(-1, g.num_nodes).repeat(3)
    times = t[torch.arange(len(nodes)) * 5]
    for strategy in ("recent", "uniform"):
        a, b = (ga.temporal_sample(x, nodes, times, 4, strategy) for x in (g, whole))
        assert torch.equal(a.eid, b.eid)
        assert torch.equal(a.nbr, b.nbr)
        assert torch.equal(a.dt, b.dt)
    assert_same(g.to("cpu"), whole)


def test_append_is_amortised():
    """Space stays within a constant of the entries however small the pieces are."""
    g = ga.TemporalGraph.from_events([0], [1], [0])
    for i in range(500):
        g.append([0, 2 + i % 7], [1 + i % 5, 0], [i, i])
    assert len(g.nbr) <= 8 * g.num_entries


def test_append_nothing_and_new_nodes():
    g = ga.TemporalGraph.from_events([0], [1], [3])
    g.append([], [], torch.empty(0, dtype=torch.int64))
    assert g.indptr.tolist() == [0, 1, 2]
    g.append([7], [0], [3])
    g.append([30], [30], [4])
    assert g.num_nodes == 31
    assert "num_nodes=31, num_events=3, entries=5" in repr(g)
    assert g.compact().nbr.tolist() == [1, 7, 0, 0, 30]
    with pytest.raises(
        ValueError, match=r"indptr must be asked of a compact graph, got one with slack; use compact\(\)"
    ):
        _ = g.indptr


def test_append_leaves_the_arrays_of_others_alone():
    src, dst, t = events()
    g = ga.TemporalGraph.from_events(src, dst, t)
    before = [a.clone() for a in arrays(g)]
    held = arrays(g)
    g.append([0, 1], [1, 2], [99, 99])
    for x, y in zip(held, before, strict=True):
        assert torch.equal(x, y)


def test_append_widens_ids():
    few = ga.TemporalGraph.from_events([0], [1], [1])
    g = ga.TemporalGraph(*arrays(few), num_events=2**31 - 1)
    g.append([0], [1], [2])
    assert g.eid.dtype == g.nbr.dtype == torch.int64
    assert g.compact().eid.tolist() == [0, 2**31 - 1, 0, 2**31 - 1]


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        (([0], [1], [4]), ValueError, "t must not be earlier than the last event, got 4 after 5"),
        (([0, 0], [1, 1], [7, 6]), ValueError, "t must be non-decreasing, got 6 after 7 at position 1"),
        (([-1], [1], [9]), ValueError, "src and dst must be >= 0, got -1"),
        (([0], [1], [9.5]), TypeError, "t must be integers like the graph's times, got torch.float64"),
        (([0], [1, 2], [9]), ValueError, r"dst must be \[1\] like src, got \[2\]"),
    ],
)
def test_append_errors_change_nothing(given, error, match):
    g = ga.TemporalGraph.from_events([0, 1], [1, 2], [5, 3])
    with pytest.raises(error, match=f"TemporalGraph.append: {match}"):
        g.append(*given)
    assert_same(g, ga.TemporalGraph.from_events([0, 1], [1, 2], [5, 3]))


def test_integer_times_go_into_a_float_graph():
    g = ga.TemporalGraph.from_events([0], [1], [0.5])
    g.append([0], [1], [2])
    assert g.compact().t.tolist() == [0.5, 2.0, 0.5, 2.0]


# --- files ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", [torch.int64, torch.float64])
def test_save_and_load(time, tmp_path):
    g = ga.TemporalGraph.from_events(*events(time=time), add_reverse=False)
    g.save(tmp_path / "g")
    loaded = ga.TemporalGraph.load(tmp_path / "g")
    assert_same(g, loaded)
    loaded.append([0], [1], [99])
    assert_same(g, ga.TemporalGraph.load(tmp_path / "g"))
    loaded.save(tmp_path / "g")
    assert_same(loaded, ga.TemporalGraph.load(tmp_path / "g"))
    assert len(list((tmp_path / "g").iterdir())) == 5, "old arrays are removed"


def test_saving_an_empty_graph(tmp_path):
    g = ga.TemporalGraph.from_events([], [], [], num_nodes=3)
    g.save(tmp_path)
    assert_same(g, ga.TemporalGraph.load(tmp_path))


def test_a_writer_that_stops_leaves_the_old_graph(tmp_path, monkeypatch):
    old = ga.TemporalGraph.from_events(*events())
    old.save(tmp_path)
    for nth in range(5):
        calls = 0

        def fail(fd, nth=nth):
            nonlocal calls
            calls += 1
            if calls > nth:
                raise OSError("disk full")

        monkeypatch.setattr("os.fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            ga.TemporalGraph.from_events([0], [1], [1]).save(tmp_path)
        assert_same(old, ga.TemporalGraph.load(tmp_path))
    monkeypatch.undo()
    new = ga.TemporalGraph.from_events([0], [1], [1])
    new.save(tmp_path)
    assert_same(new, ga.TemporalGraph.load(tmp_path))
    assert len([p for p in tmp_path.iterdir() if p.suffix == ".npy"]) == 4


def _edit(**change):
    def apply(folder):
        header = json.loads((folder / "temporal_graph.json").read_text())
        header.update(change)
        (folder / "temporal_graph.json").write_text(json.dumps(header))

    return apply


def _replace(name, array):
    def apply(folder):
        header = json.loads((folder / "temporal_graph.json").read_text())
        entry = header["arrays"][name]
        array_now = array(np.load(folder / entry["file"]))
        np.save(folder / entry["file"], array_now)
        entry["dtype"], entry["length"] = str(array_now.dtype), len(array_now)
        (folder / "temporal_graph.json").write_text(json.dumps(header))

    return apply


def _truncate(folder):
    (file,) = folder.glob("t-*.npy")
    file.write_bytes(file.read_bytes()[:-9])


def _remove(folder):
    (file,) = folder.glob("eid-*.npy")
    file.unlink()


def _relabel(folder):
    header = json.loads((folder / "temporal_graph.json").read_text())
    header["arrays"]["t"]["length"] += 1
    (folder / "temporal_graph.json").write_text(json.dumps(header))


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda folder: (folder / "temporal_graph.json").unlink(), "hold temporal_graph.json, got none"),
        (lambda folder: (folder / "temporal_graph.json").write_text("{"), "hold JSON"),
        (lambda folder: (folder / "temporal_graph.json").write_text("[]"), "say .*version.*, got"),
        (_edit(version=2), "say .*'version': 1.*, got"),
        (_edit(arrays={}), "name its arrays .*, got KeyError"),
        (_edit(num_events=None), "name its arrays .*, got TypeError"),
        (_truncate, "hold complete files"),
        (_remove, "hold the files that its header names"),
        (_relabel, r"hold int64 \[601\] in t-.*, got int64 \[600\]"),
        (_replace("t", lambda a: a.astype(np.float32)), "hold indptr int64 and t int64 or float64"),
        (_replace("nbr", lambda a: a.astype(np.int64)), "hold nbr and eid both int32 or both int64"),
        (_replace("t", lambda a: a[:-1]), "hold nbr, eid and t of one length, got 600, 600 and 599"),
        (_replace("indptr", lambda a: a[::-1].copy()), "hold an indptr that rises"),
        (_replace("indptr", lambda a: a[:0]), "hold an indptr that rises"),
    ],
)
def test_load_errors(spoil, match, tmp_path):
    ga.TemporalGraph.from_events(*events(loops=False)).save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=f"TemporalGraph.load: .* must {match}"):
        ga.TemporalGraph.load(tmp_path)


# --- real data --------------------------------------------------------------------------------------------------------------


def test_real_graph(shared_data):
    file = shared_data / "temporal" / "wikipedia" / "edges.csv.gz"
    if not file.exists():
        pytest.skip("no wikipedia")
    table = torch.from_numpy(np.loadtxt(file, delimiter=",", skiprows=1, dtype=np.float64).astype(np.int64))
    src, dst, t = table[:, 0], table[:, 1], table[:, 2]
    g = ga.TemporalGraph.from_events(src, dst, t)
    assert (g.num_nodes, g.num_events, g.num_entries) == (9227, 157474, 314948)
    row = torch.repeat_interleave(torch.arange(g.num_nodes), g.indptr.diff())
    same = row[1:] == row[:-1]
    assert (g.t[1:] >= g.t[:-1])[same].all()
    back = torch.stack([row, g.nbr.long()])
    assert (back.sort(0).values == torch.stack([src, dst])[:, g.eid.long()].sort(0).values).all()
    assert torch.equal(g.t, t[g.eid.long()])
