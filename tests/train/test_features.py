"""Feature tables on the device or in pinned host memory: the choice, the errors; reading them is `gpu`'s."""

import ctypes
import gc
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import gnnaccel as ga
from gnnaccel.nn.conv import TableRows
from gnnaccel.ops.gather_rows import check_reachable
from gnnaccel.train import features
from gnnaccel.train.features import choose_place, pinned_copy, place_features
from gnnaccel.train.settings import ConfigError


@pytest.mark.parametrize(
    ("size", "free", "mode", "place"),
    [
        (50, 100, "auto", "device"),
        (51, 100, "auto", "pinned"),
        (0, 0, "auto", "device"),
        (99, 100, "device", "device"),
        (1, 100, "pinned", "pinned"),
    ],
)
def test_choice(size, free, mode, place):
    assert choose_place(size, free, mode) == place


class Cudart:
    """Says that it registers memory; `code` is what it answers."""

    def __init__(self, code=0):
        self.code, self.registered, self.gone = code, {}, []

    def cudaHostRegister(self, address, size, flags):
        assert flags == 0
        if self.code == 0:
            self.registered[address] = size
        return self.code

    def cudaHostUnregister(self, address):
        ctypes.string_at(address, self.registered.pop(address))  # it must still be there
        self.gone.append(address)
        return 0

    def cudaGetErrorString(self, code):
        return {2: "out of memory", 801: "operation not supported"}[code]


@pytest.fixture
def cudart(monkeypatch):
    """Pinned memory needs a driver: here one that keeps a list."""
    made, own = Cudart(), set()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: made)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(
        torch.Tensor, "is_pinned", lambda self: self.data_ptr() in made.registered or self.data_ptr() in own
    )

    def pin(self):
        out = self.clone()
        own.add(out.data_ptr())
        return out

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    return made


def test_a_mapped_file_is_copied_by_parts(cudart, tmp_path, monkeypatch):
    rows = np.arange(60, dtype=np.float32).reshape(20, 3)
    np.save(tmp_path / "x.npy", rows)
    table = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c"))
    monkeypatch.setattr(features, "CHUNK", 7 * 12)
    out = pinned_copy(table)
    assert out.is_pinned() and torch.equal(out, torch.from_numpy(rows))
    assert pinned_copy(out) is out
    assert cudart.registered == {out.data_ptr(): 240}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_memory_is_registered_while_anything_refers_to_it(cudart, dtype):
    table = torch.arange(3000).reshape(1000, 3).to(dtype)
    out = pinned_copy(table)
    assert torch.equal(out, table) and out.shape == table.shape and out.dtype == dtype
    address = out.data_ptr()
    assert address % features.PAGE == 0 and cudart.registered == {address: table.nbytes}
    view = out[5:9].detach()
    del out
    gc.collect()
    assert cudart.gone == [] and torch.equal(view, table[5:9])
    del view
    gc.collect()
    assert cudart.gone == [address] and cudart.registered == {}


def test_an_empty_table_is_not_registered(cudart):
    assert pinned_copy(torch.empty(0, 3)).shape == (0, 3) and cudart.registered == {}


def test_where_memory_cannot_be_registered(cudart, caplog, monkeypatch):
    cudart.code, table = 801, torch.ones(4, 2)
    out = pinned_copy(table)
    assert out.is_pinned() and torch.equal(out, table)
    assert "cudaHostRegister: operation not supported" in caplog.text
    cudart.code = 2
    with pytest.raises(RuntimeError, match="cudaHostRegister: out of memory"):
        pinned_copy(table)
    gc.collect()
    assert cudart.gone == []
    monkeypatch.setattr(torch.cuda, "cudart", SimpleNamespace)  # no such function
    out = pinned_copy(table)
    assert out.is_pinned() and torch.equal(out, table)


def test_on_a_gpu_the_free_memory_decides(cudart, monkeypatch):
    x, moved = torch.ones(10, 4), []
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device, **k: moved.append(self) or self)
    for free, place in ((1000, "device"), (100, "pinned")):
        moved.clear()
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 2000))
        found, scale = place_features(x, torch.ones(10), "cuda")
        assert scale is not None and len(moved) == (2 if place == "device" else 1)
        assert found.is_pinned() == (place == "pinned")


def test_too_little_memory_is_told(monkeypatch):
    def fail(table):
        raise RuntimeError("CUDA error: out of memory\nmore")

    monkeypatch.setattr(features, "pinned_copy", fail)
    with pytest.raises(
        ConfigError, match=r"train.features: 0.0 GB of features cannot be pinned: CUDA error: out of mem"
    ) as e:
        place_features(torch.ones(3, 2), None, "cuda", "pinned") if torch.cuda.is_available() else _with_memory(
            monkeypatch
        )
    assert "\n" not in str(e.value)


def _with_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    return place_features(torch.ones(3, 2), None, "cuda", "pinned")


def test_cpu():
    x, scale = torch.ones(3, 2), torch.ones(3)
    for mode in ("auto", "device"):
        found = place_features(x, scale, "cpu", mode)
        assert found[0] is x and found[1] is scale
    assert place_features(None, None, "cpu") == (None, None)
    with pytest.raises(ConfigError, match=r"train.features: must be 'auto' or 'device' on cpu, got 'pinned'"):
        place_features(x, None, "cpu", "pinned")


def test_memory_that_a_gpu_cannot_read_is_refused():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        ids, table = torch.empty(3, dtype=torch.int64, device="cuda"), torch.empty(4, 2, device="cuda")
        check_reachable("op", {"table": table, "scale": None}, ids)
        elsewhere = torch.empty(4, 2, device="meta")
    with pytest.raises(ValueError, match="op: scale must be on cuda:0 like ids, or pinned, got meta"):
        check_reachable("op", {"table": table, "scale": elsewhere}, ids)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8])
def test_on_a_gpu_rows_are_read_in_place(dtype):
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(500, 20, generator=gen)
    table, scale = ga.ops.gather_rows.__globals__["quantize_rows"](x) if dtype == torch.int8 else (x.to(dtype), None)
    ids = torch.randint(-1, 500, (300, 7), generator=gen)
    pinned, where = place_features(table, scale, "cuda", "pinned")
    assert pinned.is_pinned() and pinned.device.type == "cpu"
    got = ga.gather_rows(pinned, ids.cuda(), where)
    assert torch.equal(got.cpu(), ga.gather_rows(table, ids, scale))
    total = ga.gather_aggregate(pinned, ids.cuda(), reduce="mean", scale=where)
    torch.testing.assert_close(
        total.cpu(), ga.gather_aggregate(table, ids, reduce="mean", scale=scale), rtol=1e-3, atol=1e-3
    )
    most = ga.gather_aggregate(pinned, ids.cuda(), reduce="max", scale=where)
    assert torch.equal(most.cpu(), ga.gather_aggregate(table, ids, reduce="max", scale=scale))
    whole = TableRows(pinned, None, where, device=torch.device("cuda")).gather(slice(3, 9))
    assert whole.is_cuda and torch.equal(whole.cpu(), TableRows(table, None, scale).gather(slice(3, 9)))
    with pytest.raises(ValueError, match="table must be on cuda:0 like ids, or pinned, got cpu"):
        ga.gather_aggregate(table, ids.cuda(), scale=where)


@pytest.mark.gpu
@pytest.mark.parametrize("fetch", ["rows", "fused"])
def test_on_a_gpu_a_step_reads_pinned_features(fetch):
    from gnnaccel.data.nodes import load_nodes
    from gnnaccel.train.gnn import graph_task, validate_gnn

    data, losses = load_nodes("synthetic-nodes"), []
    for where in ("device", "pinned"):
        config = validate_gnn(
            {"model": {"hidden": 16, "dropout": 0.0}, "train": {"features": where, "fetch": fetch, "batch_size": 64}}
        )
        task = graph_task(config, data, "cuda")
        assert task.x is not None and task.x.is_pinned() == (where == "pinned")
        item = (0, slice(0, 64))
        for stage in task.stages(0):
            item = stage.run(item)
        losses.append(task.loss(item)[0].item())
        task.validate()
    assert losses[0] == losses[1]
