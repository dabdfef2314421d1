"""The race of filtered evaluations: peers that are right, a gate that can fail. No real timing."""

import json

import pytest
import torch
import typer
from typer.testing import CliRunner

from gnnaccel.baselines.peers.kg_eval import filtered_ranks
from gnnaccel.bench import _kg, kg_eval
from gnnaccel.bench.harness import Runner, Settings

ALL = _kg.MODELS + _kg.MORE


@pytest.fixture(scope="module")
def kg():
    return _kg.load_graph(Settings(correctness_only=True))


def test_plain_ranks_by_hand():
    # distances of 0.25 + 0.5 from these: 0.75, 0.5, 0, 0.75 (the answer, level with the first), 1.25
    entity = torch.tensor([[0.0], [0.25], [0.75], [1.5], [2.0]], dtype=torch.float64)
    tables = kg_eval.Tables(entity, torch.tensor([[0.5]], dtype=torch.float64))
    triples = torch.tensor([[1, 0, 3]])

    def ranks(known):
        given = torch.tensor([0, len(known)]), torch.tensor(known, dtype=torch.int64)
        return filtered_ranks("transe_l1", tables, triples, "tail", given, gamma=1.0).tolist()

    assert ranks([]) == ranks([3]) == [3.5]
    assert ranks([2, 3]) == [2.5]
    assert ranks([0, 1, 3]) == [2.0]


def test_all_contenders_agree():
    rows = list(kg_eval.measure(Runner(Settings(correctness_only=True)), ALL, ("torch",)))
    assert [f"{r.case} {r.provider}: {r.detail}" for r in rows if r.gate != "ok"] == []
    assert len(rows) == 2 * len(ALL) and all(r.p50_ms is None for r in rows)


@pytest.mark.filterwarnings("ignore")
def test_pykeen_agrees():
    pytest.importorskip("pykeen")
    rows = list(kg_eval.measure(Runner(Settings(correctness_only=True)), (*_kg.MODELS, "rescal"), ("pykeen",)))
    assert [f"{r.case} {r.provider}: {r.detail}" for r in rows if r.gate != "ok"] == []


@pytest.mark.parametrize("model", ["distmult", "rotate"])
def test_the_gate_can_fail(kg, model):
    work = kg_eval.make_work(kg, model, 8, 0)
    part = slice(0, 6)
    allowed = kg_eval.bands(work, part)
    right = kg_eval.make_contender("gnnaccel", work)(part)
    assert kg_eval.gate(right, allowed) == ""
    for wrong in (right + 1, right - 1, right.flip(0), right * float("nan"), right[:, 1:]):
        assert kg_eval.gate(wrong, allowed) != ""
    unfiltered = kg_eval.Work(kg, kg.known(("test",)), *work[2:])
    assert "ranks are wrong" in kg_eval.gate(kg_eval.make_contender("gnnaccel", unfiltered)(part), allowed)


def test_a_red_gate_prints_no_number(monkeypatch):
    right = kg_eval.ours
    monkeypatch.setattr(kg_eval, "ours", lambda work: lambda part: right(work)(part) + 1)
    rows = list(kg_eval.measure(Runner(Settings(budget=0.0, data=_kg.SMALL)), ("distmult",), ("torch",), 8))
    assert [(r.provider, r.gate) for r in rows] == [("gnnaccel", "red"), ("torch", "ok")]
    assert all(r.p50_ms is None for r in rows)


def test_rows_and_json(tmp_path):
    out = tmp_path / "kg-eval.json"
    app = typer.Typer()
    app.command()(kg_eval.main)
    options = ["--data", _kg.SMALL, "--models", "distmult,transe_l2", "--peers", "torch", "--dim", "8", "--no-memory"]
    result = CliRunner().invoke(app, [*options, "--budget", "0", "--json", str(out)])
    assert result.exit_code == 0, result.output
    rows = json.loads(out.read_text())["rows"]
    assert [(r["case"], r["provider"], r["gate"]) for r in rows] == [
        (f"synthetic-kg_{model}", provider, "ok")
        for model in ("distmult", "transe_l2")
        for provider in ("gnnaccel", "torch")
    ]
    for row in rows:
        assert row["p50_ms"] > 0 and row["extra"]["triples"] == row["extra"]["test_triples"]
        assert (row["ratio"] is None) == row["ours"]


def test_peak_of_a_call():
    found = kg_eval.peak_of(lambda: torch.ones(16 << 20).sum())
    if found is None:
        pytest.skip("this system does not tell")
    assert (56 << 20) < found < (128 << 20)
    assert kg_eval.peak_of(lambda: None) < (8 << 20)


def test_peak_memory_in_a_process_of_its_own():
    found = kg_eval.peak_memory(Settings(data=_kg.SMALL), "gnnaccel", "distmult", 8, "", 10)
    assert found is None or 0 <= found < (64 << 20)
