"""Curves of cost: every one is right on a tiny input, and its rows say where they lie. No real timing here."""

import pytest
import torch

from gnnaccel.bench import harness, scaling
from gnnaccel.bench.harness import EndToEnd, Entry, Runner, Settings
from gnnaccel.bench.report_data import curves

AXES = ("fanout", "batch", "dim", "history", "negatives", "threads")


@pytest.mark.parametrize("axis", AXES)
def test_curve_is_right(axis):
    rows = list(harness.END_TO_END[f"scaling-{axis}"].run(Runner(Settings(correctness_only=True))))
    assert {r.provider for r in rows} > {"gnnaccel"} and len(rows) == 2
    assert [f"{r.provider}: {r.detail}" for r in rows if r.gate != "ok"] == []
    assert all(r.extra["scaling"]["axis"] == axis and r.op == f"scaling-{axis}" for r in rows)


def test_histories_are_as_long_as_they_say():
    args = scaling.long_histories({"H": 500, "R": 64}, "cpu", 0)
    degree = torch.bincount(torch.cat([args["src"], args["dst"]]))
    assert len(degree) == 16 and abs(degree.float().mean() - 1000 / 2 * 2) < 501
    assert degree.min() > 300
    roots, times = args["batches"][0]
    assert len(roots) == 64 and times.max() <= 7 * 4000


@pytest.fixture
def double(monkeypatch):
    """A curve of an op that takes as many clicks as its x."""
    monkeypatch.setattr(harness, "END_TO_END", {})
    monkeypatch.setattr(scaling, "register_end_to_end", lambda job: harness.END_TO_END.setdefault(job.name, job))
    scaling.register(
        "fanout", "doubling", {}, "n", (1, 2, 4), few=2, tiny={"n": 1},
        make=lambda params, device, seed: {"x": torch.ones(params["n"])},
        providers={"gnnaccel": lambda x: 2 * x, "torch": lambda x: x + x},
        reference=lambda x: 2 * x,
    )  # fmt: skip
    return harness.END_TO_END["scaling-fanout"]


class Clock:
    def __call__(self, fn, prepare, inner):
        return float(fn().sum()) * 1e-3


def run(job: EndToEnd, **settings):
    runner = Runner(Settings(budget=0.0, **settings), clock=Clock(), rates={"copy_gbps": 1.0, "gemm_gflops": 1.0})
    rows = list(job.run(runner))
    assert runner.settings.budget == 0.0
    return runner.document(rows)


def test_points_become_a_curve(double):
    (curve,) = curves([run(double)])
    assert curve.axis == "fanout" and curve.op == "doubling, forward"
    assert list(curve.lines) == ["gnnaccel", "torch"]
    assert [(x, round(ms)) for x, _, ms, _ in curve.lines["gnnaccel"]] == [(1, 2), (2, 4), (4, 8)]


def test_quick_takes_the_first_points(double):
    (curve,) = curves([run(double, quick=True)])
    assert [x for x, *_ in curve.lines["torch"]] == [1, 2]


def test_a_wrong_point_has_no_time(monkeypatch):
    entry = Entry(
        op="scaling-dim",
        cases={"dim_4": {}},
        make=lambda params, device, seed: {"x": torch.ones(4)},
        providers={"gnnaccel": lambda x: 3 * x, "torch": lambda x: 2 * x},
        reference=lambda x: 2 * x,
    )
    runner = Runner(Settings(budget=0.0), clock=Clock(), rates={"copy_gbps": 1.0, "gemm_gflops": 1.0})
    rows = list(scaling.measure(runner, entry, "dim", "wrong", {"dim_4": 4}))
    assert {r.provider: r.gate for r in rows} == {"gnnaccel": "red", "torch": "ok"}
    assert all(r.p50_ms is None for r in rows) and curves([runner.document(rows)]) == []


def test_threads_double_up_to_all():
    assert [scaling.thread_counts(n) for n in (1, 2, 6, 16)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8, 16]]
    job = harness.END_TO_END["scaling-threads"]
    runner = Runner(Settings(correctness_only=True), clock=Clock())
    runner.settings = Settings(device=torch.device("cuda"), correctness_only=True)
    assert list(job.run(runner)) == [], "a GPU has no threads to count"
