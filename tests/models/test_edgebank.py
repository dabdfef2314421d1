"""EdgeBank against a dictionary, its arithmetic by hand, and the command."""

import csv
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from gnnaccel.data.synthetic import synthetic_events
from gnnaccel.models import EdgeBank
from gnnaccel.train.config import ConfigError, load_config
from gnnaccel.train.link import LinkTask


def bank(src, dst, t, n=5, **options):
    return EdgeBank(torch.tensor(src), torch.tensor(dst), torch.tensor(t), num_nodes=n, **options)


def ask(model, src, dst, t):
    return model(torch.tensor(src), torch.tensor(dst), torch.tensor(t)).tolist()


def test_knows_pairs_strictly_before():
    model = bank([0, 1, 0], [3, 4, 3], [10, 20, 30])
    assert ask(model, [0, 0, 0, 1, 1], [3, 3, 3, 4, 4], [10, 11, 99, 20, 21]) == [0, 1, 1, 0, 1]
    # ordered, and pairs that never were: before, between and after the known ones
    assert ask(model, [3, 0, 0, 2, 4], [0, 0, 4, 2, 4], [99] * 5) == [0] * 5
    assert ask(model, [0, 1], [[3, 4, 0], [3, 4, 4]], [11, 21]) == [[1, 0, 0], [0, 1, 1]]


def test_window_counts_from_the_last_event():
    model = bank([0, 0, 1], [3, 3, 4], [10, 20, 20], window=5)
    assert ask(model, [0] * 7, [3] * 7, [10, 11, 15, 16, 20, 25, 26]) == [0, 1, 1, 0, 0, 1, 0]
    assert ask(bank([0, 0], [3, 3], [10, 20], window=0), [0], [3], [21]) == [0]
    fractional = bank([0], [3], [1.25], window=0.5)
    assert ask(fractional, [0, 0], [3, 3], [1.75, 1.76]) == [1, 0]


@pytest.mark.parametrize("window", [None, 0, 7, 60])
def test_against_a_dictionary(window):
    gen = torch.Generator().manual_seed(0)
    E, N = 400, 9
    src, dst = torch.randint(0, N, (2, E), generator=gen)
    t = torch.randint(0, 300, (E,), generator=gen).sort().values
    model = EdgeBank(src, dst, t, num_nodes=N, window=window)
    candidates = torch.randint(0, N, (E, 6), generator=gen)
    last: dict[tuple[int, int], int] = {}
    want, i = torch.zeros(E, 6), 0
    for e in range(E):
        while t[i] < t[e]:
            last[int(src[i]), int(dst[i])] = int(t[i])
            i += 1
        for c in range(6):
            seen = last.get((int(src[e]), int(candidates[e, c])))
            want[e, c] = seen is not None and (window is None or int(t[e]) - seen <= window)
    assert torch.equal(model(src, candidates, t), want)
    assert 0 < want.mean() < 1 or window == 0
    order = torch.randperm(E, generator=gen)
    assert torch.equal(model(src[order], candidates[order], t[order]), want[order])


def test_empty():
    none = torch.empty(0, dtype=torch.int64)
    model = EdgeBank(none, none, none, num_nodes=3)
    assert ask(model, [0, 1], [1, 2], [5, 6]) == [0, 0]
    assert bank([0], [1], [1])(none, none, none).shape == (0,)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: bank([0], [1], [1], window=-1), "window must be >= 0, got -1"),
        (lambda: bank([0, 0], [1, 1], [2, 1]), "t must be in time order"),
        (lambda: ask(bank([0], [1], [1]), [0], [5], [2]), r"dst must hold ids in \[0, 5\), got 5..5"),
        (lambda: ask(bank([0], [1], [1]), [-1], [1], [2]), r"src must hold ids in \[0, 5\), got -1..-1"),
    ],
)
def test_errors(call, match):
    with pytest.raises(ValueError, match=f"EdgeBank: {match}"):
        call()


def evaluate(events, *settings):
    task = LinkTask.create(load_config("edgebank", None, ["eval.negatives=5", *settings]), events)
    return task.evaluate(task.split.test, negatives=5)


def test_same_protocol_as_the_models():
    events = synthetic_events(num_events=1500, num_src=60, num_dst=30)
    got = evaluate(events)
    # scores and metrics by hand, from the same negatives
    task = LinkTask.create(load_config("edgebank"), events)
    part, model = task.split.test, EdgeBank(events.src, events.dst, events.t, num_nodes=events.num_nodes)
    negatives = task.draw(task.negatives, part, 5, 0)
    src, dst, t = events.src[part], events.dst[part], events.t[part]
    positive, other = model(src, dst, t), model(src, negatives, t)
    above, equal = (other > positive[:, None]).sum(1), (other == positive[:, None]).sum(1)
    assert got["mrr"] == pytest.approx((1 / (1 + above + 0.5 * equal)).double().mean().item())
    assert got["auc"] == pytest.approx(
        (
            (positive[:, None] > other[:, 0]).double().mean() + 0.5 * (positive[:, None] == other[:, 0]).double().mean()
        ).item()
    )
    assert got["events"] == part.stop - part.start
    assert evaluate(events, "eval.batch_size=7") == pytest.approx(got, rel=1e-15, nan_ok=True)


def test_window_of_the_length_of_validation():
    events = synthetic_events(num_events=1500, num_src=60, num_dst=30)
    val = LinkTask.create(load_config("edgebank"), events).split.val
    span = int(events.t[val.stop - 1] - events.t[val.start])
    by_name, by_length = evaluate(events, "edgebank.window=val"), evaluate(events, f"edgebank.window={span}")
    assert by_name["ap_historical"] == by_length["ap_historical"] != evaluate(events)["ap_historical"]


def test_no_future_event_changes_a_score():
    events = synthetic_events(num_events=600, num_src=40, num_dst=20)
    model = EdgeBank(events.src, events.dst, events.t, num_nodes=events.num_nodes)
    later = events.t >= events.t[300]
    changed = replace(events, dst=torch.where(later, events.dst.flip(0), events.dst))
    other = EdgeBank(changed.src, changed.dst, changed.t, num_nodes=events.num_nodes)
    ask = torch.arange(301)
    every = torch.arange(40, 60).expand(301, -1)
    assert torch.equal(model(events.src[ask], every, events.t[ask]), other(events.src[ask], every, events.t[ask]))


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ("train.epochs=3", "train.epochs must be 0 for edgebank, which has nothing to train, got 3"),
        ("data.semantics=inclusive", "data.semantics must be 'strict' for edgebank, got 'inclusive'"),
        ("edgebank.window=-1", "edgebank.window: .*must be 'none', 'val' or a time >= 0, got -1"),
        ("edgebank.window=month", "edgebank.window"),
    ],
)
def test_settings(setting, match):
    with pytest.raises(ConfigError, match=match):
        evaluate(synthetic_events(num_events=600, num_src=40, num_dst=20), setting)


def test_command(tmp_path):
    def gnnaccel(*args):
        done = subprocess.run([sys.executable, "-m", "gnnaccel", *args], capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run = str(tmp_path / "run")
    shown = gnnaccel("train", "edgebank", "--data", "synthetic", "--out", run, "--quiet", "--threads", "1")
    assert "MRR (100 negatives)" in shown
    assert "nothing trained" in shown
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["model"] == "edgebank"
    assert results["epochs"] == 0
    assert 0.6 < results["test_ap"] < 1
    again = json.loads(gnnaccel("eval", run, "--json", "--quiet"))
    assert again["test_mrr"] == results["test_mrr"]
    events = synthetic_events()
    (tmp_path / "q.csv").write_text(f"src,dst,t\n{events.src[0]},{events.dst[0]},{events.t[-1]}\n0,600,0\n")
    rows = list(csv.DictReader(gnnaccel("predict", run, "--input", str(tmp_path / "q.csv"), "--quiet").splitlines()))
    assert [float(r["score"]) for r in rows] == [1, 0]
