"""`gnnaccel bench` as a command: slow and wrong ops end it with 1, Ctrl-C keeps what there is, every entry and job is right."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import gnnaccel.bench
from gnnaccel.bench import base, choose, cli, entries, harness, results
from gnnaccel.bench.device import environment
from gnnaccel.bench.entries import EndToEnd, Row
from gnnaccel.bench.harness import Runner, Settings
from gnnaccel.cli import app
from gnnaccel.train import allocator

harness.discover()
BENCH = Path(gnnaccel.bench.__path__[0])
ENV = environment(torch.device("cpu"))


@pytest.mark.filterwarnings("ignore")  # peers and dynamo warn as they like; their results are what is checked here
@pytest.mark.parametrize("name", sorted(harness.END_TO_END))
def test_job_is_right(name):
    """A tiny correctness-only pass of every end-to-end job, so that none rots."""
    try:
        rows = list(harness.END_TO_END[name].run(Runner(Settings(correctness_only=True))))
    finally:
        allocator.give_back_freed_memory()  # tests of memory come after this one
    assert any(r.ours and r.gate == "ok" for r in rows)
    assert [f"{r.provider}: {r.detail}" for r in rows if r.gate not in ("ok", "missing")] == []
    for row in rows:
        assert row.p50_ms is None
        if row.gate == "missing":  # says what is lacking
            assert re.search(r"No module named '\w+'|is not installed", row.detail), row


PROGRAMS = sorted(p.stem for p in BENCH.glob("*.py") if "\nif __name__ == " in p.read_text())


@pytest.mark.parametrize("name", PROGRAMS, ids=lambda name: f"{name}.py")  # "gpu" alone would be a mark
def test_every_program_has_help_and_is_documented(name, monkeypatch, capsys):
    text = (BENCH / "results" / "README.md").read_text() + "".join(
        p.read_text() for p in (BENCH.parent / "docs").glob("*.md")
    )
    assert f"gnnaccel.bench.{name}" in text or f"gnnaccel bench {name.replace('_', '-')}" in text
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    for registry in ("REGISTRY", "END_TO_END"):  # it registers what has been registered
        monkeypatch.setattr(entries, registry, {})
    with pytest.raises(SystemExit) as found:
        runpy.run_path(str(BENCH / f"{name}.py"), run_name="__main__")
    assert not found.value.code
    assert "Usage:" in capsys.readouterr().out


# --- slow, wrong, interrupted ---------------------------------------------------------------------------------------------


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """`gnnaccel bench link_loss ...` on a small case; `ours` stands for our op."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(harness, "measure_rates", lambda *a, **k: {"copy_gbps": 10.0, "gemm_gflops": 100.0})
    entry = harness.REGISTRY["link_loss"]

    def run(*args, ours=None, **change):
        providers = entry.providers if ours is None else {**entry.providers, "gnnaccel": ours}
        monkeypatch.setitem(harness.REGISTRY, "link_loss", replace(entry, providers=providers, **change))
        words = ["bench", "link_loss", "--quick", "--threads", "1", "--shapes", "B=20,D=8", *map(str, args)]
        return CliRunner().invoke(app, words)

    return run


LINK_LOSS = harness.REGISTRY["link_loss"].providers["gnnaccel"]


def slow(**args):
    time.sleep(0.05)  # the op itself takes a tenth of a millisecond
    return LINK_LOSS(**args)


def test_slow_op_ends_with_1(bench):
    assert bench("--json", "base.json").exit_code == 0
    assert bench("--base", "base.json", "--tol", "20").exit_code == 0
    found = bench("--base", "base.json", "--tol", "20", ours=slow)
    assert found.exit_code == 1
    assert re.search(r"regression link_loss .* ms, was .* ms", found.output)


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        g = g.clone()
        g[0, 0] += 1e-2
        return g


def wrong_gradient(h, **args):
    return LINK_LOSS(WrongGradient.apply(h), **args)


def wrong_dtype(**args):
    return LINK_LOSS(**args).double()


@pytest.mark.parametrize(
    ("ours", "why"),
    [
        (lambda **a: LINK_LOSS(**a) * 1.001, "output 0: error"),
        (wrong_gradient, "gradient h: error"),
        (wrong_dtype, "dtype float64"),
        (lambda **a: LINK_LOSS(**a) * float("nan"), "output 0: error"),
    ],
)
def test_wrong_result_prints_no_number_and_ends_with_1(bench, ours, why):
    found = bench("--json", "wrong.json", ours=ours)
    assert found.exit_code == 1
    assert f"red tgn_batch600[B=20,D=8] gnnaccel: {why}" in found.output
    rows = json.loads(Path("wrong.json").read_text())["rows"]
    assert rows
    assert all(row[key] is None for row in rows for key in ("p50_ms", "ratio", "gbps", "gflops"))


def test_one_wrong_element_is_red():
    entry = harness.REGISTRY["gather_rows"]

    def off(**args):
        out = entry.providers["gnnaccel"](**args).clone()
        out[-1, -1] += 1e-2
        return out

    wrong = replace(entry, providers={**entry.providers, "gnnaccel": off})
    rows = list(Runner(Settings(correctness_only=True)).run(wrong))
    assert {r.provider: r.gate for r in rows}["gnnaccel"] == "red"


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_keeps_what_was_measured(bench, monkeypatch, kind):
    # a shell starts what runs in its background with SIGINT ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def stop(runner):
        yield Row("job", "first", "step", "gnnaccel", True, "ok", p20_ms=1.0, p50_ms=1.0, p80_ms=1.0)
        signal.raise_signal(kind)

    for module in (harness, choose):
        monkeypatch.setitem(module.END_TO_END, "job", EndToEnd("job", stop))
    try:
        found = CliRunner().invoke(app, ["bench", "job", "--threads", "1", "--json", "part.json"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert found.exit_code == cli.INTERRUPTED
    assert "interrupted after 1 rows; what was measured is in part.json" in " ".join(found.output.split())
    document = results.read(Path("part.json"))
    assert document["settings"]["interrupted"]
    assert [row["case"] for row in document["rows"]] == ["first"]


def test_quick_run_leaves_a_report(bench):
    found = bench()
    assert found.exit_code == 0, found.output
    folder = Path("bench-report")
    assert {p.name for p in folder.iterdir()} == {"index.html", "report.md", "results.json", "results.csv"}
    rows = results.read(folder / "results.json")["rows"]
    assert {row["case"] for row in rows} == {"tgn_batch600[B=20,D=8]"}
    assert {row["provider"]: row["gate"] for row in rows} == {
        "gnnaccel": "ok",
        "torch": "ok",
        "torch.compile": "skipped",
    }


def test_threads_are_swept_and_one_thread_is_a_peer(bench):
    found = CliRunner().invoke(
        app,
        [
            "bench",
            "link_loss",
            "--threads",
            "1,2",
            "--shapes",
            "B=20,D=8",
            "--no-compiled",
            "--budget",
            "0.001",
            "--json",
            "t.json",
        ],
    )
    assert found.exit_code == 0, found.output
    rows = [row for row in results.read(Path("t.json"))["rows"] if row["mode"] == "full"]
    assert [(row["threads"], row["provider"]) for row in rows] == [
        (1, "gnnaccel"), (1, "torch"), (2, "gnnaccel"), (2, "torch"), (2, "gnnaccel 1t"),
    ]  # fmt: skip
    assert results.read(Path("t.json"))["settings"]["threads"] == [1, 2]
    assert "[2/2] link_loss, 2t" in found.output


# --- arguments ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["link_los"], "near: link_loss"),
        (["link_loss", "--threads", "two"], "--threads must be numbers of threads"),
        (["link_loss", "--shapes", "Q=3"], "link_loss has no parameter Q; tgn_batch600 is B=600, C=1, D=100"),
        (["link_loss", "--shapes", "B=x"], "B of link_loss must be an integer, got 'x'"),
        (["link_loss", "--shapes", "million"], "link_loss has the cases tgn_batch600, tgn_batch200, candidates"),
        (["ops", "--shapes", "nobody"], "ops has such a case"),
        (["tgn", "--shapes", "B=3"], "--shapes chooses cases of ops"),
        (["link_loss", "--base", "no-such-branch"], "a commit of this checkout, got 'no-such-branch'"),
    ],
)
def test_wrong_arguments(words, message):
    found = CliRunner().invoke(app, ["bench", *words])
    assert found.exit_code == 2
    assert message in " ".join(found.output.replace("│", " ").split())


def test_targets():
    ops, jobs = choose.select(["tgn,link_loss", "gather_rows"])
    assert ops == [n for n in harness.REGISTRY if n in ("gather_rows", "link_loss")]
    assert jobs == ["tgn"]
    assert set(choose.select(["all"])[1]) == set(harness.END_TO_END)
    assert not any(n.startswith("scaling") for n in choose.select(["models"])[1])


def test_shapes_choose_and_change():
    entry = harness.REGISTRY["link_loss"]
    assert list(choose.Shapes.parse(["batch*,cand"]).cases(entry, entry.cases)) == ["candidates"]
    assert list(choose.Shapes.parse(["*batch*"]).cases(entry, entry.cases)) == ["tgn_batch600", "tgn_batch200"]
    changed = choose.Shapes.parse(["candidates", "B=3"]).cases(entry, entry.cases)
    assert changed == {"candidates[B=3]": {"B": 3, "C": 49, "D": 100}}


def test_base_of_a_commit(monkeypatch, tmp_path):
    """Results committed for this class of device are read from the commit, others left alone."""
    folder = tmp_path / "bench" / "results" / "cpu-2t"
    folder.mkdir(parents=True)
    row = {
        "op": "a",
        "case": "c",
        "mode": "fwd",
        "provider": "gnnaccel",
        "threads": 2,
        "ours": True,
        "gate": "ok",
        "p50_ms": 1.0,
    }
    document = {"schema": 1, "environment": ENV, "rows": [row]}
    (folder / "ops.json").write_text(json.dumps(document))
    (folder / "other.json").write_text(json.dumps({"schema": 1, "environment": ENV, "rows": [{"data": "x"}]}))

    def git(*args):
        names = {
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@b.c",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@b.c",
        }
        subprocess.run(["git", *args], cwd=tmp_path, check=True, capture_output=True, env={**os.environ, **names})

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "results")
    monkeypatch.setattr(base, "FOLDER", folder.parent)
    (folder / "ops.json").unlink()
    assert base.load("HEAD", ENV, [2])["rows"] == [row]
    with pytest.raises(ValueError, match="has no results of cpu-1t"):
        base.load("HEAD", ENV, [1])
    with pytest.raises(ValueError, match="stored has no results of cpu-2t; stored are cpu-2t"):
        base.load("stored", ENV, [2])
    (folder / "ops.json").write_text(json.dumps({**document, "environment": {**ENV, "cores": 1000}}))
    with pytest.raises(ValueError, match=r"1000 cores.*times of different devices are not compared"):
        base.load("stored", ENV, [2])


def test_device_classes():
    assert base.device_class({"device": "cpu"}, 4) == "cpu-4t"
    names = {"NVIDIA H100 80GB HBM3": "h100-80gb-hbm3", "NVIDIA GeForce RTX 4090": "geforce-rtx-4090"}
    assert {n: base.device_class({"device": "cuda", "device_name": n}, 1) for n in names} == names
