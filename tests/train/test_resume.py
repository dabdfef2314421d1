"""A run killed at any moment and resumed gives bitwise the result of the unbroken run."""

import json
import random
import signal
import subprocess
import sys
import time
import types

import pytest
import torch

from gnnaccel.train.checkpoint import CheckpointError, load_checkpoint
from gnnaccel.train.link import LinkTask
from gnnaccel.train.trainer import Interrupted, Trainer, TrainingError
from tests.train.test_link import SMALL, events, small_config  # noqa: F401

SETTINGS = [*SMALL, "train.epochs=3", "train.checkpoint_batches=2", "train.patience=9", "eval.negatives=5"]


def trainer(folder, events, *settings):  # noqa: F811
    task = LinkTask.create(small_config("train.epochs=2", "eval.negatives=5", *settings), events)
    return Trainer(task, folder, progress=False)


def same_weights(a, b):
    left, right = load_checkpoint(a)["model"], load_checkpoint(b)["model"]
    assert left.keys() == right.keys()
    return all(torch.equal(left[k], right[k]) for k in left)


def without_times(lines):
    rows = [json.loads(x) for x in lines.read_text().splitlines()]
    return [[f"{k}={v}" for k, v in row.items() if "second" not in k] for row in rows]


@pytest.mark.parametrize("batch", [1, 5, 11, 12, 17])
def test_resume_from_any_batch_is_bitwise_the_unbroken_run(tmp_path, events, batch, monkeypatch):  # noqa: F811
    whole = trainer(tmp_path / "whole", events)
    want = whole.fit()
    first = trainer(tmp_path / "cut", events)
    seen = 0
    commit = first.task.commit

    def commit_then_ask_to_stop(*args):
        nonlocal seen
        commit(*args)
        seen += 1
        first._stop = first._stop or (seen == batch and first.task.model.training)

    monkeypatch.setattr(first.task, "commit", commit_then_ask_to_stop)
    try:
        got = first.fit()
    except Interrupted:
        second = trainer(tmp_path / "cut", events)
        torch.rand(17)  # the state of the generator must come from the checkpoint
        second.resume()
        got = second.fit()
    drop = ("seconds_per_epoch", "data")
    # as text: a metric of an empty group is NaN, which equals itself only there
    assert [f"{k}={v}" for k, v in got.items() if k not in drop] == [
        f"{k}={v}" for k, v in want.items() if k not in drop
    ]
    assert same_weights(tmp_path / "cut" / "best.pt", tmp_path / "whole" / "best.pt")
    assert without_times(tmp_path / "cut" / "metrics.jsonl") == without_times(tmp_path / "whole" / "metrics.jsonl")


def test_a_finished_run_is_trained_further(tmp_path, events):  # noqa: F811
    """As if it had been asked for so many epochs at first; and says so when there is nothing left to do."""
    want = trainer(tmp_path / "whole", events).fit()
    first = trainer(tmp_path / "more", events, "train.epochs=1")
    assert first.finished is None
    first.fit()
    again = trainer(tmp_path / "more", events, "train.epochs=1")
    again.resume()
    assert again.finished == "all 1 epochs are trained; for more, raise train.epochs"
    more = trainer(tmp_path / "more", events)
    more.resume()
    assert more.finished is None
    assert more.fit()["test_ap"] == want["test_ap"]
    assert same_weights(tmp_path / "more" / "best.pt", tmp_path / "whole" / "best.pt")
    assert without_times(tmp_path / "more" / "metrics.jsonl") == without_times(tmp_path / "whole" / "metrics.jsonl")


def run(folder, *extra):
    settings = [x for s in SETTINGS for x in ("--set", s)]
    command = [sys.executable, "-m", "gnnaccel", "train", "tgn", "--data", "synthetic:events=3000,seed=2"]
    return subprocess.Popen(
        [*command, "--out", str(folder), "--quiet", "--threads", "1", "--device", "cpu", *settings, *extra],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_kill_9_at_random_moments(tmp_path):
    whole = run(tmp_path / "whole")
    err = whole.communicate(timeout=240)[1]
    assert whole.returncode == 0, err
    rng, kills, folder = random.Random(4), 0, tmp_path / "killed"
    for _ in range(12):
        # a run that has not come to its first checkpoint has nothing to resume: it starts over
        resume = ["--resume"] if (folder / "checkpoint.pt").exists() else ["--overwrite"]
        process = run(folder, *resume)
        deadline = time.monotonic() + 120
        while not (folder / "checkpoint.pt").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            process.wait(timeout=(3.5 if resume == ["--resume"] else 0.0) + rng.random() * 1.5 if kills < 4 else 240)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += 1
        finally:
            process.communicate()
    assert process.returncode == 0
    assert kills >= 1
    assert same_weights(folder / "best.pt", tmp_path / "whole" / "best.pt")
    assert without_times(folder / "metrics.jsonl") == without_times(tmp_path / "whole" / "metrics.jsonl")


def test_a_checkpoint_of_other_data_or_settings_is_refused(tmp_path, events):  # noqa: F811
    trainer(tmp_path, events).fit()
    with pytest.raises(CheckpointError, match="not the same; start a new run"):
        trainer(tmp_path, events.slice(0, 500)).resume()
    with pytest.raises(CheckpointError, match=r"train.learning_rate=0.0001, now it is 0.01"):
        trainer(tmp_path, events, "train.learning_rate=0.01").resume()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path, events):  # noqa: F811
    run_ = trainer(tmp_path, events, "train.checkpoint_batches=1")
    step, seen = run_.task.loss, []

    def loss(batch):
        seen.append(1)
        value, rows = step(batch)
        return value * (float("nan") if len(seen) == 4 else 1), rows

    run_.task.loss = loss
    with pytest.raises(TrainingError, match=r"the loss became nan in epoch 1, batch 4.*last good checkpoint"):
        run_.fit()
    assert load_checkpoint(tmp_path / "checkpoint.pt")["batch"] == 3


def test_early_stopping_and_zero_epochs(tmp_path, events):  # noqa: F811
    run_ = trainer(tmp_path / "a", events, "train.epochs=50", "train.patience=1", "train.learning_rate=1e-9")
    results = run_.fit()
    assert results["epochs"] < 50
    assert results["best_epoch"] >= 1
    assert run_.finished == "validation has not improved for 1 epochs; for more, raise train.patience"
    untrained = trainer(tmp_path / "b", events, "train.epochs=0").fit()
    assert untrained["epochs"] == 0
    assert untrained["test_events"] == results["test_events"]


def test_curves_go_to_tensorboard_where_it_is_installed(tmp_path, events, monkeypatch):  # noqa: F811
    seen = {}

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            assert folder == str(tmp_path / "tensorboard")
            assert purge_step == 1

        def __enter__(self):
            return self

        def __exit__(self, *error):
            seen["closed"] = True

        def add_scalar(self, name, value, step):
            seen[name, step] = value

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    results = trainer(tmp_path, events).fit()
    assert seen["epoch/loss", 1] > 0
    assert seen["epoch/val_ap", results["best_epoch"]] == results["val_ap"]
    assert seen["test/test_ap", 3] == results["test_ap"]
    assert seen["closed"]
