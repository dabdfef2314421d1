"""The partition job at a tiny scale."""

import json

import pytest
import typer
from typer.testing import CliRunner

from gnnaccel.bench import partition


def command(*args):
    app = typer.Typer()
    app.command()(partition.main)
    return CliRunner().invoke(app, [str(a) for a in args])


def test_measures_both_graphs(tmp_path):
    pytest.importorskip("pymetis")
    result = command(
        "--nodes", 2000, "--edges", 16_000, "--parts", 3, "--json", tmp_path / "p.json", "--folder", tmp_path
    )
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "p.json").read_text())
    assert [g["graph"] for g in found["graphs"]] == ["communities", "power-law"]
    for graph in found["graphs"]:
        assert abs(graph["edges"] - 16_000) < 500
        assert {"build", "symmetrise", "metis", "random", "hash", "write", "open"} <= {
            s["step"] for s in graph["steps"]
        }
        assert all(s["seconds"] > 0 for s in graph["steps"])
        assert 0.6 < graph["quality"]["random"]["cut_share"] < 0.72
        assert graph["quality"]["metis"]["cut_share"] < graph["quality"]["random"]["cut_share"]
    assert "metis" in result.output
    assert not list(tmp_path.glob("tmp*"))


def test_unknown_graph():
    result = command("--graph", "ring")
    assert result.exit_code == 2
    assert "communities, power-law" in result.output
