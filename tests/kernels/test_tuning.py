"""Tables of block sizes: every kernel has a default, a GPU's own row wins, and the tuner refuses what is wrong."""

import json
import os

import pytest
import torch

pytest.importorskip("triton")

from gnnaccel.bench import tune
from gnnaccel.kernels.triton import _tuning
from gnnaccel.kernels.triton._tuning import gpu_name, tuned, using
from tests.harness import served_by

INTERPRET = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def test_the_file_is_as_it_would_be_written():
    assert _tuning.text_of(json.loads(_tuning.FILE.read_text("utf-8"))) == _tuning.FILE.read_text("utf-8")


def test_every_table_has_a_default_and_can_be_tuned():
    assert set(_tuning.tables()) == set(tune.TUNABLE)
    for kernel, rows in _tuning.tables().items():
        keys = [(r["gpu"], r["shape"]) for r in rows]
        assert keys[0] == ("default", "any") and len(set(keys)) == len(keys)
        names = {k for k in rows[0] if k not in _tuning._NOTES}
        assert names == set(tune.TUNABLE[kernel].values)
        for row in rows:
            assert {k for k in row if k not in _tuning._NOTES} == names
            assert row["gpu"] == "default" or row["measured"], "a GPU's row is measured"


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA A100-SXM4-40GB", "a100"),
        ("Some other GPU", "default"),
    ],
)
def test_names(name, gpu):
    assert gpu_name(name) == gpu


@pytest.fixture
def tables(tmp_path, monkeypatch):
    path = tmp_path / "tuning.json"
    path.write_text(_tuning.FILE.read_text("utf-8"), "utf-8")
    monkeypatch.setattr(_tuning, "FILE", path)
    yield path
    monkeypatch.undo()
    _tuning.tables.cache_clear()
    _tuning._row.cache_clear()
    _tuning._present.cache_clear()


def test_a_gpus_own_row_wins(tables, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA H200")
    _tuning._present.cache_clear()
    default = tuned("time_encode")
    wide = {"BLOCK_N": 64, "BLOCK_T": 128, "num_warps": 8}
    _tuning.write("time_encode", "h200", "any", {**wide, "num_warps": 4}, "first", tables)
    _tuning.write("time_encode", "h200", "any", wide, "NVIDIA H200, today", tables)
    _tuning.write("time_encode", "a100", "any", {**wide, "num_warps": 2}, "NVIDIA A100, today", tables)
    cuda = torch.device("cuda", 0)
    assert tuned("time_encode", cuda) == wide
    assert tuned("time_encode") == tuned("time_encode", torch.device("cpu")) == default
    assert tuned("gather_rows_fwd", cuda) == tuned("gather_rows_fwd")
    assert [r["measured"] for r in json.loads(tables.read_text())["time_encode"]] == [
        None,
        "NVIDIA A100, today",
        "NVIDIA H200, today",
    ]


def test_forced_values_end():
    default = tuned("unique_nodes")
    with using("unique_nodes", {"BLOCK": 256, "num_warps": 8}):
        assert tuned("unique_nodes") == {"BLOCK": 256, "num_warps": 8}
    assert tuned("unique_nodes") == default


def test_differences_are_seen():
    x = torch.ones(3)
    assert tune.differs([x], [x + 1e-6]) == ""
    assert "wrong" in tune.differs([x], [x + 1e-2])
    assert "wrong" in tune.differs([x * float("nan")], [x])
    assert "shape" in tune.differs([x], [torch.ones(4)])


@pytest.mark.interpret
@pytest.mark.skipif(not INTERPRET, reason="about the Triton kernels")
@pytest.mark.parametrize("kernel", sorted(tune.TUNABLE))
def test_the_tuner_runs(kernel, monkeypatch):
    values = tune.TUNABLE[kernel].values
    ends = [{name: tried[end] for name, tried in values.items()} for end in (0, -1)]
    assert tuned(kernel) in list(tune.TUNABLE[kernel].candidates())
    monkeypatch.setattr(tune.Tunable, "candidates", lambda self: iter(ends))
    seen = []
    with served_by("CUDA"):
        rows = tune.tune(kernel, torch.device("cpu"), 60.0, lambda fn, prepare, inner: seen.append(fn) or 1.0)
    assert rows[0][0] == tuned(kernel) and not any(problem for *_, problem in rows)
    assert len(rows) >= 2 and len(seen) >= len(rows)


def test_the_command_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="sees no CUDA device"):
        tune.main(None, False, 1.0)
