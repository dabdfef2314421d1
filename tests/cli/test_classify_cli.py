"""`gnnaccel classify` as a user meets it."""

import json

import pytest

from gnnaccel.data import load
from gnnaccel.train import LinkTask, Trainer, load_config
from tests.cli.test_cli import in_process  # noqa: F401
from tests.train.test_link import small_config

DATA = "synthetic:events=1200,src=60,dst=30,seed=4"
QUICK = ("--set", "train.epochs=2", "--set", "classify.hidden=8", "--quiet")


def train(folder, data):
    task = LinkTask.create(small_config("train.epochs=1", "eval.negatives=5"), load(data))
    Trainer(task, folder, data=str(data), progress=False).fit()
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("classify") / "run", DATA)


@pytest.mark.parametrize(("args", "name"), [((), "node"), (("--task", "edge"), "edge")])
def test_from_a_run_to_results(run, in_process, args, name):  # noqa: F811
    done = in_process("classify", run, *args, *QUICK)
    assert done.returncode == 0, done.stderr
    for row in ("AUC", "class prior", "static features", "counts of earlier events", "by class"):
        assert row in done.stdout
    folder = run / name
    names = {p.name for p in folder.iterdir()} - {"tensorboard"}
    assert names == {"config.yaml", "metrics.jsonl", "results.json", "checkpoint.pt", "best.pt"}
    results = json.loads((folder / "results.json").read_text())
    assert results["task"] == name
    assert results["test_events"] == 180
    assert results["baselines"]["prior"]["auc"] == 0.5
    assert 0 <= results["test_auc"] <= 1
    again = in_process("classify", run, *args, *QUICK, "--overwrite", "--json")
    same = json.loads(again.stdout)
    assert {k: v for k, v in same.items() if "seconds" not in k} == {
        k: v for k, v in results.items() if "seconds" not in k
    }


def test_end_to_end_and_seeing_the_event(run, in_process):  # noqa: F811
    done = in_process("classify", run, "--end-to-end", "--sees-event", *QUICK)
    assert done.returncode == 0, done.stderr
    results = json.loads((run / "node-end-to-end" / "results.json").read_text())
    assert results["end_to_end"]
    assert results["sees_event"]


def test_resume_of_a_finished_one_repeats_its_test(run, tmp_path, in_process):  # noqa: F811
    first = json.loads(in_process("classify", run, "--out", tmp_path / "x", "--json", *QUICK).stdout)
    done = in_process("classify", run, "--out", tmp_path / "x", "--json", "--resume", *QUICK)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["test_auc"] == first["test_auc"]


def test_labels_of_a_column(tmp_path, in_process):  # noqa: F811
    lines = [f"u{i % 13},v{i % 7},{i * 10},{i % 3},{i % 2 / 2},{i % 5}" for i in range(700)]
    data = tmp_path / "own.csv"
    data.write_text("\n".join(["src,dst,t,state,ratio,label", *lines]) + "\n")
    run = train(tmp_path / "run", data)
    done = in_process("classify", run, "--task", "edge", "--label", "state", "--json", *QUICK)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    default = run / "edge"
    folder = ["--out", default] if default.exists() else []
    other = in_process("classify", run, "--task", "edge", "--label", "label", "--resume", *folder, *QUICK)
    assert other.returncode == 2
    assert "or their features or labels" in " ".join(other.stderr.split())
    assert set(results["test_per_class"]) == {"0", "1", "2"}
    assert "test_auc" not in results
    assert results["test_micro_f1"] == results["test_accuracy"]
    for args, says in (
        (["--label", "nothing"], "nothing"),
        (["--label", "ratio"], "labels must be whole numbers, event 1 has 0.5"),
    ):
        done = in_process("classify", run, "--out", tmp_path / "y", *args, *QUICK)
        assert done.returncode == 2
        assert says in " ".join(done.stderr.split())
        assert not (tmp_path / "y").exists()


def test_data_without_labels(tmp_path, in_process):  # noqa: F811
    data = tmp_path / "own.csv"
    data.write_text("src,dst,t\n" + "".join(f"u{i % 13},v{i % 7},{i * 10}\n" for i in range(700)))
    done = in_process("classify", train(tmp_path / "run", data), *QUICK)
    assert done.returncode == 2
    assert "own has no labels; name their column with --label" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nowhere"], "no checkpoint at nowhere"),
        (["{run}", "--task", "graph"], "--task must be node or edge, got 'graph'"),
        (["{run}", "--set", "memory.dim=3"], "--set memory.*: the model is that of the run"),
        (["{run}", "--set", "train.epoch=3"], "did you mean train.epochs?"),
        (["{run}", "--set", "classify.task=edge"], "use the options"),
        (["{run}", "--set", "classify.hidden=0"], "classify.hidden"),
        (
            ["{run}", "--end-to-end", "--out", "x", "--set", "classify.balance=sample"],
            "must not be 'sample' end to end",
        ),
        (["{run}", "--resume", "--out", "absent"], "no checkpoint.pt in absent"),
        (["{run}", "--resume", "--overwrite"], "give only one of them"),
        (["{run}", "--data", "synthetic:events=1300"], "not the same"),
    ],
)
def test_bad_input(run, tmp_path, args, says, in_process):  # noqa: F811
    done = in_process("classify", *[str(run) if a == "{run}" else a for a in args], "--quiet", cwd=tmp_path)
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_edgebank_has_no_embeddings(tmp_path, in_process):  # noqa: F811
    task = LinkTask.create(load_config("edgebank"), load(DATA))
    Trainer(task, tmp_path / "run", data=DATA, progress=False).fit()
    done = in_process("classify", tmp_path / "run", "--quiet")
    assert done.returncode == 2
    assert "EdgeBank has no embeddings" in done.stderr


def test_a_classifier_is_not_a_link_run(run, tmp_path, in_process):  # noqa: F811
    assert in_process("classify", run, "--out", tmp_path / "x", *QUICK).returncode == 0
    for command in (("eval", tmp_path / "x"), ("classify", tmp_path / "x")):
        done = in_process(*command, "--quiet")
        assert done.returncode == 2
        assert "is of gnnaccel classify, not of a link run" in " ".join(done.stderr.split())


def test_help(in_process):  # noqa: F811
    done = in_process("classify", "--help")
    assert "gnnaccel classify runs/tgn-wikipedia-0 --task node" in done.stdout
