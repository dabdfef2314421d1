"""The race of GraphSAGE's epochs: contenders that compute the same, a gate that can fail. No real timing."""

import json

import pytest
import torch
import typer
from typer.testing import CliRunner

from gnnaccel.baselines.peers import sage_epoch as peer
from gnnaccel.bench import sage_epoch
from gnnaccel.bench.harness import Runner, Settings


@pytest.fixture(autouse=True)
def allocator(monkeypatch):
    # the C library's settings are the process's, which is the tests'
    monkeypatch.setattr("gnnaccel.train.allocator.keep_freed_memory", lambda: True)


def test_all_contenders_that_are_there_agree():
    rows = list(sage_epoch.measure(Runner(Settings(correctness_only=True))))
    assert [row.provider for row in rows] == ["gnnaccel", *sage_epoch.PEERS]
    assert {row.provider: row.detail for row in rows if row.gate not in ("ok", "missing")} == {}
    assert {row.provider for row in rows if row.gate == "ok"} >= {"gnnaccel", "inline", "torch"}
    assert all(row.p50_ms is None for row in rows)


def test_the_gate_can_fail(monkeypatch):
    right = peer.TorchSage.logits
    monkeypatch.setattr(peer.TorchSage, "logits", lambda self, seeds: right(self, seeds) * 1.001)
    assert "logits are off" in sage_epoch.gate("torch", 0)
    assert sage_epoch.gate("inline", 0) == ""


def test_ours_learns_what_the_peer_learns():
    size = sage_epoch.Size(300, 3000, 16, (400, 400), 8, 8, 4)
    data = sage_epoch.make_data(sage_epoch.power_law_graph(size.nodes, size.edges, 0), size, 0)
    ours, other = (sage_epoch.make_contender(name, data, size, [400, 400]) for name in ("inline", "torch"))
    other.load(ours.weights())
    seeds = [torch.arange(i, i + 16) for i in range(0, 48, 16)]
    ours.run(seeds)
    for nodes in seeds:
        other.step(nodes)
    for (own, bias, neighbor), layer in zip(ours.weights(), other.layers, strict=True):
        torch.testing.assert_close(own, layer.own.weight, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(bias, layer.own.bias, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(neighbor, layer.neighbor.weight, rtol=1e-3, atol=1e-4)


def test_rows_and_json(tmp_path):
    out = tmp_path / "sage.json"
    app = typer.Typer()
    app.command()(sage_epoch.main)
    options = ["--nodes", "400", "--edges", "4000", "--batch", "16", "--features", "8", "--peers", "inline,torch"]
    result = CliRunner().invoke(app, [*options, "--budget", "0", "--json", str(out)])
    assert result.exit_code == 0, result.output
    rows = {row["provider"]: row for row in json.loads(out.read_text())["rows"]}
    assert set(rows) == {"gnnaccel", "inline", "torch"}
    assert all(row["p50_ms"] > 0 and row["gate"] == "ok" for row in rows.values())
    assert "sample" in rows["gnnaccel"]["extra"]["stages_ms"]
