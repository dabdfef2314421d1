"""Graphs of other libraries and files."""

import gzip

import numpy as np
import pytest
import torch

from gnnaccel.graph import Graph
from tests.harness import INTERPRET

pytestmark = pytest.mark.skipif(INTERPRET, reason="not about Triton")


def pairs(graph):
    return [x.tolist() for x in graph.edges()]


class TestScipy:
    @property
    def sparse(self):
        return pytest.importorskip("scipy.sparse")

    @pytest.mark.parametrize("kind", ["coo", "csr", "csc", "lil"])
    def test_every_format(self, kind):
        dense = np.array([[0, 2, 0], [0, 0, 0], [3, 0, 1]], float)
        g = Graph.from_scipy(self.sparse.coo_array(dense).asformat(kind))
        assert g.num_nodes == 3
        assert g.nbr[g.row(1)].tolist() == [0]  # 0 -> 1: the row of 1 lists 0
        assert g.weight[g.row(1)].tolist() == [2]
        assert g.nbr[g.row(0)].tolist() == [2]
        assert g.nbr[g.row(2)].tolist() == [2]

    def test_weights(self):
        ones = self.sparse.coo_matrix(np.eye(3))
        assert Graph.from_scipy(ones).weight is None
        assert Graph.from_scipy(ones, weighted=True).weight.tolist() == [1, 1, 1]
        assert Graph.from_scipy(2 * ones, weighted=False).weight is None
        assert Graph.from_scipy(ones, add_reverse=True).num_edges == 6
        with pytest.raises(ValueError, match="weight must be finite and at least 0, got -1"):
            Graph.from_scipy(-ones)

    def test_bad(self):
        with pytest.raises(ValueError, match=r"matrix must be square, got \[2, 3\]"):
            Graph.from_scipy(self.sparse.coo_matrix((2, 3)))
        with pytest.raises(TypeError, match="must be a sparse matrix of SciPy, got list"):
            Graph.from_scipy([[1]])

    def test_saved_matrix(self, tmp_path):
        matrix = self.sparse.random(9, 9, 0.3, "csr", random_state=0)
        self.sparse.save_npz(tmp_path / "a.npz", matrix)
        a, b = Graph.from_npz(tmp_path / "a.npz"), Graph.from_scipy(matrix)
        assert torch.equal(a.nbr, b.nbr)
        assert torch.equal(a.weight, b.weight)


class TestPyg:
    @property
    def data(self):
        return pytest.importorskip("torch_geometric.data")

    def test_homogeneous(self):
        index = torch.tensor([[0, 1, 1], [1, 0, 2]])
        g = Graph.from_pyg(self.data.Data(edge_index=index, num_nodes=5))
        assert pairs(g) == index.tolist()
        assert g.num_nodes == 5
        typed = Graph.from_pyg(self.data.Data(edge_index=index, edge_type=torch.tensor([1, 0, 1]), num_nodes=3))
        assert typed.relation[typed.eid.argsort()].tolist() == [1, 0, 1]
        heavy = Graph.from_pyg(self.data.Data(edge_index=index, edge_weight=torch.tensor([1.0, 2.0, 3.0]), num_nodes=3))
        assert heavy.weight[heavy.eid.argsort()].tolist() == [1, 2, 3]
        with pytest.raises(ValueError, match="data must have edge_index"):
            Graph.from_pyg(self.data.Data(num_nodes=3))

    def test_heterogeneous(self):
        data = self.data.HeteroData()
        data["user"].num_nodes, data["item"].num_nodes = 2, 3
        data["user", "buys", "item"].edge_index = torch.tensor([[0, 1], [2, 0]])
        data["item", "bought_by", "user"].edge_index = torch.tensor([[2], [0]])
        g = Graph.from_pyg(data)
        assert g.num_nodes == 5
        assert pairs(g) == [[0, 1, 4], [4, 2, 0]]
        assert g.relation[g.eid.argsort()].tolist() == [0, 0, 1]
        assert g.relation_ids.tolist() == ["user/buys/item", "item/bought_by/user"]


class TestNetworkx:
    @property
    def nx(self):
        return pytest.importorskip("networkx")

    def test_undirected(self):
        graph = self.nx.Graph([("b", "a"), ("a", "a"), ("a", "c")])
        g = Graph.from_networkx(graph)
        assert g.node_ids.tolist() == list(graph.nodes) == ["b", "a", "c"]
        assert g.num_edges == 5  # a loop once
        assert sorted(zip(*pairs(g), strict=True)) == [(0, 1), (1, 0), (1, 1), (1, 2), (2, 1)]

    def test_directed_with_weights_and_types(self):
        graph = self.nx.MultiDiGraph()
        graph.add_nodes_from(range(4))
        graph.add_edge(0, 1, w=2.5, kind="x")
        graph.add_edge(0, 1, kind="y")
        graph.add_edge(2, 0, w=0.5, kind="x")
        g = Graph.from_networkx(graph, weight="w", relation="kind")
        assert g.node_ids is None
        assert pairs(g) == [[0, 0, 2], [1, 1, 0]]
        assert g.weight[g.eid.argsort()].tolist() == [2.5, 1, 0.5]
        assert g.relation_ids.tolist() == ["x", "y"]
        assert g.relation[g.eid.argsort()].tolist() == [0, 1, 0]
        graph.add_edge(3, 0)
        with pytest.raises(ValueError, match=r"every edge must have 'kind', got \(3, 0\) without"):
            Graph.from_networkx(graph, relation="kind")

    def test_empty(self):
        assert Graph.from_networkx(self.nx.Graph()).num_nodes == 0


class TestNpz:
    def test_forms(self, tmp_path):
        src, dst = np.array([0, 1, 1]), np.array([1, 0, 2])
        want = Graph.from_edges(src, dst, 4, relation=[0, 1, 0], weight=[1, 2, 3])
        extra = {"relation": np.array([0, 1, 0]), "weight": np.array([1.0, 2, 3])}
        rows = {k: getattr(want, k).numpy() for k in ("indptr", "nbr", "eid", "relation", "weight")}
        pyg = {"edge_type": extra["relation"], "edge_weight": extra["weight"]}
        forms = (
            {"edge_index": np.stack([src, dst]), "num_nodes": 4, **extra},
            {"src": src, "dst": dst, "num_nodes": 4, **pyg},
            rows,
        )
        for form in forms:
            np.savez(tmp_path / "g.npz", **form)
            got = Graph.from_npz(tmp_path / "g.npz")
            for name in rows:
                assert torch.equal(getattr(got, name), getattr(want, name)), name
        np.savez(tmp_path / "g.npz", **forms[1])
        assert Graph.from_npz(tmp_path / "g.npz", add_reverse=True, reverse_relation="same").num_edges == 6

    def test_bad(self, tmp_path):
        file = tmp_path / "g.npz"
        file.write_bytes(b"no zip")
        with pytest.raises(ValueError, match=r"must hold edge_index.*got a file that is not npz"):
            Graph.from_npz(file)
        np.savez(file, a=np.zeros(3))
        with pytest.raises(ValueError, match=r"got a\[3\]"):
            Graph.from_npz(file)
        np.savez(file, indptr=np.array([0, 2, 1]), nbr=np.array([0]))
        with pytest.raises(ValueError, match="indptr must never fall"):
            Graph.from_npz(file)
        with pytest.raises(FileNotFoundError):
            Graph.from_npz(tmp_path / "none.npz")


class TestCsv:
    def test_names(self, tmp_path):
        text = "src\tdst\trelation\tweight\nx\ty\tb\t0.5\nz\tx\ta\t1\n"
        with gzip.open(tmp_path / "g.tsv.gz", "wt") as f:
            f.write(text)
        g = Graph.from_csv(tmp_path / "g.tsv.gz")
        assert g.node_ids.tolist() == ["x", "y", "z"]
        assert pairs(g) == [[0, 2], [1, 0]]
        assert g.relation_ids.tolist() == ["a", "b"]
        assert g.relation[g.eid.argsort()].tolist() == [1, 0]
        assert g.weight[g.eid.argsort()].tolist() == [0.5, 1]

    def test_integers(self, tmp_path):
        file = tmp_path / "g.csv"
        file.write_text("from,to,kind\n10,30,0\n30,20,2\n")
        g = Graph.from_csv(file, src="from", dst="to")
        assert g.node_ids.tolist() == [10, 20, 30]
        assert pairs(g) == [[0, 2], [2, 1]]
        own = Graph.from_csv(file, src="from", dst="to", num_nodes=31, relation="kind", add_reverse=True)
        assert own.node_ids is None
        assert own.num_nodes == 31
        assert own.relation_ids is None
        assert own.num_relations == 4  # 0 and 2 are numbered anew, and doubled
        file.write_text("src,dst\n0,1\n1,2\n")
        assert Graph.from_csv(file).node_ids is None

    @pytest.mark.parametrize(
        ("text", "options", "message"),
        [
            ("a,b\n1,2\n", {}, "no column 'src': it has a, b"),
            ("src,dst\n", {}, "there is a header but no row"),
            ("src,dst\n1,\n", {}, "row 1: destination is missing"),
            ("src,dst\n1,-2\n", {}, "row 1: destination -2 is negative"),
            ("src,dst\n1,2,3\n", {}, "has 3 columns, not 2"),
            ("src,dst\n1,7\n", {"num_nodes": 5}, "src and dst must be below num_nodes=5, got 7"),
            ("src,dst,weight\n1,2,-1\n", {}, "weight must be finite and at least 0"),
            ("src,dst,weight\n1,2,x\n", {}, "'x' is not a number"),
            ("src,dst,relation\n1,2,\n", {}, "relation is missing"),
        ],
    )
    def test_bad(self, tmp_path, text, options, message):
        (tmp_path / "g.csv").write_text(text)
        with pytest.raises(ValueError) as error:
            Graph.from_csv(tmp_path / "g.csv", **options)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
