"""A session answers as evaluation does, however events come."""

import dataclasses
import itertools
import threading

import numpy as np
import pytest
import torch

import gnnaccel as ga
from gnnaccel.data.events import TemporalEvents
from gnnaccel.data.synthetic import synthetic_events
from gnnaccel.train.checkpoint import CheckpointError
from gnnaccel.train.config import load_config
from gnnaccel.train.link import LinkTask
from gnnaccel.train.session import Session
from tests.harness import INTERPRET

pytestmark = pytest.mark.skipif(INTERPRET, reason="not about Triton")

SMALL = ["memory.dim=12", "memory.dim_time=8", "aggregator.dim=12", "aggregator.dim_time=8", "sampler.neighbors=[4]"]
PRESETS = {
    "tgn": [*SMALL],
    "jodie": [*SMALL[:3]],
    "apan": [*SMALL[:3], "sampler.neighbors=[3]", "mailbox.slots=4"],
    "mail": [*SMALL, "mailbox.deliver=neighbors"],
    "tgat": [*SMALL[2:4], "sampler.neighbors=[3,2]", "sampler.strategy=recent", "model.dim_random=6"],
    "tgn-features": [*SMALL, "model.node_features=random", "model.dim_random=6"],
}


def stream(n=400, seed=1, **options):
    return synthetic_events(n, 40, 20, feat_dim=3, seed=seed, **options)


def make_task(preset="tgn", events=None, batch_size=16, more=()):
    settings = [*PRESETS[preset], f"eval.batch_size={batch_size}", *more]
    config = load_config({"mail": "tgn"}.get(preset, preset.removesuffix("-features")), overrides=settings)
    task = LinkTask.create(config, stream() if events is None else events)
    gen = torch.Generator().manual_seed(5)
    with torch.no_grad():  # so that weights which start at zero count too
        for p in task.model.parameters():
            p.add_(torch.randn(p.shape, generator=gen) * 0.05)
    return task


def memory_of(model, nodes):
    if getattr(model, "memory", None) is None:
        return ()
    model.eval()
    return model.read(torch.arange(nodes), torch.full((nodes,), 10**6))


def position(task):
    task.reset()
    task.replay(task.split.train)
    task.replay(task.split.val)
    return task.split.val.stop


def ingest(session, events, part):
    feat = None if events.edge_feat is None else events.edge_feat[part]
    session.ingest(events.src[part], events.dst[part], events.t[part], feat)


def assert_same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("pieces", ["events", "batches", "whole", "ties"])
@pytest.mark.parametrize("preset", ["tgn", "jodie", "apan", "mail"])
def test_ingest_gives_the_memory_of_replay(preset, pieces):
    size, events = (1, stream(80)) if pieces == "events" else (16, stream())
    # "events": no two at one time, so that each is a batch; else many ties
    events = dataclasses.replace(events, t=torch.arange(len(events)) if pieces == "events" else events.t // 30)
    task, other = make_task(preset, events, size), make_task(preset, events, size)
    session = Session.of(other, position(other), replay=False)
    start = position(task)
    part = slice(start, len(events))
    task.replay(part)
    bounds = [start, len(events)] if pieces == "whole" else task.bounds(part, size)
    if pieces == "ties":  # the last event of a batch comes in a call of its own, and yet belongs to it
        cut = [hi - 1 for hi in bounds[1:] if events.t[hi - 1] == events.t[hi - 2]]
        assert len(cut) > 2
        bounds = sorted({*bounds, *cut})
    for lo, hi in itertools.pairwise(bounds):
        ingest(session, events, slice(lo, hi))
    session.flush()
    assert session.num_events == len(events)
    assert_same(memory_of(session.model, events.num_nodes), memory_of(task.model, events.num_nodes))


def test_exact_evaluation():
    events = stream(200)
    events = dataclasses.replace(events, t=events.t // 30)
    task, other = (make_task("tgn", events, more=["eval.exact=true"]) for _ in range(2))
    session = Session.of(other, position(other), replay=False)
    start = position(task)
    part = slice(start, len(events))
    task.replay(part)
    ingest(session, events, part)
    session.flush()
    assert_same(memory_of(session.model, events.num_nodes), memory_of(task.model, events.num_nodes))


@pytest.mark.parametrize("preset", PRESETS)
@torch.no_grad()
def test_score_is_that_of_evaluation(preset):
    task, other = make_task(preset), make_task(preset)
    task.model.eval()
    session = Session.of(other, position(other), replay=False)
    position(task)
    for i, part in list(task.steps(task.split.test, 16))[:4]:
        candidates = task.draw(task.negatives, part, 5, 0)
        step = task.sample(part, candidates, batch=i)
        positive, negative, rows = task.scores(step)
        want = torch.cat([positive[:, None], negative], 1).double().sigmoid().float()
        task.commit(step, rows)
        src, dst, t = (x[part] for x in (task.src, task.dst, task.t))
        # once in the graph, the batch sees its own earlier events, and memory does not know it yet: as in evaluation
        ingest(session, task.events, part)
        asked = torch.cat([dst[:, None], candidates], 1)
        assert torch.equal(session.score(src, asked, t), want)
        tied = torch.nonzero(t == t[-1]).squeeze(1)
        assert torch.equal(session.score(src[tied], asked[tied], t[-1].item()), want[tied])
        assert torch.equal(session.score(src[-1].item(), asked[-1], t[-1]), want[-1])
    shared = session.score(src, candidates[0], t[-1] + 7)
    assert shared.shape == (len(src), 5)
    assert torch.equal(shared[1], session.score(src[1].item(), candidates[0], t[-1] + 7))
    h = session.embed(src, t[-1] + 7)
    assert torch.equal(h, task.embed(src, (t[-1] + 7).expand(len(src))))


@pytest.mark.parametrize("preset", ["tgn", "apan"])
def test_many_candidates_are_embedded_a_few_at_a_time(preset, monkeypatch):
    task = make_task(preset)
    session = Session.of(task, position(task))
    events, embedded = task.events, []
    pool, t = events.destinations, int(events.t[-1]) + 1
    questions = [
        (events.src[0], pool, t),
        (events.src[:3], pool, t),
        (events.src[:3], pool.repeat(3, 1), [t, t + 1, t + 1]),
    ]
    whole = [session.score(*q) for q in questions]
    monkeypatch.setattr("gnnaccel.train.session._ROOTS", 7)
    embed = session._embed
    monkeypatch.setattr(session, "_embed", lambda rows, times: embedded.append(len(rows)) or embed(rows, times))
    assert_same(whole, [session.score(*q) for q in questions])
    assert max(embedded) <= 3 + 7


def test_questions_before_and_after_the_waiting_batch_in_one_call():
    task = make_task()
    session = Session.of(task, position(task))
    end = task.t[-1].item()
    src, candidates, t = task.src[-4:], task.dst[:6], torch.tensor([end + 9, end, end + 1, end])
    with torch.no_grad():
        early = session.score(src[[1, 3]], candidates, end)
        mixed = session.score(src, candidates, t)
    assert torch.equal(mixed[[1, 3]], early)
    assert torch.equal(mixed[0], session.score(src[0].item(), candidates, end + 9))
    with pytest.raises(ValueError, match=rf"t must be later than {end}, the last event in memory, got {end}"):
        session.score(src, candidates, end)


@pytest.mark.parametrize("preset", PRESETS)
def test_nodes_that_come_later_are_as_if_they_had_been_there(preset):
    """Nodes that appear after training answer as in a session that knew them from the start."""
    events, cut = stream(), 50
    # numbered by first appearance, as a session does
    first = torch.stack([events.src, events.dst], 1).reshape(-1).numpy()
    _, at, inverse = np.unique(first, return_index=True, return_inverse=True)
    ids = torch.from_numpy(at.argsort().argsort()[inverse].reshape(-1, 2))
    events = dataclasses.replace(events, src=ids[:, 0], dst=ids[:, 1], num_nodes=len(at), bipartite=False)
    known = int(ids[:cut].max()) + 1
    assert known < len(at) - 5
    whole = make_task(preset, events)
    whole.replay(slice(0, cut))
    want = Session.of(whole, cut, replay=False)
    few = make_task(preset, dataclasses.replace(events.slice(0, cut), num_nodes=known))
    state = whole.model.state_dict()
    few.model.load_state_dict({k: v[:known] if v.dim() and len(v) == len(at) else v for k, v in state.items()})
    got = Session.of(few, cut, replay=False)
    for lo, hi in itertools.pairwise((*range(cut, 100, 7), len(events))):
        for session in (want, got):
            ingest(session, events, slice(lo, hi))
    assert got.num_nodes == len(at)
    t = events.t[-1].item() + 5
    nodes = torch.arange(len(at))
    assert torch.equal(got.score(nodes[:9], nodes, t), want.score(nodes[:9], nodes, t))


def test_random_features_are_a_function_of_the_node():
    from gnnaccel.train.build import random_features

    config = make_task("tgat").config
    many = random_features(config, 0, 40_000)
    assert torch.equal(many[30_000:30_010], random_features(config, 30_000, 10))
    assert torch.equal(many[:7], random_features(config, 0, 7))
    assert abs(many.mean()) < 0.01
    assert abs(many.norm(dim=1).square().mean() - 1) < 0.02
    other = make_task("tgat", more=["train.seed=1"]).config
    assert not torch.equal(random_features(other, 0, 7), many[:7])
    session = Session.of(make_task("tgat"), 0)
    session.ingest([1000, 1001], [1002, 1000], [10**6] * 2, np.zeros((2, 3)))
    assert torch.equal(session.model.node_feat, random_features(config, 0, session._capacity))


@pytest.mark.parametrize("preset", PRESETS)
def test_rollback(preset):
    task = make_task(preset)
    session = Session.of(task, position(task), replay=False)
    events, start = task.events, session.num_events
    ask = (events.src[:9], events.dst[:7], events.t[start].item())
    ingest(session, events, slice(start, start + 3))
    snapshot = session.snapshot()
    t = events.t[start + 2].item() + 10**6
    for _ in range(2):
        fork = dataclasses.replace(events, src=events.src + 5000, num_nodes=6000)
        ingest(session, fork, slice(start + 3, start + 40))
        assert session.num_nodes > events.num_nodes
        later = session.snapshot()
        session.score(ask[0], ask[1], t)
        session.rollback(snapshot)
        assert (session.num_events, session.num_nodes) == (start + 3, events.num_nodes)
        with pytest.raises(ValueError, match="must be of this session and not undone"):
            session.rollback(later)
        with pytest.raises(ValueError, match="unknown id 5"):
            session.score(fork.src[start + 3].item(), ask[1], t)
    ingest(session, events, slice(start + 3, len(events)))
    fresh = make_task(preset)
    same = Session.of(fresh, position(fresh), replay=False)
    ingest(same, events, slice(start, start + 3))
    ingest(same, events, slice(start + 3, len(events)))
    t = events.t[-1].item() + 1
    assert torch.equal(session.score(ask[0], ask[1], t), same.score(ask[0], ask[1], t))
    assert_same(memory_of(session.model, events.num_nodes), memory_of(same.model, events.num_nodes))


@pytest.mark.parametrize("preset", PRESETS)
def test_save_and_load(preset, tmp_path):
    task = make_task(preset)
    session = Session.of(task, position(task), replay=False)
    events, start = task.events, session.num_events
    fork = dataclasses.replace(events, src=events.src + 5000, num_nodes=6000)
    ingest(session, fork, slice(start, start + 20))
    session.save(tmp_path / "s.pt")
    other = Session.load(tmp_path / "s.pt")
    assert (other.num_events, other.num_nodes) == (session.num_events, session.num_nodes)
    for s in (session, other):
        ingest(s, fork, slice(start + 20, len(events)))
    t = events.t[-1].item()
    asked = (fork.src[start:].unique(), events.dst[:7], t)
    assert torch.equal(session.score(*asked), other.score(*asked))
    assert torch.equal(session.score(*asked[:2], t + 3), other.score(*asked[:2], t + 3))


def named(separate=False):
    """The stream with string ids, those of users and items alike if `separate`."""
    events = stream()
    ids = np.array([f"u{i}" if i < 40 else f"item {i - 40}" for i in range(60)])
    if separate:
        ids = np.array([i if i < 40 else i - 40 for i in range(60)])
    return dataclasses.replace(events, node_ids=ids)


def test_string_ids():
    task = make_task(events=named())
    session = Session.of(task, position(task))
    t = task.t[-1].item() + 1
    p = session.score("u3", ["item 0", "item 12"], t)
    plain = make_task()
    assert torch.equal(p, Session.of(plain, position(plain)).score(3, [40, 52], t))
    session.ingest(["a new user with a long name"], ["item 1"], [t], torch.zeros(1, 3))
    assert session.score("a new user with a long name", ["item 1"], t + 1).shape == (1,)
    with pytest.raises(ValueError, match="unknown id a new"):
        session.score("a new", ["item 1"], t + 1)
    with pytest.raises(ValueError, match="src must be strings like the ids of the data, got float64"):
        session.score(2.5, ["item 1"], t + 1)


def test_ids_of_two_sides():
    task = make_task(events=named(separate=True))
    session = Session.of(task, position(task))
    t = task.t[-1].item() + 1
    plain = make_task()
    other = Session.of(plain, position(plain))
    assert torch.equal(session.score(3, [0, 12], t), other.score(3, [40, 52], t))
    assert torch.equal(session.embed([3], t, side="dst"), other.embed([43], t))
    session.ingest([500, 501], [500, 500], [t, t], torch.zeros(2, 3))
    assert session.num_nodes == 63
    assert session.score(500, [500, 3], t + 1).shape == (2,)
    with pytest.raises(ValueError, match="candidates must be nodes that had an event, got unknown id 501"):
        session.score(500, [501], t + 1)


def test_events_of_another_file():
    """`TemporalEvents` number their nodes on their own; ids are the originals."""
    task, plain = make_task(events=named()), make_task(events=named())
    session, other = (Session.of(x, position(x)) for x in (task, plain))
    t = task.t[-1].item() + 1
    more = TemporalEvents(
        "more",
        torch.tensor([1, 0]),
        torch.tensor([2, 2]),
        torch.tensor([t, t + 1]),
        edge_feat=torch.ones(2, 3),
        node_ids=np.array(["u7", "newcomer", "item 4"]),
    )
    session.ingest(more)
    other.ingest(["newcomer", "u7"], ["item 4"] * 2, [t, t + 1], torch.ones(2, 3))
    asked = (["u7", "newcomer"], ["item 4", "item 5"], t + 2)
    assert torch.equal(session.score(*asked), other.score(*asked))
    with pytest.raises(ValueError, match="must be left out with TemporalEvents"):
        session.ingest(more, t=[3])


def test_given_node_features():
    events = dataclasses.replace(stream(), node_feat=torch.randn(60, 5))
    session = Session.of(make_task(events=events), 0)
    t = events.t[-1].item() + 1
    session.ingest([70, 71], [71, 72], [t, t], torch.zeros(2, 3), node_feat={71: np.full(5, 2.0), 3: np.zeros(5)})
    assert session.model.node_feat[60:63].tolist() == [[0.0] * 5, [2.0] * 5, [0.0] * 5]
    assert torch.equal(session.model.node_feat[:60], events.node_feat)
    before = session.num_events
    for row, match in ((np.zeros(4), r"node_feat of 90 must be \[1, 5\]"), ([np.nan] * 5, "of 90 must be finite")):
        with pytest.raises(ValueError, match=match):
            session.ingest([90], [3], [t], torch.zeros(1, 3), node_feat={90: row})
    assert session.num_events == before
    with pytest.raises(ValueError, match="unknown id 90"):
        session.score(90, [3], t + 1)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"t": [9, 9]}, r"t must be \[1\], one for each, got \[2\]"),
        ({"t": [1]}, "t must not be before the last event, got 1 after"),
        ({"t": [float("nan")]}, "t must be finite, got NaN"),
        ({"t": [1e9]}, "t must be integers like the times of the data, got torch.float64"),
        ({"t": ["noon"]}, "t must be numbers, got"),
        ({"src": [1, 2], "dst": [1, 2], "t": [10**9, 10**8]}, "t must not run backwards, got 100000000 after"),
        ({"src": [1, 2]}, r"src and dst must both be \[n\], got \[2\] and \[1\]|t must be"),
        ({"src": [-1]}, "src and dst must be >= 0, got -1 at position 0"),
        ({"src": [0.5]}, "src must be integers like the ids of the data, got float64"),
        ({"edge_feat": None}, r"edge_feat must be \[1, 3\], as in training, got None"),
        ({"edge_feat": np.zeros((1, 4))}, r"edge_feat must be \[1, 3\], got \[1, 4\]"),
        ({"edge_feat": [[0, np.inf, 0]]}, "edge_feat must be finite, got NaN or infinity"),
        ({"node_feat": {7000: [1.0]}, "src": [7000]}, "node_feat must be left out, the data has none"),
    ],
)
def test_bad_events_change_nothing(change, match):
    task = make_task()
    session = Session.of(task, position(task))
    before = (session.num_events, session.num_nodes, session._waiting.first)
    good = {"src": [1], "dst": [41], "t": [10**9], "edge_feat": np.zeros((1, 3))}
    with pytest.raises(ValueError, match=match):
        session.ingest(**{**good, **change})
    assert (session.num_events, session.num_nodes, session._waiting.first) == before
    session.ingest(**good)


@pytest.mark.parametrize(
    ("question", "match"),
    [
        ((99, [41], 10**9), "score: src must be nodes that had an event, got unknown id 99"),
        ((1, [41, 99], 10**9), "score: candidates must be nodes that had an event, got unknown id 99"),
        ((1, [41, -1], 10**9), "candidates must be nodes that had an event, got unknown id -1"),
        ((1, [41], float("inf")), "score: t must be finite"),
        ((1, [41], 3), "t must be later than .*, the last event in memory, got 3"),
        (([1, 2], [[41]], 10**9), r"candidates must be \[C\] or \[2, C\], got \[1, 1\] for src \[2\]"),
        (([[1]], [41], 10**9), r"for src \[1, 1\]"),
        (([1, 2], [41], [10**9]), r"t must be \[2\], one for each, got \[1\]"),
    ],
)
def test_bad_questions(question, match):
    task = make_task()
    session = Session.of(task, position(task))
    with pytest.raises(ValueError, match=match):
        session.score(*question)


def test_fractional_questions_of_integer_times():
    task = make_task()
    session = Session.of(task, position(task))
    end = task.t[-1].item()
    assert torch.equal(session.score(1, [41, 42], end + 0.5), session.score(1, [41, 42], end + 1))


def test_empty_calls():
    task = make_task()
    session = Session.of(task, position(task))
    session.ingest([], [], [], torch.zeros(0, 3))
    assert session.score([], [41], 10**9).shape == (0, 1)
    assert session.score(1, [], 10**9).shape == (0,)
    assert session.embed([], 10**9).shape[0] == 0


def test_threads_see_whole_batches():
    task = make_task(events=stream(200))
    session = Session.of(task, position(task), replay=False)
    events, start = task.events, session.num_events
    t = 10**9
    wrong, stop = [], threading.Event()
    src, candidates = events.src[:3], events.dst[:20]

    def read():
        try:
            while not stop.is_set():
                p = session.score(src, candidates, t)
                assert torch.isfinite(p).all()
                session.embed(src, t)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(start, len(events)):
        ingest(session, events, slice(i, i + 1))
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]
    assert session.num_events == len(events)


def test_from_a_run(tmp_path):
    from gnnaccel.train.trainer import Trainer

    events = stream()
    settings = [*PRESETS["tgn"], "train.epochs=1", "eval.batch_size=16", "eval.negatives=3"]
    task = LinkTask.create(load_config("tgn", overrides=settings), events)
    Trainer(task, tmp_path / "run", progress=False).fit()
    at_validation = Session.load(tmp_path / "run", data=events, replay=False)
    assert at_validation.num_events == task.split.val.stop
    whole = Session.load(tmp_path / "run" / "best.pt", data=events)
    ingest(at_validation, events, task.split.test)
    t = events.t[-1].item() + 1
    asked = (events.src[:5], events.dst[:7], t)
    assert torch.equal(whole.score(*asked), at_validation.score(*asked))
    with pytest.raises(CheckpointError, match="are not the same"):
        Session.load(tmp_path / "run", data=stream(seed=2))
    with pytest.raises(CheckpointError, match=r"a session starts from best\.pt"):
        Session.load(tmp_path / "run" / "checkpoint.pt", data=events)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"holds no best\.pt"):
        Session.load(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        Session.load(tmp_path / "nothing")


def test_needs_a_model_with_the_verbs():
    with pytest.raises(TypeError, match=r"model must be a gnnaccel\.models\.TemporalModel, got Linear"):
        Session(load_config("tgn"), torch.nn.Linear(1, 1), ga.TemporalGraph.from_events([], [], []), (), None)


def small_session(seed=0):
    src, dst = torch.tensor([0, 1, 2] * 20), torch.tensor([1, 2, 0] * 20)
    events = TemporalEvents(
        "small", src, dst, torch.arange(60), num_nodes=3, edge_feat=torch.arange(120).view(60, 2) / 120
    )
    config = load_config("tgn", overrides=[*SMALL, "eval.batch_size=10", f"train.seed={seed}"])
    return Session.of(LinkTask.create(config, events), 60)


def test_a_saved_session_without_the_nodes_that_were_undone(tmp_path):
    session = small_session()
    before = session.snapshot()
    session.ingest(7, 8, 100, [[1.0, 2.0]])
    session.rollback(before)
    session.save(tmp_path / "s.pt")
    again = Session.load(tmp_path / "s.pt")
    assert again.num_nodes == 3
    for s in (session, again):
        s.ingest(9, 1, 101, [[0.5, 0.5]])
    assert torch.equal(session.score(9, [0, 1, 2], 200), again.score(9, [0, 1, 2], 200))


def test_a_snapshot_of_another_session_is_refused():
    one, two = small_session(), small_session(1)
    one.snapshot()
    with pytest.raises(ValueError, match=r"Session.rollback: the snapshot must be of this session"):
        one.rollback(two.snapshot())


def test_an_ingest_that_fails_leaves_nothing(monkeypatch):
    session, want = small_session(), small_session()

    def no_memory(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(session.graph, "append", no_memory)
        with pytest.raises(MemoryError):
            session.ingest(7, 8, 100, [[1.0, 2.0]])
    assert (session.num_nodes, session.num_events) == (3, 60)
    for s in (session, want):
        s.ingest(5, 1, 101, [[0.5, 0.25]])
    assert torch.equal(session.score(5, [0, 1, 2], 200), want.score(5, [0, 1, 2], 200))


def test_only_strict_runs_can_serve():
    task = make_task(more=["data.semantics=inclusive"])
    with pytest.raises(ValueError, match=r"Session: the run must have data.semantics 'strict'.*got 'inclusive'"):
        Session.of(task, 0)
