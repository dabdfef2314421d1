"""Parts of a static graph, how good they are, and their files."""

import json
import sys

import numpy as np
import pytest
import torch

from gnnaccel.data import load_nodes, synthetic_nodes
from gnnaccel.graph import (
    Graph,
    GraphParts,
    hash_partition,
    metis_node_partition,
    neighbor_sample,
    node_split,
    partition_nodes,
    partition_quality,
    random_partition,
    write_parts,
)
from gnnaccel.graph._level import level_parts
from gnnaccel.graph._metis import symmetric_rows
from tests.harness import INTERPRET, threads

pytestmark = pytest.mark.skipif(INTERPRET, reason="not about Triton")


@pytest.fixture(scope="module")
def metis():
    return pytest.importorskip("pymetis")


@pytest.fixture(scope="module")
def data():
    return synthetic_nodes(nodes=600, relations=3, degree=8, seed=1)


def graph_of(n=300, nodes=40, seed=0, **options):
    gen = torch.Generator().manual_seed(seed)
    src, dst = torch.randint(0, nodes, (2, n), generator=gen)
    return Graph.from_edges(src, dst, nodes + 2, **options)


def edges_of(graph, nodes=None):
    """(source, destination, relation, weight, id) of each edge, sorted."""
    ids = torch.arange(graph.num_nodes) if nodes is None else nodes
    columns = [ids[graph.nbr.long()], ids[graph._row_of_entries()], graph.relation, graph.weight, graph.eid]
    return sorted(zip(*(c.tolist() for c in columns if c is not None), strict=True))


class TestSymmetricRows:
    @pytest.mark.parametrize("seed", range(4))
    def test_against_dense(self, seed):
        gen = torch.Generator().manual_seed(seed)
        N = 12
        src, dst = torch.randint(0, N, (2, 70), generator=gen)
        indptr, nbr, count = symmetric_rows(src, dst, N)
        dense = torch.zeros(N, N, dtype=torch.int64)
        dense.index_put_((src, dst), torch.tensor(1), accumulate=True)
        dense = dense + dense.T
        dense.fill_diagonal_(0)
        assert indptr.diff().tolist() == (dense > 0).sum(1).tolist()
        rows = torch.repeat_interleave(torch.arange(N), indptr.diff())
        assert torch.equal(torch.stack([rows, nbr], 1), dense.nonzero())
        assert torch.equal(count, dense[rows, nbr])
        assert nbr.dtype == indptr.dtype == count.dtype == torch.int64  # what METIS takes without a copy

    def test_even_counts_are_no_weights(self):
        one, two = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])
        assert symmetric_rows(one, two, 3)[2] is None
        both = symmetric_rows(torch.cat([one, two]), torch.cat([two, one]), 4)
        assert both[2] is None
        assert both[0].tolist() == [0, 2, 4, 6, 6]
        empty = symmetric_rows(one[:0], two[:0], 3)
        assert empty[0].tolist() == [0, 0, 0, 0]
        assert len(symmetric_rows(one, one, 3)[1]) == 0  # loops


class TestMethods:
    def test_random(self):
        part = random_partition(1003, 4, seed=1)
        assert sorted(torch.bincount(part).tolist()) == [250, 251, 251, 251]
        assert torch.equal(part, random_partition(1003, 4, seed=1))
        assert not torch.equal(part, random_partition(1003, 4, seed=2))
        assert len(random_partition(0, 3)) == 0

    def test_hash_is_of_the_node_alone(self):
        part = hash_partition(5000, 4, seed=1)
        assert torch.equal(part[:100], hash_partition(100, 4, seed=1))
        assert torch.bincount(part).min() > 1150
        assert not torch.equal(part, hash_partition(5000, 4, seed=2))

    def test_metis_cuts_less(self, metis, data):
        graph = synthetic_nodes(nodes=600, seed=1).graph
        shares = {
            m: partition_quality(graph, partition_nodes(graph, 4, m), 4).cut_share for m in ("metis", "random", "hash")
        }
        assert shares["metis"] < 0.5 * min(shares["random"], shares["hash"])

    def test_balance(self, metis):
        """Heavy nodes on one side, nodes to train on on the other: each balance levels what it says."""
        gen = torch.Generator().manual_seed(0)
        src = torch.cat(
            [torch.randint(0, 400, (6000,), generator=gen), torch.randint(400, 1200, (2400,), generator=gen)]
        )
        near = (src + torch.randint(1, 6, src.shape, generator=gen)).clamp(max=1199)
        graph = Graph.from_edges(torch.cat([src, near]), torch.cat([near, src]), 1200)
        train = torch.zeros(1200, dtype=torch.bool)
        train[700:1000] = True
        found = {}
        for balance in ("nodes", "edges", "train", "both"):
            part = metis_node_partition(graph, 4, balance=balance, train_mask=train)
            q = partition_quality(graph, part, 4, train)
            found[balance] = {w: q.imbalance(w) for w in ("nodes", "edges", "train")}
        for balance in ("nodes", "edges"):
            assert found[balance][balance] < 0.05
            assert found[balance]["train"] > 0.5
        assert found["train"]["train"] < 0.15
        assert max(found["both"]["edges"], found["both"]["train"]) < 0.1

    def test_seed_and_threads(self, metis, data):
        parts = []
        for n, seed in ((1, 0), (2, 0), (1, 1)):
            with threads(n):
                parts.append(metis_node_partition(data.graph, 5, seed=seed))
        assert torch.equal(parts[0], parts[1])
        assert not torch.equal(parts[0], parts[2])

    def test_edges_of_the_range(self, metis):
        bare = Graph.from_edges([], [], 5)
        assert torch.bincount(metis_node_partition(bare, 2)).tolist() == [3, 2]
        assert metis_node_partition(graph_of(), 1).tolist() == [0] * 42
        loops = Graph.from_edges([0, 1, 2], [0, 1, 2], 3)
        assert sorted(metis_node_partition(loops, 3).tolist()) == [0, 1, 2]
        assert len(partition_nodes(Graph.from_edges([], [], 0), 1, "random")) == 0

    def test_bad_arguments(self, metis):
        graph = graph_of()
        for options, message in (
            ({"num_parts": 0}, "num_parts must be at least 1, got 0"),
            ({"num_parts": 43}, r"num_parts must be at most the number of nodes \(42\), got 43"),
            ({"balance": "all"}, r"balance must be one of \['nodes', 'edges', 'train', 'both'\], got 'all'"),
            ({"imbalance": 0}, r"imbalance must be in \[0.001, 10\], got 0"),
            ({"balance": "train"}, r"train_mask must be bool \[42\] for balance='train', got None"),
            ({"balance": "both", "train_mask": torch.ones(3, dtype=torch.bool)}, r"got torch\.bool\[3\]"),
        ):
            with pytest.raises(ValueError, match="metis_node_partition: .*" + message):
                metis_node_partition(graph, **{"num_parts": 2, **options})
        with pytest.raises(ValueError, match=r"partition_nodes: method must be one of .*, got 'greedy'"):
            partition_nodes(graph, 2, "greedy")

    def test_malformed_graphs_do_not_reach_metis(self, metis):
        """It would end the process."""
        good = graph_of()
        for change, message in (
            ({"nbr": good.nbr + 1000}, r"graph\.nbr must be in \[0, 42\), got 1\d\d\d"),
            ({"nbr": good.nbr - 1000}, r"graph\.nbr must be in \[0, 42\), got -"),
            ({"indptr": good.indptr.flip(0)}, "indptr must begin with 0"),
        ):
            fields = {"indptr": good.indptr, "nbr": good.nbr, "eid": good.eid, **change}
            with pytest.raises(ValueError, match="metis_node_partition: " + message):
                metis_node_partition(Graph(**fields), 2)

    def test_without_pymetis(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pymetis", None)
        with pytest.raises(ImportError, match=r"metis_node_partition: pymetis is not installed"):
            metis_node_partition(graph_of(), 2)


class TestLevel:
    def test_by_hand(self):
        """A path of eight in one part, two others alone: ends and lone nodes go before the middle."""
        src, dst = torch.arange(7), torch.arange(1, 8)
        indptr, nbr, _ = symmetric_rows(src, dst, 10)
        part = torch.tensor([0] * 8 + [1] * 2)
        weight = torch.ones(10, 1, dtype=torch.int64)
        got = level_parts(indptr, nbr, part, weight, 2, 0.2)
        assert torch.bincount(got).tolist() == [6, 4]
        assert (got[:8] != part[:8]).nonzero().squeeze(1).tolist() == [0, 7]  # each costs one edge, all others two
        assert part.tolist() == [0] * 8 + [1] * 2

    @pytest.mark.parametrize("parts", [2, 5])
    def test_two_weights(self, parts):
        data = synthetic_nodes(nodes=3000, classes=10)
        graph = data.graph
        indptr, nbr, _ = symmetric_rows(graph.nbr.long(), graph._row_of_entries(), 3000)
        weight = torch.stack([graph.in_degree(), data.train_mask.long()], 1)
        # communities whole, and very unlike in size
        part = torch.where(data.y < 6, 0, data.y % parts)
        with threads(1):
            got = level_parts(indptr, nbr, part, weight, parts, 0.05)
        with threads(2):
            assert torch.equal(got, level_parts(indptr, nbr, part, weight, parts, 0.05))
        load = torch.stack([torch.bincount(got, w.double(), minlength=parts) for w in weight.T])
        assert (load.amax(1) / load.mean(1)).max() <= 1.05
        cut, chance = (partition_quality(graph, p, parts).cut for p in (got, random_partition(3000, parts)))
        assert cut < 0.6 * chance

    def test_what_cannot_move_stays(self):
        indptr, nbr, _ = symmetric_rows(torch.tensor([0]), torch.tensor([1]), 4)
        heavy = torch.tensor([[100], [1], [0], [0]])
        assert level_parts(indptr, nbr, torch.tensor([0, 0, 1, 1]), heavy, 2, 0.03).tolist() == [0, 1, 1, 1]
        level = torch.tensor([0, 1, 0, 1])
        assert torch.equal(level_parts(indptr, nbr, level, torch.ones(4, 1, dtype=torch.int64), 2, 0.03), level)
        assert torch.equal(level_parts(indptr, nbr, level, torch.zeros(4, 2, dtype=torch.int64), 2, 0.03), level)


class TestQuality:
    def test_by_hand(self):
        """Parts {0, 1}, {2, 3, 4}: edges 0->1, 0->2, 0->3, 3->1, 2->4, 4->4."""
        graph = Graph.from_edges([0, 0, 0, 3, 2, 4], [1, 2, 3, 1, 4, 4], 5)
        train = torch.tensor([True, False, True, True, False])
        q = partition_quality(graph, torch.tensor([0, 0, 1, 1, 1]), 2, train)
        assert (q.cut, q.cut_share) == (3, 0.5)
        assert q.nodes.tolist() == [2, 3]
        assert q.edges.tolist() == [2, 4]
        assert q.train.tolist() == [1, 2]
        assert q.halo.tolist() == [1, 1]  # 3 for the first, 0 for the second
        assert q.imbalance("edges") == pytest.approx(1 / 3)
        assert q.imbalance("nodes") == pytest.approx(0.2)
        assert json.loads(json.dumps(q.as_dict()))["halo"] == [1, 1]
        bare = partition_quality(Graph.from_edges([], [], 2), torch.tensor([0, 1]), 3)
        assert (bare.cut_share, bare.imbalance("edges"), bare.train) == (0, 0, None)
        assert "train" not in bare.as_dict()
        with pytest.raises(ValueError, match=r"part must be \[5\], got \[3\]"):
            partition_quality(graph, torch.zeros(3, dtype=torch.int64), 2)

    def test_halo_against_sets(self):
        graph, part = graph_of(), random_partition(42, 5, seed=3)
        q = partition_quality(graph, part, 5)
        src, dst = (x.long() for x in graph.edges())
        for p in range(5):
            seen = set(src[part[dst] == p].tolist())
            assert int(q.halo[p]) == sum(int(part[u]) != p for u in seen)


class TestNodeSplit:
    def test_by_hand(self):
        part = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2])
        dealt = node_split(part, 3, torch.tensor([4, 0, 1, 2, 3, 5, 7]))
        assert [x.tolist() for x in dealt] == [[0, 1, 2], [3, 5], [4, 7]]

    def test_every_node_once_and_as_many_each(self):
        part = random_partition(500, 7, seed=1) // 2  # skewed: 4 parts of 7
        nodes = torch.arange(0, 500, 3)
        dealt = node_split(part, 7, nodes)
        assert torch.equal(torch.cat(dealt).sort().values, nodes)
        sizes = [len(x) for x in dealt]
        assert max(sizes) - min(sizes) <= 1
        for p in range(3):
            assert (part[dealt[p]] == p).all()  # who has enough keeps to its own


class TestFiles:
    @pytest.mark.parametrize("method", ["random", "hash", "metis"])
    def test_the_union_of_parts_is_the_graph(self, tmp_path, method, data):
        if method == "metis":
            pytest.importorskip("pymetis")
        gen = torch.Generator().manual_seed(0)
        src, dst = data.graph.edges()
        relation = data.graph.relation[data.graph.eid.argsort()]
        graph = Graph.from_edges(src, dst, 600, relation=relation, weight=torch.rand(len(src), generator=gen))
        masks = {p: data.mask(p) for p in ("train", "val", "test")}
        part = partition_nodes(graph, 4, method)
        parts = write_parts(tmp_path, graph, part, 4, x=data.x, y=data.y, masks=masks, facts={"name": "some"})
        assert torch.equal(parts.book.part, part)
        assert parts.facts["name"] == "some"
        quality = partition_quality(graph, part, 4, data.train_mask)
        assert parts.facts["quality"] == quality.as_dict()
        union, trained = [], []
        x, y = torch.full_like(data.x, -9), torch.full_like(data.y, -9)
        for p in range(4):
            got = parts.part(p)
            assert torch.equal(got.inner, (part == p).nonzero().squeeze(1))
            assert (part[got.halo] != p).all()
            assert torch.equal(got.halo.sort().values, got.halo)
            assert len(got.halo) == int(quality.halo[p])
            assert got.graph._rows_sorted()
            assert got.graph.in_degree()[got.num_inner :].sum() == 0
            assert got.graph.num_relations == 3
            union += edges_of(got.graph, got.nodes)
            trained.append(got.train_nodes)
            x[got.inner], y[got.inner] = got.x, got.y
            for name, mask in masks.items():
                assert torch.equal(getattr(got, f"{name}_mask"), mask[got.inner])
        assert sorted(union) == edges_of(graph)
        assert torch.equal(x, data.x)
        assert torch.equal(y, data.y)
        assert torch.equal(torch.cat(trained).sort().values, data.nodes("train"))
        assert {len(t) for t in trained} == {90}

    def test_neighbours_of_inner_nodes_are_those_of_the_whole_graph(self, tmp_path):
        graph = graph_of(n=900)
        parts = write_parts(tmp_path, graph, random_partition(42, 3, seed=2), 3)
        for p in range(3):
            got = parts.part(p)
            for i, node in enumerate(got.inner.tolist()):
                local = got.to_global(got.graph.nbr[got.graph.row(i)])
                assert sorted(local.tolist()) == sorted(graph.nbr[graph.row(node)].tolist())
                assert sorted(got.graph.eid[got.graph.row(i)].tolist()) == sorted(graph.eid[graph.row(node)].tolist())

    def test_sampling_an_inner_node_in_its_part_is_sampling_it_in_the_graph(self, tmp_path):
        graph = graph_of(n=900, relation=torch.arange(900) % 2)
        parts = write_parts(tmp_path, graph, random_partition(42, 3, seed=2), 3)
        for p in range(3):
            got = parts.part(p)
            seeds = torch.arange(got.num_inner)
            for options in ({"fanout": None, "strategy": "all"}, {"fanout": 60}):
                here = neighbor_sample(got.graph, seeds, **options)
                there = neighbor_sample(graph, got.inner, **options)
                assert torch.equal(here.count, there.count)
                for i, count in enumerate(here.count.tolist()):
                    mine = zip(
                        got.to_global(here.nbr[i, :count]).tolist(), here.relation[i, :count].tolist(), strict=True
                    )
                    whole = zip(there.nbr[i, :count].tolist(), there.relation[i, :count].tolist(), strict=True)
                    assert sorted(mine) == sorted(whole)
            some = neighbor_sample(got.graph, seeds, 3, seed=5)
            for i, node in enumerate(got.inner.tolist()):
                drawn = got.to_global(some.nbr[i, : int(some.count[i])]).tolist()
                assert set(drawn) <= set(graph.nbr[graph.row(node)].tolist())

    def test_ids(self, tmp_path):
        graph = graph_of(n=60)
        part = write_parts(tmp_path, graph, hash_partition(42, 3), 3).part(1)
        L = len(part.nodes)
        assert torch.equal(part.to_local(part.nodes), torch.arange(L))
        assert torch.equal(part.to_global(torch.arange(L)), part.nodes)
        assert part.to_global(torch.tensor([[-1, 0]])).tolist() == [[-1, int(part.nodes[0])]]
        unseen = sorted(set(range(42)) - set(part.nodes.tolist()))
        assert (part.to_local(torch.tensor(unseen)) == -1).all()
        assert parts_dtypes(part) == (torch.int32, torch.int64)

    def test_a_part_may_be_empty(self, tmp_path):
        graph = graph_of(n=60)
        part = write_parts(tmp_path, graph, torch.zeros(42, dtype=torch.int64), 3).part(2)
        assert (part.num_inner, len(part.nodes), part.graph.num_nodes) == (0, 0, 0)
        assert part.to_global(torch.tensor([-1])).tolist() == [-1]
        assert part.to_local(torch.tensor([3])).tolist() == [-1]

    def test_names_and_scales_are_kept(self, tmp_path):
        graph = graph_of()
        graph.node_ids = np.array([f"n{i}" for i in range(42)])
        x, scale = torch.randint(-9, 9, (42, 4), dtype=torch.int8), torch.rand(42)
        parts = write_parts(tmp_path, graph, random_partition(42, 2), 2, x=x, scale=scale)
        assert GraphParts.load(tmp_path).node_ids.tolist() == graph.node_ids.tolist()
        got = parts.part(0)
        assert torch.equal(got.x, x[got.inner])
        assert torch.equal(got.scale, scale[got.inner])
        assert got.train_nodes is got.y is got.train_mask is None

    def test_replacing(self, tmp_path):
        graph = graph_of()
        write_parts(tmp_path, graph, random_partition(42, 4), 4)
        with pytest.raises(ValueError, match="already holds parts"):
            write_parts(tmp_path, graph, random_partition(42, 2), 2)
        (tmp_path / "part_9").mkdir()  # not ours
        seen = []
        parts = write_parts(tmp_path, graph, random_partition(42, 2), 2, overwrite=True, progress=seen.append)
        assert sum(seen) == graph.num_edges
        assert parts.num_parts == 2
        assert sorted(p.name for p in tmp_path.glob("part_*")) == ["part_0", "part_1", "part_9"]

    def test_bad_arguments(self, tmp_path):
        graph = graph_of()
        part = random_partition(42, 2)
        with pytest.raises(ValueError, match=r"write_parts: part must be \[42\], got \[3\]"):
            write_parts(tmp_path, graph, part[:3], 2)
        with pytest.raises(ValueError, match="write_parts: x must have a row for each of 42 nodes, got 41"):
            write_parts(tmp_path, graph, part, 2, x=torch.zeros(41, 2))
        with pytest.raises(ValueError, match=r"part must be in \[0, 1\), got 0..1"):
            write_parts(tmp_path, graph, part, 1)
        assert not (tmp_path / "partition.json").exists()
        with pytest.raises(ValueError, match=r"p must be in \[0, 2\), got 2"):
            write_parts(tmp_path, graph, part, 2).part(2)

    def test_damaged_files(self, tmp_path):
        with pytest.raises(ValueError, match=r"GraphParts\.load: .* must hold partition\.json, got none"):
            GraphParts.load(tmp_path)
        graph = graph_of()
        part = random_partition(42, 2)
        write_parts(tmp_path, graph, part, 2)
        book = tmp_path / "partition.json"
        whole = book.read_text()
        book.write_text(whole[:40])
        with pytest.raises(ValueError, match="hold JSON"):
            GraphParts.load(tmp_path)
        book.write_text(json.dumps(json.loads(whole) | {"num_parts": 1}))
        with pytest.raises(ValueError, match="hold parts below 1"):
            GraphParts.load(tmp_path)
        book.write_text(whole)
        parts = GraphParts.load(tmp_path)
        # part 0 of another partition
        write_parts(tmp_path / "other", graph, 1 - part, 2)
        for file in (tmp_path / "part_0").iterdir():
            file.unlink()
        for file in (tmp_path / "other" / "part_0").iterdir():
            file.rename(tmp_path / "part_0" / file.name)
        with pytest.raises(ValueError, match=r"GraphParts\.part: .* hold the nodes that the book gives it"):
            parts.part(0)
        next((tmp_path / "part_1").glob("graph.nbr*")).unlink()
        with pytest.raises(ValueError, match="files that its header names"):
            parts.part(1)
        next((tmp_path / "part_1").glob("part.json")).unlink()
        with pytest.raises(ValueError, match=r"hold part\.json, got none"):
            parts.part(1)


def parts_dtypes(part):
    return part.graph.nbr.dtype, part.nodes.dtype


@pytest.mark.parametrize("name", ["facebook-pages", "github-nofeat"])
def test_metis_cuts_less_than_half_of_chance_on_real_graphs(metis, shared_data, name):
    data = load_nodes(name, root=shared_data, dtype=torch.int8)
    cut = {}
    for method, options in (("metis", {"balance": "both", "train_mask": data.train_mask}), ("random", {})):
        part = partition_nodes(data.graph, 4, method, **options)
        cut[method] = partition_quality(data.graph, part, 4).cut
    assert 2 * cut["metis"] < cut["random"]
