"""Training of knowledge-graph embeddings: it learns, and the same seed gives the same bits whatever happens on the way."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch

from gnnaccel.data.kg import KnowledgeGraph, Triples, load
from gnnaccel.ops.kg_score import MODELS
from gnnaccel.train.checkpoint import CheckpointError, load_checkpoint
from gnnaccel.train.kg import KGTrainer, kg_presets, load_kg_config, load_kg_run, validate_kg
from gnnaccel.train.settings import ConfigError, lay_over
from gnnaccel.train.trainer import Interrupted, TrainingError

SMALL = (
    "model.dim=16",
    "negatives.count=16",
    "negatives.chunk=32",
    "train.batch_size=96",
    "train.epochs=4",
    "train.validate_every=2",
)
# every branch of a step: sides, masks, losses, optimisers, regularisers, storage, overlap
VARIANTS = {
    "transe_l2": ["negatives.sides=alternate", "negatives.mask=none", "train.optimizer=adagrad_row_dup"],
    "transe_l1": ["loss.kind=hinge", "negatives.strategy=degree", "train.schedule=step"],
    "distmult": ["negatives.in_batch=true", "loss.kind=softmax", "loss.regularizer=n3", "loss.regularization=0.01"],
    "complex": [
        "negatives.mode=all",
        "loss.kind=softmax",
        "model.reciprocal=true",
        "negatives.sides=tail",
        "loss.regularizer=n3",
        "loss.regularization=0.01",
        "train.optimizer=adagrad_full",
    ],
    "rotate": ["negatives.mask=known", "train.optimizer=adam", "train.learning_rate=0.01", "loss.subsampling=true"],
    "rescal": ["loss.regularization=1e-5", "train.staleness=1"],
    "transr": ["loss.kind=pairwise_hinge", "model.relation_dim=8", "train.warmup=5"],
    "simple": ["model.dtype=bfloat16", "train.schedule=cosine", "loss.kind=bce"],
}


@pytest.fixture(scope="module")
def kg():
    return load("synthetic-kg")


def trainer(kg, folder, model, *settings, **options):
    values = {"model": {"name": model}}  # not a preset's: those are tuned, and change
    lay_over(values, [*SMALL, *VARIANTS[model], *settings])
    config = validate_kg(values)
    return KGTrainer(config, kg, folder, progress=False, **options)


def tables(folder):
    return load_checkpoint(folder / "best.pt")["model"]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


def figures(results):
    return {k: str(v) for k, v in results.items() if k not in ("seconds", "threads", "data")}


def test_every_model_has_a_variant():
    assert set(VARIANTS) == set(MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_bits_do_not_depend_on_threads_or_lookahead(kg, tmp_path, model):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = trainer(kg, tmp_path / "1", model, "train.lookahead=0").fit()
        torch.set_num_threads(2)
        two = trainer(kg, tmp_path / "2", model, "train.lookahead=2").fit()
    finally:
        torch.set_num_threads(threads)
    assert figures(one) == figures(two)
    assert same(tables(tmp_path / "1"), tables(tmp_path / "2"))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stop", [1, 24, 30])
def test_resume_is_bitwise_the_unbroken_run(kg, tmp_path, model, stop):
    """24 steps are two epochs, after which a validation is due; the run is stopped before it."""
    whole = trainer(kg, tmp_path / "whole", model)
    assert whole.schedule.per_epoch * 2 == 24 or model == "complex"
    want = whole.fit()
    cut = trainer(kg, tmp_path / "cut", model, "train.checkpoint_steps=1")
    check = cut._check

    def stop_at(update):
        check(update)
        cut._stop = update.step + 1 == stop

    cut._check = stop_at
    with pytest.raises(Interrupted, match=f"after step {stop} of"):
        cut.fit()
    again = trainer(kg, tmp_path / "cut", model, "train.checkpoint_steps=1")
    again.resume()
    assert again.next == stop
    got = again.fit()
    assert figures(got) == figures(want)
    assert same(tables(tmp_path / "cut"), tables(tmp_path / "whole"))


def test_validation_by_steps_or_not_at_all(kg, tmp_path):
    seen = []
    lines = lambda folder: [json.loads(x) for x in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()]  # noqa: E731
    options = ["train.steps=10", "train.validate_steps=4", "eval.test_triples=5", "loss.regularizer=l1"]
    got = trainer(kg, tmp_path / "a", "transe_l1", *options, on_step=lambda *x: seen.append(x)).fit()
    assert [x["step"] for x in lines("a")[:-1]] == [4, 8, 10] and got["test_triples"] == 5
    assert [step for step, _ in seen] == list(range(1, 11)) and all(loss > 0 for _, loss in seen)
    got = trainer(kg, tmp_path / "b", "transe_l1", *options, "eval.valid_triples=0", "eval.test_triples=0").fit()
    assert "test_mrr" not in got and "val_mrr" not in lines("b")[0] and got["best_step"] == 10
    with pytest.raises(ConfigError, match=r"loss.regularizer: .*got 'l0'"):
        trainer(kg, tmp_path / "c", "transe_l1", "loss.regularizer=l0")


def test_killed_and_resumed(tmp_path):
    """kill -9 amid training, then --resume: the files of the unbroken run."""
    command = [sys.executable, "-m", "gnnaccel", "kg", "train", "rotate", "--data", "synthetic-kg", "--quiet"]
    command += [x for s in (*SMALL, "train.epochs=60", "train.checkpoint_steps=1") for x in ("--set", s)]
    subprocess.run([*command, "--out", tmp_path / "whole"], check=True, capture_output=True)
    cut = subprocess.Popen([*command, "--out", tmp_path / "cut"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "cut" / "checkpoint.pt").exists() and cut.poll() is None:
        time.sleep(0.01)
    time.sleep(0.3)
    cut.send_signal(signal.SIGKILL)
    cut.wait()
    assert not (tmp_path / "cut" / "results.json").exists()
    subprocess.run([*command, "--out", tmp_path / "cut", "--resume"], check=True, capture_output=True)
    assert same(tables(tmp_path / "cut"), tables(tmp_path / "whole"))
    want, got = (json.loads((tmp_path / x / "results.json").read_text()) for x in ("whole", "cut"))
    assert figures(got) == figures(want)


@pytest.mark.parametrize("model", ["rotate", "complex"])
def test_learns_the_synthetic_graph(kg, tmp_path, model):
    """A guess has an MRR near 0.03; an answer known up to the choice of two, 0.75."""
    settings = ["train.epochs=60", "model.dim=64", "train.validate_every=20", "train.learning_rate=0.05"]
    results = trainer(kg, tmp_path, model, *settings).fit()
    assert results["test_mrr"] > 0.4


def test_batches_are_drawn_the_same_in_any_order(kg, tmp_path):
    """Steps are drawn several at a time: which ones, and for which epoch, must not show."""
    there, back = (trainer(kg, tmp_path / name, "distmult").schedule for name in ("there", "back"))
    steps = range(2 * there.per_epoch)
    assert len(steps) > there.per_epoch > 1
    batches = {step: there(step) for step in steps}
    for step in reversed(steps):
        a, b = batches[step], back(step)
        assert a.step == b.step == step and a.negatives.keys() == b.negatives.keys()
        assert torch.equal(a.h, b.h) and torch.equal(a.r, b.r) and torch.equal(a.t, b.t)
        for x, y in zip(a.negatives.values(), b.negatives.values(), strict=True):
            assert torch.equal(x.ids, y.ids)


def test_staleness_is_one_step(kg, tmp_path):
    """Rows of step b + 1 are read before step b is learnt from, and after step b - 1 is."""
    seen = []
    run = trainer(kg, tmp_path, "rescal")
    gather, apply = run.step.gather, run.step.apply
    run.step.gather = lambda batch: (seen.append(("read", batch.step)), gather(batch))[1]
    run.step.apply = lambda update: (seen.append(("learn", update.step)), apply(update))[1]
    run._train_until(4, _Bar())
    assert seen == [
        ("read", 0), ("read", 1), ("learn", 0), ("read", 2), ("learn", 1), ("read", 3), ("learn", 2), ("learn", 3),
    ]  # fmt: skip


class _Bar:
    def update(self, n): ...
    def set_postfix(self, **values): ...


def test_a_run_is_read_back(kg, tmp_path):
    run = trainer(kg, tmp_path, "transr", data="synthetic-kg")
    run.fit()
    model, config, state = load_kg_run(tmp_path)
    assert same(dict(model.state_dict()), tables(tmp_path))
    assert config == run.config and state["data"]["name"] == "synthetic-kg"
    assert (tmp_path / "entities.tsv").read_text().splitlines()[3] == f"3\t{kg.entity_names([3])[0]}"


def test_another_configuration_or_graph_is_not_resumed(kg, tmp_path):
    trainer(kg, tmp_path, "distmult").fit()
    with pytest.raises(CheckpointError, match=r"made with train.batch_size=96, now it is 100"):
        trainer(kg, tmp_path, "distmult", "train.batch_size=100").resume()
    with pytest.raises(CheckpointError, match="triples of synthetic-kg are not the same"):
        trainer(load("synthetic-kg:seed=1"), tmp_path, "distmult").resume()


def test_tables_of_another_shape_are_refused(kg, tmp_path):
    trainer(kg, tmp_path, "distmult").fit()
    state = load_checkpoint(tmp_path / "best.pt")
    state["model"]["entity"] = state["model"]["entity"][:, :8]
    torch.save(state, tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match=r"entity table must be \[200, 16\], got \[200, 8\]"):
        load_kg_run(tmp_path)


def test_nan_stops_with_step_and_cause(kg, tmp_path):
    run = trainer(kg, tmp_path, "distmult", "train.checkpoint_steps=1")
    gather = run.step.gather

    def poisoned(batch):
        if batch.step == 3:
            run.model.entity.data[int(batch.h[0])] = float("nan")
        return gather(batch)

    run.step.gather = poisoned
    with pytest.raises(
        TrainingError, match=r"became nan in step 4, epoch 1: row \d+ of the entity table is not finite"
    ):
        run.fit()
    good = load_checkpoint(tmp_path / "checkpoint.pt")
    assert good["next"] == 3 and bool(torch.isfinite(good["model"]["entity"]).all())


def test_no_triples_to_train_on(tmp_path):
    nothing = Triples.of([])
    empty = KnowledgeGraph("empty", nothing, nothing, nothing, 3, 1)
    with pytest.raises(ValueError, match="empty: train must hold triples, got an empty split"):
        trainer(empty, tmp_path, "distmult")


def test_no_validation_or_test_triples(kg, tmp_path):
    """The last tables are kept, and there is nothing to report."""
    nothing = Triples.of([])
    bare = KnowledgeGraph("bare", kg.train, nothing, nothing, kg.num_entities, kg.num_relations)
    results = trainer(bare, tmp_path, "distmult").fit()
    assert results["best_step"] == results["steps"] == 48
    assert not any(k.startswith("test_") for k in results)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.dim=15"], "model.dim: must be even for rotate, got 15"),
        (["model.relation_dim=4"], "model.relation_dim: is transr's"),
        (["loss.kind=softmax", "loss.adversarial_temperature=1.0"], "has no meaning for loss.kind 'softmax'"),
        (["model.reciprocal=true"], "negatives.sides: must be 'tail' with model.reciprocal"),
        (["train.lr=1"], "unknown setting train.lr"),
        (["negatives.mode=all", "train.staleness=1"], "train.staleness: must be 0"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_kg_config("rotate", overrides=settings)


def test_unknown_model():
    with pytest.raises(ConfigError, match="unknown model 'transe'; there is: transe_l1"):
        load_kg_config("transe")


def test_order_by_relation_or_metis(tmp_path):
    """Batches of an order share rows, and every triple still comes once an epoch."""
    pytest.importorskip("pymetis")
    kg = load("synthetic-kg:entities=200,relations=40,triples=3000")
    distinct = {}
    for order in ("random", "relation", "metis"):
        schedule = trainer(kg, tmp_path, "transe_l2", f"train.order={order}", "train.parts=4").schedule
        batches = [schedule(step) for step in range(schedule.per_epoch)]
        triples = torch.cat([torch.stack([b.h, b.r, b.t], 1) for b in batches])
        assert torch.equal(triples.unique(dim=0), kg.train.tensor().unique(dim=0)) and len(triples) == len(kg.train)
        distinct[order] = {
            "relation": sum(len(b.r.unique()) for b in batches),
            "metis": sum(len(torch.cat([b.h, b.t]).unique()) for b in batches),
        }
    for order in ("relation", "metis"):
        assert distinct[order][order] < 0.9 * distinct["random"][order]


@pytest.mark.parametrize("model", MODELS)
def test_every_preset_is_valid(model):
    for data in (*kg_presets()[model], "another"):
        assert load_kg_config(model, data).model.name == model


def test_the_first_example_learns(kg, tmp_path):
    """`gnnaccel kg train rotate --data synthetic-kg`, as it stands in the README."""
    assert KGTrainer(load_kg_config("rotate", kg.name), kg, tmp_path, progress=False).fit()["test_mrr"] > 0.5
