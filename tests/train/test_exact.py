"""A large batch in exact mode is batch 1: same memory, same scores, bit for bit."""

from dataclasses import replace

import pytest
import torch

from gnnaccel.data.synthetic import synthetic_events
from gnnaccel.train.exact import event_groups, exact_commit, exact_embed
from gnnaccel.train.link import LinkTask
from tests.harness import threads
from tests.train.test_link import fixed_negatives, small_config


@pytest.fixture(scope="module")
def events():
    """With ties, self-loops, and chains of events between the same nodes."""
    events = synthetic_events(num_events=400, num_src=20, num_dst=12, feat_dim=3, seed=3)
    src = events.src.clone()
    src[::29] = events.dst[::29]
    return replace(events, src=src, t=events.t // 300 * 300, bipartite=False)


@pytest.fixture(autouse=True)
def _one_thread():
    with threads(1):  # batches of one event are too small to share
        yield


def state(task):
    return {k: v.clone() for k, v in task.model.state_dict().items() if k.startswith(("memory.", "mailbox."))}


def embed(task, step, exact):
    if not exact:
        return task.model.embed(step.batch, task.edge_feat)
    ids = torch.arange(step.events.start, step.events.stop)
    groups = event_groups(task.t[step.events], task.config.data.semantics)
    return exact_embed(task.model, step.batch, ids, groups, task.edge_feat)


def commit(task, step, rows, exact):
    if exact:
        exact_commit(task.model, rows)
    else:
        task.commit(step, rows)


def run(events, batch_size, exact, *settings):
    """Logits of all events and of two candidates each, and the state after them, from an untrained model."""
    task = LinkTask.create(small_config(*settings), events)
    task.model.eval()
    out, decoder = [], task.model.decoder
    with torch.no_grad():
        for i, part in task.steps(slice(0, len(events)), batch_size):
            step = task.sample(part, fixed_negatives(events)[part], batch=i)
            h, rows = embed(task, step, exact)
            commit(task, step, rows, exact)
            B = part.stop - part.start
            others = torch.cat([h[B : 2 * B].unsqueeze(1), h[2 * B :].view(B, 2, -1)], dim=1)
            out.append(decoder(h[:B].unsqueeze(1), others))
    return torch.cat(out), state(task)


def same(a, b):
    return torch.equal(a[0], b[0]) and all(torch.equal(a[1][k], b[1][k]) for k in a[1])


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("memory.updater=rnn",),
        ("model.node_features=random",),
        ("data.semantics=by_event_id",),
        ("data.semantics=inclusive",),
    ],
)
def test_any_batch_size_gives_the_bits_of_batch_one(events, settings):
    one = run(events, 1, False, *settings)
    for batch_size in (1, 37, 400):
        assert same(run(events, batch_size, True, *settings), one), batch_size
    # the test can fail: batches without levels miss what happens in them
    assert not same(run(events, 37, False, *settings), one)


def test_without_edge_features(events):
    plain = replace(events, edge_feat=None)
    assert same(run(plain, 100, True), run(plain, 1, False))


def test_float_times(events):
    floats = replace(events, t=events.t.double() + 0.5)
    assert same(run(floats, 100, True), run(floats, 1, False))


def test_threads_change_no_bit(events):
    one = run(events, 100, True)
    with threads(2):
        assert same(run(events, 100, True), one)


def gradients(events, batch_size, exact):
    """Of the summed logits of events 200..400 with fixed weights, added up over their batches, in float64."""
    task = LinkTask.create(small_config(), events)
    task.model.double().eval()
    task.edge_feat = task.edge_feat.double()
    for i, part in task.steps(slice(0, len(events)), batch_size):
        step = task.sample(part, fixed_negatives(events)[part], batch=i)
        h, rows = embed(task, step, exact)
        B = part.stop - part.start
        if part.start >= 200:
            task.model.decoder(h[:B], h[B : 2 * B]).sum().backward()
        commit(task, step, rows, exact)
    return {k: p.grad for k, p in task.model.named_parameters()}


def test_gradients_are_the_sum_of_those_of_batch_one(events):
    cut = int(torch.searchsorted(events.t, events.t[200]))
    ordered = replace(events, t=torch.cat([events.t[:cut], events.t[cut:] + 300]))
    want, got = gradients(ordered, 1, False), gradients(ordered, 100, True)
    assert want["updater.weight_ih"].abs().max() > 0
    for name, grad in want.items():
        if grad is None:
            assert got[name] is None
        else:
            torch.testing.assert_close(got[name], grad, rtol=1e-9, atol=1e-11, msg=name)


def test_no_future_event_changes_a_prediction(events):
    later = torch.arange(len(events)) > 250
    changed = replace(events, edge_feat=torch.where(later[:, None], 7.0, events.edge_feat))
    group = events.t <= events.t[250]
    a, b = run(events, 200, True)[0], run(changed, 200, True)[0]
    assert torch.equal(a[group], b[group])
    assert not torch.equal(a[~group], b[~group])


def test_groups():
    t = torch.tensor([3, 3, 5, 6, 6, 6])
    assert event_groups(t, "strict").tolist() == [0, 0, 1, 2, 2, 2]
    assert event_groups(t, "by_event_id").tolist() == [0, 1, 2, 3, 4, 5]
    assert event_groups(t[:0], "strict").tolist() == []
