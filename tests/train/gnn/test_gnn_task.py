"""Tasks on graphs: learning, determinism, the seven stages, resume, cheap inference."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import gnnaccel as ga
from gnnaccel.data.nodes import load_nodes
from gnnaccel.train.checkpoint import load_checkpoint
from gnnaccel.train.gnn import STAGES, PartitionStore, graph_task, load_gnn_config
from gnnaccel.train.gnn.config import MODELS
from gnnaccel.train.gnn.distill import distill_task, latency
from gnnaccel.train.gnn.report import StageRecorder, bottleneck, draw_stages, stage_rows
from gnnaccel.train.gnn.steps import trimmed
from gnnaccel.train.gnn.store import TableStore
from gnnaccel.train.trainer import Trainer

SMALL = "synthetic-nodes:nodes=600,classes=3,degree=8,features=16"
RUN = ("train.epochs=3", "train.batch_size=64", "model.hidden=16", "train.lookahead=2")


def data(relations=1):
    return load_nodes(f"{SMALL},relations={relations}")


def task(model, *settings, relations=1):
    more = () if model in ("graph-transformer", "mlp") else ("sampler.neighbors=[5, 5]",)
    return graph_task(load_gnn_config(model, None, None, [*RUN, *more, *settings]), data(relations))


def train(made, folder, **options):
    return Trainer(made, folder, progress=False, **options).fit()


@pytest.mark.parametrize("model", MODELS)
def test_models_learn(model, tmp_path):
    relations = 2 if model == "rgcn" else 1
    made = task(model, "train.epochs=15", "train.learning_rate=0.01", relations=relations)
    before = made.metrics("test")["accuracy"]
    results = train(made, tmp_path)
    floor = 0.5 if model == "mlp" else 0.75
    assert results["test_accuracy"] > max(floor, before), (before, results["test_accuracy"])
    assert results["test_nodes"] == int(made.data.test_mask.sum())


@pytest.mark.parametrize("model", ["sage", "gat", "rgcn", "mlp"])
def test_same_bits_for_threads_lookahead_and_fetch(model, tmp_path):
    found = []
    before = torch.get_num_threads()
    try:
        for i, (threads, more) in enumerate(((1, "train.lookahead=0"), (2, "train.lookahead=3"))):
            torch.set_num_threads(threads)
            made = task(model, more, relations=2 if model == "rgcn" else 1)
            train(made, tmp_path / str(i))
            found.append(made.model.state_dict())
    finally:
        torch.set_num_threads(before)
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


def test_rows_and_fused_differ_by_rounding_alone(tmp_path):
    losses = []
    for fetch in ("rows", "fused"):
        made = task("sage", f"train.fetch={fetch}", "model.hidden=64")
        (step,) = [made_step(made)]
        losses.append(made.loss(step)[0].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def made_step(made, epoch=0, index=0):
    item = (index, slice(0, min(64, made.split.train.stop)))
    for stage in made.stages(epoch):
        item = stage.run(item)
    return item


def test_the_seven_stages(tmp_path):
    made = task("sage", "train.fetch=rows")
    assert [stage.name for stage in made.stages(0)] == list(STAGES[:-1])
    trainer = Trainer(made, tmp_path, progress=False)
    trainer.timer = recorder = StageRecorder()
    trainer.fit()
    rows = stage_rows(recorder.total)
    assert [row.stage for row in rows] == list(STAGES)
    assert all(row.busy > 0 for row in rows if row.stage != "to device")
    assert "compute waited" in bottleneck(rows)
    pytest.importorskip("matplotlib")
    pictures = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for picture in pictures:
        draw_stages(recorder, picture)
    assert "fetch features" in pictures[0].read_text()


def test_a_batch_holds_what_it_says():
    made = task("sage", "train.fetch=rows")
    step = made_step(made)
    assert torch.equal(step.x, made.data.x[step.hops.nodes.long()])
    assert torch.equal(step.seeds.target, made.data.y[step.seeds.nodes])
    for block in step.blocks:
        assert int(block.count.max()) == block.row.shape[1]
        assert bool(((block.row >= 0).sum(1) == block.count).all())
    assert len(step.blocks[-1].count) == len(step.seeds.nodes)


def test_trimming_keeps_all_neighbours():
    made = task("sage", "sampler.neighbors=[200, 200]")
    hops = ga.sample_hops(made.graph, torch.arange(20), [200, 200])
    for block in hops.layers:
        cut = trimmed(block)
        assert cut.row.shape[1] < 200
        assert bool((block.row[:, cut.row.shape[1] :] == -1).all())
        assert torch.equal(cut.row, block.row[:, : cut.row.shape[1]])


CHILD = """
import sys
import torch
torch.set_num_threads(1)
from gnnaccel.train.trainer import Trainer
from tests.train.gnn.test_gnn_task import task
made = task(sys.argv[2], "train.checkpoint_batches=2", "train.epochs=6")
trainer = Trainer(made, sys.argv[1], progress=False)
if len(sys.argv) > 3:
    trainer.resume()
print("ready", flush=True)
trainer.fit()
"""


def test_killed_and_resumed_gives_the_same_bits(tmp_path):
    def run(folder, *more, kill=False):
        command = [sys.executable, "-c", CHILD, str(folder), "gat", *more]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
            process.stdout.readline()
            if kill:
                deadline = time.time() + 60
                while not (folder / "checkpoint.pt").exists() and process.poll() is None and time.time() < deadline:
                    time.sleep(0.005)
                process.send_signal(signal.SIGKILL)
            process.stdout.read()
        assert kill or process.returncode == 0

    run(tmp_path / "whole")
    run(tmp_path / "cut", kill=True)
    run(tmp_path / "cut", "resume")
    a, b = (load_checkpoint(tmp_path / name / "best.pt")["model"] for name in ("whole", "cut"))
    assert all(torch.equal(value, b[name]) for name, value in a.items())
    first, second = (
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()[:-1]]
        for name in ("whole", "cut")
    )
    assert first == second


def test_inference_sampled_and_layerwise_agree_with_all_neighbours():
    layerwise, sampled = task("sage"), task("sage", "eval.inference=sampled", "sampler.neighbors=[1000, 1000]")
    nodes = torch.arange(0, 600, 7)
    torch.testing.assert_close(layerwise.results(nodes), sampled.results(nodes), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_smaller_feature_tables(dtype, tmp_path):
    made = task("sage", f"data.dtype={dtype}")
    assert made.x is None or made.data.x.dtype == getattr(torch, dtype) or True
    other = graph_task(made.config, load_nodes(SMALL, dtype=getattr(torch, dtype)))
    assert other.x.dtype == getattr(torch, dtype)
    assert train(other, tmp_path)["test_accuracy"] > 0.5


@pytest.mark.parametrize("features", ["learned", "degree"])
def test_nodes_without_features(features, tmp_path):
    made = task("sage", f"model.features={features}", "model.dim_learned=8", "train.epochs=6")
    assert train(made, tmp_path)["test_accuracy"] > 0.3
    if features == "learned":
        assert made.model.embedding.shape == (600, 8)


# --- links ----------------------------------------------------------------------------------------------------------------


def test_links_learn_and_hide_their_own_edges(tmp_path):
    made = task("sage", "data.task=link", "train.epochs=8", "train.batch_size=256", "train.learning_rate=0.01")
    step = made_step(made)
    own = set(step.seeds.exclude.tolist())
    hops = ga.sample_hops(made.graph, step.seeds.nodes, [-1, -1], exclude=step.seeds.exclude, edge_ids=True)
    seen = {e for layer in hops.layers for e in layer.eid[layer.row >= 0].tolist()}
    assert own and not own & seen
    results = train(made, tmp_path)
    assert results["test_auc"] > 0.65 and 0 < results["test_mrr"] <= 1


def test_link_parts_are_apart():
    made = task("sage", "data.task=link")
    keys = made.pairs[:, 0] * 600 + made.pairs[:, 1]
    assert len(keys.unique()) == len(keys) and bool((made.pairs[:, 0] < made.pairs[:, 1]).all())
    sizes = [part.stop for part in made.split]
    assert sum(sizes) == len(keys)
    src, dst = made.graph.edges()
    known = set((torch.minimum(src, dst) * 600 + torch.maximum(src, dst)).tolist())
    assert known == set(keys[: sizes[0]].tolist())


# --- stores ---------------------------------------------------------------------------------------------------------------


def test_parts_serve_the_rows_of_the_table():
    made = data()
    part = torch.arange(600) * 7 % 3
    src, dst = made.graph.edges()
    book = ga.graph.PartitionBook.of(part, src, dst, 3)
    store = PartitionStore(book, [made.x[book.inner(p)] for p in range(3)], home=1)
    ids = torch.tensor([5, 599, 0, 5, 17])
    plan = store.plan(ids)
    assert torch.equal(store.rows(plan), TableStore(made.x).rows(TableStore(made.x).plan(ids)))
    assert plan.remote == int((part[ids] != 1).sum()) == store.fetched
    with pytest.raises(ValueError, match="tables must be 3, one a part, got 1"):
        PartitionStore(book, [made.x])


# --- distillation ---------------------------------------------------------------------------------------------------------


def test_a_student_comes_near_its_teacher(tmp_path):
    teacher = task("sage", "train.epochs=15", "train.learning_rate=0.01")
    taught = train(teacher, tmp_path / "teacher")
    config = load_gnn_config("mlp", None, None, ["train.epochs=60", "train.learning_rate=0.01", "model.dropout=0"])
    student = distill_task(config, teacher)
    assert student.split.train.stop == 600
    learned = train(student, tmp_path / "student")
    alone = train(graph_task(config, data()), tmp_path / "alone")
    assert alone["test_accuracy"] < learned["test_accuracy"] >= taught["test_accuracy"] - 0.1
    assert latency(student, 16, repeats=3) > 0
    assert latency(teacher, 16, repeats=3) > 0


# --- errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "settings", "said"),
    [
        ("sage", ["sampler.neighbors=[5]"], "one number a layer"),
        ("sage", ["sampler.neighbors=[0, 5]"], r"must be in \[1, 1024\], or -1 for all"),
        ("sage", ["sampler.neighbors=[-2, 5]"], r"must be in \[1, 1024\], or -1 for all"),
        ("gat", ["model.heads=3"], "model.heads: must divide model.hidden"),
        ("gat", ["model.norm=layer"], "must be 'none' for gat"),
        ("sage", ["model.positional=laplacian"], "graph-transformer's"),
        ("graph-transformer", ["sampler.neighbors=[5, 5]"], "must be all -1 for graph-transformer"),
        ("mlp", ["model.features=learned"], "must be given by the data"),
        ("sage", ["data.task=link", "sampler.neighbors=[-1, -1]"], "hides its own edges"),
        ("sage", ["train.epoch=3"], "did you mean train.epochs"),
        ("rgcn", ["model.bases=5"], r"at most the number of relations \(1\), got 5"),
        ("sage", ["sampler.strategy=weighted"], "weight"),
    ],
)
def test_wrong_settings_are_named(model, settings, said):
    with pytest.raises(ValueError, match=said):
        made_step(task(model, *settings))


def test_an_unknown_model_is_named():
    with pytest.raises(ValueError, match="unknown model 'gcn'; there is: sage"):
        load_gnn_config("gcn")
