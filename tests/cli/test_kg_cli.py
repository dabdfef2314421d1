"""`gnnaccel kg train`, `eval` and `presets` as a user calls them."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from gnnaccel.cli import app
from gnnaccel.data.kg import load

RUN = CliRunner()
SMALL = ["model.dim=16", "negatives.count=16", "train.batch_size=96", "train.epochs=2", "train.validate_every=1"]
SETTINGS = [x for s in SMALL for x in ("--set", s)]


def call(*arguments):
    result = RUN.invoke(app, ["kg", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "rotate"
    result = call("train", "rotate", "--data", "synthetic-kg", "--out", folder, "-q", *SETTINGS)
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_train_reports_and_writes(run):
    folder, output = run
    assert "rotate on synthetic-kg: test" in output and "1-1, tails" in output
    names = {p.name for p in folder.iterdir()}
    assert names >= {"best.pt", "checkpoint.pt", "config.yaml", "metrics.jsonl", "results.json", "entities.tsv"}
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["dim"] == 16


def test_eval_repeats_the_test(run):
    folder, _ = run
    result = call("eval", folder, "--json", "-q")
    got = json.loads(result.stdout)
    stored = json.loads((folder / "results.json").read_text())
    assert got["mrr"] == stored["test_mrr"] and got["categories"].keys() == stored["test_categories"].keys()
    raw = json.loads(call("eval", folder, "--json", "-q", "--raw").stdout)
    assert raw["mrr"] < got["mrr"]


def test_a_run_is_neither_overwritten_nor_missing(run, tmp_path):
    folder, _ = run
    with pytest.raises(ValueError, match="already holds a run"):
        call("train", "rotate", "--out", folder, "-q", *SETTINGS)
    with pytest.raises(ValueError, match=r"no checkpoint.pt in"):
        call("train", "rotate", "--out", tmp_path / "none", "--resume", "-q", *SETTINGS)


def test_resume_of_a_finished_run_gives_its_results(run):
    folder, _ = run
    again = call("train", "rotate", "--out", folder, "--resume", "-q", *SETTINGS)
    assert again.exit_code == 0
    assert "all 24 steps are trained" in " ".join(again.output.split())


def test_own_triples_in_any_order_of_columns(tmp_path):
    kg = load("synthetic-kg")
    for split in ("train", "valid", "test"):
        part = getattr(kg, split)
        h, r, t = kg.entity_names(part.head), kg.relation_names(part.relation), kg.entity_names(part.tail)
        rows = "".join(f"{c}\t{a}\t{b}\n" for a, b, c in zip(h, r, t, strict=True))
        (tmp_path / f"{split}.tsv").write_text(rows)
    out = tmp_path / "out"
    call("train", "distmult", "--data", tmp_path, "--columns", "thr", "--out", out, "-q", *SETTINGS)
    # eval reads the file as train did
    assert json.loads(call("eval", out, "--json", "-q").stdout)["triples"] == len(kg.test)


def test_errors_are_one_line(tmp_path):
    with pytest.raises(ValueError, match="--columns is for files, not for synthetic-kg"):
        call("train", "distmult", "--columns", "htr", "--out", tmp_path)
    bad = tmp_path / "bad.tsv"
    bad.write_text("a\tr\tb\na\tr\n")
    with pytest.raises(ValueError, match=r"bad.tsv.*2"):
        call("train", "distmult", "--data", bad, "--out", tmp_path / "x")
    with pytest.raises(ValueError, match="no model: name one"):
        call("train")


def test_presets_and_settings_are_listed():
    assert "distmult" in call("presets").output
    assert "negatives.chunk" in call("train", "--list-settings").output
