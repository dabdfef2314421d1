"""`gnnaccel partition`."""

import json
import logging
import sys
import warnings

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from gnnaccel.cli import app, main
from gnnaccel.data import load_nodes
from gnnaccel.graph import Graph, GraphParts
from tests.harness import INTERPRET

pytestmark = pytest.mark.skipif(INTERPRET, reason="not about Triton")
SMALL = "synthetic-nodes:nodes=300"


def run(*args):
    result = CliRunner().invoke(app, ["partition", *map(str, args)], env={"COLUMNS": "120"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_metis_and_report(tmp_path):
    pytest.importorskip("pymetis")
    result = run("--data", SMALL, "--parts", 3, "--out", tmp_path / "p")
    assert result.exit_code == 0
    assert "metis (both)" in result.stdout
    assert "random" in result.stdout
    assert "note: there are no masks: nodes are split 60 / 20 / 20 by seed 0" in result.stderr
    parts, data = GraphParts.load(tmp_path / "p"), load_nodes(SMALL)
    assert parts.facts["method"] == "metis"
    assert parts.facts["num_classes"] == 4
    assert sum(parts.part(p).graph.num_edges for p in range(3)) == data.graph.num_edges
    assert {len(parts.part(p).train_nodes) for p in range(3)} == {60}
    assert parts.part(0).x.shape[1] == 32


def test_json_without_files():
    result = run("--data", SMALL, "-k", 2, "--method", "hash", "--json", "--quiet")
    assert result.exit_code == 0
    assert result.stderr == ""
    figures = json.loads(result.stdout)
    assert figures["out"] is None
    assert set(figures["quality"]) == {"hash", "random"}
    assert 0.4 < figures["quality"]["random"]["cut_share"] < 0.6
    assert sum(figures["quality"]["hash"]["nodes"]) == 300


def test_kinds_of_data(tmp_path):
    rng = np.random.default_rng(0)
    src, dst = rng.integers(0, 50, (2, 300))
    graph = Graph.from_edges(src, dst, 50)
    graph.save(tmp_path / "saved")
    np.savez(tmp_path / "edges.npz", edge_index=np.stack([src, dst]), num_nodes=50)
    (tmp_path / "edges.csv").write_text("src,dst\n" + "".join(f"n{u},n{v}\n" for u, v in zip(src, dst, strict=True)))
    for name in ("saved", "edges.npz", "edges.csv"):
        result = run(
            "--data", tmp_path / name, "-k", 2, "-m", "random", "--out", tmp_path / f"{name}-parts", "--json", "-q"
        )
        figures = json.loads(result.stdout)
        assert (figures["edges"], "train" in figures["quality"]["random"]) == (300, False)
        parts = GraphParts.load(tmp_path / f"{name}-parts")
        assert sum(parts.part(p).graph.num_edges for p in range(2)) == 300
        assert (parts.node_ids is not None) == (name == "edges.csv")
    small = run("--data", SMALL, "-k", 2, "-m", "random", "--dtype", "int8", "--out", tmp_path / "small", "-q")
    assert small.exit_code == 0
    assert GraphParts.load(tmp_path / "small").part(1).x.dtype == torch.int8


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data", "synthetic-node", "-k", "2"], "did you mean 'synthetic-nodes'?"),
        (["--data", SMALL, "-k", "2", "-m", "greedy"], "--method must be one of metis, random, hash, got 'greedy'"),
        (
            ["--data", SMALL, "-k", "2", "--balance", "all"],
            "--balance must be one of nodes, edges, train, both, got 'all'",
        ),
        (["--data", SMALL, "-k", "2", "-m", "hash", "--balance", "edges"], "--balance is of --method metis"),
        (["--data", SMALL, "-k", "301", "-m", "hash"], "num_parts must be at most the number of nodes (300), got 301"),
        (["--data", SMALL, "-k", "2", "--dtype", "int4"], "--dtype must be one of float32, float16, int8"),
        (["--data", "none.csv", "-k", "2"], "none.csv: no such file or folder"),
    ],
)
def test_bad_arguments(args, message):
    with pytest.raises(ValueError) as error:
        run(*args)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_without_nodes_to_train_on_they_are_not_balanced(tmp_path):
    (tmp_path / "edges.csv").write_text("src,dst\n0,1\n1,2\n")
    said = "--balance must be nodes or edges, edges has no nodes to train on, got 'train'"
    with pytest.raises(ValueError, match=said):
        run("--data", tmp_path / "edges.csv", "-k", 2, "--balance", "train")


def test_folder_in_use(tmp_path):
    for extra in ([], ["--overwrite"]):
        assert run("--data", SMALL, "-k", 2, "-m", "hash", "--out", tmp_path, "-q", *extra).exit_code == 0
    with pytest.raises(ValueError, match="already holds parts; give --overwrite or another --out"):
        run("--data", SMALL, "-k", 2, "-m", "hash", "--out", tmp_path, "-q")


def test_one_line_on_stderr(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gnnaccel", "partition", "--data", "nothing-here", "--parts", "2"])
    with pytest.raises(SystemExit) as stop, warnings.catch_warnings():
        main()
    logging.captureWarnings(False)
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == ""
    assert err.startswith("error: no file, folder or node data set 'nothing-here'")
    assert err.count("\n") == 1
