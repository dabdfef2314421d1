"""What every preset owes: it learns, gives the same bits on any number of threads, and survives kill -9."""

import signal
import subprocess
import sys

import pytest
import torch

from gnnaccel.data.synthetic import synthetic_events
from gnnaccel.ops._library import HAS_CPP
from gnnaccel.train.config import load_config, preset_names
from gnnaccel.train.link import LinkTask
from gnnaccel.train.trainer import StageTimer, Trainer, make_optimizer, train_step
from tests.train.test_resume import same_weights, without_times

MODELS = [name for name in preset_names() if name != "edgebank"]
SMALL = ["memory.dim=16", "aggregator.dim=16", "model.dim_random=8", "train.learning_rate=0.003", "eval.negatives=5"]


def stream(num_events=1500):
    return synthetic_events(num_events=num_events, num_src=60, num_dst=30, feat_dim=3, seed=3)


def config_of(model, events, *settings):
    batch = ["train.batch_size=50", "eval.batch_size=50", "train.epochs=2"]
    return load_config(model, None, [*SMALL, *batch, *settings])


@pytest.mark.parametrize("model", MODELS)
def test_every_preset_learns_and_every_parameter_takes_part(model):
    events = stream(3000)
    task = LinkTask.create(config_of(model, events), events)
    optimizer = make_optimizer(task)
    before = {k: p.detach().clone() for k, p in task.model.named_parameters() if p.requires_grad}
    means = []
    for epoch in range(3):
        task.reset()
        part = slice(0, 2000)
        losses = [train_step(task, optimizer, e, epoch, i, StageTimer(False)) for i, e in task.steps(part, 50)]
        means.append(torch.stack(losses).mean().item())
    assert means[2] < 1.35  # 2 ln 2 = 1.386 is what a guess costs
    learned = {
        k: p for k, p in task.model.named_parameters() if p.requires_grad and p.numel()
    }  # dim_time 0: empty ones
    same = [k for k, p in learned.items() if torch.equal(before[k], p)]
    assert not same


@pytest.mark.skipif(not HAS_CPP, reason="a promise of the CPU extension")
@pytest.mark.parametrize("model", MODELS)
def test_every_preset_gives_the_same_bits_for_any_number_of_threads(model):
    """At full size: torch divides work among threads only from some thousand elements on."""
    events = synthetic_events(num_events=1200, num_src=200, num_dst=80, feat_dim=3, seed=3)

    def digest(threads):
        torch.set_num_threads(threads)
        task = LinkTask.create(load_config(model), events)
        optimizer = make_optimizer(task)
        for i, part in task.steps(slice(0, 600), 200):
            train_step(task, optimizer, part, 0, i, StageTimer(False))
        scores = task.evaluate(slice(600, 800), negatives=5)
        state = [x.numpy().tobytes() for x in task.model.state_dict().values()]
        return state, scores["mrr"], scores["ap"]

    before = torch.get_num_threads()
    try:
        one, two = digest(1), digest(2)
    finally:
        torch.set_num_threads(before)
    assert one == two


KILLED = """
import os, signal, sys
import torch
from tests.train.test_presets import config_of, stream
from gnnaccel.train.link import LinkTask
from gnnaccel.train.trainer import Trainer

torch.set_num_threads(1)
model, folder, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
events = stream()
task = LinkTask.create(config_of(model, events, "train.checkpoint_batches=4"), events)
commit, seen = task.commit, []

def commit_then_die(*args):
    commit(*args)
    if task.model.training:
        seen.append(1)
    if len(seen) == at:
        os.kill(os.getpid(), signal.SIGKILL)

task.commit = commit_then_die
Trainer(task, folder, progress=False).fit()
"""


@pytest.mark.parametrize("model", MODELS)
def test_every_preset_resumes_after_kill_9_with_the_same_bits(model, tmp_path):
    events, at = stream(), 27 + len(model)  # in the second epoch, between two checkpoints or just after one
    died = subprocess.run([sys.executable, "-c", KILLED, model, str(tmp_path / "cut"), str(at)], timeout=240)
    assert died.returncode == -signal.SIGKILL

    def trainer(folder):
        task = LinkTask.create(config_of(model, events, "train.checkpoint_batches=4"), events)
        return Trainer(task, folder, progress=False)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole, cut = trainer(tmp_path / "whole"), trainer(tmp_path / "cut")
        whole.fit()
        cut.resume()
        assert cut.epoch == 1 and 0 < cut.batch < 21
        cut.fit()
    finally:
        torch.set_num_threads(threads)
    assert same_weights(tmp_path / "cut" / "best.pt", tmp_path / "whole" / "best.pt")
    assert without_times(tmp_path / "cut" / "metrics.jsonl") == without_times(tmp_path / "whole" / "metrics.jsonl")
