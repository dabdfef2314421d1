"""Chunks, exact batches, late writes and look-ahead in the trainer."""

import json
from dataclasses import replace

import pytest
import torch

from gnnaccel.train.checkpoint import load_checkpoint
from gnnaccel.train.config import ConfigError, load_config
from gnnaccel.train.link import LinkTask
from gnnaccel.train.pipeline import StageError
from gnnaccel.train.predict import Predictor
from gnnaccel.train.trainer import Interrupted, Trainer
from tests.harness import threads
from tests.train.test_link import SMALL, events  # noqa: F401

RUN = [*SMALL, "train.epochs=2", "train.learning_rate=0.01", "eval.negatives=3"]


@pytest.fixture(autouse=True)
def _one_thread():
    with threads(1):
        yield


def trainer(folder, events, *settings, preset="tgn"):  # noqa: F811
    return Trainer(LinkTask.create(load_config(preset, None, [*RUN, *settings]), events), folder, progress=False)


def outcome(folder, events, *settings, preset="tgn"):  # noqa: F811
    """Everything of a run that is not a time: metrics, and the weights and memory of its best epoch."""
    found = trainer(folder, events, *settings, preset=preset).fit()
    weights = load_checkpoint(folder / "best.pt")["model"]
    return str({k: v for k, v in found.items() if "second" not in k}), weights


def same(a, b):
    return a[0] == b[0] and all(torch.equal(a[1][k], b[1][k]) for k in a[1])


def resumed(folder, events, batch, *settings):  # noqa: F811
    """The same of a run that is stopped after `batch` batches and resumed."""
    first = trainer(folder, events, *settings)
    learnt, task_loss = 0, first.task.loss

    def loss(step):
        nonlocal learnt
        learnt += 1
        first._stop = learnt == batch
        return task_loss(step)

    first.task.loss = loss
    with pytest.raises(Interrupted):
        first.fit()
    second = trainer(folder, events, *settings)
    second.resume()
    found = second.fit()
    return str({k: v for k, v in found.items() if "second" not in k}), load_checkpoint(folder / "best.pt")["model"]


@pytest.mark.parametrize(
    "settings",
    [
        ("train.chunks=4",),
        ("train.staleness=2",),
        ("train.exact=true", "eval.exact=true"),
        ("train.staleness=1", "train.chunks=2", "train.lookahead=2"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("batch", [1, 7, 13])
def test_resume_is_bitwise_the_unbroken_run(tmp_path, events, settings, batch):  # noqa: F811
    assert same(resumed(tmp_path / "cut", events, batch, *settings), outcome(tmp_path / "whole", events, *settings))


@pytest.mark.parametrize("preset", ["tgn", "tgat"])
def test_lookahead_changes_no_bit(tmp_path, events, preset):  # noqa: F811
    small = ("sampler.neighbors=[3,3]",) if preset == "tgat" else ()
    want = outcome(tmp_path / "0", events, *small, preset=preset)
    for depth in (1, 4):
        settings = [*small, f"train.lookahead={depth}", f"eval.lookahead={depth}"]
        with threads(1 + depth % 2):
            assert same(outcome(tmp_path / str(depth), events, *settings, preset=preset), want)


@pytest.mark.parametrize("setting", ["train.chunks=4", "train.staleness=2", "train.exact=true", "eval.exact=true"])
def test_each_setting_does_something(tmp_path, events, setting):  # noqa: F811
    assert not same(outcome(tmp_path / "with", events, setting), outcome(tmp_path / "without", events))


@pytest.mark.parametrize(
    "settings", [(), ("train.exact=true", "eval.exact=true"), ("sampler.neighbors=[3,3]",)], ids=" ".join
)
def test_half_features_are_gathered_ahead(tmp_path, events, settings):  # noqa: F811
    """A stage of its own, with the bits of training on their float32 copy."""
    half = replace(events, edge_feat=events.edge_feat.half())
    want = outcome(tmp_path / "float", replace(events, edge_feat=half.edge_feat.float()), *settings)
    for depth in (0, 2):
        ahead = (f"train.lookahead={depth}", f"eval.lookahead={depth}")
        assert same(outcome(tmp_path / str(depth), half, *settings, *ahead), want)
        lines = [json.loads(line) for line in (tmp_path / str(depth) / "metrics.jsonl").read_text().splitlines()]
        assert "gather" in next(line["stage_seconds"] for line in lines if line["kind"] == "epoch")


def test_a_shifted_epoch_trains_on_every_event(tmp_path, events):  # noqa: F811
    run = trainer(tmp_path, events, "train.chunks=4", "train.epochs=5")
    starts = []
    for run.epoch in range(5):
        bounds = run.task.batch_bounds(run.epoch)
        assert (bounds[0], bounds[-1]) == (0, run.task.split.train.stop)
        starts.append(bounds[1])
    assert set(starts) <= {10, 20, 30, 40}
    assert len(set(starts)) > 1


def test_staleness_delays_what_a_batch_sees(events):  # noqa: F811
    """Batch b is computed on the memory from before batch b - s."""
    task = LinkTask.create(load_config("tgn", None, [*RUN, "train.staleness=2"]), events)
    run, seen = Trainer(task, "unused", progress=False), []
    loss = task.loss

    def watched(step):
        seen.append((step.events.start, int(task.model.mailbox.mail_time.max())))
        return loss(step)

    task.loss = watched
    run._train_epoch()
    t = events.t
    for i, (_, latest) in enumerate(seen):
        assert latest == (0 if i < 3 else int(t[seen[i - 2][0] - 1]))
    assert run.writes.pending == type(run.writes.pending)()
    assert int(task.model.mailbox.mail_time.max()) == int(t[task.split.train.stop - 1])


@pytest.mark.parametrize("preset", ["tgn", "jodie"])
def test_exact_evaluation_is_that_of_batch_one(events, preset):  # noqa: F811
    def scores(*settings):
        task = LinkTask.create(load_config(preset, None, [*RUN, *settings]), events)
        task.replay(task.split.train)
        found = task.evaluate(task.split.val, negatives=5)
        return str(found), {k: v.clone() for k, v in task.model.state_dict().items()}

    want = scores("eval.batch_size=1")
    for batch_size in (40, 600):
        assert same(scores("eval.exact=true", f"eval.batch_size={batch_size}"), want)
    assert not same(scores("eval.batch_size=40"), want)


def test_exact_predictions_see_all_events_before_them(events):  # noqa: F811
    def probabilities(*settings):
        task = LinkTask.create(load_config("tgn", None, [*RUN, *settings]), events)
        return Predictor(task).score(events.src[::7], events.dst[::7], events.t[::7] + 1)

    want = probabilities("eval.batch_size=1")
    assert torch.equal(probabilities("eval.exact=true", "eval.batch_size=100"), want)
    assert not torch.equal(probabilities("eval.batch_size=100"), want)


def test_stage_seconds_say_who_waits(tmp_path, events):  # noqa: F811
    trainer(tmp_path, events, "train.lookahead=2").fit()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    stages = next(line["stage_seconds"] for line in lines if line["kind"] == "epoch")
    assert {"sample", "wait.sample", "wait.compute", "forward", "backward", "optimizer", "state"} <= set(stages)


@pytest.mark.parametrize("lookahead", [0, 2])
def test_a_failing_sampler_is_named(tmp_path, events, lookahead):  # noqa: F811
    run = trainer(tmp_path, events, f"train.lookahead={lookahead}")

    def fails(part, epoch, batch):
        raise KeyError("no such node")

    run.task.training_step = fails
    with pytest.raises(StageError, match="stage 'sample' failed: KeyError: 'no such node'"):
        run.fit()


@pytest.mark.parametrize(
    ("preset", "settings", "message"),
    [
        ("tgn", ["train.chunks=3"], r"train.chunks must divide train.batch_size \(200\), got 3"),
        ("tgn", ["train.exact=true", "train.staleness=1"], "train.staleness must be 0 with train.exact, got 1"),
        ("tgat", ["train.exact=true"], "train.exact needs .* 'gru' or 'rnn', got memory.updater 'none'"),
        ("tgn", ["eval.exact=true", "sampler.neighbors=[5,5]"], "eval.exact needs one hop of sampler.neighbors"),
        ("tgn", ["eval.exact=true", "data.semantics=before_batch"], "do not depend on the batch, got before_batch"),
    ],
)
def test_settings_that_do_not_go_together(preset, settings, message):
    with pytest.raises(ConfigError, match=message):
        load_config(preset, None, settings)
