"""Accuracy of models of static graphs beside PyG's: the script runs, keeps what it has, and writes its tables."""

import json

import pytest
import typer
from typer.testing import CliRunner

from gnnaccel.bench import gnn_models

DATA = "synthetic-nodes:nodes=300,classes=3,degree=8,features=12"
SMALL = ["--set", "model.hidden=16", "--set", "train.epochs=3", "--set", "sampler.neighbors=[-1,-1]"]


def run(*options):
    app = typer.Typer()
    app.command()(gnn_models.main)
    result = CliRunner().invoke(app, ["--data", DATA, "--seeds", "1", *SMALL, *options])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_ours_and_extras(tmp_path, monkeypatch):
    monkeypatch.setattr(gnn_models, "SIZES", (1, 8))
    out, page = tmp_path / "models.json", tmp_path / "page.md"
    page.write_text(f"before\n{gnn_models.BEGIN}\nold\n{gnn_models.END}\nafter\n")
    options = [
        "--model",
        "sage",
        "--libraries",
        "gnnaccel",
        "--extras",
        "sage",
        "--json",
        str(out),
        "--into",
        str(page),
    ]
    run(*options, "--set", "train.batch_size=64")
    document = json.loads(out.read_text())
    assert len(document["runs"]) == 1 and len(document["extras"]) == 1
    features = {row["features"]: row for row in document["extras"][0]["features"]}
    assert features["int8"]["bytes"] * 4 == features["float32"]["bytes"]
    text = page.read_text()
    assert text.startswith("before") and text.endswith("after\n") and "old" not in text and "int8" in text
    before = document["runs"]
    run("--model", "sage", "--libraries", "gnnaccel", "--json", str(out))
    assert json.loads(out.read_text())["runs"] == before


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", ["sage", "gat", "rgcn"])
def test_pyg(model, tmp_path):
    pytest.importorskip("torch_geometric")
    out = tmp_path / "models.json"
    run("--model", model, "--libraries", "pyg", "--json", str(out))
    (found,) = json.loads(out.read_text())["runs"]
    assert 0 < found["accuracy"] <= 1 and found["epochs"] == 3
