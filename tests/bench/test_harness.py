"""The benchmark harness: its entries are right, wrong results print no number, slow-downs are caught. No real timing here."""

import dataclasses
import json
import re
from collections.abc import Mapping
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from gnnaccel.bench import choose, cli, entries, harness, results
from gnnaccel.bench.compiled import COMPILED
from gnnaccel.bench.device import CpuClock, CudaClock, back_memory, environment, peak_extra_bytes, percentiles
from gnnaccel.bench.harness import Call, Entry, Row, Runner, Settings, interleave

harness.discover()
TICK = 1e-6  # no call is instantaneous, not even on a fake clock
RATES = {"copy_gbps": 10.0, "gemm_gflops": 100.0}


@pytest.mark.filterwarnings("ignore")  # peers and dynamo warn as they like; their results are what is checked here
@pytest.mark.parametrize("name", sorted(harness.REGISTRY))
def test_entry_is_right(name):
    """A tiny correctness-only pass of every entry, ours also on one thread and a peer through dynamo, so that none rots."""
    settings = Settings(correctness_only=True, one_thread=True, compiled=True)
    with harness.cpu_threads(2):
        rows = list(Runner(settings).run(harness.REGISTRY[name]))
    assert {"gnnaccel", "gnnaccel 1t"} <= {r.provider for r in rows if r.gate == "ok"}
    assert [f"{r.provider}: {r.detail}" for r in rows if r.gate not in ("ok", "missing")] == []
    for row in rows:
        if row.gate == "missing":  # says what is lacking
            assert re.search(r"No module named '\w+'|is not installed", row.detail), row


@pytest.mark.parametrize("name", sorted(harness.REGISTRY))
def test_entry_names_cases_that_exist(name):
    entry = harness.REGISTRY[name]
    assert set(() if isinstance(entry.quick, Mapping) else entry.quick or ()) <= set(entry.cases)
    assert set(entry.reference_cases or ()) <= {*entry.cases, "tiny"}
    for mapping in (entry.prepare, entry.view):
        assert set(mapping) <= {*entry.providers, *entry.missing, "reference"}
    assert set(entry.refuses) <= {*entry.providers, *entry.missing} - {entry.ours}


@pytest.mark.parametrize("name", sorted(harness.REGISTRY))
def test_entry_counts_its_work(name):
    entry = harness.REGISTRY[name]
    assert entry.bytes is not None
    if entry.flops is not None and entry.grad and set(entry.timed_modes()) & {"bwd", "full"}:
        assert entry.flops_bwd is not None
    args = entry.make(entry.tiny_case()[1], "cpu", 0)
    for count in (entry.bytes, entry.bytes_bwd, entry.flops, entry.flops_bwd):
        assert count is None or count(args) > 0


class FakeTime:
    """A clock of its own: `cost` is what a call of each provider takes."""

    def __init__(self):
        self.now = 0.0

    def spend(self, seconds):
        self.now += seconds

    def __call__(self, fn, prepare, inner):
        total = 0.0
        for _ in range(inner):
            made = () if prepare is None else (prepare(),)
            start = self.now
            fn(*made)
            total += max(self.now - start, TICK)
        return total / inner


def square_entry(time, cost=1e-3, wrong=None, **change):
    """y = x * x, by us in `cost` seconds and by a peer in 3 ms; `wrong` names the provider that is off by a little."""

    def provider(name, seconds):
        def run(x):
            time.spend(seconds)
            return x * x * (1.01 if name == wrong else 1.0)

        return run

    fields = {
        "op": "square",
        "cases": {"small": {"n": 8}, "large": {"n": 64}},
        "make": lambda params, device, seed: {"x": torch.arange(1.0, params["n"] + 1, device=device)},
        "providers": {"gnnaccel": provider("gnnaccel", cost), "peer": provider("peer", 3e-3)},
        "reference": lambda x: x**2,
        "grad": ("x",),
        "bytes": lambda a: 8 * a["x"].numel(),
        "flops": lambda a: a["x"].numel(),
        **change,
    }
    return Entry(**fields)


def run(entry, time, **settings):
    settings = Settings(**{"budget": 0.0, "min_rounds": 3, **settings})
    return list(Runner(settings, clock=time, rates=RATES).run(entry))


def test_times_ratio_and_rates():
    time = FakeTime()
    rows = run(square_entry(time), time)
    assert [(r.case, r.mode, r.provider) for r in rows] == [
        (case, mode, name)
        for case in ("small", "large")
        for mode in ("fwd", "bwd", "full")
        for name in ("gnnaccel", "peer")
    ]
    ours, peer = rows[6], rows[7]
    assert ours.p50_ms == pytest.approx(1.0)
    assert peer.p50_ms == pytest.approx(3.0)
    assert ours.ratio is None
    assert (peer.ratio_p20, peer.ratio, peer.ratio_p80) == pytest.approx((3.0, 3.0, 3.0))
    assert ours.gbps == pytest.approx(8 * 64 / 1e-3 / 1e9)
    assert ours.pct_copy == pytest.approx(10 * ours.gbps)
    assert ours.gflops == pytest.approx(64 / 1e-3 / 1e9)
    assert rows[8].gbps == pytest.approx((8 + 4) * 64 / (1e3 * TICK) / 1e6), "the gradient is written as well"
    assert rows[8].gflops is None, "operations of the backward pass were not given"
    assert rows[8].p50_ms == pytest.approx(1e3 * TICK), "the forward pass is outside the clock in bwd"


@pytest.mark.parametrize("wrong", ["gnnaccel", "peer"])
def test_wrong_result_prints_no_number(wrong):
    time = FakeTime()
    rows = run(square_entry(time, wrong=wrong), time)
    red = [r for r in rows if r.provider == wrong]
    assert red
    for row in red if wrong == "peer" else rows:
        assert row.p50_ms is None and row.ratio is None and row.gbps is None
    for row in red:
        assert row.gate == "red"
        assert "output 0: error" in row.detail
    if wrong == "peer":
        assert all(r.p50_ms is not None for r in rows if r.ours)


def test_wrong_gradient_is_red():
    class Off(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * x

        @staticmethod
        def backward(ctx, g):
            return g

    time = FakeTime()
    rows = run(square_entry(time, providers={"gnnaccel": lambda x: Off.apply(x)}), time)
    assert {r.gate for r in rows} == {"red"}
    assert "gradient x" in rows[0].detail


def test_not_a_number_is_red():
    time = FakeTime()
    rows = run(square_entry(time, grad=(), providers={"gnnaccel": lambda x: x * float("nan")}), time)
    assert {r.gate for r in rows} == {"red"}


def test_failing_peer_does_not_stop_the_run():
    def broken(x):
        raise RuntimeError("no such kernel\nsecond line")

    time = FakeTime()
    entry = square_entry(time)
    entry = square_entry(time, providers={**entry.providers, "peer": broken})
    rows = run(entry, time)
    assert {(r.gate, r.detail) for r in rows if r.provider == "peer"} == {("error", "RuntimeError: no such kernel")}
    assert all(r.p50_ms is not None for r in rows if r.ours)


def test_without_reference_peers_are_judged_against_ours():
    time = FakeTime()
    rows = run(square_entry(time, wrong="peer", reference=None), time)
    assert {r.provider: r.gate for r in rows} == {"gnnaccel": "ok", "peer": "red"}
    alone = square_entry(time, reference=None)
    rows = run(square_entry(time, reference=None, providers={"gnnaccel": alone.providers["gnnaccel"]}), time)
    assert {r.gate for r in rows} == {"red"}, "nothing judged ours"


def test_in_place_op_gets_fresh_arguments_each_call():
    seen = []

    def double_(x):
        seen.append(float(x[0]))
        return x.mul_(2)

    time = FakeTime()
    entry = square_entry(
        time, grad=(), fresh=("x",), providers={"gnnaccel": double_}, reference=lambda x: 2 * x, cases={"one": {"n": 4}}
    )
    rows = run(entry, time)
    assert {r.gate for r in rows} == {"ok"}
    assert set(seen) == {1.0}


def test_prepare_and_view_are_outside_the_clock():
    time = FakeTime()

    def prepare(args):
        time.spend(1.0)
        return {"x": args["x"].tolist()}

    def view(result):
        time.spend(1.0)
        return torch.tensor(result)

    def peer(x):
        time.spend(3e-3)
        return [v * v for v in x]

    entry = square_entry(time, grad=())
    entry = square_entry(
        time, grad=(), providers={**entry.providers, "peer": peer}, prepare={"peer": prepare}, view={"peer": view}
    )
    rows = run(entry, time)
    assert all(r.gate == "ok" for r in rows)
    assert [r.p50_ms for r in rows if r.provider == "peer"] == pytest.approx([3.0, 3.0])


def test_turns_rotate():
    log = []
    calls = {name: Call(lambda name=name: log.append(name)) for name in "abc"}
    clock = FakeTime()

    def slow(fn, prepare, inner):
        clock(fn, prepare, 1)
        return 1.0

    interleave(calls, slow, Settings(budget=0.0, min_rounds=3))
    assert "".join(log[3:]) == "abcbcacab"


def test_who_is_slow_takes_two_turns_and_does_not_shorten_the_others(monkeypatch):
    time = FakeTime()
    monkeypatch.setattr("gnnaccel.bench.timing.time", SimpleNamespace(perf_counter=lambda: time.now))
    calls = {name: Call(lambda s=s: time.spend(s)) for name, s in (("ours", 0.01), ("quick", 0.02), ("slow", 30.0))}
    seconds, inner = interleave(calls, time, Settings(budget=0.1, min_rounds=7, slow=2.0))
    assert seconds["slow"] == pytest.approx([30.0, 30.0])
    assert inner["slow"] == 1
    assert len(seconds["ours"]) == len(seconds["quick"]) >= 7


def test_ratios_of_a_slow_peer_are_of_its_own_turns():
    time = FakeTime()

    def slow(x):
        time.spend(5.0)
        return x * x

    entry = square_entry(time)
    entry = square_entry(time, grad=(), providers={"gnnaccel": entry.providers["gnnaccel"], "slow": slow})
    rows = {r.provider: r for r in run(entry, time)}
    assert rows["slow"].rounds == 2 < rows["gnnaccel"].rounds
    assert rows["slow"].ratio == pytest.approx(5e3 / rows["gnnaccel"].p50_ms)


def test_case_sets_threads():
    time = FakeTime()
    before = torch.get_num_threads()
    entry = square_entry(time, cases={"one": {"n": 4, "threads": 1}})
    assert {r.threads for r in run(entry, time)} == {1}
    assert torch.get_num_threads() == before


def test_missing_peer_is_printed():
    time = FakeTime()
    rows = run(square_entry(time, missing={"dgl": "not installed"}), time)
    assert {(r.gate, r.detail) for r in rows if r.provider == "dgl"} == {("missing", "not installed")}


def test_peer_that_cannot_do_a_case_is_missing_there():
    time = FakeTime()
    entry = square_entry(time, refuses={"peer": lambda args: "too long" if len(args["x"]) > 8 else ""}, compile="peer")
    rows = [r for r in run(entry, time) if r.provider == "peer"]
    assert {(r.case, r.gate, r.detail) for r in rows} == {("small", "ok", ""), ("large", "missing", "too long")}
    assert all((r.p50_ms is None) == (r.case == "large") for r in rows)
    rows = run(
        dataclasses.replace(entry, refuses={"peer": lambda args: "no"}), time, correctness_only=True, compiled=True
    )
    assert {(r.gate, r.detail) for r in rows if r.provider in ("peer", COMPILED)} == {("missing", "no")}


@pytest.mark.parametrize("case", ["max_16k_k10_of_100k"])
def test_data_of_gradients_of_maxima_has_no_ties(case):
    entry = harness.REGISTRY["gather_aggregate_grad"]
    args = entry.make({**entry.cases[case], "N": 2000, "F": 7, "R": 300}, "cpu", 0)
    live = torch.arange(args["nbr"].shape[1]) < args["count"].unsqueeze(1)
    assert bool((args["nbr"][live] >= 0).all()) and int(args["nbr"].max()) < 2000
    assert all(len(set(row[row >= 0].tolist())) == int((row >= 0).sum()) for row in args["nbr"])
    assert all(len(column.unique()) == 2000 for column in args["table"].T)


def test_peak_memory():
    n = 1 << 20

    def work():
        big = torch.zeros(4 * n, dtype=torch.uint8)
        del big
        return torch.zeros(n, dtype=torch.uint8)

    assert peak_extra_bytes(work, torch.device("cpu")) == 4 * n


def test_percentiles_and_clock():
    assert percentiles([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == pytest.approx((2.0, 3.5, 5.0))
    calls = []
    assert CpuClock()(lambda: calls.append(0), None, 3) >= 0
    assert CpuClock()(calls.append, lambda: 1, 2) >= 0
    assert calls == [0, 0, 0, 1, 1]


def test_double_registration(monkeypatch):
    monkeypatch.setattr(entries, "REGISTRY", {})
    entry = square_entry(FakeTime())
    harness.register(entry)
    with pytest.raises(ValueError, match="'square' is registered twice"):
        harness.register(entry)


def test_bad_entry():
    with pytest.raises(ValueError, match="providers must contain 'gnnaccel'"):
        square_entry(FakeTime(), providers={"peer": abs})
    with pytest.raises(ValueError, match="modes must be of"):
        square_entry(FakeTime(), modes=("forward",))


# --- files and comparison -------------------------------------------------------------------------------------------------


def stored(time, rows):
    runner = Runner(Settings(), clock=time, rates=RATES)
    return json.loads(json.dumps(runner.document(rows)))


def test_slowdown_is_caught():
    time = FakeTime()
    base = stored(time, run(square_entry(time), time))
    env = environment(torch.device("cpu"))
    assert results.compare(run(square_entry(time), time), env, base, tol=0.1) == []
    assert results.compare(run(square_entry(time, cost=1.05e-3), time), env, base, tol=0.1) == []
    slow = results.compare(run(square_entry(time, cost=1.5e-3), time), env, base, tol=0.1)
    assert "square small fwd: 1.500 ms, was 1.000 ms (+50%)" in slow
    broken = results.compare(run(square_entry(time, wrong="gnnaccel"), time), env, base, tol=0.1)
    assert len(broken) == 2
    assert broken[0].startswith("square small: gate was green, now red")


def test_larger_peak_is_caught():
    time = FakeTime()
    base = stored(time, run(square_entry(time), time))

    def wasteful(x):
        torch.zeros(10_000)
        return x * x

    rows = run(square_entry(time, cases={"small": {"n": 8}}, providers={"gnnaccel": wasteful}), time)
    assert any("peak 39" in p for p in results.compare(rows, environment(torch.device("cpu")), base, tol=0.1))


def test_base_of_another_device_or_selection_is_refused():
    time = FakeTime()
    rows = run(square_entry(time), time)
    base = stored(time, rows)
    env = environment(torch.device("cpu"))
    other = {**base, "environment": {**base["environment"], "device_name": "another"}}
    with pytest.raises(ValueError, match="times of different devices are not compared"):
        results.compare(rows, env, other, 0.1)
    with pytest.raises(ValueError, match="nothing was compared"):
        results.compare(rows, env, {**base, "rows": []}, 0.1)


@pytest.fixture
def square_only(monkeypatch, tmp_path):
    """The command line with `square` as its only entry, on a fake clock."""
    time = FakeTime()
    monkeypatch.chdir(tmp_path)  # where a quick run leaves its report
    monkeypatch.setattr(harness, "discover", lambda: None)
    for module in (harness, choose):
        monkeypatch.setattr(module, "END_TO_END", {})
    monkeypatch.setattr(harness, "clock_for", lambda device: time)
    monkeypatch.setattr(harness, "measure_rates", lambda device, clock, quick: RATES)

    def invoke(*args, **change):
        for module in (harness, choose):
            monkeypatch.setattr(module, "REGISTRY", {"square": square_entry(time, **change)})
        return CliRunner().invoke(
            cli.app, ["square", "--device", "cpu", "--threads", "1", "--quick", "--budget", "0.01", *map(str, args)]
        )

    return invoke


def test_command_writes_compares_and_fails(square_only, tmp_path):
    base = tmp_path / "runs" / "base.json"
    first = square_only("--json", base)
    assert first.exit_code == 0, first.output
    assert "3.00x" in first.output
    document = results.read(base)
    assert document["environment"]["torch"] == torch.__version__
    assert [(r["mode"], r["provider"]) for r in document["rows"]] == [("full", "gnnaccel"), ("full", "peer")]
    lines = base.with_suffix(".csv").read_text().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("op,case,mode,provider,")

    assert square_only("--base", base).exit_code == 0
    slow = square_only("--base", base, cost=2e-3)
    assert slow.exit_code == 1
    assert "regression" in slow.output
    wrong = square_only("--base", base, wrong="gnnaccel")
    assert wrong.exit_code == 1
    assert "red" in wrong.output
    assert "3.00x" not in wrong.output
    assert square_only("--correctness-only").exit_code == 0
    assert square_only("--correctness-only", wrong="peer").exit_code == 1


def test_command_refuses_bad_arguments(square_only, tmp_path):
    for args, message in (
        (["--base", str(tmp_path / "none.json")], "not a readable result file"),
        (["--device", "tpu9"], "must be cpu or cuda"),
    ):
        result = square_only(*args)
        assert result.exit_code == 2
        assert message in " ".join(result.output.replace("│", " ").split())
    result = CliRunner().invoke(cli.app, ["squre"])
    assert result.exit_code == 2
    assert "square" in result.output
    (tmp_path / "bad.json").write_text("[]")
    with pytest.raises(ValueError, match="not a result file of schema 1"):
        results.read(tmp_path / "bad.json")


def test_entry_that_cannot_be_made_does_not_stop_the_run(square_only):
    def make(params, device, seed):
        raise OSError("no such file")

    result = square_only(make=make)
    assert result.exit_code == 1
    assert "OSError: no such file" in result.output


def test_list(square_only):
    result = square_only("--list")
    assert "square: small, large; gnnaccel, peer" in result.output


def test_rows_of_every_state_are_shown(capsys):
    from rich.console import Console

    rows = [
        Row(
            "op",
            "case",
            "fwd",
            "gnnaccel",
            True,
            "ok",
            threads=1,
            p20_ms=0.01,
            p50_ms=0.02,
            p80_ms=200.0,
            peak_bytes=5 << 30,
        ),
        Row("op", "case", "fwd", "peer", False, "red", "error 1"),
        Row("op", "case", "fwd", "dgl", False, "missing", "not installed"),
    ]
    results.show(rows, Console(width=120))
    text = capsys.readouterr().out
    for part in ("5.00 GiB", "0.0200", "red case peer: error 1", "missing"):
        assert part in text


def test_cuda_clock_times_each_call_alone(monkeypatch):
    """The protocol of the CUDA clock, with the CUDA calls replaced: start, call, stop, and one wait at the end."""
    from contextlib import nullcontext

    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("event")

        def elapsed_time(self, stop):
            return 2.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append("wait"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=1 << 20))
    clock = CudaClock(torch.device("cpu"))
    assert clock.flush.numel() == 1 << 26
    assert clock(lambda made: log.append(made), lambda: "made", 2) == pytest.approx(2e-3)
    assert log == ["event", "made", "event", "event", "made", "event", "wait"]


def test_memory_is_touched_before_large_outputs_are_timed(monkeypatch):
    touched = []
    monkeypatch.setattr(harness, "back_memory", touched.append)
    time = FakeTime()
    rows = list(run(square_entry(time, cases={"one": {"n": 1000}}, grad=()), time))
    assert touched == [8 * r.peak_bytes for r in rows if r.ours]


def test_touching_more_memory_than_there_is_changes_nothing():
    back_memory(1 << 20)
    back_memory(5 << 20)
    back_memory(1 << 62)


def test_folders_that_cannot_be_written_are_told_before_anything_runs(square_only, tmp_path):
    (tmp_path / "file").touch()
    for option, where in (("--json", tmp_path / "file" / "x.json"), ("--report", tmp_path / "file")):
        found = square_only(option, str(where))
        assert found.exit_code == 2
        assert option in found.output and "ms" not in found.stdout
