"""The race of samplers: peers that are right, a gate that can fail. No real timing."""

import json

import pytest
import torch
import typer
from typer.testing import CliRunner

from gnnaccel.baselines.peers import neighbor_sample as peer
from gnnaccel.bench import sample_hops as hops
from gnnaccel.bench.harness import Runner, Settings, cpu_threads

SIZE = hops.Size(300, 4000, 8, (4, 3, 2))
FANOUTS = list(SIZE.fanouts)


@pytest.fixture(scope="module")
def graph():
    return hops.power_law_graph(SIZE.nodes, SIZE.edges)


@pytest.fixture(autouse=True)
def one_allocator(monkeypatch):
    # the C library's settings are the process's, which is the tests'
    monkeypatch.setattr("gnnaccel.train.allocator.keep_freed_memory", lambda: True)


def judged(graph, found, seeds):
    return peer.problem(graph.indptr, graph.nbr, seeds, FANOUTS, found)


@pytest.mark.parametrize("threads", [1, 2])  # DGL's fused sampler, which these may not be, is wrong on two
@pytest.mark.parametrize("name", ["gnnaccel", *hops.PEERS])
@pytest.mark.filterwarnings("ignore")
def test_contenders_sample_neighbourhoods(graph, name, threads):
    if name in peer.MISSING:
        pytest.skip(peer.MISSING[name])
    contender = hops.make_contender(name, graph)
    with cpu_threads(threads):
        for i in range(3):
            seeds = hops.seeds_of(SIZE, i, 0)
            assert judged(graph, hops.view(contender.hops(seeds, FANOUTS)), seeds) == ""


def test_an_edge_of_a_node_that_is_not_listed_is_told(graph):
    seeds = hops.seeds_of(SIZE, 0, 0)
    nodes, edges, complete = hops.view(hops.Ours(graph).hops(seeds, FANOUTS))
    src = edges[1][0].clone()
    src[0] = len(nodes)
    found = peer.Found(nodes, [edges[0], (src, edges[1][1]), *edges[2:]], complete)
    assert judged(graph, found, seeds) == "an edge is of a node that is not listed"


@pytest.mark.filterwarnings("ignore")
def test_one_hop_of_the_peers_is_uniform(graph):
    node = int(graph.in_degree().argmax())
    row = graph.nbr[graph.indptr[node] : graph.indptr[node + 1]].long()
    times, fanout, nodes = 3000, 5, torch.tensor([node, 3])
    want = torch.bincount(row, minlength=SIZE.nodes).double() * fanout / len(row)
    for kind in peer.ONE.values():
        sampler, seen = kind(graph.indptr, graph.nbr), torch.zeros(SIZE.nodes)
        for _ in range(times):
            nbr, count = peer.nbr_view(sampler.one(nodes, fanout))
            assert int(count[0]) == fanout
            seen += torch.bincount(nbr[0, :fanout], minlength=SIZE.nodes)
        assert bool(((seen / times - want).abs() < 6 * (want / times).sqrt() + 1e-9).all())


def test_the_gate_can_fail(graph):
    seeds = hops.seeds_of(SIZE, 0, 0)
    nodes, edges, _ = hops.view(hops.Ours(graph).hops(seeds, FANOUTS))
    swapped = nodes.clone()
    swapped[[0, 1]] = nodes[[1, 0]]
    repeated = nodes.clone()
    repeated[-1] = nodes[-2]
    src, dst = edges[1]
    strangers = [edges[0], (src.roll(1), dst), edges[2]]
    fewer = [edges[0], (src[:-1], dst[:-1]), edges[2]]
    for found, says in (
        (peer.Found(swapped, edges, True), "seeds"),
        (peer.Found(repeated, edges, True), "each once"),
        (peer.Found(nodes, strangers, True), "not of the graph"),
        (peer.Found(nodes, fewer, True), "another number"),
        (peer.Found(torch.cat([nodes, nodes.new_tensor([299])]), edges, True), "nothing leads to|each once"),
    ):
        problem = judged(graph, found, seeds)
        assert any(part in problem for part in says.split("|")) and problem
    # as torch-sparse has it: one list of edges, some nodes never sampled for
    flat = (torch.cat([e[0] for e in edges[-1:]]), torch.cat([e[1] for e in edges[-1:]]))
    assert judged(graph, peer.Found(nodes, [flat], False), seeds) == ""
    doubled = (flat[0].repeat(9), flat[1].repeat(9))
    assert "more neighbours" in judged(graph, peer.Found(nodes, [doubled], False), seeds)


def test_the_graph_is_the_same_every_time():
    a, b, c = (hops.power_law_graph(500, 6000, seed) for seed in (1, 1, 2))
    assert torch.equal(a.indptr, b.indptr) and torch.equal(a.nbr, b.nbr) and not torch.equal(a.nbr, c.nbr)
    degree = a.in_degree().sort(descending=True).values
    assert a.num_edges == 6000 and degree[0] > 8 * degree[250]


def test_a_red_gate_prints_no_number(monkeypatch):
    monkeypatch.setattr(peer, "problem", lambda *args: "wrong")
    rows = list(hops.measure(Runner(Settings(budget=0.0)), ("torch",), SIZE))
    assert [(r.provider, r.gate, r.p50_ms) for r in rows] == [("gnnaccel", "red", None), ("torch", "red", None)]


def test_gate_alone():
    rows = list(hops.measure(Runner(Settings(correctness_only=True)), ("torch",)))
    assert [(r.gate, r.mode, r.p50_ms) for r in rows] == [("ok", "gate", None)] * 2


def test_rows_and_json(tmp_path):
    out = tmp_path / "deep" / "hops.json"
    app = typer.Typer()
    app.command()(hops.main)
    options = ["--nodes", "300", "--edges", "4000", "--batch", "8", "--fanouts", "4,3", "--peers", "torch"]
    result = CliRunner().invoke(app, [*options, "--budget", "0", "--json", str(out)])
    assert result.exit_code == 0, result.output
    rows = {r["provider"]: r for r in json.loads(out.read_text())["rows"]}
    assert set(rows) == {"gnnaccel", "torch"} and out.with_suffix(".csv").is_file()
    for row in rows.values():
        assert row["gate"] == "ok" and row["p50_ms"] > 0
        assert row["extra"]["edges_a_batch"] > 0 and row["extra"]["edges_a_second"] > 0
    assert rows["torch"]["ratio"] > 0


@pytest.mark.parametrize("options", [["--fanouts", "4,x"], ["--fanouts", "4,0"], ["--peers", "pyg"]])
def test_wrong_options_are_named(options):
    app = typer.Typer()
    app.command()(hops.main)
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 2 and options[1] in result.output
