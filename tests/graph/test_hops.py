"""Sampling from a `Graph`: the op's results in blocks, and what those promise a model."""

import pytest
import torch

import gnnaccel as ga


@pytest.fixture
def g():
    gen = torch.Generator().manual_seed(0)
    src, dst = torch.randint(0, 50, (2, 600), generator=gen)
    relation = torch.randint(0, 3, (600,), generator=gen)
    return ga.Graph.from_edges(src, dst, 53, relation=relation, weight=torch.rand(600, generator=gen))


def edges_of(g, node):
    row = slice(int(g.indptr[node]), int(g.indptr[node + 1]))
    return g.nbr[row].tolist(), g.eid[row].tolist()


def test_a_block_has_edges_of_the_graph(g):
    nodes = torch.tensor([3, -1, 52, 3])
    block = ga.neighbor_sample(g, nodes, 4, seed=1)
    src, dst = g.edges()
    assert block.nbr.dtype == block.eid.dtype == g.nbr.dtype
    assert block.count.tolist() == [4, 0, 0, 4]
    for i in (0, 3):
        e = block.eid[i].long()
        assert torch.equal(dst[e].long(), torch.full((4,), 3)) and torch.equal(src[e], block.nbr[i])
        assert len(e.unique()) == 4
    assert not torch.equal(block.eid[0], block.eid[3])
    assert ga.neighbor_sample(g, nodes, 4, edge_ids=False).eid is None


def test_relations_and_all(g):
    nodes = torch.arange(53)
    block = ga.neighbor_sample(g, nodes, [2, 0, 3])
    assert block.relation is not None and block.nbr.shape == (53, 5)
    per = [(block.relation == r).sum(1).max().item() for r in range(3)]
    assert per == [2, 0, 3]
    every = ga.neighbor_sample(g, nodes, None, strategy="all")
    assert every.nbr.shape[1] == int(g.in_degree().max())
    for v in (0, 17, 51):
        n = int(every.count[v])
        assert (every.nbr[v, :n].tolist(), every.eid[v, :n].tolist()) == edges_of(g, v)


def test_layers_fit_together(g):
    seeds = torch.tensor([7, 52, 12])
    hops = ga.sample_hops(g, seeds, [4, 3, -1], strategy="weighted", edge_ids=True, seed=3)
    assert hops.nodes[:3].tolist() == seeds.tolist() and len(hops.nodes.unique()) == len(hops.nodes)
    assert [layer.row.shape[1] for layer in hops.layers[1:]] == [3, 4]
    assert hops.layers[0].num_src == len(hops.nodes) and hops.layers[-1].num_dst == 3
    for outer, inner in zip(hops.layers, hops.layers[1:], strict=False):
        assert outer.num_dst == inner.num_src
    src, dst = g.edges()
    total = 0
    for layer in hops.layers:
        valid = layer.row >= 0
        assert torch.equal(valid.sum(1).int(), layer.count) and int(layer.row.max()) < layer.num_src
        assert torch.equal(valid, torch.arange(layer.row.shape[1]) < layer.count[:, None])
        e = layer.eid[valid].long()
        assert torch.equal(src[e], hops.nodes[layer.row[valid].long()])
        assert torch.equal(dst[e], hops.nodes[: layer.num_dst].repeat_interleave(layer.count))
        assert torch.equal(layer.weight[valid], weight_of(g, e)) and layer.relation is not None
        total += len(e)
    assert hops.num_edges == total


def weight_of(g, e):
    out = torch.empty(g.num_edges)
    out[g.eid.long()] = g.weight
    return out[e]


def test_a_hop_is_the_sample_of_its_nodes(g):
    hops = ga.sample_hops(g, torch.tensor([7, 12]), [4, 3], seed=5, epoch=1, batch=2)
    inner, outer = hops.layers[1], hops.layers[0]
    for hop, layer in enumerate((inner, outer)):
        fanout = layer.row.shape[1]
        nodes = hops.nodes[: layer.num_dst]
        block = ga.neighbor_sample(g, nodes, fanout, seed=5, epoch=1, batch=2, hop=hop)
        assert torch.equal(torch.where(layer.row >= 0, hops.nodes[layer.row.long()], -1), block.nbr)


def test_link_prediction_does_not_see_its_own_edges():
    gen = torch.Generator().manual_seed(1)
    src, dst = torch.randint(0, 30, (2, 100), generator=gen)
    g = ga.Graph.from_edges(src, dst, 30, add_reverse=True)
    targets = torch.tensor([4, 40, 77])
    exclude = torch.cat([targets, targets + 100]).sort().values
    seeds = torch.cat([src[targets], dst[targets]]).unique()
    hops = ga.sample_hops(g, seeds, [50, -1], edge_ids=True, exclude=exclude)
    seen = torch.cat([layer.eid.flatten() for layer in hops.layers]).unique()
    assert not torch.isin(exclude, seen).any()
    first = hops.layers[-1]
    assert int(first.count.sum()) == sum(
        sum(e not in exclude.tolist() for e in edges_of(g, v)[1]) for v in seeds.tolist()
    )


def test_blocks_move(g):
    hops = ga.sample_hops(g, torch.tensor([7]), [4, 3], edge_ids=True).to("meta")
    assert {hops.nodes.device.type, hops.layers[0].row.device.type, hops.layers[0].eid.device.type} == {"meta"}
    assert isinstance(hops.layers[0].num_src, int)
    assert ga.neighbor_sample(g, torch.tensor([7]), 3).to("meta").count.device.type == "meta"


def test_errors_name_the_function(g):
    with pytest.raises(ValueError, match=r"neighbor_sample: nodes must be in \[-1, 53\), got 53"):
        ga.neighbor_sample(g, torch.tensor([53]), 3)
    with pytest.raises(ValueError, match="fanout must have one number for each of 3 relations"):
        ga.neighbor_sample(g, torch.tensor([5]), [3, 1])
    with pytest.raises(ValueError, match="sample_hops: seeds must be distinct"):
        ga.sample_hops(g, torch.tensor([5, 5]), [3])
