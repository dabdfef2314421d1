"""`gnnaccel train`, `eval`, `predict` and `distill` on static graphs."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from gnnaccel.cli import app

DATA = "synthetic-nodes:nodes=400,classes=3,degree=8,features=12"
SMALL = ["--set", "train.epochs=4", "--set", "model.hidden=16", "--set", "train.batch_size=64"]


def run(*args, ok=True):
    result = CliRunner().invoke(app, [str(a) for a in args])
    if ok:
        assert result.exit_code == 0, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "sage"
    result = run("train", "sage", "--data", DATA, "--out", folder, "-q", *SMALL, "--stages")
    return folder, result


def test_train_writes_a_run_and_a_stage_report(trained):
    folder, result = trained
    found = json.loads((folder / "results.json").read_text())
    assert found["test_nodes"] > 0 and 0 <= found["test_accuracy"] <= 1
    stages = json.loads((folder / "stages.json").read_text())
    assert [row["stage"] for row in stages][-1] == "compute"
    assert "fetch features" in result.output and "compute waited" in result.output
    assert {"config.yaml", "metrics.jsonl", "best.pt", "checkpoint.pt"} <= {p.name for p in folder.iterdir()}


def test_a_finished_run_goes_on(trained, tmp_path):
    folder = tmp_path / "run"
    run("train", "sage", "--data", DATA, "--out", folder, "-q", *SMALL)
    result = run("train", "sage", "--data", DATA, "--out", folder, "-q", *SMALL, "--resume", "--set", "train.epochs=5")
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 6, result.output
    again = run("train", "sage", "--data", DATA, "--out", folder, "-q", *SMALL, ok=False)
    assert again.exit_code != 0 and "already holds a run" in str(again.exception)


def test_overwriting_leaves_nothing_of_the_old_run(tmp_path):
    for more in (["--stages"], ["--overwrite"]):
        run("train", "mlp", "--data", DATA, "--out", tmp_path, "-q", *SMALL, *more)
        assert (tmp_path / "stages.json").exists() == (more == ["--stages"])


def test_eval_and_smaller_features(trained):
    folder, _ = trained
    found = json.loads((folder / "results.json").read_text())
    got = json.loads(run("eval", folder, "--json", "-q").stdout)
    assert got["test_accuracy"] == found["test_accuracy"]
    small = json.loads(run("eval", folder, "--json", "-q", "--set", "data.dtype=int8").stdout)
    assert abs(small["test_accuracy"] - found["test_accuracy"]) < 0.05
    val = json.loads(run("eval", folder, "--json", "-q", "--split", "val", "--set", "eval.inference=sampled").stdout)
    assert 0 <= val["val_accuracy"] <= 1


def test_predict(trained, tmp_path):
    folder, _ = trained
    table = tmp_path / "classes.csv"
    run("predict", folder, "--out", table, "-q")
    lines = table.read_text().splitlines()
    assert lines[0].replace('"', "") == "node,class,probability" and len(lines) == 401
    query = tmp_path / "nodes.csv"
    query.write_text("node\n7\n3\n7\n")
    run("predict", folder, "--input", query, "--out", table, "-q")
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    assert [row[0] for row in rows] == ["7", "3", "7"] and rows[0] == rows[2] != rows[1]
    assert rows[0][1:] == lines[8].split(",")[1:]


def test_distill(trained, tmp_path):
    folder, _ = trained
    student = tmp_path / "student"
    result = run("distill", folder, "--out", student, "-q", "--set", "train.epochs=3", "--latency-batches", "1,32")
    found = json.loads((student / "distill.json").read_text())
    assert set(found["student"]["seconds"]) == {"1", "32"} and found["teacher"]["model"] == "sage"
    assert "as fast" in result.output
    assert json.loads(run("eval", student, "--json", "-q").stdout)["test_accuracy"] == found["student"]["accuracy"]


def test_links(tmp_path):
    folder = tmp_path / "links"
    run("train", "sage", "--data", DATA, "--out", folder, "-q", *SMALL, "--set", "data.task=link")
    got = json.loads(run("eval", folder, "--json", "-q", "--negatives", "5").stdout)
    assert got["negatives"] == 5 and 0 < got["test_mrr"] <= 1
    result = run("predict", folder, ok=False)
    assert "tells links, not classes" in str(result.exception)
    result = run("distill", folder, ok=False)
    assert "must tell classes of nodes" in str(result.exception)
    assert [p.name for p in tmp_path.iterdir()] == ["links"]  # nothing begun


def test_links_of_data_with_a_preset_of_whole_graphs(tmp_path):
    folder = write(tmp_path / "cora", **arrays())
    run("train", "sage", "--data", folder, "--out", tmp_path / "run", "-q", *SMALL, "--set", "data.task=link")
    assert json.loads((tmp_path / "run" / "results.json").read_text())["task"] == "link"


def test_data_in_this_folder(tmp_path, monkeypatch):
    folder = write(tmp_path / "mine", **arrays(val_mask=np.zeros(60, bool)))
    monkeypatch.chdir(folder)
    result = run("train", "sage", "--data", ".", "-q", *SMALL)
    assert "mine: 60 nodes" in result.output and "no nodes to validate on" in result.output
    monkeypatch.chdir(folder / "runs" / "sage-mine-0")
    run("distill", ".", "-q", "--set", "train.epochs=1", "--latency-batches", "1,1000")
    found = json.loads((folder / "runs" / "sage-mine-0-mlp" / "distill.json").read_text())
    assert set(found["teacher"]["seconds"]) == {"1", "60"}  # there are no more nodes


def write_csv(folder):
    folder.mkdir()
    nodes = [f"n{i},{'ab'[i % 2]},{('train', 'val', 'test')[i % 3]},{i * 0.1},word" for i in range(60)]
    edges = [f"n{i % 60},n{(i * 7 + 1) % 60},{i % 4 + 0.5}" for i in range(200)]
    (folder / "nodes.csv").write_text("\n".join(["id,label,split,f1,f2", *nodes]))
    (folder / "edges.csv").write_text("\n".join(["src,dst,weight", *edges]))
    return folder


@pytest.mark.parametrize("inference", ["layerwise", "sampled"])
def test_names_and_weights_of_csv(inference, tmp_path):
    folder, table, query = tmp_path / "run", tmp_path / "classes.csv", tmp_path / "nodes.csv"
    weighted = ["--set", "sampler.strategy=weighted", "--set", f"eval.inference={inference}"]
    result = run("train", "sage", "--data", write_csv(tmp_path / "csv"), "--out", folder, "-q", *SMALL, *weighted)
    assert "so no features: f2" in result.output
    for text, names in (("node\nn5\nn2\n", ["n5", "n2"]), ("node\n", [])):
        query.write_text(text)
        run("predict", folder, "-i", query, "--out", table, "-q")
        rows = [line.replace('"', "").split(",") for line in table.read_text().splitlines()[1:]]
        assert [row[0] for row in rows] == names and all(row[1] in "ab" for row in rows)
    query.write_text("node\nn5\nn999\n")
    result = run("predict", folder, "-i", query, ok=False)
    assert "row 2: no node n999 in the data" in str(result.exception)


@pytest.mark.parametrize("how", ["similarity", "weight", "random"])
def test_a_thinned_graph(how, tmp_path):
    folder, weight = tmp_path / "run", np.arange(200, dtype=np.float32)
    thin = ["--set", "sampler.keep=2", "--set", f"sampler.keep_by={how}"]
    given = write(tmp_path / "data", **arrays(edge_weight=weight))
    run("train", "sage", "--data", given, "--out", folder, "-q", *SMALL, *thin)
    found = json.loads((folder / "results.json").read_text())
    assert json.loads(run("eval", folder, "--json", "-q").stdout)["test_accuracy"] == found["test_accuracy"]


def test_settings_are_listed_and_models_have_help():
    assert "sampler.neighbors" in run("train", "sage", "--list-settings").output
    assert "graph-transformer" in run("train", "--help").output


def write(path, **arrays):
    path.mkdir()
    np.savez(path / "data.npz", **arrays)
    return path


def arrays(**changes):
    gen = np.random.default_rng(0)
    N = 60
    masks = {f"{part}_mask": np.arange(N) % 3 == i for i, part in enumerate(("train", "val", "test"))}
    made = {
        "edge_index": gen.integers(0, N, (2, 200)).astype(np.int32),
        "x": gen.standard_normal((N, 4)).astype(np.float32),
        "y": gen.integers(0, 3, N),
        **masks,
    }
    return {**made, **changes}


def nan_row():
    x = arrays()["x"]
    x[17, 2] = np.nan
    return x


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x": np.zeros((50, 4), np.float32)}, "row"),
        ({"x": nan_row()}, "17"),
        ({"val_mask": np.arange(60) % 3 == 0}, "train_mask and val_mask|both"),
        ({"edge_index": np.array([[0, 99], [1, -2]])}, "-2|>= 0"),
        ({"train_mask": np.zeros(60, bool)}, "train"),
        ({"y": np.array(["a"] * 60)}, "not numbers"),
        ({"y": np.arange(60) * 1000}, "number the 60 classes"),
        ({"edge_type": np.full(200, -1)}, "relation must be in"),
        ({"edge_weight": np.full(200, np.nan)}, "weight must be finite"),
        ({"y": np.zeros(60, int)}, "at least two classes"),
    ],
)
def test_bad_data_is_said_in_one_line(changes, said, tmp_path):
    folder = write(tmp_path / "bad", **arrays(**changes))
    result = run("train", "sage", "--data", folder, "--out", tmp_path / "run", "-q", *SMALL, ok=False)
    assert isinstance(result.exception, ValueError), result.output
    text = str(result.exception)
    assert any(part in text for part in said.split("|")) and "\n" not in text


def test_labels_that_are_missing_and_lonely_nodes_are_no_error(tmp_path):
    y = arrays()["y"]
    y[[0, 5, 30]] = -1
    folder = write(tmp_path / "few", **arrays(y=y, edge_index=np.array([[1, 2, 3], [2, 1, 4]])))
    result = run("train", "sage", "--data", folder, "--out", tmp_path / "run", "-q", *SMALL)
    assert "note:" in result.output


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["train", "sage", "--data", "no-such-data"], "no-such-data"),
        (["train", "sage", "--data", DATA, "--set", "sampler.neighbors=[0,5]"], "sampler.neighbors"),
        (["train", "sage", "--data", DATA, "--set", "model.hiden=3"], "did you mean model.hidden"),
        (["distill", "/nowhere/run"], "no checkpoint"),
        (["train", "sage", "--data", DATA, "--strict"], "--strict: is of streams"),
        (["train", "tgn", "--data", "synthetic", "--stages"], "--stages: is of static graphs"),
    ],
)
def test_wrong_arguments_are_named(args, said, tmp_path):
    result = run(*args, *(["--out", tmp_path / "run"] if args[0] == "train" else []), ok=False)
    assert result.exit_code != 0 and said in str(result.exception) + result.output


@pytest.mark.parametrize(
    "setting", ["model.hidden=32", "train.seed=1", "data.task=link", "data.features=row_normalized", "sampler.keep=2"]
)
def test_a_changed_model_graph_or_split_is_refused(setting, trained):
    folder, _ = trained
    result = run("eval", folder, "--set", setting, ok=False)
    assert "are what was trained" in str(result.exception)


def test_other_data_is_refused(trained):
    folder, _ = trained
    result = run("eval", folder, "--data", DATA.replace("400", "300"), ok=False)
    assert isinstance(result.exception, (ValueError, RuntimeError)), result.exception
    assert "not the same" in str(result.exception)


def test_same_bits_from_the_command(tmp_path):
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            folder = tmp_path / str(threads)
            run("train", "rgcn", "--data", DATA + ",relations=2", "--out", folder, "-q", *SMALL, "--threads", threads)
            found.append(torch.load(folder / "best.pt", weights_only=True)["model"])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
