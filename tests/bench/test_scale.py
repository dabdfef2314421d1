"""The scale job at a tiny scale: writes once, trains from the file, tells time and memory."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from gnnaccel.bench import scale


def command(*args):
    app = typer.Typer()
    app.command()(scale.main)
    return CliRunner().invoke(app, [str(a) for a in args])


def test_write(tmp_path):
    scale.write(tmp_path, 100, 1000, 6, seed=3)
    x = np.load(tmp_path / "edge_feat.npy")
    assert x.shape == (1000, 6)
    assert x.dtype == np.float16
    assert (np.abs(x) >= 0.5).all()
    assert (np.abs(x) < 1).all()
    assert abs(x.astype(np.float64).mean()) < 0.05
    stamp = (tmp_path / "edge_feat.npy").stat().st_mtime_ns
    scale.write(tmp_path, 100, 1000, 6, seed=3)
    assert (tmp_path / "edge_feat.npy").stat().st_mtime_ns == stamp, "kept"
    scale.write(tmp_path, 100, 1000, 7, seed=3)
    assert np.load(tmp_path / "edge_feat.npy").shape == (1000, 7)


def test_chunks_make_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "CHUNK", 128)
    scale.write(tmp_path, 100, 1000, 8)
    x = np.load(tmp_path / "edge_feat.npy")
    assert len(np.unique(x, axis=0)) == 1000


def test_measure(tmp_path):
    scale.write(tmp_path, 300, 4000, 5)
    found = scale.measure(tmp_path, 4, 50, histories=(1000, 2000, 10**6))
    assert [r["history"] for r in found["histories"]] == [1000, 2000, 3800]
    assert all(r["median_seconds"] > 0 and np.isfinite(r["loss_last"]) for r in found["histories"])
    assert found["feature_dtype"] == "float16"
    assert 0 < found["peak_own_bytes"] <= found["peak_rss_bytes"] + 2**20
    assert set(found["stage_seconds"]) == {"sample", "forward", "backward", "optimizer", "state"}


def test_the_file_is_read_in_place(tmp_path, monkeypatch):
    """No tensor of the size of all features is ever made."""
    from gnnaccel.train.link import LinkTask

    scale.write(tmp_path, 300, 4000, 5)
    seen = []
    create = LinkTask.create.__func__

    def spy(cls, *args):
        seen.append(create(cls, *args))
        return seen[-1]

    monkeypatch.setattr(LinkTask, "create", classmethod(spy))
    scale.measure(tmp_path, 2, 50, histories=())
    (task,) = seen
    assert task.edge_feat.dtype == torch.float16
    assert task.edge_feat.data_ptr() == task.events.edge_feat.data_ptr()


def test_command(tmp_path):
    pytest.importorskip("matplotlib")
    args = [
        "--folder",
        tmp_path / "d",
        "--nodes",
        200,
        "--events",
        2000,
        "--features",
        4,
        "--batch-size",
        40,
        "--threads",
        1,
    ]
    done = command(*args, "--batches", 3, "--json", tmp_path / "s.json", "--figure", tmp_path / "s.svg")
    assert done.exit_code == 0, done.output
    assert "peak resident" in done.output
    assert json.loads((tmp_path / "s.json").read_text())["events"] == 2000
    assert (tmp_path / "s.svg").read_text().lstrip().startswith("<?xml")
    assert command(*args, "--batches", 3, "--max-rss-gb", 0.001).exit_code == 1
    too_many = command(*args, "--batches", 300)
    assert too_many.exit_code == 2
    assert "events must be at least 12000" in too_many.output


@pytest.mark.parametrize("name", ["peak_rss_bytes", "peak_file_bytes"])
def test_committed_result(name):
    path = Path(scale.__file__).parent / "results" / "cpu-2t" / "scale.json"
    found = json.loads(path.read_text())
    assert found["events"] == 20_000_000
    assert found[name] < 8e9
