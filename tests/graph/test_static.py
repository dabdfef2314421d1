"""`Graph`: rows of in-neighbours, other graphs made of it, its files, and what it refuses."""

import json

import numpy as np
import pytest
import torch

import gnnaccel as ga
from gnnaccel.graph.static import Graph
from tests.harness import INTERPRET, threads

pytestmark = pytest.mark.skipif(INTERPRET, reason="not about Triton")

FIELDS = ("indptr", "nbr", "eid", "relation", "weight")


def edges(n=400, nodes=30, relations=0, weighted=False, seed=0):
    gen = torch.Generator().manual_seed(seed)
    src, dst = torch.randint(0, nodes, (2, n), generator=gen)
    options = {}
    if relations:
        options["relation"] = torch.randint(0, relations, (n,), generator=gen)
        options["num_relations"] = relations
    if weighted:
        options["weight"] = torch.rand(n, generator=gen)
    return src, dst, options


def reference(src, dst, num_nodes, relation=None, weight=None, **_):
    """Rows as plain lists, sorted by (row, relation, neighbour, id)."""
    src, dst = src.tolist(), dst.tolist()
    relation = [0] * len(src) if relation is None else relation.tolist()
    order = sorted(range(len(src)), key=lambda i: (dst[i], relation[i], src[i], i))
    indptr = [sum(d < v for d in dst) for v in range(num_nodes + 1)]
    weight = None if weight is None else [weight[i].item() for i in order]
    return indptr, [src[i] for i in order], order, [relation[i] for i in order], weight


def assert_same(a, b):
    assert a.num_relations == b.num_relations
    for name in FIELDS:
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None), name
        assert x is None or (x.dtype == y.dtype and torch.equal(x, y)), name


CASES = {
    "plain": {},
    "none": {"n": 0},
    "one_node": {"nodes": 1, "n": 5},
    "typed": {"relations": 3},
    "weighted": {"weighted": True},
    "typed_weighted": {"relations": 4, "weighted": True},
    "repeated": {"nodes": 4, "relations": 2},
}


@pytest.mark.parametrize("name", CASES)
def test_rows_match_the_reference(name):
    src, dst, options = edges(**CASES[name])
    N = CASES[name].get("nodes", 30) + 3
    indptr, nbr, eid, relation, weight = reference(src, dst, N, **options)
    for n in (1, 2):
        with threads(n):
            g = Graph.from_edges(src, dst, N, **options)
        assert g.indptr.tolist() == indptr
        assert g.nbr.tolist() == nbr
        assert g.eid.tolist() == eid
        assert g.nbr.dtype == g.eid.dtype == torch.int32
        assert g.indptr.dtype == torch.int64
        if "relation" in options:
            assert g.relation.tolist() == relation
            assert g.relation.dtype == torch.int16
        else:
            assert g.relation is None
        assert (g.weight is None) == (weight is None)
        assert weight is None or g.weight.tolist() == weight
        assert g._rows_sorted()
        assert g.in_degree().tolist() == np.diff(indptr).tolist()


@pytest.mark.parametrize("name", CASES)
def test_edges_and_reverse(name):
    src, dst, options = edges(**CASES[name])
    N = CASES[name].get("nodes", 30) + 3
    g = Graph.from_edges(src, dst, N, **options)
    assert torch.equal(torch.stack(g.edges()).long(), torch.stack([src, dst]))
    back = g.reverse()
    assert torch.equal(torch.stack(back.edges()).long(), torch.stack([dst, src]))
    assert_same(back, Graph.from_edges(dst, src, N, **options))
    assert_same(back.reverse(), g)


def test_by_hand():
    g = ga.Graph.from_edges([0, 2, 1, 2, 0], [1, 1, 0, 1, 1], 4, relation=[1, 0, 0, 0, 0], weight=[1, 2, 3, 4, 5])
    assert g.indptr.tolist() == [0, 1, 5, 5, 5]
    assert g.nbr.tolist() == [1, 0, 2, 2, 0]
    assert g.eid.tolist() == [2, 4, 1, 3, 0]
    assert g.relation.tolist() == [0, 0, 0, 0, 1]
    assert g.weight.tolist() == [3, 5, 2, 4, 1]
    assert g.nbr[g.row(1)].tolist() == [0, 2, 2, 0]
    assert (g.num_nodes, g.num_edges, g.num_relations) == (4, 5, 2)
    assert repr(g) == "Graph(num_nodes=4, num_edges=5, num_relations=2, weighted, ids=int32, device=cpu)"


def test_kinds_of_input_agree():
    src, dst, _ = edges()
    g = Graph.from_edges(src, dst)
    for kind in (lambda x: x.int(), lambda x: x.numpy(), lambda x: x.numpy().astype(np.uint32), lambda x: x.tolist()):
        assert_same(Graph.from_edges(kind(src), kind(dst)), g)
    assert_same(Graph.from_edges(torch.stack([src, dst], 1)[:, 0], dst), g)  # not contiguous
    wide = Graph.from_edges(src, dst, id_dtype=torch.int64)
    assert wide.nbr.dtype == wide.eid.dtype == torch.int64
    assert torch.equal(wide.nbr, g.nbr.long())


def test_keys_wider_than_32_bits():
    """relation * N + neighbour is 300 * 2^24 here."""
    N = 2**24
    g = Graph.from_edges([N - 1, 0, N - 1], [0, 0, 0], N, relation=[300, 300, 0])
    assert g.indptr[:2].tolist() == [0, 3]
    assert g.nbr.tolist() == [N - 1, 0, N - 1]
    assert g.relation.tolist() == [0, 300, 300]


def test_reverse_edges_are_added():
    src, dst, options = edges(n=50, nodes=8, relations=3, weighted=True)
    E = len(src)
    g = Graph.from_edges(src, dst, add_reverse=True, **options)
    assert g.num_edges == 2 * E
    assert g.num_relations == 6
    u, v = g.edges()
    assert torch.equal(u, torch.cat([src, dst]).int())
    assert torch.equal(v, torch.cat([dst, src]).int())
    order = g.eid.argsort()
    assert torch.equal(g.relation[order].long(), torch.cat([options["relation"], options["relation"] + 3]))
    assert torch.equal(g.weight[order], options["weight"].repeat(2))
    same = Graph.from_edges(src, dst, add_reverse=True, reverse_relation="same", **options)
    assert same.num_relations == 3
    assert torch.equal(same.relation[same.eid.argsort()].long(), options["relation"].repeat(2))
    plain = Graph.from_edges(src, dst, add_reverse=True)
    assert plain.relation is None
    assert plain.num_relations == 1
    assert torch.equal(plain.in_degree(), plain.reverse().in_degree())


def test_rows_given_directly():
    src, dst, options = edges(relations=3, weighted=True)
    g = Graph.from_edges(src, dst, 33, **options)
    again = Graph.from_csr(g.indptr, g.nbr, eid=g.eid, relation=g.relation, weight=g.weight, num_relations=3)
    assert_same(again, g)
    assert again.nbr.data_ptr() == g.nbr.data_ptr()  # sorted rows are not copied
    assert again.eid.data_ptr() == g.eid.data_ptr()
    # the same rows in another order
    order = torch.cat([torch.arange(g.row(v).start, g.row(v).stop).flip(0) for v in range(33)])
    fields = {name: getattr(g, name)[order] for name in ("eid", "relation", "weight")}
    assert_same(Graph.from_csr(g.indptr, g.nbr[order], num_relations=3, **fields), g)
    plain = Graph.from_csr([0, 2, 2, 3], np.array([2, 0, 1]))
    assert plain.nbr.tolist() == [0, 2, 1]
    assert plain.eid.tolist() == [1, 0, 2]
    assert Graph.from_csr([0, 1], torch.tensor([0], dtype=torch.int32), eid=[2**40]).eid.tolist() == [2**40]


def test_read_only_arrays_are_copied():
    src, dst = (x.numpy() for x in edges()[:2])
    want = Graph.from_edges(src, dst)
    for x in (src, dst):
        x.flags.writeable = False
    assert_same(Graph.from_edges(src, dst), want)  # without torch's warning, which is an error here


def test_self_loops():
    src, dst, options = edges(n=40, nodes=6, relations=2, weighted=True)
    g = Graph.from_edges(src, dst, 8, **options)
    bare = g.without_self_loops()
    keep = src != dst
    assert torch.equal(bare.eid.sort().values.long(), keep.nonzero().squeeze(1))
    assert torch.equal(torch.stack(bare.edges()).long(), torch.stack([src[keep], dst[keep]]))
    assert bare._rows_sorted()
    full = bare.with_self_loops()
    assert full.num_edges == bare.num_edges + 8
    assert full.num_relations == 3
    loops = full.nbr == full._row_of_entries()
    assert full.eid[loops].tolist() == list(range(int(bare.eid.max()) + 1, int(bare.eid.max()) + 9))
    assert set(full.weight[loops].tolist()) == {1.0}
    assert set(full.relation[loops].tolist()) == {2}
    assert full._rows_sorted()
    assert_same(full.with_self_loops().without_self_loops(), Graph(*bare_fields(bare), num_relations=4))
    some = g.with_self_loops()
    has = torch.zeros(8, dtype=torch.bool)
    has[src[~keep]] = True
    assert some.num_edges == g.num_edges + int((~has).sum())
    assert Graph.from_edges([], [], 3).with_self_loops().nbr.tolist() == [0, 1, 2]


def bare_fields(g):
    return [getattr(g, name) for name in FIELDS]


def test_to_device():
    g = Graph.from_edges(*edges()[:2])
    assert g.to("cpu") is g
    far = g.to("meta")
    assert far.device.type == far.indptr.device.type == "meta"


BAD_EDGES = {
    "negative": (([0, -1], [1, 0]), {}, "src and dst must be >= 0, got -1"),
    "too_large": (([0, 7], [1, 0], 5), {}, "src and dst must be below num_nodes=5, got 7"),
    "lengths": (([0, 1], [1]), {}, "dst must be [2] like src, got [1]"),
    "matrix": (([[0, 1]], [1]), {}, "src must be [E], got [1, 2]"),
    "relation_length": (([0], [1]), {"relation": [0, 1]}, "relation must be [1] like the edges, got [2]"),
    "relation_range": (
        ([0], [1]),
        {"relation": [3], "num_relations": 2},
        "relation must be in [0, 2), got 3 at position 0",
    ),
    "relation_negative": (([0], [1]), {"relation": [-1]}, "relation must be in [0, 1), got -1 at position 0"),
    "relations_many": (([0], [1]), {"relation": [40_000]}, "at most 32767 relations, got 40001"),
    "relations_doubled": (
        ([0], [1]),
        {"relation": [20_000], "add_reverse": True},
        "at most 32767 relations, got 40002",
    ),
    "relation_missing": (([0], [1]), {"num_relations": 2}, "relation must be given for 2 relations, got None"),
    "weight_negative": (([0, 1], [1, 0]), {"weight": [1, -2]}, "finite and at least 0, got -2.0 at position 1"),
    "weight_nan": (([0, 1], [1, 0]), {"weight": [1, float("nan")]}, "finite and at least 0, got nan at position 1"),
    "weight_inf": (([0, 1], [1, 0]), {"weight": [float("inf"), 1]}, "finite and at least 0, got inf at position 0"),
    "weight_length": (([0, 1], [1, 0]), {"weight": [1.0]}, "weight must be [2] like the edges, got [1]"),
    "reverse": (([0], [1]), {"reverse_relation": "old"}, "reverse_relation must be new or same, got 'old'"),
}


@pytest.mark.parametrize("name", BAD_EDGES)
def test_bad_edges(name):
    args, options, message = BAD_EDGES[name]
    with pytest.raises(ValueError, match=r"^Graph\.from_edges: ") as error:
        Graph.from_edges(*args, **options)
    assert message in str(error.value)


def test_wrong_dtypes():
    with pytest.raises(TypeError, match=r"src must be integers, got torch\.float32"):
        Graph.from_edges([0.5], [1])
    with pytest.raises(TypeError, match="relation must be integers"):
        Graph.from_edges([0], [1], relation=[0.5])
    with pytest.raises(TypeError, match="src must be a tensor or array of numbers, got list"):
        Graph.from_edges(["a"], [1])
    with pytest.raises(TypeError, match="id_dtype must be int32 or int64"):
        Graph.from_edges([0], [1], id_dtype=torch.int16)


BAD_ROWS = {
    "start": (([1, 2], [0, 0]), {}, "indptr must begin with 0, got [1]"),
    "nothing": (([], []), {}, "indptr must begin with 0, got []"),
    "falls": (([0, 2, 1, 3], [0, 0, 0]), {}, "indptr must never fall, got 1 after 2 at position 2"),
    "end": (([0, 1], [0, 0]), {}, "indptr must end with the number of edges (2), got 1"),
    "range": (([0, 1, 2], [0, 2]), {}, "nbr must be in [0, 2), got 2 at position 1"),
    "negative": (([0, 1, 2], [-1, 1]), {}, "nbr must be in [0, 2), got -1 at position 0"),
    "eid": (([0, 1], [0]), {"eid": [-3]}, "eid must be >= 0, got -3"),
    "eids": (([0, 1], [0]), {"eid": [0, 1]}, "eid must be [1] like nbr, got [2]"),
    "weights": (([0, 1], [0]), {"weight": [-1]}, "weight must be finite and at least 0"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_rows(name):
    args, options, message = BAD_ROWS[name]
    with pytest.raises(ValueError, match=r"^Graph\.from_csr: ") as error:
        Graph.from_csr(*args, **options)
    assert message in str(error.value)


@pytest.mark.parametrize("name", CASES)
def test_saved_and_mapped(name, tmp_path):
    src, dst, options = edges(**CASES[name])
    g = Graph.from_edges(src, dst, 40, **options)
    g.save(tmp_path / "g")
    again = Graph.load(tmp_path / "g")
    assert_same(again, g)
    again.save(tmp_path / "g")  # over the files that it is mapped from
    assert_same(Graph.load(tmp_path / "g"), g)
    assert len(list((tmp_path / "g").glob("*.npy"))) == sum(getattr(g, f) is not None for f in FIELDS)


def test_names_are_saved(tmp_path):
    g = Graph.from_edges([0, 1], [1, 0], relation=[0, 1])
    g.node_ids, g.relation_ids = np.array(["b", "a"]), np.array(["likes", "is"])
    g.save(tmp_path)
    again = Graph.load(tmp_path)
    assert again.node_ids.tolist() == ["b", "a"]
    assert again.relation_ids.tolist() == ["likes", "is"]
    assert again.reverse().node_ids.tolist() == ["b", "a"]


def test_damaged_files(tmp_path):
    def fails(pattern, **options):
        with pytest.raises(ValueError, match=r"^Graph\.load: .*" + pattern):
            Graph.load(tmp_path, **options)

    fails("must hold graph.json, got none")
    g = Graph.from_edges(*edges()[:2], 30)

    def damage(name, array):
        g.save(tmp_path)
        np.save(next(tmp_path.glob(f"graph.{name}-*")), array)

    g.save(tmp_path)
    header = tmp_path / "graph.json"
    whole = header.read_text()
    header.write_text(whole[:50])
    fails("hold JSON")
    header.write_text("[]")
    fails("must say")
    header.write_text(json.dumps(json.loads(whole) | {"version": 2}))
    fails("must say")
    header.write_text(json.dumps(json.loads(whole) | {"num_relations": "x"}))
    fails("num_relations")
    header.write_text(json.dumps({k: v for k, v in json.loads(whole).items() if k != "arrays"}))
    fails("name its arrays")
    g.save(tmp_path)
    file = next(tmp_path.glob("graph.nbr-*"))
    file.write_bytes(file.read_bytes()[:-4])
    fails("hold complete files")
    file.unlink()
    fails("files that its header names")
    damage("nbr", g.nbr.numpy().astype(np.int64))
    fails(r"hold int32 \[400\] in .*, got int64")
    damage("nbr", g.nbr.numpy() + 1)
    fails(r"nbr must be in \[0, 30\), got 30")
    assert Graph.load(tmp_path, check=False).num_edges == 400
    damage("indptr", g.indptr.flip(0).numpy())
    fails("indptr must begin with 0", check=False)
    damage("indptr", np.concatenate([g.indptr.numpy()[:-1], [399]]))
    fails("indptr must end with", check=False)
