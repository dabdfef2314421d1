"""The race of training steps of knowledge-graph embeddings: peers that are right, a gate that can fail. No real timing."""

import json
import math

import pytest
import torch
import typer
from typer.testing import CliRunner

from gnnaccel.baselines.peers import kg_train as peer
from gnnaccel.baselines.reference import kg_score as reference
from gnnaccel.baselines.reference.sparse_adagrad import sparse_adagrad_ as reference_adagrad
from gnnaccel.bench import _kg, kg_train
from gnnaccel.bench.harness import Runner, Settings

SIZE = kg_train.Size(batch=24, chunk=8, negatives=6, dim=8)
ALL = _kg.MODELS + _kg.MORE


@pytest.fixture(scope="module")
def kg():
    return _kg.load_graph(Settings(correctness_only=True))


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    # the C library's settings are the process's, which is the tests'
    monkeypatch.setattr("gnnaccel.train.allocator.keep_freed_memory", lambda: True)
    monkeypatch.setattr("gnnaccel.train.allocator.give_back_freed_memory", lambda: True)


def start(kg, model, seed=0):
    return _kg.make_tables(model, kg.num_entities, kg.num_relations, SIZE.dim, seed)


def batches(kg, count=kg_train.STEPS, seed=0):
    return [kg_train.fixed_batch(kg, SIZE, i, seed) for i in range(count)]


@pytest.mark.parametrize("model", ALL)
def test_plain_loss_and_update_are_those_of_the_references(kg, model):
    for i, batch in enumerate(batches(kg, 2)):
        tables = start(kg, model, i).copy(torch.float64)
        h, r, t, neg = (
            tables.entity[batch.head],
            tables.relation[batch.relation],
            tables.entity[batch.tail],
            tables.entity[batch.negative],
        )
        projection = None if tables.projection is None else tables.projection[batch.relation]
        options = {"gamma": _kg.GAMMA, "projection": projection}
        positive = reference.kg_score(model, h, r, t, **options)
        negative = reference.kg_score_negatives(model, h, r, t, neg, batch.side, **options)
        want = float(((1 + (-positive).exp()).log().mean() + (1 + negative.exp()).log().mean()) / 2)
        for form in peer.forms(model, True):
            for by_chunk in (False, True):
                step = peer.TorchStep(model, tables.copy(), gamma=_kg.GAMMA, lr=0.1, form=form, by_chunk=by_chunk)
                assert step.step(batch) == pytest.approx(want, rel=1e-9)
        for form in peer.usual_forms(model):
            step = peer.SparseStep(model, tables.copy(), gamma=_kg.GAMMA, lr=0.1, form=form)
            assert step.step(batch) == pytest.approx(want, rel=1e-9)


def test_plain_adagrad_is_that_of_the_reference():
    gen = torch.Generator().manual_seed(0)
    table, ids = torch.randn(6, 4, generator=gen, dtype=torch.float64), torch.tensor([0, 3, 3, 5, 0, 3])
    want, state, want_state = table.clone(), torch.zeros(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    for _ in range(2):
        grad = torch.randn(6, 4, generator=gen, dtype=torch.float64)
        peer.adagrad_rows_(table, state, ids, grad, 0.1)
        reference_adagrad(want, want_state, [ids], [grad], 0.1, "row")
    torch.testing.assert_close(table, want)
    torch.testing.assert_close(state, want_state)


def test_all_contenders_agree(kg):
    rows = list(
        kg_train.measure(Runner(Settings(correctness_only=True)), ALL, ("torch", "torch sparse", "torch by chunk"))
    )
    assert [f"{r.case} {r.provider}: {r.detail}" for r in rows if r.gate != "ok"] == []
    assert {r.case for r in rows} == {f"synthetic-kg_{model}" for model in ALL}
    assert all(r.p50_ms is None for r in rows)


def test_compiled_peer_agrees():
    rows = list(kg_train.measure(Runner(Settings(correctness_only=True)), ("complex",), ("torch.compile",)))
    assert {r.provider: r.gate for r in rows} == {"gnnaccel": "ok", "torch.compile": "ok"}


@pytest.mark.filterwarnings("ignore")
def test_pykeen_agrees():
    pytest.importorskip("pykeen")
    models = ("transe_l1", "transe_l2", "distmult", "complex", "rotate", "rescal", "transr")
    rows = list(kg_train.measure(Runner(Settings(correctness_only=True)), models, ("pykeen",)))
    found = {r.case.removeprefix("synthetic-kg_"): r.gate for r in rows if r.provider == "pykeen"}
    assert found == {**dict.fromkeys(models, "ok"), "transr": "missing"}


class Wrong(peer.TorchStep):
    """A contender with something the matter."""

    def __init__(self, fault, model, tables, **options):
        super().__init__(model, tables, **options)
        self.fault = fault

    def step(self, batch):
        if self.fault == "side":
            batch = batch._replace(side="tail")
        loss = super().step(batch)
        return {"nan": math.nan, "loss": loss * 1.0001}.get(self.fault, loss)


@pytest.mark.parametrize(
    ("fault", "said"), [("", ""), ("nan", "loss"), ("loss", "loss"), ("side", "loss"), ("rate", "step 2: loss")]
)
def test_the_gate_can_fail(kg, fault, said):
    first, steps = start(kg, "distmult"), batches(kg)
    rate = kg_train.LEARNING_RATE * (1.05 if fault == "rate" else 1)
    contender = Wrong(fault, "distmult", first.copy(), gamma=_kg.GAMMA, lr=rate)
    problem = kg_train.gate(contender, kg_train.run_oracle("distmult", first, steps), first, steps)
    assert said in problem and bool(problem) == bool(fault)


def test_a_red_gate_prints_no_number(monkeypatch):
    right = kg_train.OurContender._ours

    def exchanged(batch):
        return right(batch._replace(head=batch.tail, tail=batch.head))

    monkeypatch.setattr(kg_train.OurContender, "_ours", staticmethod(exchanged))
    rows = list(kg_train.measure(Runner(Settings(budget=0.0, data=_kg.SMALL)), ("complex",), ("torch",), SIZE))
    assert [(r.provider, r.gate) for r in rows] == [("gnnaccel", "red"), ("torch", "ok")]
    assert all(r.p50_ms is None for r in rows)


def test_rows_and_json(tmp_path):
    out = tmp_path / "deep" / "kg-train.json"
    app = typer.Typer()
    app.command()(kg_train.main)
    options = ["--data", _kg.SMALL, "--models", "distmult,rotate", "--peers", "torch,torch by chunk", "--dim", "8"]
    result = CliRunner().invoke(app, [*options, "--budget", "0", "--json", str(out)])
    assert result.exit_code == 0, result.output
    document = json.loads(out.read_text())
    assert out.with_suffix(".csv").is_file()
    rows = {(r["case"], r["provider"]): r for r in document["rows"]}
    assert set(rows) == {
        ("synthetic-kg_distmult", "gnnaccel"),
        ("synthetic-kg_distmult", "torch"),
        ("synthetic-kg_rotate", "gnnaccel"),
        ("synthetic-kg_rotate", "torch"),
        ("synthetic-kg_rotate", "torch by chunk"),
    }
    for row in rows.values():
        assert row["gate"] == "ok" and row["p50_ms"] > 0 and row["inner"] % 2 == 0
        assert set(row["extra"]["stages_ms"]) == {"sample", "gather", "loss", "update"}
        assert (row["ratio"] is None) == row["ours"]


@pytest.mark.parametrize("options", [["--models", "transh"], ["--peers", "dglke"], ["--data", "no-such-graph"]])
def test_wrong_options_are_named(options):
    app = typer.Typer()
    app.command()(kg_train.main)
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 2 and options[1] in result.output


def test_turns():
    clock, log = [0.0], []

    def work(name, seconds, turns=1000):
        left = [turns]

        def turn():
            left[0] -= 1
            if left[0] < 0:
                return 0
            clock[0] += seconds
            log.append(name)
            return 2

        return turn

    work = {
        "gnnaccel": work("gnnaccel", 0.125),
        "fast": work("fast", 0.25),
        "slow": work("slow", 5.0),
        "short": work("short", 0.125, 2),
    }
    laps = _kg.take_turns(work, 1.0, now=lambda: clock[0])
    assert {n: len(lap.seconds) for n, lap in laps.items()} == {"gnnaccel": 4, "fast": 4, "slow": 3, "short": 2}
    assert laps["slow"].seconds == pytest.approx(dict.fromkeys(range(3), 2.5))
    assert laps["fast"].done == 8 and laps["fast"].spent == pytest.approx(1.0)
    assert log[:4] == ["gnnaccel", "fast", "slow", "short"] and log[4] == "fast"
    alone = _kg.take_turns({"gnnaccel": work["gnnaccel"]}, 0.5, now=lambda: clock[0])
    assert len(alone["gnnaccel"].seconds) == 4
