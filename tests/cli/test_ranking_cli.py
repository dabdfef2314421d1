"""Given lists of negatives, from the command that writes them to the one that judges by them."""

import json

import numpy as np
import pytest

from gnnaccel.data import chronological_split, draw_negatives, load, write_negatives
from gnnaccel.train import LinkTask, Trainer
from tests.cli.test_cli import in_process  # noqa: F401
from tests.data.test_tgb import Dataset, installed  # noqa: F401
from tests.train.test_link import small_config

DATA = "synthetic:events=1200,src=60,dst=30,seed=4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained run and lists for its test and validation parts."""
    where = tmp_path_factory.mktemp("ranking")
    events = load(DATA)
    task = LinkTask.create(small_config("train.epochs=1", "eval.negatives=5"), events)
    Trainer(task, where / "run", data=DATA, progress=False).fit()
    part = chronological_split(events.t).test
    write_negatives(where / "test.npz", draw_negatives(events, part, count=12), events, part)
    return where


def test_lists_are_the_same_every_time(folder, in_process):  # noqa: F811
    done = in_process("data", "negatives", DATA, "--out", folder / "again.npz", "--count", 12)
    assert done.returncode == 0, done.stderr
    assert "180 queries, 2,160 negatives" in done.stdout
    with np.load(folder / "test.npz") as a, np.load(folder / "again.npz") as b:
        assert a.files == b.files
        assert all(np.array_equal(a[k], b[k]) for k in a.files)


def test_eval_by_given_lists(folder, in_process):  # noqa: F811
    command = ("eval", folder / "run", "--negatives-file", folder / "test.npz", "--quiet")
    table = in_process(*command)
    assert table.returncode == 0, table.stderr
    assert "HITS@10" in table.stdout.upper()
    assert "12.0 given negatives a query" in table.stdout
    results = json.loads(in_process(*command, "--json").stdout)
    assert results["test_candidates"] == 2160
    assert 0 < results["test_mrr"] < 1
    assert results["test_hits@1"] <= results["test_hits@3"] <= results["test_hits@10"]
    larger = json.loads(in_process(*command, "--json", "--batch-size", 1000).stdout)
    assert larger["test_candidates"] == 2160


def test_validation_lists(folder, in_process):  # noqa: F811
    done = in_process("data", "negatives", DATA, "--out", folder / "val.npz", "--split", "val", "--historical", 0)
    assert done.returncode == 0, done.stderr
    done = in_process(
        "eval", folder / "run", "--split", "val", "--negatives-file", folder / "val.npz", "--json", "--quiet"
    )
    assert json.loads(done.stdout)["val_events"] == 180


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["eval", "{run}", "--negatives-file", "absent.npz"], "absent.npz: no such file"),
        (
            ["eval", "{run}", "--negatives-file", "{text}"],
            "pickled objects, which are never loaded); write one with gnnaccel",
        ),
        (
            ["eval", "{run}", "--negatives-file", "{objects}"],
            "pickled objects, which are never loaded); write one with",
        ),
        (["eval", "{run}", "--negatives-file", "{test}", "--split", "val"], "other data?"),
        (["eval", "{run}", "--negatives-file", "{test}", "--negatives", "5"], "leave --negatives out"),
        (["eval", "{run}", "--negatives-file", "tgb"], "is not one of TGB's link sets"),
        (["data", "negatives", DATA, "--out", "{test}"], "exists; give --overwrite"),
        (["data", "negatives", DATA, "--out", "lists.csv"], "--out must be an .npz file"),
        (["data", "negatives", DATA, "--out", "x.npz", "--split", "train"], "--split must be test or val"),
        (["data", "negatives", DATA, "--out", "x.npz", "--count", "0"], "--count"),
        (["data", "negatives", DATA, "--out", "x.npz", "--val-fraction", "0.9"], "sum < 1"),
        (["data", "negatives", "wikpedia", "--out", "x.npz"], "wikipedia"),
    ],
)
def test_bad_input(folder, tmp_path, args, says, in_process):  # noqa: F811
    (tmp_path / "text.npz").write_text("src,dst\n")
    np.savez(tmp_path / "objects.npz", indptr=np.array([{}], object), ids=np.arange(3))
    places = {"{run}": folder / "run", "{test}": folder / "test.npz"}
    places |= {f"{{{name}}}": tmp_path / f"{name}.npz" for name in ("text", "objects")}
    done = in_process(*[places.get(a, a) for a in args], "--quiet" if args[0] == "eval" else "--seed=1", cwd=tmp_path)
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert "allow_pickle" not in done.stderr


def test_the_list_of_sets_names_the_way_to_tgb(in_process):  # noqa: F811
    assert "tgb:NAME" in " ".join(in_process("data", "list").stdout.split())


def test_the_file_is_the_split_of_the_data(folder):
    events = load(DATA)
    part = chronological_split(events.t).test
    with np.load(folder / "test.npz") as file:
        assert file["t"].tolist() == events.t[part].tolist()


def test_from_a_set_of_tgb_to_its_own_negatives(installed, tmp_path, in_process):  # noqa: F811
    small = ("--set", "memory.dim=8", "--set", "memory.dim_time=6", "--set", "aggregator.dim=8")
    run = tmp_path / "run"
    done = in_process(
        "train", "tgn", "--data", "tgb:tgbl-wiki", "--out", run, "--quiet", *small, "--set", "train.epochs=1"
    )
    assert done.returncode == 0, done.stderr
    done = in_process("eval", run, "--negatives-file", "tgb", "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results["test_candidates"] == sum(map(len, Dataset()._pickles["test"].values()))
    assert 0 < results["test_mrr"] <= 1
