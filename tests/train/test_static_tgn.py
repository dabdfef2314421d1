"""The step on tensors of fixed size is the ordinary step. On a GPU the same step is a graph: tests marked `gpu`."""

import json
import logging
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from gnnaccel.data.synthetic import synthetic_events
from gnnaccel.train.capture import CaptureError, no_sync
from gnnaccel.train.checkpoint import load_checkpoint
from gnnaccel.train.config import ConfigError, load_config
from gnnaccel.train.link import LinkTask
from gnnaccel.train.static_tgn import StaticStep, longest_batch, why_not
from gnnaccel.train.trainer import Interrupted, StageTimer, Trainer, TrainingError, make_optimizer, train_step
from tests.train.test_link import SMALL, small_config

FULL = 560 / 0.7  # events of which 0.7 are for training: 14 batches of 40, none short


def stream(num_events=600, **more):
    return synthetic_events(num_events=int(num_events), num_src=40, num_dst=20, feat_dim=3, seed=3, **more)


def run(events, *settings, static, epochs=2, device="cpu", capture=None, preset="tgn"):
    """Losses, and the model's state, after some epochs without evaluation."""
    task = LinkTask.create(load_config(preset, None, [*SMALL, *settings]), events, device)
    optimizer, losses = make_optimizer(task), []
    task.model.train()
    if static:
        assert why_not(task) is None
        step = StaticStep(task, optimizer, capture=capture)
    for epoch in range(epochs):
        task.reset()
        for i, (a, b) in enumerate(pairwise(task.batch_bounds(epoch))):
            if static:
                step.load(slice(a, b), epoch, i)
                with no_sync() if device == "cpu" else nullcontext():
                    loss = step.run()
            else:
                loss = train_step(task, optimizer, slice(a, b), epoch, i, StageTimer(False))
            losses.append(loss.item())
    return losses, {name: value.clone() for name, value in task.model.state_dict().items()}


def assert_same(a, b):
    assert a[0] == b[0]
    assert [k for k in a[1] if not torch.equal(a[1][k], b[1][k])] == []


SETTINGS = {
    "tgn": [],
    "uniform": ["sampler.strategy=uniform"],
    "with replacement": ["sampler.strategy=uniform", "sampler.replace=true", "sampler.window=50%"],
    "before_batch": ["data.semantics=before_batch"],
    "by_event_id": ["data.semantics=by_event_id"],
    "inclusive": ["data.semantics=inclusive"],
    "node features": ["model.node_features=random"],
    "rnn": ["memory.updater=rnn"],
    "mean": ["aggregator.kind=mean"],
    "jodie": ["aggregator.kind=identity", "sampler.neighbors=[]", "aggregator.time_projection=jodie"],
    "no memory": ["memory.updater=none", "model.node_features=random"],
    "no dropout": ["aggregator.dropout=0"],
    "two layers": ["sampler.neighbors=[4,3]"],
    "two layers, any neighbours": ["sampler.neighbors=[4,3]", "sampler.strategy=uniform", "data.semantics=by_event_id"],
    "two layers at the root's time": ["sampler.neighbors=[3,2]", "sampler.hop_time=root", "aggregator.kind=mean"],
}


@pytest.mark.parametrize("name", ["tgn", "uniform", "before_batch", "by_event_id", "mean", "no memory"])
def test_runs_of_full_batches_have_the_same_bits(name):
    assert_same(*(run(stream(FULL), *SETTINGS[name], static=s) for s in (False, True)))


def compare_steps(events, *settings, epochs=2, device="cpu", capture=None, rtol=1e-4):
    """Each step from one state in both ways: the same loss, memory and mail; the same gradients, as Adam's first moment shows.

    What is left in the end is not compared: a gradient that is 0 but for rounding moves a weight as far as any other.
    """
    config = load_config("tgn", None, [*SMALL, *settings])
    task = LinkTask.create(config, events, device)
    optimizer = make_optimizer(task)
    step = StaticStep(task, optimizer, capture=capture)
    state, names = step.run.state, [n for n, _ in task.model.named_parameters()]
    buffers = {n for n, _ in task.model.named_buffers()} - {"node_feat"}
    sizes = set()
    task.model.train()
    for epoch in range(epochs):
        task.reset()
        for i, (a, b) in enumerate(pairwise(task.batch_bounds(epoch))):
            sizes.add(b - a)
            before, found = [t.clone() for t in state], []
            for static in (True, False):
                for t, value in zip(state, before, strict=True):
                    t.detach().copy_(value)
                for p in task.model.parameters():
                    for moment in ("exp_avg", "exp_avg_sq", "step"):
                        optimizer.state[p][moment].zero_()
                if static:
                    step.load(slice(a, b), epoch, i)
                    with no_sync() if device == "cpu" else nullcontext():
                        loss = step.run().clone()
                else:
                    loss = train_step(task, optimizer, slice(a, b), epoch, i, StageTimer(False))
                moments = [optimizer.state[p]["exp_avg"].clone() for p in task.model.parameters()]
                tables = {n: t.clone() for n, t in task.model.named_buffers() if n in buffers}
                found.append((loss, moments, tables))
            (loss, moments, tables), (want, wants, others) = found
            torch.testing.assert_close(loss, want, rtol=1e-5, atol=1e-6)
            for name, table in tables.items():
                if device == "cpu":  # no product has another number of rows on CPU: these have the same bits
                    assert torch.equal(table, others[name]), (name, epoch, i)
                else:
                    torch.testing.assert_close(table, others[name], rtol=rtol, atol=1e-5)
            for name, moment, other in zip(names, moments, wants, strict=True):
                size = other.abs().max().item()
                torch.testing.assert_close(
                    moment, other, rtol=rtol, atol=rtol * size + 1e-8, msg=lambda m, n=name: f"{n}: {m}"
                )
    return sizes


@pytest.mark.parametrize("name", SETTINGS)
def test_every_step_is_the_ordinary_one(name):
    """With a short last batch, and chunks, which shift the grid so that the first is short too."""
    sizes = compare_steps(stream(), *SETTINGS[name], "train.chunks=4")
    assert len(sizes) > 1


@pytest.mark.parametrize("name", ["tgn", "node features", "no memory"])
def test_what_a_step_changes_is_its_state_and_tables_are_not(name):
    task = LinkTask.create(load_config("tgn", None, [*SMALL, *SETTINGS[name]]), stream(), "cpu")
    step = StaticStep(task, make_optimizer(task))
    task.model.train()
    task.reset()
    buffers = {n: t for n, t in task.model.named_buffers() if t is not None}
    before = {n: t.clone() for n, t in buffers.items()}
    for i, (a, b) in enumerate(pairwise(task.batch_bounds(0)[:4])):
        step(slice(a, b), 0, i)
    kept = {t.untyped_storage().data_ptr() for t in step.run.state}
    changed = {n for n, t in buffers.items() if not torch.equal(t, before[n])}
    assert bool(changed) == task.model.has_memory
    assert {buffers[n].untyped_storage().data_ptr() for n in changed} <= kept
    if "node_feat" in buffers:
        assert task.model.node_feat.untyped_storage().data_ptr() not in kept
    assert ("node_feat" in buffers) == (name != "tgn")


def test_events_of_one_time_stay_together():
    events = replace(stream(), t=stream().t // 3000 * 3000)
    sizes = compare_steps(events)
    assert len(sizes) > 2 and max(sizes) > 40


def tiny(kind):
    t, src = torch.arange(30), torch.zeros(30, dtype=torch.int64)
    dst = src.clone() if kind == "self-loops" else src + 1
    dst[-1] += 1  # negatives are drawn from the destinations, of which there must be two
    times = t.double() / 3 - 2 if kind == "float times" else t
    return replace(stream(), src=src, dst=dst, t=times, edge_feat=None, label=None, bipartite=False)


@pytest.mark.parametrize("kind", ["one pair", "self-loops", "float times"])
@pytest.mark.parametrize("size", [1, 4, 21])
def test_few_events_of_few_nodes(kind, size):
    """Batches of one event, of one node alone, and one batch for all."""
    compare_steps(tiny(kind), f"train.batch_size={size}", "aggregator.dropout=0.5")


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_two_layers_at_times_of_any_kind(dtype):
    """Below 0 too where they are integers: distinct points are numbered by what is at least 0."""
    events = stream()
    events = replace(events, t=(events.t - events.t[300]) if dtype == torch.int64 else events.t.double() / 7)
    compare_steps(events, "sampler.neighbors=[4,3]", "train.batch_size=100", epochs=1)
    if dtype == torch.float64:
        task = LinkTask.create(small_config("sampler.neighbors=[4,3]"), replace(events, t=events.t - 1e9))
        assert why_not(task) == "with two hops times must not be below 0"


def trainer(folder, *settings, events=None):
    more = ["train.epochs=2", "eval.negatives=5", "train.checkpoint_batches=2", *settings]
    return Trainer(
        LinkTask.create(small_config(*more), stream(FULL) if events is None else events), folder, progress=False
    )


def numbers(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "second" not in k} for row in rows]


def test_the_trainer_takes_it_when_asked(tmp_path):
    trainers = {mode: trainer(tmp_path / mode, f"train.capture={mode}") for mode in ("off", "on", "auto")}
    for t in trainers.values():
        t.fit()
    assert isinstance(trainers["on"]._static, StaticStep)
    assert trainers["off"]._static is None and trainers["auto"]._static is None  # no GPU here
    # as text: a metric of an empty group is NaN, which equals itself only there
    assert str(numbers(tmp_path / "on")) == str(numbers(tmp_path / "off"))
    on, off = (load_checkpoint(tmp_path / mode / "best.pt")["model"] for mode in ("on", "off"))
    assert all(torch.equal(on[k], off[k]) for k in off)


@pytest.mark.parametrize("batch", [1, 6, 13, 14, 17])
def test_a_stopped_run_goes_on_with_the_same_bits(tmp_path, batch, monkeypatch):
    """Resumed with the ordinary step, even."""
    whole = trainer(tmp_path / "whole", "train.capture=on")
    whole.fit()
    first = trainer(tmp_path / "cut", "train.capture=on")
    steps, call = 0, StaticStep.__call__

    def counted(self, *args):
        nonlocal steps
        steps += 1
        first._stop = steps == batch
        return call(self, *args)

    monkeypatch.setattr(StaticStep, "__call__", counted)
    with pytest.raises(Interrupted):
        first.fit()
    second = trainer(tmp_path / "cut", "train.capture=on" if batch % 2 else "train.capture=off")
    second.resume()
    second.fit()
    assert str(numbers(tmp_path / "cut")) == str(numbers(tmp_path / "whole"))


def test_resuming_keeps_the_storages_that_a_graph_knows(tmp_path):
    first = trainer(tmp_path, "train.capture=on")
    first.fit()
    addresses = [t.data_ptr() for t in first._static.run.state]
    first.resume()
    state = [*first.task.model.parameters(), *first._static._committed(), *first.optimizer.prepare()]
    assert [t.data_ptr() for t in state] == addresses


REFUSED = {
    "mailbox.deliver": ["mailbox.deliver=neighbors"],
    "sampler.snapshots": [
        "sampler.snapshots=2",
        "sampler.window=1000",
        "memory.updater=none",
        "model.node_features=random",
    ],
    "train.exact": ["train.exact=true"],
    "train.staleness": ["train.staleness=1"],
    "decoder.kind must be mlp": ["decoder.kind=dot"],
    "memory.updater must be": ["memory.updater=attention"],
}


@pytest.mark.parametrize("what", REFUSED)
def test_settings_that_it_cannot_serve(what, tmp_path):
    with pytest.raises(ConfigError, match=f"train.capture=on cannot serve these settings: .*{what}"):
        trainer(tmp_path, "train.capture=on", *REFUSED[what]).fit()


def test_one_time_of_many_events_is_not_padded_to():
    events = stream()
    events = replace(events, t=torch.where(torch.arange(600) < 300, 0, events.t))
    task = LinkTask.create(small_config(), events)
    assert longest_batch(task) == 300
    assert why_not(task) == "a batch of 300 events of one time would pad all others of 40 to its size"


def test_auto_says_once_why_it_does_not(tmp_path, monkeypatch, caplog):
    """A capture that fails on a GPU leaves no trace: the ordinary steps follow."""
    want = trainer(tmp_path / "off", "train.capture=off")
    want.fit()

    def fails(self, *args):
        raise CaptureError("the step cannot be captured in a CUDA graph: for a test")

    monkeypatch.setattr(StaticStep, "prepare", fails)
    got = trainer(tmp_path / "auto", "train.capture=auto")
    monkeypatch.setattr(LinkTask, "static_step", lambda task, optimizer: StaticStep(task, optimizer))
    with caplog.at_level(logging.WARNING, logger="gnnaccel.train"):
        got.fit()
    assert [r.getMessage() for r in caplog.records] == ["the step cannot be captured in a CUDA graph: for a test"]
    assert str(numbers(tmp_path / "auto")) == str(numbers(tmp_path / "off"))
    with pytest.raises(TrainingError, match="for a test"):
        trainer(tmp_path / "on", "train.capture=on").fit()


def test_a_batch_must_fit():
    task = LinkTask.create(small_config(), stream())
    step = StaticStep(task, make_optimizer(task))
    with pytest.raises(ValueError, match="events must be 1 to 40, got 41"):
        step.load(slice(0, 41), 0, 0)


@pytest.mark.gpu
@pytest.mark.parametrize("name", SETTINGS)
def test_on_a_gpu_the_graph_does_the_steps(name):
    """Captured or called: the same bits, twice over; and the numbers of the ordinary step."""
    events, settings = stream(), [*SETTINGS[name], "train.chunks=4"]
    captured = run(events, *settings, static=True, device="cuda")
    assert_same(captured, run(events, *settings, static=True, device="cuda"))
    assert_same(captured, run(events, *settings, static=True, device="cuda", capture=False))
    compare_steps(events, *settings, device="cuda", rtol=1e-3)


@pytest.mark.gpu
def test_on_a_gpu_auto_captures_and_resumes(tmp_path):
    def on_gpu(folder):
        settings = ("train.epochs=2", "eval.negatives=5", "train.checkpoint_batches=2")
        return Trainer(LinkTask.create(small_config(*settings), stream(), "cuda"), folder, progress=False)

    whole = on_gpu(tmp_path / "whole")
    whole.fit()
    assert whole._static.run.graph is not None
    first = on_gpu(tmp_path / "cut")
    monitored, step = 0, StaticStep.__call__

    def counted(self, *args):
        nonlocal monitored
        monitored += 1
        first._stop = monitored == 5
        return step(self, *args)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(StaticStep, "__call__", counted)
        first.fit()
    second = on_gpu(tmp_path / "cut")
    second.resume()
    second.fit()
    assert str(numbers(tmp_path / "cut")) == str(numbers(tmp_path / "whole"))
