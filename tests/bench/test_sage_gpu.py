"""The race of GraphSAGE on a GPU, rehearsed without one. No real timing."""

from dataclasses import replace

import pytest
import torch
from torch.overrides import TorchFunctionMode

from gnnaccel.baselines.peers import sage_epoch as peer
from gnnaccel.bench import sage_gpu
from gnnaccel.bench.harness import Row, Runner, Settings

NAMES = ["gnnaccel", "not captured", "torch", "torch.compile"]
GATE = Settings(correctness_only=True)


def small(fanouts=(4, 3)):
    graph = sage_gpu.power_law_graph(sage_gpu.SMALL.nodes, sage_gpu.SMALL.edges, 0)
    size = replace(sage_gpu.SMALL, fanouts=fanouts)
    return sage_gpu.make_data(graph, size, 0), size


def test_all_contenders_agree():
    rows = list(sage_gpu.measure(Runner(GATE)))
    assert [(r.provider, r.gate, r.detail) for r in rows] == [(name, "ok", "") for name in NAMES]
    assert all(r.p50_ms is None for r in rows)
    assert list(sage_gpu.measure(Runner(Settings()))) == []  # the CPU has a race of its own


def test_the_gate_can_fail(monkeypatch):
    right = peer.TorchSage.logits
    monkeypatch.setattr(peer.TorchSage, "logits", lambda self, seeds: right(self, seeds) * 1.1)
    found = {name: (gate, detail) for name, gate, detail in sage_gpu.gates(GATE)}
    assert found["gnnaccel"] == found["not captured"] == ("ok", "")
    assert found["torch"][0] == "red" and "the loss of step 1 is" in found["torch"][1]
    assert sage_gpu.off([1.0, float("nan")], [1.0, 2.0]) == "the loss of step 2 is nan, not 2.000000"


def test_replayed_steps_that_differ_are_red():
    data, size = small()

    def make(launch, rate=1.0):
        made = sage_gpu.Ours(data, size, torch.device("cpu"), True, launch)
        assert made.static is not None
        made.optimizer.param_groups[0]["lr"] *= rate
        return made

    assert sage_gpu.same_steps(make, 3) == ""
    assert "weights are not those" in sage_gpu.same_steps(lambda launch: make(launch, 2.0 if launch else 1.0), 3)


def test_steps_of_both_kinds_learn_alike():
    """Real sampling, across the end of an epoch: the same seeds and the same draws."""
    data, size = small()
    a, b = (sage_gpu.Ours(data, size, torch.device("cpu"), captured) for captured in (True, False))
    assert a.static is not None and b.static is None
    b.load(a.weights())
    assert a.run(15, 6) == pytest.approx(b.run(15, 6), rel=1e-4)  # 300 nodes are 18 batches of 16


def test_peers_take_the_same_seeds():
    data, size = small()
    ours, seen = sage_gpu.Ours(data, size, torch.device("cpu"), False), []
    plain = sage_gpu.Plain(ours, size, None)
    plain.model.step = lambda seeds: seen.append(seeds) or 0.0
    plain.run(16, 4)
    for got, i in zip(seen, (16, 17, 0, 1), strict=True):
        assert torch.equal(got, ours.task.seeds(slice(i * 16, i * 16 + 16), 0, i).nodes)


class Placed(TorchFunctionMode):
    """New tensors must be told where to lie: on a GPU the default is the wrong place."""

    makers = frozenset({torch.arange, torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.tensor})

    def __init__(self):
        super().__init__()
        self.lost = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self.makers and kwargs.get("device") is None:
            self.lost.append(func.__name__)
        return func(*args, **kwargs)


def test_plain_pytorch_leaves_nothing_on_the_host():
    data, size = small()
    plain = sage_gpu.Plain(sage_gpu.Ours(data, size, torch.device("cpu"), False), size, None)
    found = plain.model.samples
    with Placed() as mode:
        plain.model.logits(plain.nodes[:16])
    assert mode.lost == []
    with Placed() as mode:
        torch.arange(3)
    assert mode.lost == ["arange"] and isinstance(found, peer.TorchSampler)


def rows_of(names=NAMES):
    return {name: Row("sage-gpu", "case", "batch", name, name == "gnnaccel", "ok") for name in names}


def test_the_race():
    data, size = small()
    rows = rows_of()
    rows["torch"].gate = "red"
    sage_gpu.race(data, size, replace(GATE, budget=0.0), rows, turn=2)
    assert rows["torch"].p50_ms is None
    for name in ("gnnaccel", "not captured", "torch.compile"):
        assert rows[name].gate == "ok" and rows[name].p50_ms > 0 and rows[name].inner == 2
        assert rows[name].extra["batches"] >= 10
    assert rows["gnnaccel"].ratio is None and rows["torch.compile"].ratio > 0


def test_a_contender_that_fails_in_the_race_is_left_out(monkeypatch):
    def fails(self, first, n):
        raise RuntimeError("out of memory\nmore")

    data, size = small()
    monkeypatch.setattr(sage_gpu.Plain, "run", fails)
    rows = rows_of(NAMES[:3])
    rows["torch.compile"] = Row("sage-gpu", "case", "batch", "torch.compile", False, "red")
    sage_gpu.race(data, size, replace(GATE, budget=0.0), rows, turn=2)
    assert (rows["torch"].gate, rows["torch"].detail) == ("error", "RuntimeError: out of memory")
    assert rows["gnnaccel"].p50_ms > 0 and rows["not captured"].ratio > 0
    monkeypatch.setattr(sage_gpu.Ours, "run", fails)
    rows = rows_of()
    sage_gpu.race(data, size, replace(GATE, budget=0.0), rows, turn=2)
    assert rows["gnnaccel"].gate == "error" and all(r.p50_ms is None for r in rows.values())
