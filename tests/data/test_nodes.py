"""Node data: files, names, the rules for features, labels and masks, and the synthetic graphs."""

import gzip
import logging

import numpy as np
import pytest
import torch

from gnnaccel.data import (
    DataError,
    NodeData,
    load_nodes,
    power_law_edges,
    power_law_events,
    split_nodes,
    split_stats,
    synthetic_nodes,
)
from gnnaccel.data.nodes import find_nodes, present_nodes
from gnnaccel.graph import Graph
from tests.harness import INTERPRET, threads

pytestmark = pytest.mark.skipif(INTERPRET, reason="not about Triton")


def arrays(**changes):
    """Six nodes in a ring both ways, two classes, node 5 without a label."""
    ring = np.arange(6)
    base = {
        "edge_index": np.stack([np.concatenate([ring, (ring + 1) % 6]), np.concatenate([(ring + 1) % 6, ring])]),
        "x": np.arange(18, dtype=np.float32).reshape(6, 3),
        "y": np.array([0, 1, 0, 1, 0, -1]),
        "train_mask": np.array([1, 1, 0, 0, 0, 0], bool),
        "val_mask": np.array([0, 0, 1, 0, 0, 0], bool),
        "test_mask": np.array([0, 0, 0, 1, 1, 0], bool),
    }
    return {k: v for k, v in {**base, **changes}.items() if v is not None}


def saved(folder, **changes):
    path = folder / "some" / "data.npz"
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **arrays(**changes))
    return path.parent


def refused(folder, message, *, options=None, **changes):
    with pytest.raises(DataError) as error:
        load_nodes(saved(folder, **changes), **(options or {}))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_npz(tmp_path):
    data = load_nodes(saved(tmp_path))
    assert data.name == "some"
    assert (data.num_nodes, data.graph.num_edges, data.num_features, data.num_classes) == (6, 12, 3, 2)
    assert data.graph.nbr[data.graph.row(0)].tolist() == [1, 5]
    assert torch.equal(data.x, torch.arange(18.0).reshape(6, 3))
    assert data.y.tolist() == [0, 1, 0, 1, 0, -1]
    assert [data.nodes(part).tolist() for part in ("train", "val", "test")] == [[0, 1], [2], [3, 4]]
    assert data.notes == ("1 of 6 nodes have no label: they are in no part",)
    assert repr(data) == "NodeData('some', nodes=6, edges=12, features=3, classes=2, train / val / test=2 / 1 / 2)"
    assert load_nodes(data) is data
    again = load_nodes(str(tmp_path / "some" / "data.npz"))
    assert torch.equal(again.x, data.x)


def test_names(tmp_path):
    saved(tmp_path)
    assert find_nodes("some", tmp_path) == tmp_path / "some"
    assert present_nodes(tmp_path) == ["some"]
    (tmp_path / "some").rename(tmp_path / "moved")
    (tmp_path / "node").mkdir()
    (tmp_path / "moved").rename(tmp_path / "node" / "ring")
    assert load_nodes("ring", root=tmp_path).name == "ring"
    with pytest.raises(DataError, match=r"no file, folder or node data set 'rinq' \(did you mean 'ring'\?\)"):
        load_nodes("rinq", root=tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        load_nodes("not/there.npz")
    with pytest.raises(TypeError, match="source must be a path, a name or a Data, got int"):
        load_nodes(3)


def test_no_features_labels_or_masks(tmp_path):
    bare = load_nodes(saved(tmp_path, x=None, y=None, train_mask=None, val_mask=None, test_mask=None))
    assert bare.x is None
    assert bare.num_features == bare.num_classes == 0
    assert not (bare.train_mask | bare.val_mask | bare.test_mask).any()
    assert set(bare.y.tolist()) == {-1}
    named = load_nodes(saved(tmp_path, y=None, train_mask=None, val_mask=None, test_mask=None, num_nodes=np.array(6)))
    assert named.num_nodes == 6


def test_isolated_nodes_are_fine(tmp_path):
    data = load_nodes(saved(tmp_path, edge_index=np.array([[0, 1], [1, 0]])))
    assert data.graph.in_degree().tolist() == [1, 1, 0, 0, 0, 0]
    assert split_stats(data)["isolated"] == 4


def test_masks_are_made_and_said(tmp_path, caplog):
    y = np.arange(1000) % 5
    y[::7] = -1
    none = {"x": None, "train_mask": None, "val_mask": None, "test_mask": None}
    with caplog.at_level(logging.INFO, "gnnaccel.data"):
        data = load_nodes(saved(tmp_path, y=y, **none), seed=3)
    assert "nodes are split 60 / 20 / 20 by seed 3" in caplog.text
    assert any("60 / 20 / 20 by seed 3" in note for note in data.notes)
    sizes = [int(data.mask(part).sum()) for part in ("train", "val", "test")]
    assert sizes == [514, 172, 171]
    assert not (data.train_mask & (data.y < 0)).any()
    again, other = (load_nodes(saved(tmp_path, y=y, **none), seed=seed) for seed in (3, 4))
    assert torch.equal(again.train_mask, data.train_mask)
    assert not torch.equal(other.train_mask, data.train_mask)


def test_split_by_hand():
    masks = split_nodes(torch.tensor([0, 1, -1, 0, 1, 0]), train=0.4, val=0.2)
    assert [int(m.sum()) for m in masks] == [2, 1, 2]
    assert not torch.stack(masks)[:, 2].any()
    assert torch.stack(masks).sum(0).tolist() == [1, 1, 0, 1, 1, 1]
    with pytest.raises(ValueError, match="train and val must be above 0 and leave some for test"):
        split_nodes(torch.zeros(3), train=0.9, val=0.1)


def test_nodes_without_label_leave_their_masks(tmp_path):
    data = load_nodes(saved(tmp_path, test_mask=np.array([0, 0, 0, 1, 1, 1], bool)))
    assert data.nodes("test").tolist() == [3, 4]
    assert "1 nodes of test_mask have no label: taken out" in data.notes


def test_masks(tmp_path):
    both = np.array([1, 1, 1, 0, 0, 0], bool)
    refused(tmp_path, "1 nodes are in both train_mask and val_mask", train_mask=both)
    refused(tmp_path, "there is no val_mask", val_mask=None)
    refused(tmp_path, "train_mask has shape [5]", train_mask=np.ones(5, bool))
    refused(tmp_path, "train_mask holds torch.int64, not 0 and 1", train_mask=np.arange(6))
    many = {
        f"{p}_mask": np.stack([m, np.roll(m, 1)], 1)
        for p, m in zip(("train", "val", "test"), np.eye(6, dtype=bool)[:3], strict=True)
    }
    data = load_nodes(saved(tmp_path, **many), split=1)
    assert [data.nodes(p).tolist() for p in ("train", "val", "test")] == [[1], [2], [3]]
    refused(tmp_path, "there is no split 2", options={"split": 2}, **many)
    numbers = {f"{p}_mask": np.eye(6, dtype=np.uint8)[i] for i, p in enumerate(("train", "val", "test"))}
    assert load_nodes(saved(tmp_path, **numbers)).train_mask.dtype == torch.bool


def test_labels(tmp_path):
    refused(tmp_path, "the label of node 1 is -2", y=np.array([0, -2, 0, 1, 0, 1]))
    refused(tmp_path, "the label of node 2 is 0.5", y=np.array([0, 1, 0.5, 1, 0, 1]))
    refused(tmp_path, "5 labels for 6 nodes", y=np.zeros(5, int), num_nodes=np.array(6))
    refused(tmp_path, "labels are torch.int64[6, 2]", y=np.zeros((6, 2), int))
    refused(tmp_path, "a label is 1; with num_classes=1", options={"num_classes": 1})
    column = np.array([0, 1, 0, 1, 0, np.nan])[:, None]
    data = load_nodes(saved(tmp_path, y=column), num_classes=5)
    assert data.y.tolist() == [0, 1, 0, 1, 0, -1]
    assert data.num_classes == 5


def test_features(tmp_path):
    x = arrays()["x"]
    refused(tmp_path, "5 rows of features for 6 nodes", x=x[:5])
    refused(tmp_path, "features are torch.float32[6, 3, 1]", x=x[:, :, None])
    for gap in (np.nan, np.inf):
        holes = x.copy()
        holes[2, 1] = holes[2, 2] = holes[4, 0] = gap
        refused(tmp_path, "features of node 2 are not finite", x=holes)
        data = load_nodes(saved(tmp_path, x=holes), nan_features="zero")
        assert data.x[2].tolist() == [6, 0, 0]
        assert data.x[4].tolist() == [0, 13, 14]
        assert data.x[0].tolist() == [0, 1, 2]
        assert "2 nodes had features that were not finite: set to 0" in data.notes
    x[3] *= -1
    x[0] = 0
    normal = load_nodes(saved(tmp_path, x=x), features="row_normalized")
    assert normal.x[0].tolist() == [0, 0, 0]
    torch.testing.assert_close(normal.x[1:].abs().sum(1), torch.ones(5))
    torch.testing.assert_close(normal.x[3], torch.tensor([-9.0, -10.0, -11.0]) / 30)
    half = load_nodes(saved(tmp_path, x=x.astype(np.float64)), dtype=torch.float16)
    assert half.x.dtype == torch.float16
    small = load_nodes(saved(tmp_path, x=x), dtype=torch.int8)
    assert small.x.dtype == torch.int8
    torch.testing.assert_close(small.x.float() * small.scale[:, None], torch.from_numpy(x), rtol=0, atol=0.07)
    whole = load_nodes(saved(tmp_path, x=x.astype(np.int64)))
    assert whole.x.dtype == torch.float32
    with pytest.raises(ValueError, match="features must be raw or row_normalized"):
        load_nodes(saved(tmp_path), features="scaled")
    with pytest.raises(ValueError, match="nan_features must be error or zero"):
        load_nodes(saved(tmp_path), nan_features="drop")
    with pytest.raises(ValueError, match="dtype must be float32, float16 or int8"):
        load_nodes(saved(tmp_path), dtype=torch.int64)


@pytest.mark.parametrize("data", [False, True])
def test_sparse_features(tmp_path, data):
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((6, 40)) < 0.2, rng.random((6, 40)) if data else 1, 0).astype(np.float32)
    dense[3] = 0
    indptr = np.concatenate([[0], np.cumsum((dense != 0).sum(1))])
    given = {"x": None, "x_indptr": indptr, "x_indices": np.nonzero(dense)[1], "x_shape": np.array([6, 40])}
    if data:
        given["x_data"] = dense[dense != 0]
    for options in ({}, {"features": "row_normalized"}, {"dtype": torch.float16}, {"dtype": torch.int8}):
        got, want = load_nodes(saved(tmp_path, **given), **options), load_nodes(saved(tmp_path, x=dense), **options)
        torch.testing.assert_close(got.x, want.x)
        assert (got.scale is None) == (want.scale is None)
        if got.scale is not None:
            torch.testing.assert_close(got.scale, want.scale)
    columns = given["x_indices"]
    refused(tmp_path, "x_indices are out of range", **{**given, "x_indices": columns + 40})
    refused(tmp_path, "x_indptr, x_indices and x_shape disagree", **{**given, "x_indices": columns[1:]})
    refused(tmp_path, "x_indptr falls", **{**given, "x_indptr": indptr[[0, 2, 1, 3, 4, 5, 6]]})
    refused(tmp_path, "a column twice in a row", **{**given, "x_indices": np.zeros_like(columns)})
    refused(tmp_path, "x_indptr without x_shape", **{**given, "x_shape": None})
    short = {"x_shape": np.array([5, 40]), "x_indptr": indptr[:6], "x_indices": columns[: indptr[5]]}
    if data:
        short["x_data"] = given["x_data"][: indptr[5]]
    refused(tmp_path, "5 rows of features for 6 nodes", **{**given, **short})
    if data:
        holes = given["x_data"].copy()
        holes[0] = np.nan
        refused(tmp_path, "are not finite", **{**given, "x_data": holes})
        assert load_nodes(saved(tmp_path, **{**given, "x_data": holes}), nan_features="zero").x.isfinite().all()


def test_edges(tmp_path):
    refused(tmp_path, "src and dst must be below num_nodes=6, got 6", edge_index=np.array([[0, 6], [1, 2]]))
    refused(tmp_path, "src and dst must be >= 0, got -1", edge_index=np.array([[0, -1], [1, 2]]))
    refused(tmp_path, "edge_index has shape [3, 2]", edge_index=np.zeros((3, 2), int))
    refused(tmp_path, "no edge_index", edge_index=None)
    refused(tmp_path, "weight must be finite and at least 0", edge_weight=-np.ones(12))
    typed = load_nodes(saved(tmp_path, edge_type=np.arange(12) % 3, edge_weight=np.arange(12.0)))
    assert typed.graph.num_relations == 3
    assert typed.graph.weight.tolist() == typed.graph.eid.tolist()
    both = load_nodes(saved(tmp_path, edge_index=np.array([[0, 1], [1, 2]])), add_reverse=True)
    assert both.graph.in_degree().tolist() == [1, 2, 1, 0, 0, 0]


def test_damaged_files(tmp_path):
    file = tmp_path / "x.npz"
    file.write_bytes(b"PK\x03\x04 nothing")
    for path, message in ((file, "not readable as npz"), (tmp_path, "neither data.npz nor nodes.csv")):
        with pytest.raises(DataError, match=message):
            load_nodes(path)
    np.savez(file, edge_index=np.array([["a"]], dtype=object))
    with pytest.raises(DataError, match="pickled objects, which are never loaded"):
        load_nodes(file)
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="not a file of node data"):
        load_nodes(tmp_path / "x.csv")


NODES = "id,label,split,a,b\nann,x,train,1,2\nbob,y,val,3,4\neve,,test,5,6\ndan,y,test,7,8\n"
EDGES = "src,dst,relation\nann,bob,likes\nbob,eve,knows\ndan,ann,likes\n"


def csv(folder, nodes=NODES, edges=EDGES):
    (folder / "nodes.csv").write_text(nodes)
    (folder / "edges.csv").write_text(edges)
    return folder


def test_csv(tmp_path):
    data = load_nodes(csv(tmp_path))
    assert data.graph.node_ids.tolist() == ["ann", "bob", "eve", "dan"]
    assert data.graph.relation_ids.tolist() == ["knows", "likes"]
    assert [x.tolist() for x in data.graph.edges()] == [[0, 1, 3], [1, 2, 0]]
    assert data.x.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert data.y.tolist() == [0, 1, -1, 1]
    assert data.class_names.tolist() == ["x", "y"]
    assert [data.nodes(p).tolist() for p in ("train", "val", "test")] == [[0], [1], [3]]
    np.save(tmp_path / "node_feat.npy", np.ones((4, 7), np.float16))
    assert load_nodes(tmp_path).x.shape == (4, 7)
    with gzip.open(tmp_path / "edges.csv.gz", "wt") as f:
        f.write(EDGES)
    (tmp_path / "edges.csv").unlink()
    assert load_nodes(tmp_path, add_reverse=True).graph.num_edges == 6


def test_csv_of_integers(tmp_path):
    nodes = "node,y\n30,2\n10,0\n20,1\n"
    data = load_nodes(csv(tmp_path, nodes, "src,dst\n10,20\n20,30\n"))
    assert data.graph.node_ids.tolist() == [30, 10, 20]
    assert [x.tolist() for x in data.graph.edges()] == [[1, 2], [2, 0]]
    assert data.y.tolist() == [2, 0, 1]
    assert data.class_names is None
    assert data.x is None
    assert load_nodes(csv(tmp_path, "id,y\n0,1\n1,0\n", "src,dst\n0,1\n")).graph.node_ids is None


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        (NODES.replace("id,", "who,"), EDGES, "no column id"),
        (NODES.replace("dan,y", "ann,y"), EDGES, "row 4: node 'ann' is listed twice"),
        (NODES, EDGES + "zoe,ann,likes\n", "row 4: node 'zoe' is not among the nodes"),
        (NODES, EDGES.replace("src", "from"), "no column 'src'"),
        (NODES.replace("val", "holdout"), EDGES, "row 2: split 'holdout' is unknown"),
        (NODES.replace(",3,", ",,"), EDGES, "row 2: feature 'a' is missing or NaN"),
    ],
)
def test_bad_csv(tmp_path, nodes, edges, message):
    with pytest.raises(DataError) as error:
        load_nodes(csv(tmp_path, nodes, edges))
    assert message in str(error.value)


def test_csv_without_edges(tmp_path):
    (tmp_path / "nodes.csv").write_text(NODES)
    with pytest.raises(DataError, match=r"there is nodes\.csv but no edges\.csv"):
        load_nodes(tmp_path)


def test_pyg(tmp_path):
    pyg = pytest.importorskip("torch_geometric.data")
    given = {k: torch.from_numpy(v) for k, v in arrays().items()}
    data = load_nodes(pyg.Data(**given))
    want = load_nodes(saved(tmp_path))
    assert torch.equal(data.x, want.x)
    assert torch.equal(data.graph.nbr, want.graph.nbr)
    assert torch.equal(data.test_mask, want.test_mask)
    assert data.name == "Data"
    typed = load_nodes(pyg.Data(**given, edge_type=torch.arange(12) % 2))
    assert typed.graph.num_relations == 2
    torch.save(given, tmp_path / "ring.pt")
    assert torch.equal(load_nodes(tmp_path / "ring.pt").y, want.y)
    with pytest.raises(TypeError, match="HeteroData must be made homogeneous"):
        load_nodes(type("HeteroData", (), {"edge_index": None, "node_types": []})())


def test_construction_is_checked():
    graph = Graph.from_edges([0], [1], 2)
    good = {
        "graph": graph, "x": torch.zeros(2, 3), "y": torch.tensor([0, -1]), "train_mask": torch.tensor([True, False]),
        "val_mask": torch.zeros(2, dtype=torch.bool), "test_mask": torch.zeros(2, dtype=torch.bool), "num_classes": 1,
    }  # fmt: skip
    NodeData("good", **good)
    for change, message in (
        ({"x": torch.zeros(3, 3)}, "x must be a row for each of 2 nodes, got 3 rows"),
        ({"x": torch.zeros(2, 3, dtype=torch.float64)}, r"x must be float32, float16 or int8 \[N, F\], got float64"),
        ({"scale": torch.ones(3)}, r"scale must be float32 \[2\], got float32\[3\]"),
        ({"y": torch.tensor([0, 1])}, r"y must be in \[-1, 1\), got 0 .. 1"),
        ({"y": torch.tensor([0])}, r"y must be int64 \[2\]"),
        ({"val_mask": torch.tensor([True, False])}, "train_mask and val_mask must be disjoint, got 1 nodes in both"),
        ({"test_mask": torch.tensor([False, True])}, "test_mask must be of nodes with a class, got 1 without"),
        ({"test_mask": torch.zeros(2)}, r"test_mask must be bool \[2\], got float32"),
    ):
        with pytest.raises(ValueError, match="NodeData: " + message):
            NodeData("bad", **{**good, **change})
    with pytest.raises(ValueError, match="part must be one of"):
        NodeData("good", **good).mask("dev")


def test_stats():
    data = NodeData.of(
        "s", Graph.from_edges([0, 1, 2], [1, 2, 3], 5), y=torch.tensor([0, 0, 1, -1, 1]),
        masks={p: torch.eye(5)[i] for i, p in enumerate(("train", "val", "test"))},
    )  # fmt: skip
    stats = split_stats(data)
    assert stats["train"] == {"nodes": 1, "share": 0.2, "classes": [1, 0], "isolated": 0}
    assert stats["homophily"] == 0.5  # of 0-1 and 1-2; 2-3 does not count
    assert (stats["unlabelled"], stats["outside"], stats["isolated"]) == (1, 1, 1)


class TestSynthetic:
    def test_is_a_function_of_its_arguments(self):
        a, b = synthetic_nodes(nodes=500, seed=5), load_nodes("synthetic-nodes:nodes=500,seed=5")
        for x, y in ((a.graph.nbr, b.graph.nbr), (a.x, b.x), (a.y, b.y), (a.train_mask, b.train_mask)):
            assert torch.equal(x, y)
        other = synthetic_nodes(nodes=500, seed=6)
        assert not torch.equal(a.y, other.y)
        assert a.graph.nbr[:8].tolist() == [62, 195, 217, 252, 385, 395, 403, 7]
        assert a.y[:8].tolist() == [0, 0, 2, 2, 1, 1, 1, 0]

    def test_shape(self):
        data = synthetic_nodes()
        g = data.graph
        assert (data.num_nodes, data.num_classes, data.num_features) == (2000, 4, 32)
        assert torch.equal(torch.bincount(data.y), torch.full((4,), 500))
        assert abs(g.num_edges / 2000 - 10) < 0.2
        src, dst = g.edges()
        assert not (src == dst).any()
        keys = src.long() * 2000 + dst
        assert len(keys.unique()) == len(keys)
        assert torch.equal(keys.sort().values, (dst.long() * 2000 + src).sort().values)  # both ways
        assert [int(data.mask(p).sum()) for p in ("train", "val", "test")] == [1200, 400, 400]
        assert 0.8 < split_stats(data)["homophily"] < 0.9
        assert synthetic_nodes(features=0, nodes=100).x is None

    @staticmethod
    def accuracy(x, data):
        """Of ridge regression on one-hot classes, closed form."""
        x, y = torch.cat([x, torch.ones(len(x), 1)], 1).double(), torch.nn.functional.one_hot(data.y).double()
        a, b = x[data.train_mask], y[data.train_mask]
        w = torch.linalg.solve(a.T @ a + torch.eye(x.shape[1]), a.T @ b)
        return ((x @ w).argmax(1) == data.y)[data.test_mask].double().mean().item()

    @pytest.mark.parametrize("relations", [1, 4])
    def test_neighbours_tell_more_than_features(self, relations):
        data = synthetic_nodes(relations=relations)
        alone = self.accuracy(data.x, data)
        sums = torch.zeros(2000 * relations, 32)
        rows = data.graph._row_of_entries()
        relation = 0 if data.graph.relation is None else data.graph.relation.long()
        sums.index_add_(0, rows * relations + relation, data.x[data.graph.nbr.long()])
        mean = sums / torch.bincount(rows * relations + relation, minlength=2000 * relations).clamp(min=1)[:, None]
        mean = mean.reshape(2000, -1)
        assert 0.6 < alone < 0.8
        assert self.accuracy(torch.cat([data.x, mean], 1), data) > (0.93 if relations == 1 else 0.88)
        if relations > 1:
            assert data.graph.num_relations == 4
            mixed = mean.reshape(2000, 4, 32).sum(1)
            assert self.accuracy(torch.cat([data.x, mixed], 1), data) < 0.8  # types are needed

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("node=3", r"no option 'node=3' \(did you mean 'nodes'\?\)"),
            ("nodes=many", "nodes must be an int, got 'many'"),
            ("nodes=0", "nodes must be an int >= 1"),
            ("nodes=3,classes=9", "nodes must be at least classes"),
            ("features=-1", "features must be >= 0"),
        ],
    )
    def test_bad_options(self, spec, message):
        with pytest.raises(DataError, match=message):
            load_nodes("synthetic-nodes:" + spec)

    def test_options_of_load(self):
        data = load_nodes("synthetic-nodes:nodes=50", features="row_normalized", dtype=torch.float16)
        assert data.x.dtype == torch.float16
        torch.testing.assert_close(data.x.float().abs().sum(1), torch.ones(50), rtol=0.01, atol=0)

    def test_power_law(self):
        src, dst = power_law_edges(1000, 20_000, seed=2)
        events = power_law_events(1000, 20_000, seed=2)
        assert torch.equal(src, events.src)
        assert torch.equal(dst, events.dst)
        assert not (src == dst).any()
        degree = torch.bincount(dst, minlength=1000)
        assert degree.max() > 40 * degree.median()
        with pytest.raises(ValueError, match="num_nodes >= 2"):
            power_law_edges(1, 5)


def test_same_bits_for_any_number_of_threads():
    with threads(1):
        one = synthetic_nodes(nodes=3000, relations=3)
    with threads(2):
        two = synthetic_nodes(nodes=3000, relations=3)
    assert torch.equal(one.x, two.x)
    assert torch.equal(one.graph.nbr, two.graph.nbr)


@pytest.mark.parametrize(
    ("name", "nodes", "edges", "features", "classes", "parts"),
    [
        ("cora", 2708, 10_556, 1433, 7, (140, 500, 1000)),
        ("citeseer", 3327, 9104, 3703, 6, (120, 500, 1000)),
        ("pubmed-nofeat", 19_717, 88_648, 0, 3, (60, 500, 1000)),
        ("github-nofeat", 37_700, 578_006, 0, 2, (22_620, 7540, 7540)),
        ("facebook-pages", 22_470, 341_646, 4714, 4, (13_482, 4494, 4494)),
    ],
)
def test_real_data(shared_data, name, nodes, edges, features, classes, parts):
    data = load_nodes(name, root=shared_data, dtype=torch.int8 if features > 4000 else None)
    assert (data.num_nodes, data.graph.num_edges, data.num_features, data.num_classes) == (
        nodes,
        edges,
        features,
        classes,
    )
    assert tuple(int(data.mask(p).sum()) for p in ("train", "val", "test")) == parts
    assert int((data.y < 0).sum()) == (15 if name == "citeseer" else 0)
    src, dst = data.graph.edges()
    assert not (src == dst).any()
