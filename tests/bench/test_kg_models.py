"""Figures of knowledge-graph presets: trained, or taken from finished runs; the table of the page."""

import json

import pytest
import typer
from typer.testing import CliRunner

from gnnaccel.bench.kg_models import BEGIN, END, fill, models, read_run, table
from gnnaccel.data.kg import load
from gnnaccel.train.kg import KGTrainer, load_kg_config

SMALL = ("model.dim=16", "train.epochs=1", "negatives.count=16", "negatives.chunk=64")
APP = typer.Typer()
APP.command()(models)


def call(*arguments):
    return CliRunner().invoke(APP, [str(a) for a in arguments], catch_exceptions=False)


def test_trains_presets_once_and_writes_the_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    store = tmp_path / "runs.json"
    settings = [x for s in SMALL for x in ("--set", s)]
    arguments = ["--data", "synthetic-kg", "--model", "rotate", "--json", store, "--into", page, *settings]
    assert call(*arguments).exit_code == 0
    first = store.read_text()
    run = json.loads(first)["runs"][0]
    assert (run["data"], run["model"], run["dim"]) == ("synthetic-kg", "rotate", 16) and 0 < run["mrr"] < 1
    assert call(*arguments).exit_code == 0
    assert json.loads(store.read_text())["runs"] == json.loads(first)["runs"]  # was not trained again
    text = page.read_text()
    assert text.startswith("before") and text.endswith("after\n") and "old" not in text
    assert f"| synthetic-kg | `rotate` | 16 | {run['mrr']:.3f} |" in text


def test_a_finished_run_must_be_of_the_preset(tmp_path):
    import yaml

    kg = load("synthetic-kg")
    config = load_kg_config("transe_l1", kg.name, overrides=["train.epochs=0"])
    KGTrainer(config, kg, tmp_path, progress=False, data="synthetic-kg").fit()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump()))
    with pytest.raises(ValueError, match=r"train.epochs=0, the preset has \d+"):
        read_run(tmp_path)
    preset = load_kg_config("transe_l1", kg.name)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(preset.model_dump()))
    assert read_run(tmp_path)["model"] == "transe_l1"
    with pytest.raises(ValueError, match="the run is not finished"):
        read_run(tmp_path / "none")


def test_best_first_within_a_data_set():
    keys = ("mrr", "hits@1", "hits@3", "hits@10", "mr", "minutes")
    runs = [
        {"data": d, "model": m, "dim": 1, "threads": 2, **dict.fromkeys(keys, x)}
        for d, m, x in (("b", "p", 0.1), ("a", "q", 0.5), ("b", "r", 0.2))
    ]
    assert [line.split("`")[1] for line in table(runs).splitlines()[2:]] == ["r", "p", "q"]


def test_a_page_without_marks_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="must have the lines"):
        fill(page, "x")
