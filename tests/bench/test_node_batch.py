"""The race of whole mini-batches: peers that are right, a gate that can fail. No real timing."""

import json

import pytest
import torch
import typer
from typer.testing import CliRunner

from gnnaccel.baselines.peers import neighbor_sample as samplers
from gnnaccel.bench import node_batch
from gnnaccel.bench.harness import Runner, Settings
from gnnaccel.bench.sample_hops import Size, power_law_graph, seeds_of

SIZE = Size(300, 4000, 8, (4, 3, 2))
FANOUTS = list(SIZE.fanouts)


@pytest.fixture(autouse=True)
def one_allocator(monkeypatch):
    # the C library's settings are the process's, which is the tests'
    for name in ("keep_freed_memory", "give_back_freed_memory"):
        monkeypatch.setattr(f"gnnaccel.train.allocator.{name}", lambda: True)


@pytest.fixture(scope="module")
def graph():
    return power_law_graph(SIZE.nodes, SIZE.edges)


@pytest.mark.parametrize("name", ["gnnaccel", *node_batch.PEERS])
@pytest.mark.filterwarnings("ignore")
def test_contenders_are_judged(graph, name):
    if name.startswith("dgl") and "dgl" in samplers.MISSING:
        pytest.skip(samplers.MISSING["dgl"])
    x = torch.rand(SIZE.nodes, 6)
    contender, seeds = node_batch.make_contender(name, graph, x), [seeds_of(SIZE, i, 0) for i in range(3)]
    assert node_batch.problem(contender, graph, x, seeds, FANOUTS) == ""
    assert node_batch.problem(contender, graph, x + 1, seeds, FANOUTS) == "feature rows are not those of the nodes"


def test_ours_fetches_into_the_same_memory(graph):
    x = torch.rand(SIZE.nodes, 6)
    ours = node_batch.Ours(graph, x)
    ours.buffer = torch.empty(400, 6)
    seeds = [seeds_of(SIZE, i, 0) for i in range(3)]
    assert {rows.data_ptr() for _, rows in ours.batches(seeds, FANOUTS)} == {ours.buffer.data_ptr()}


def test_gate_alone():
    rows = list(node_batch.measure(Runner(Settings(correctness_only=True)), ("torch",)))
    assert [(r.gate, r.mode, r.p50_ms) for r in rows] == [("ok", "gate", None)] * 2


def test_a_red_gate_prints_no_number(monkeypatch):
    monkeypatch.setattr(node_batch, "problem", lambda *args: "wrong")
    rows = list(node_batch.measure(Runner(Settings(budget=0.0)), ("torch",), SIZE))
    assert [(r.provider, r.gate, r.p50_ms) for r in rows] == [("gnnaccel", "red", None), ("torch", "red", None)]


@pytest.mark.filterwarnings("ignore")  # peers warn as they like
def test_rows_and_json(tmp_path):
    out = tmp_path / "batch.json"
    app = typer.Typer()
    app.command()(node_batch.main)
    options = ["--nodes", "300", "--edges", "4000", "--batch", "8", "--budget", "0", "--keep-memory"]
    result = CliRunner().invoke(app, [*options, "--json", str(out)])
    assert result.exit_code == 0, result.output
    rows = {r["provider"]: r for r in json.loads(out.read_text())["rows"]}
    assert set(rows) == {"gnnaccel", *node_batch.PEERS}
    assert rows["torch"]["ratio"] > 0 and rows["torch"]["case"].endswith("_memory_kept")
