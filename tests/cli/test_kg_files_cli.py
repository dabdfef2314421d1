"""`gnnaccel kg export` and `import`: what goes out comes back, and DGL-KE's and PyKEEN's files become runs."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from gnnaccel.cli import app
from gnnaccel.data.kg import load
from gnnaccel.train.kg import evaluate, load_kg_run

RUN = CliRunner()
KG = load("synthetic-kg")
E, R = KG.num_entities, KG.num_relations
SETTINGS = [
    x
    for s in ("model.dim=8", "model.gamma=9", "negatives.count=16", "train.epochs=1", "model.reciprocal=false")
    for x in ("--set", s)
]


def call(*arguments):
    result = RUN.invoke(app, ["kg", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "rotate"
    call("train", "rotate", "--data", "synthetic-kg", "--out", folder, "-q", *SETTINGS)
    return folder


def dglke(folder, model, order=None):
    """A folder as DGL-KE saves it, of a run's tables, its entities in another order."""
    folder.mkdir()
    order = torch.arange(E) if order is None else order
    relation = model.relation.detach() / np.pi * (model.gamma + 2) / 4
    np.save(folder / "x_RotatE_entity.npy", model.entity.detach()[order].numpy())
    np.save(folder / "x_RotatE_relation.npy", relation.numpy())
    config = {"model_name": "RotatE", "dataset": "x", "gamma": model.gamma, "hidden_dim": 4, "double_ent": True}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("named", [False, True])
def test_a_folder_of_dglke_becomes_a_run(run, tmp_path, named):
    model, _, _ = load_kg_run(run)
    order = torch.randperm(E, generator=torch.Generator().manual_seed(0)) if named else None
    source = dglke(tmp_path / "saved", model, order)
    if named:
        names = [KG.entity_names([i])[0] for i in order.tolist()]
        (source / "entities.tsv").write_text("".join(f"{i}\t{name}\n" for i, name in enumerate(names)))
        (source / "relations.tsv").write_text("".join(f"{i}\t{n}\n" for i, n in enumerate(KG.relation_names(range(R)))))
    output = call("import", source, "--data", "synthetic-kg", "--out", tmp_path / "run").output
    assert f"rows matched by {'name' if named else 'id'}" in " ".join(output.split())
    got = json.loads(call("eval", tmp_path / "run", "--json", "-q").stdout)
    want = evaluate(model, KG, "test")
    assert got["mrr"] == pytest.approx(want["mrr"], abs=1e-4) and 0 < got["mrr"] < 1
    shared = [(tmp_path / "run" / f).read_text() == (run / f).read_text() for f in ("entities.tsv", "relations.tsv")]
    assert all(shared)


def test_a_state_of_pykeen_becomes_a_run(tmp_path):
    """DistMult with inverse relations: rows 2 r and 2 r + 1."""
    g = torch.Generator().manual_seed(0)
    entity, relation = torch.randn(E, 6, generator=g), torch.randn(2 * R, 6, generator=g)
    state = {f"{k}_representations.0._embeddings.weight": x for k, x in (("entity", entity), ("relation", relation))}
    torch.save(state, tmp_path / "state.pt")
    call(
        "import",
        tmp_path / "state.pt",
        "--model",
        "distmult",
        "--inverse",
        "--data",
        "synthetic-kg",
        "-o",
        tmp_path / "run",
    )
    model, config, _ = load_kg_run(tmp_path / "run")
    assert config.model.reciprocal and config.model.gamma == 0 and config.model.dim == 6
    assert torch.equal(model.entity, entity) and torch.equal(model.relation[R + 2], relation[5])
    assert json.loads(call("predict", tmp_path / "run", "--ids", "--head", 0, "-k", 1, "--json", "-q").stdout)


def test_exports(run, tmp_path):
    model, _, _ = load_kg_run(run)
    call("export", run, "--out", tmp_path / "npy")
    assert np.array_equal(np.load(tmp_path / "npy" / "entity.npy"), model.entity.detach().numpy())
    assert (tmp_path / "npy" / "entities.tsv").read_text() == (run / "entities.tsv").read_text()
    call("export", run / "best.pt", "--format", "safetensors", "--out", tmp_path / "x.safetensors")
    raw = (tmp_path / "x.safetensors").read_bytes()
    assert raw.endswith(model.relation.detach().numpy().tobytes())
    call("export", run, "--format", "word2vec", "--table", "relation", "--out", tmp_path / "x.txt")
    lines = (tmp_path / "x.txt").read_text().splitlines()
    assert lines[0] == f"{R} 4" and lines[1].split()[0] == KG.relation_names([0])[0].replace(" ", "_")
    with pytest.raises(ValueError, match="exists; give --overwrite"):
        call("export", run, "--format", "word2vec", "--out", tmp_path / "x.txt")
    with pytest.raises(ValueError, match="--out must be a folder for npy"):
        call("export", run, "--out", tmp_path / "x.txt", "--overwrite")
    with pytest.raises(ValueError, match="--format must be one of npy, safetensors, word2vec, got 'x'"):
        call("export", run, "--format", "x", "--out", tmp_path / "y")


def test_checkpoints_that_do_not_fit(run, tmp_path):
    model, _, _ = load_kg_run(run)
    source, out = dglke(tmp_path / "saved", model), tmp_path / "run"
    other = "synthetic-kg:entities=60,relations=4,triples=150"
    with pytest.raises(ValueError, match=rf"the checkpoint has {E} entity rows and no names, the graph has 60"):
        call("import", source, "--data", other, "--out", out)
    (source / "entities.tsv").write_text("".join(f"{i}\tname {i}\n" for i in range(E)))
    with pytest.raises(
        ValueError, match=rf"the checkpoint has no entity '.*' \(and {E - 1} more of {E}\), which the graph"
    ):
        call("import", source, "--data", "synthetic-kg", "--out", out)
    with pytest.raises(ValueError, match="--model, --triples, --inverse and --other-scores are for a file of PyKEEN"):
        call("import", source, "--data", "synthetic-kg", "--out", out, "--model", "rotate")
    with pytest.raises(ValueError, match="no file or folder"):
        call("import", tmp_path / "none", "--data", "synthetic-kg", "--out", out)
    with pytest.raises(ValueError, match="already holds a run"):
        call("import", source, "--data", "synthetic-kg", "--out", run)
    assert not (out / "best.pt").exists()
