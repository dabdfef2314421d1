"""Tasks on graphs: learning, determinism, the seven stages, resume, cheap inference."""

import dataclasses
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
from gnnaccel.train.gnn import STAGES, gnn_presets, graph_task, load_gnn_config
from gnnaccel.train.gnn.config import MODELS
from gnnaccel.train.gnn.distill import distill_task, latency
from gnnaccel.train.gnn.report import StageRecorder, bottleneck, draw_stages, stage_rows
from gnnaccel.train.gnn.steps import Seeds, trimmed
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


KINDS = (*MODELS, "link", "distill")


def task_of(kind, *settings):
    """A task of each kind there is; weights, graph and draws are of the settings alone."""
    if kind == "link":
        return task("sage", "data.task=link", *settings)
    if kind == "distill":
        return distill_task(load_gnn_config("mlp", None, None, [*RUN, *settings]), task("sage"))
    return task(kind, *settings, relations=2 if kind == "rgcn" else 1)


def weights(folder, name="best.pt"):
    return load_checkpoint(folder / name)["model"]


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


@pytest.mark.parametrize("model", MODELS)
def test_models_learn(model, tmp_path):
    relations = 2 if model == "rgcn" else 1
    made = task(model, "train.epochs=15", "train.learning_rate=0.01", relations=relations)
    before = made.metrics("test")["accuracy"]
    results = train(made, tmp_path)
    floor = 0.5 if model == "mlp" else 0.75
    assert results["test_accuracy"] > max(floor, before), (before, results["test_accuracy"])
    assert results["test_nodes"] == int(made.data.test_mask.sum())


@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_for_threads_and_lookahead(kind, tmp_path):
    before = torch.get_num_threads()
    try:
        for threads, ahead in ((1, 0), (2, 3)):
            torch.set_num_threads(threads)
            train(task_of(kind, f"train.lookahead={ahead}", "model.dropout_in=0.1"), tmp_path / str(threads))
    finally:
        torch.set_num_threads(before)
    for name in ("best.pt", "checkpoint.pt"):
        assert_same(weights(tmp_path / "1", name), weights(tmp_path / "2", name))


@pytest.mark.parametrize("kind", KINDS)
def test_cut_off_and_resumed_gives_the_same_bits(kind, tmp_path):
    def made(epochs=3):
        return task_of(kind, "train.checkpoint_batches=1", f"train.epochs={epochs}")

    whole = train(made(), tmp_path / "whole")
    cut, calls = made(), []

    def loss(step):
        calls.append(step)
        if len(calls) == (3 if kind == "graph-transformer" else 12):  # in the last epoch, and amid one
            raise KeyboardInterrupt
        return type(cut).loss(cut, step)

    cut.loss = loss
    with pytest.raises(KeyboardInterrupt):
        train(cut, tmp_path / "cut")
    # where rows lie and how far ahead batches are made are no part of a run
    other = task_of(kind, "train.checkpoint_batches=1", "train.features=device", "train.lookahead=0")
    again = Trainer(other, tmp_path / "cut", progress=False)
    again.resume()
    assert (again.epoch, again.batch) != (0, 0)
    found = again.fit()
    assert found["test_" + again.task.main_metric] == whole["test_" + again.task.main_metric]
    for name in ("best.pt", "checkpoint.pt"):
        assert_same(weights(tmp_path / "whole", name), weights(tmp_path / "cut", name))


@pytest.mark.parametrize("kind", ["sage", "graph-transformer", "distill"])
def test_labels_of_other_parts_are_not_learned_from(kind, tmp_path):
    for name in ("true", "wrong"):
        made = task_of(kind, "train.patience=9")
        if name == "wrong":
            y = torch.where(made.data.train_mask, made.data.y, (made.data.y + 1) % 3)
            made = dataclasses.replace(made, data=dataclasses.replace(made.data, y=y))
        train(made, tmp_path / name)
    assert_same(*(weights(tmp_path / name, "checkpoint.pt") for name in ("true", "wrong")))


def test_dropout_is_of_the_seed_of_the_run():
    def result(seed):
        made = task("sage", f"train.seed={seed}", "sampler.neighbors=[1000, 1000]")
        made.model.load_state_dict(state)
        made.model.train()
        step = (0, slice(0, 40))
        for stage in made._stages(lambda index, items: Seeds(torch.arange(40), None), 0):
            step = stage.run(step)
        return made.forward(step)

    state = task("sage").model.state_dict()
    assert torch.equal(result(1), result(1))
    assert not torch.equal(result(1), result(2))


def test_rows_and_fused_differ_by_rounding_alone():
    losses = []
    for fetch in ("rows", "fused"):
        made = task("sage", f"train.fetch={fetch}", "model.hidden=64")
        step = made_step(made)
        assert isinstance(step.x, torch.Tensor) == (fetch == "rows")
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


def test_epochs_differ_in_order_and_draws():
    made = task("sage", "train.fetch=rows", "sampler.neighbors=[2, 2]")
    orders = [made.order(epoch).clone() for epoch in (0, 1, 0)]
    assert torch.equal(orders[0], orders[2]) and not torch.equal(orders[0], orders[1])
    assert all(torch.equal(order.sort().values, torch.arange(made.split.train.stop)) for order in orders)

    def sampled(epoch, index):
        item = (index, None)
        for stage in made._stages(lambda index, items: Seeds(torch.arange(50), None), epoch):
            item = stage.run(item)
        return item.hops.nodes

    first, *others = (sampled(*at) for at in ((0, 0), (0, 1), (1, 0)))
    assert torch.equal(first, sampled(0, 0)) and not any(torch.equal(first, nodes) for nodes in others)


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
    plain, kind = task("sage", "model.hidden=64"), getattr(torch, dtype)
    made = graph_task(plain.config, load_nodes(SMALL, dtype=kind))
    assert made.x.dtype == kind and (made.scale is not None) == (dtype == "int8")
    nodes = torch.arange(600)
    exact, got = plain.results(nodes), made.results(nodes)  # the same untrained weights
    assert 0 < float((got - exact).abs().max()) < 0.05 * float(exact.abs().max())
    assert train(made, tmp_path)["test_accuracy"] > 0.5


@pytest.mark.parametrize("features", ["learned", "degree"])
def test_nodes_without_features(features, tmp_path):
    made = task("sage", f"model.features={features}", "model.dim_learned=8", "train.epochs=6")
    assert train(made, tmp_path)["test_accuracy"] > 0.3
    if features == "learned":
        assert made.model.embedding.shape == (600, 8)


# --- parts without nodes ---------------------------------------------------------------------------------------------------


def missing(*parts):
    found = data()
    return dataclasses.replace(found, **{f"{part}_mask": torch.zeros(600, dtype=torch.bool) for part in parts})


@pytest.mark.parametrize("inference", ["layerwise", "sampled"])
def test_without_validation_the_last_epoch_is_kept(inference, tmp_path):
    config = load_gnn_config("sage", None, None, [*RUN, "train.patience=1", f"eval.inference={inference}"])
    found = train(graph_task(config, missing("val")), tmp_path)
    assert found["epochs"] == found["best_epoch"] == 3 and found["val_accuracy"] != found["val_accuracy"]
    assert_same(weights(tmp_path), weights(tmp_path, "checkpoint.pt"))
    assert 0 < found["test_accuracy"] <= 1


@pytest.mark.parametrize("inference", ["layerwise", "sampled"])
def test_without_test_nodes_there_is_no_accuracy(inference, tmp_path):
    config = load_gnn_config("sage", None, None, [*RUN, f"eval.inference={inference}"])
    made = graph_task(config, missing("test"))
    found = train(made, tmp_path)
    assert found["test_nodes"] == 0 and found["test_accuracy"] != found["test_accuracy"]
    assert json.loads((tmp_path / "results.json").read_text())["test_accuracy"] is None
    assert made.results(torch.arange(0)).shape == (0, 3)
    assert latency(made, 16, repeats=1) > 0  # of any nodes


# --- links ----------------------------------------------------------------------------------------------------------------


def edges_of(step, direct):
    """The edges that a batch sampled, (source, destination) by the graph's ids."""
    found, nodes = set(), step.hops.nodes.long()
    for i, block in enumerate(step.hops.layers):
        real = block.row >= 0
        src = block.row[real].long()
        dst = torch.arange(block.num_dst)[:, None].expand_as(block.row)[real]
        if not (direct and i == 0):
            src = nodes[src]
        found |= set(zip(src.tolist(), nodes[dst].tolist(), strict=True))
    return found


@pytest.mark.parametrize("fetch", ["rows", "fused"])
def test_links_hide_their_own_edges(fetch):
    made = task("sage", "data.task=link", "sampler.neighbors=[-1, 200]", "model.hidden=64", f"train.fetch={fetch}")
    step = made_step(made)
    pairs = made.pairs[made.order(0)[:64]].tolist()
    known = set(zip(*(x.tolist() for x in made.graph.edges()), strict=True))
    own = {(u, v) for u, v in pairs} | {(v, u) for u, v in pairs}
    assert own <= known
    seen = edges_of(step, fetch == "fused")
    assert seen <= known and not seen & own
    near = {(u, v) for u, v in known if v in set(step.seeds.nodes.tolist())}
    assert near - own <= seen  # all the others are there


def test_links_learn(tmp_path):
    made = task("sage", "data.task=link", "train.epochs=8", "train.batch_size=256", "train.learning_rate=0.01")
    results = train(made, tmp_path)
    assert results["test_auc"] > 0.65 and 0 < results["test_mrr"] <= 1


def test_links_are_judged_by_the_edges_of_their_part():
    made = task("sage", "data.task=link")
    h = made.results(torch.arange(600))
    first = 0
    for part, size in zip(("train", "val", "test"), (p.stop for p in made.split), strict=True):
        items, first = torch.arange(first, first + size), first + size
        if part == "train":
            continue
        draws = made._negatives(items, 5, 0)
        u, v = made.pairs[items].T
        with torch.no_grad():
            positive, negative = made.model.link(h[u], h[v]), made.model.link(h[u][:, None], h[draws])
        found = made.metrics(part, 5)
        rank = 1 + (negative > positive[:, None]).sum(1) + 0.5 * (negative == positive[:, None]).sum(1)
        assert found["mrr"] == pytest.approx(float((1 / rank).mean()), rel=1e-6)
        above = (positive[:, None] > negative[None, :, 0]).double() + 0.5 * (positive[:, None] == negative[None, :, 0])
        assert found["auc"] == pytest.approx(float(above.mean()), rel=1e-6)
        assert found["edges"] == size


def test_link_parts_are_apart():
    made = task("sage", "data.task=link")
    keys = made.pairs[:, 0] * 600 + made.pairs[:, 1]
    assert len(keys.unique()) == len(keys) and bool((made.pairs[:, 0] < made.pairs[:, 1]).all())
    sizes = [part.stop for part in made.split]
    assert sum(sizes) == len(keys)
    src, dst = made.graph.edges()
    known = set((torch.minimum(src, dst) * 600 + torch.maximum(src, dst)).tolist())
    assert known == set(keys[: sizes[0]].tolist())


# --- distillation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("soft", "temperature"), [(1.0, 1.0), (0.3, 2.0), (0.0, 1.0)])
def test_what_a_student_is_taught(soft, temperature):
    made = task_of("distill", f"distill.soft_weight={soft}", f"distill.temperature={temperature}", "model.dropout=0")
    teacher = task("sage").results(torch.arange(600)).double()
    item = (0, slice(0, 64))
    for stage in made.stages(0):
        item = stage.run(item)
    nodes = made.order(0)[:64]
    assert torch.equal(item.seeds.nodes, nodes)
    logits = made.forward(item).double()
    p, q = ((x / temperature).softmax(1) for x in (teacher[nodes], logits))
    far = (p * (p / q).log()).sum(1).mean() * temperature**2
    known = made.data.train_mask[nodes]
    hard = -logits.log_softmax(1)[known, made.data.y[nodes][known]].mean()
    assert 0 < int(known.sum()) < 64
    assert made.loss(item)[0].item() == pytest.approx((soft * far + (1 - soft) * hard).item(), rel=1e-4)


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
        ("sage", ["sampler.strategy=weighted"], "sampler.strategy: must be 'uniform', edges of .* have no weights"),
        (
            "sage",
            ["sampler.strategy=weighted", "data.task=link"],
            "'uniform', edges of data.task 'link' have no weights",
        ),
        ("sage", ["sampler.keep=2", "sampler.keep_by=weight"], "sampler.keep_by: must be 'similarity' or 'random'"),
        ("sage", ["model.name=rgcn"], "model.name: must be sage, the model asked for, got rgcn"),
    ],
)
def test_wrong_settings_are_named(model, settings, said):
    with pytest.raises(ValueError, match=said):
        made_step(task(model, *settings))


def without_features():
    return dataclasses.replace(data(), x=None)


@pytest.mark.parametrize(
    ("model", "settings", "said"),
    [
        ("mlp", [], "model.features: .* has no features; take 'degree'"),
        ("sage", ["model.features=given"], "model.features: .* has no features; take 'learned' or 'degree'"),
        ("sage", ["sampler.keep=2"], "sampler.keep_by: must be 'weight' or 'random', .* has no features"),
    ],
)
def test_what_needs_features_says_so(model, settings, said):
    with pytest.raises(ValueError, match=said):
        graph_task(load_gnn_config(model, None, None, [*RUN, *settings]), without_features())


@pytest.mark.parametrize("model", ["sage", "graph-transformer"])
def test_no_features_are_learned(model):
    made = graph_task(load_gnn_config(model, None, None, RUN), without_features())
    none = graph_task(made.config, dataclasses.replace(data(), x=torch.empty(600, 0)))
    assert made.model.embedding is not None and none.model.embedding is not None and none.x is None


@pytest.mark.parametrize("model", MODELS)
def test_every_section_of_a_preset_is_sound(model):
    for section in ("default", *gnn_presets()[model]):
        assert load_gnn_config(model, section).model.name == model


def test_a_preset_of_classes_is_not_for_links():
    node, link = (load_gnn_config("sage", "cora", None, more) for more in ([], ["data.task=link"]))
    assert node.whole_graph and node.data.features == "row_normalized"
    assert link == load_gnn_config("sage", None, None, ["data.task=link"]) and not link.whole_graph


def test_an_unknown_model_is_named():
    with pytest.raises(ValueError, match="unknown model 'gcn'; there is: sage"):
        load_gnn_config("gcn")
