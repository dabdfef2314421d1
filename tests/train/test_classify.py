"""A label is told from what came before its event, the same way every time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gnnaccel.data import DataError, synthetic_events
from gnnaccel.train.classify import FrozenTask, JointTask, classifier_inputs, collect_embeddings
from gnnaccel.train.config import ConfigError
from gnnaccel.train.link import LinkTask
from gnnaccel.train.trainer import Interrupted, StageTimer, Trainer, make_optimizer, train_step
from tests.train.test_link import changed_after, small_config
from tests.train.test_resume import same_weights, without_times

SETTINGS = ("classify.hidden=8", "train.epochs=2", "train.batch_size=50", "train.learning_rate=0.01")


def config(task="node", *settings):
    return small_config(f"classify.task={task}", *SETTINGS, *settings)


@pytest.fixture(scope="module")
def events():
    plain = synthetic_events(num_events=600, num_src=40, num_dst=20, feat_dim=3, seed=3)
    return replace(plain, label=(plain.src % 3 == 0).long())


def embeddings(events, path, both=True, *settings):
    return collect_embeddings(LinkTask.create(small_config(*settings), events), path, both=both)


def frozen(events, path, task="node", *settings):
    c = config(task, *settings)
    return FrozenTask.create(c, events, LinkTask.create(c, events).split, embeddings(events, path))


@pytest.mark.parametrize("how", ["features", "destinations", "times"])
@pytest.mark.parametrize("i", [57, 203, 399])
def test_an_embedding_knows_nothing_at_or_after_its_event(events, tmp_path, i, how):
    """Bitwise, the event itself included: neither its features, its other end nor what follows is in the source's row."""
    before = embeddings(events, tmp_path / "a.npy")
    # the event itself changes too, but not when its source acts
    last = i if how == "times" else i - 1
    after = embeddings(changed_after(events, last, how), tmp_path / "b.npy")
    assert np.array_equal(before[: i + 1, 0], after[: i + 1, 0])
    assert np.array_equal(before[:i], after[:i])
    if how != "destinations":
        assert np.array_equal(before[i], after[i])


def test_the_past_is_in_the_embedding(events, tmp_path):
    past = replace(events, edge_feat=torch.where((torch.arange(600) < 200)[:, None], 5.0, events.edge_feat))
    assert not np.array_equal(embeddings(events, tmp_path / "a.npy")[400:], embeddings(past, tmp_path / "b.npy")[400:])


def test_embeddings_are_those_of_evaluation_and_are_kept(events, tmp_path, monkeypatch):
    path = tmp_path / "x.npy"
    rows = embeddings(events, path)
    assert rows.shape == (600, 2, 8)
    assert {p.name for p in tmp_path.iterdir()} == {"x.npy", "x.json"}
    task = LinkTask.create(small_config(), events)
    task.model.eval()
    task.replay(slice(0, 400))
    with torch.no_grad():
        h = task.embed(torch.cat([task.src[400:440], task.dst[400:440]]), task.t[400:440].repeat(2))
    assert np.array_equal(rows[400:440, 0], h[:40].numpy())
    assert np.array_equal(rows[400:440, 1], h[40:].numpy())
    assert np.array_equal(embeddings(events, tmp_path / "y.npy", False), rows[:, :1])
    # again: taken from the file; of another model: not
    monkeypatch.setattr(LinkTask, "commit", lambda *a: pytest.fail("replayed"))
    assert np.array_equal(embeddings(events, path), rows)
    monkeypatch.undo()
    assert not np.array_equal(embeddings(events, path, True, "train.seed=1"), rows)


def test_what_the_classifier_sees():
    src, dst, feat = torch.ones(2, 3), torch.zeros(2, 3), torch.full((2, 1), 9.0)

    def seen(task, sees):
        return classifier_inputs(config(task, f"classify.sees_event={sees}"), src, dst, feat)[0].tolist()

    assert seen("node", False) == [1, 1, 1]
    assert seen("node", True) == [1, 1, 1, 0, 0, 0, 9]
    assert seen("edge", False) == [1, 1, 1, 0, 0, 0, 1, 1, 1]
    assert seen("edge", True) == [1, 1, 1, 0, 0, 0, 1, 1, 1, 9]


@pytest.mark.parametrize("balance", ["none", "weight", "sample"])
def test_batches_of_an_epoch(events, tmp_path, balance):
    task = frozen(events, tmp_path / "x.npy", "node", f"classify.balance={balance}")
    train = task.split.train

    def epoch(n):
        parts = [p for _, p in task.steps(train, 50)]
        return torch.cat([task.training_step(p, n, i).rows for i, p in enumerate(parts)])

    rows = epoch(0)
    assert len(rows) == train.stop - train.start
    assert torch.equal(rows, epoch(0))
    assert not torch.equal(rows, epoch(1))
    share = float((task.labels.y[rows] == 1).double().mean())
    if balance == "sample":
        assert 0.4 < share < 0.6
        assert int(rows.max()) < train.stop
    else:
        assert sorted(rows.tolist()) == list(range(train.start, train.stop))
    assert (task.weights is not None) == (balance == "weight")


def test_weights_make_classes_count_alike(events, tmp_path):
    task = frozen(events, tmp_path / "x.npy", "node", "classify.balance=weight", "classify.dropout=0")
    rows = torch.arange(task.split.train.start, task.split.train.stop)
    step = task.training_step(task.split.train, 0, 0)._replace(rows=rows)
    loss, _ = task.loss(step)
    x = torch.from_numpy(np.array(task.embeddings[rows.numpy(), 0]))
    each = torch.nn.functional.cross_entropy(task.model(x).double(), task.labels.y[rows], reduction="none")
    y = task.labels.y[rows]
    want = (each[y == 0].mean() + each[y == 1].mean()) / 2
    assert loss.item() == pytest.approx(want.item(), rel=1e-5)


@pytest.mark.parametrize("task", ["node", "edge"])
@pytest.mark.parametrize("joint", [False, True])
def test_training_tells_labels_that_can_be_told(events, tmp_path, task, joint):
    """The label is a function of the source, which its past destinations tell, or which is in the rows given."""
    c = config(task, "train.epochs=6", f"classify.end_to_end={joint}")
    if joint:
        made = JointTask.create(c, events)
    else:
        rows = np.random.default_rng(0).standard_normal((600, 2, 5), dtype=np.float32)
        rows[:, 0, 3] += 2 * events.label.numpy()
        made = FrozenTask.create(c, events, LinkTask.create(c, events).split, rows)
    results = Trainer(made, tmp_path / "run", progress=False).fit()
    assert results["task"] == task
    assert results["end_to_end"] is joint
    assert results["test_events"] == 90
    assert results["test_auc"] > 0.6
    assert results["val_auc"] > 0.6


def test_end_to_end_trains_both(events):
    task = JointTask.create(config("node", "classify.end_to_end=true"), events)
    before = {k: v.clone() for k, v in task.model.named_parameters()}
    optimizer = make_optimizer(task)
    for i, part in task.steps(slice(0, 150), 50):
        train_step(task, optimizer, part, 0, i, StageTimer())
    moved = {k.split(".")[0] for k, v in task.model.named_parameters() if not torch.equal(v, before[k])}
    assert {"classifier", "decoder"} < moved
    assert len(moved) > 2  # and what is below them


def test_links_alone_are_the_link_task(events):
    """The label loss is added to that of `LinkTask`, nothing else differs."""
    task = JointTask.create(config("node", "classify.end_to_end=true"), events)
    link = LinkTask.create(config("node", "classify.end_to_end=true"), events)
    step, plain = (t.training_step(slice(0, 50), 0, 0) for t in (task, link))
    h, _ = task.model.embed(step.batch, task.edge_feat)
    logits = task._logits(step, h)
    label = torch.nn.functional.cross_entropy(logits, task.labels.y[:50])
    torch.testing.assert_close(task.loss(step)[0], label + link.loss(plain)[0])


@pytest.mark.parametrize("joint", [False, True])
def test_resume_is_bitwise_the_unbroken_run(events, tmp_path, joint, monkeypatch):
    def make():
        if joint:
            return JointTask.create(config("edge", "classify.end_to_end=true"), events)
        return frozen(events, tmp_path / "x.npy", "edge")

    want = Trainer(make(), tmp_path / "whole", progress=False).fit()
    first = Trainer(make(), tmp_path / "cut", progress=False)
    seen = 0
    loss = first.task.loss

    def loss_then_ask_to_stop(step):
        nonlocal seen
        seen += 1
        first._stop = first._stop or seen == 12
        return loss(step)

    monkeypatch.setattr(first.task, "loss", loss_then_ask_to_stop)
    with pytest.raises(Interrupted):
        first.fit()
    second = Trainer(make(), tmp_path / "cut", progress=False)
    torch.rand(7)
    second.resume()
    got = second.fit()
    assert {k: v for k, v in got.items() if "seconds" not in k} == {k: v for k, v in want.items() if "seconds" not in k}
    assert same_weights(tmp_path / "cut" / "best.pt", tmp_path / "whole" / "best.pt")
    assert without_times(tmp_path / "cut" / "metrics.jsonl") == without_times(tmp_path / "whole" / "metrics.jsonl")


@pytest.mark.parametrize("joint", [False, True])
def test_one_thread_and_two_give_the_same_bits(events, tmp_path, joint):
    """At sizes where libraries would split their sums."""
    wide = ("classify.hidden=128", "classify.balance=weight", "train.batch_size=400")
    threads, weights = torch.get_num_threads(), []
    rows = np.random.default_rng(0).standard_normal((600, 2, 160), dtype=np.float32)
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            if joint:
                task = JointTask.create(config("edge", "classify.end_to_end=true", *wide), events)
            else:
                c = config("edge", *wide)
                task = FrozenTask.create(c, events, LinkTask.create(c, events).split, rows)
            optimizer = make_optimizer(task)
            task.model.train()
            for i, part in task.steps(task.split.train, 400):
                train_step(task, optimizer, part, 0, i, StageTimer())
            weights.append([p.detach().clone() for p in task.model.parameters()])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_what_cannot_be_is_refused(events, tmp_path):
    with pytest.raises(ConfigError, match="must not be 'sample' end to end"):
        JointTask.create(config("node", "classify.balance=sample"), events)
    with pytest.raises(DataError, match="has no labels"):
        JointTask.create(config("node"), replace(events, label=None))
