"""What a prediction may know: nothing at or after its time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from gnnaccel.data.synthetic import synthetic_events
from gnnaccel.ops._library import HAS_CPP
from gnnaccel.train.config import load_config
from gnnaccel.train.link import LinkTask
from gnnaccel.train.trainer import StageTimer, make_optimizer, train_step

SMALL = [
    "memory.dim=8",
    "aggregator.dim_time=6",
    "aggregator.dim=8",
    "sampler.neighbors=4",
    "model.dim_random=5",
    "train.batch_size=40",
    "eval.batch_size=40",
]


def small_config(*settings):
    return load_config("tgn", None, [*SMALL, *settings])


@pytest.fixture(scope="module")
def events():
    return synthetic_events(num_events=600, num_src=40, num_dst=20, feat_dim=3, seed=3)


def logits(events, *settings, upto=None):
    """Positive and negative logits of every event before `upto`, from an untrained model that lets them happen in order."""
    task = LinkTask.create(small_config(*settings), events)
    task.model.eval()
    out = []
    with torch.no_grad():
        for i, part in task.steps(slice(0, len(events)), 40):
            step = task.sample(part, fixed_negatives(events)[part], batch=i)
            positive, negative, rows = task.scores(step)
            task.commit(step, rows)
            out.append(torch.cat([positive.unsqueeze(1), negative], dim=1))
    return torch.cat(out)[:upto]


def fixed_negatives(events):
    # not drawn from the events: they must not change when an event does
    generator = torch.Generator().manual_seed(5)
    return torch.randint(events.num_nodes - 20, events.num_nodes, (len(events), 2), generator=generator)


def changed_after(events, i, how):
    """`events` with something about the events after i changed, and nothing about those up to i."""
    later = torch.arange(len(events)) > i
    if how == "features":
        return replace(events, edge_feat=torch.where(later[:, None], -3 * events.edge_feat - 1, events.edge_feat))
    if how == "destinations":
        return replace(events, dst=torch.where(later, events.dst.flip(0), events.dst))
    if how == "sources":
        return replace(events, src=torch.where(later, events.src.flip(0), events.src))
    if how == "times":
        return replace(events, t=torch.where(later, events.t + 1000, events.t))
    raise AssertionError(how)


@pytest.mark.parametrize("semantics", ["strict", "by_event_id", "before_batch", "inclusive"])
@pytest.mark.parametrize("how", ["features", "destinations", "sources", "times"])
@pytest.mark.parametrize("i", [0, 57, 203, 399])
def test_no_future_event_changes_a_prediction(events, i, how, semantics):
    """Bitwise, in the middle of a batch as at its end: events 58.. share a batch with event 57."""
    setting = f"data.semantics={semantics}"
    # under `inclusive` the events at the time of i are visible to it by request: change only what is later than that
    last = int(torch.searchsorted(events.t, events.t[i], right=True)) - 1 if semantics == "inclusive" else i
    before = logits(events, setting, upto=i + 1)
    after = logits(changed_after(events, last, how), setting, upto=i + 1)
    assert torch.equal(before, after)


@pytest.mark.parametrize("i", [1, 100, 259, 399])
def test_events_at_the_same_time_do_not_see_each_other(events, i):
    """Whatever their order: neither as neighbours nor, across batches of the grid, through memory."""
    tied = replace(events, t=events.t // 3000 * 3000)
    group = tied.t == tied.t[i]
    assert int(group.sum()) > 3
    group[i] = False
    flipped = torch.where(group, events.num_nodes - 1, events.dst)
    a, b = logits(tied), logits(replace(tied, dst=flipped))
    assert torch.equal(a[i], b[i])


def test_batches_are_cut_between_times(events):
    tied = replace(events, t=events.t // 3000 * 3000)
    task = LinkTask.create(small_config(), tied)
    parts = [part for _, part in task.steps(slice(0, 600), 40)]
    assert [p.start for p in parts] == [0, *(p.stop for p in parts[:-1])]
    assert parts[-1].stop == 600
    assert all(tied.t[p.stop - 1] < tied.t[p.stop] for p in parts[:-1])
    assert all(p.stop - p.start >= 40 for p in parts[:-1])
    loose = LinkTask.create(small_config("data.semantics=before_batch"), tied)
    assert loose.bounds(slice(0, 600), 40) == list(range(0, 601, 40))


def test_the_past_does_change_predictions(events):
    """The tests above can fail: what came before is used."""
    past = replace(events, edge_feat=torch.where((torch.arange(600) < 200)[:, None], 5.0, events.edge_feat))
    assert not torch.equal(logits(events)[400:], logits(past)[400:])


def test_counting_neighbours_tells_nothing(shared_data):
    """TGL's sampler gives positives fewer neighbours than negatives, so the count alone predicts the label (AUC 0.86)."""
    from gnnaccel.data.registry import load

    events = load(str(shared_data / "temporal" / "collegemsg"))
    task = LinkTask.create(small_config("sampler.neighbors=10"), events)
    part = task.split.test
    step = task.sample(part, task.draw(task.negatives, part, 1, 0))
    count = step.batch.block.count.numpy()
    B = part.stop - part.start
    # among destinations that have a full history the quota must be full, whether the edge is real or not
    past = task.graph.num_nodes and np.asarray(full_history(task, step, 10))
    pos, neg = count[B : 2 * B][past[B : 2 * B]], count[2 * B :][past[2 * B :]]
    labels = np.r_[np.ones(len(pos)), np.zeros(len(neg))]
    auc = roc_auc_score(labels, np.r_[pos, neg])
    assert min(len(pos), len(neg)) > 1000
    assert 0.48 <= auc <= 0.52


def full_history(task, step, k):
    """Roots with at least k events strictly before their time, counted from the raw stream."""
    events = task.events
    ends = torch.cat([events.src, events.dst])
    times = torch.cat([events.t, events.t])
    span = int(times.max() - times.min()) + 2
    keys = (ends * span + (times - times.min())).sort().values
    roots, at = step.batch.roots.long(), step.batch.times - times.min()
    return torch.searchsorted(keys, roots * span + at) - torch.searchsorted(keys, roots * span) >= k


def test_evaluation_does_not_depend_on_its_batch_size_where_memory_does_not(events):
    """Negatives are keyed by event, so before any memory exists the scores of a first batch are those of any grid."""
    a = LinkTask.create(small_config("eval.batch_size=30"), events)
    b = LinkTask.create(small_config("eval.batch_size=60"), events)
    ids = slice(100, 130)
    assert torch.equal(a.draw(a.negatives, ids, 5, 0), b.draw(b.negatives, slice(100, 160), 5, 0)[:30])


def test_training_negatives_are_those_of_each_batch(events, monkeypatch):
    monkeypatch.setattr("gnnaccel.train.link.DRAWN_EVENTS", 70)
    task = LinkTask.create(small_config(), events)
    calls, sample = [], task.negatives.sample
    monkeypatch.setattr(task.negatives, "sample", lambda *a, **k: calls.append(1) or sample(*a, **k))
    parts = [(e, slice(i, i + 30)) for e in (1, 2) for i in range(0, 390, 30)] + [
        (2, slice(60, 200)),
        (1, slice(0, 30)),
    ]
    got = [task.training_negatives(part, epoch) for epoch, part in parts]
    assert len(calls) < len(parts) - 5
    for (epoch, part), negatives in zip(parts, got, strict=True):
        assert torch.equal(negatives, task.draw(task.negatives, part, 1, epoch)), (epoch, part)


def test_loss_is_that_of_the_scores(events):
    task = LinkTask.create(small_config("aggregator.dropout=0"), events)
    task.replay(slice(0, 200))
    part = slice(200, 240)
    step = task.sample(part, task.draw(task.negatives, part, 3, 1))
    positive, negative, _ = task.scores(step)
    want = torch.nn.functional.softplus(-positive).mean() + torch.nn.functional.softplus(negative).mean()
    torch.testing.assert_close(task.loss(step)[0], want)


def test_evaluate_reports_every_metric(events):
    task = LinkTask.create(small_config(), events)
    task.replay(task.split.train)
    got = task.evaluate(task.split.val, negatives=7)
    again = LinkTask.create(small_config(), events)
    again.replay(again.split.train)
    # as text: a metric of an empty group is NaN, which equals itself only there
    assert str(got) == str(again.evaluate(again.split.val, negatives=7))
    assert {"ap", "auc", "mrr", "ap_historical", "auc_historical", "inductive_ap", "inductive_mrr"} <= set(got)
    assert 0 < got["mrr"] <= 1
    assert got["events"] == task.split.val.stop - task.split.val.start


def test_training_lowers_the_loss():
    events = synthetic_events(num_events=3000, num_src=60, num_dst=30, seed=1)
    task = LinkTask.create(small_config("train.learning_rate=0.005"), events)
    optimizer = make_optimizer(task)
    means = []
    for epoch in range(3):
        task.reset()
        losses = [
            train_step(task, optimizer, part, epoch, i, StageTimer(False))
            for i, part in task.steps(task.split.train, 40)
        ]
        means.append(torch.stack(losses).mean().item())
    assert means[2] < means[0] - 0.1


@pytest.mark.skipif(not HAS_CPP, reason="a promise of the CPU extension")
@pytest.mark.parametrize("threads", [1, 2])
def test_training_gives_the_same_bits_for_any_number_of_threads(events, threads):
    assert train_digest(events, threads) == train_digest(events, 1)


@pytest.mark.skipif(not HAS_CPP, reason="a promise of the CPU extension")
def test_training_gives_the_same_bits_at_full_size():
    """torch's own CPU kernels divide work between threads only from some thousand elements on, some of them with atomics."""
    events = synthetic_events(num_events=3000, num_src=300, num_dst=100, feat_dim=3, seed=3)
    runs = [train_digest(events, threads, "memory.dim=100", 200) for threads in (2, 2, 1)]
    assert runs[0] == runs[1] == runs[2]


def train_digest(events, threads, setting="memory.dim=8", batch_size=40):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        task = LinkTask.create(small_config(setting), events)
        optimizer = make_optimizer(task)
        for i, part in task.steps(slice(0, 10 * batch_size), batch_size):
            train_step(task, optimizer, part, 0, i, StageTimer(False))
        return [p.detach().numpy().tobytes() for p in task.model.parameters()]
    finally:
        torch.set_num_threads(before)


def test_float_times_and_no_features(events):
    plain = replace(events, t=events.t.double() / 7, edge_feat=None)
    out = logits(plain, "model.node_features=none")
    assert torch.isfinite(out).all()


def test_node_features_that_are_not_there(events):
    with pytest.raises(ValueError, match=r"node_features is 'given', but .* has none"):
        LinkTask.create(small_config("model.node_features=given"), events)
