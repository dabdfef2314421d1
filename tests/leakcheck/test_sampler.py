"""Samplers with one fault each are found out by the check that is meant for it, and sound ones pass."""

import io
import json
import re

import numpy as np
import pytest
import torch

import gnnaccel as ga
from gnnaccel.data.synthetic import synthetic_events
from gnnaccel.leakcheck import check_sampler, gnnaccel_sampler, pyg_sampler

CHECKS = [
    *("future events", "own event", "neighbor count", "order of roots", "time of neighbors", "completeness"),
    "asking twice",
]


@pytest.fixture(scope="module")
def events():
    return synthetic_events(num_events=1500, num_src=60, num_dst=25, feat_dim=2, seed=4)


def check(make, events, **options):
    return check_sampler(make, events, **{"k": 5, "batch_size": 50, "cuts": 3, **options})


class Plain:
    """The newest events before a time, by a loop."""

    def __init__(self, events):
        self.events = events
        self.of = [[] for _ in range(events.num_nodes)]
        for e, (u, v) in enumerate(zip(events.src.tolist(), events.dst.tolist(), strict=True)):
            self.of[u].append(e)
            self.of[v].append(e)
        self.t = events.t.tolist()

    def visible(self, node, time):
        return [e for e in self.of[node] if self.t[e] < time]

    def sample(self, nodes, times, k):
        return [self.visible(n, t)[-k:][::-1] for n, t in zip(nodes.tolist(), times.tolist(), strict=True)]


class ForgetsOldest(Plain):
    def visible(self, node, time):
        return super().visible(node, time)[1:]


class OwnTakesSlot(Plain):
    """TGL's leak: what is at the time itself is walked over, then dropped."""

    def visible(self, node, time):
        return [e for e in self.of[node] if self.t[e] <= time]

    def sample(self, nodes, times, k):
        found = super().sample(nodes, times, k)
        return [[e for e in row if self.t[e] < t] for row, t in zip(found, times.tolist(), strict=True)]


class SeesAll(Plain):
    def visible(self, node, time):
        return self.of[node]


class SeesNow(Plain):
    def visible(self, node, time):
        return [e for e in self.of[node] if self.t[e] <= time]


class FirstRootsGetMore(Plain):
    """Positives stand before negatives in a batch."""

    def sample(self, nodes, times, k):
        found = super().sample(nodes, times, k)
        two_thirds = 2 * len(found) // 3
        return found[:two_thirds] + [row[:-1] for row in found[two_thirds:]]


class Cursor(Plain):
    """Roots of a node share a cursor that never goes back, as TGL's do."""

    def __init__(self, events):
        super().__init__(events)
        self.latest = [-(2**62)] * events.num_nodes

    def sample(self, nodes, times, k):
        out = []
        for n, t in zip(nodes.tolist(), times.tolist(), strict=True):
            self.latest[n] = max(self.latest[n], t)
            walked = [e for e in self.of[n] if self.t[e] <= self.latest[n]][-k:]
            out.append([e for e in walked if self.t[e] < t][::-1])
        return out


class Draws(Plain):
    def sample(self, nodes, times, k):
        every = [self.visible(n, t) for n, t in zip(nodes.tolist(), times.tolist(), strict=True)]
        return [np.random.permutation(row)[:k].tolist() for row in every]


class OtherNodes(Plain):
    def sample(self, nodes, times, k):
        return super().sample(nodes.roll(1), times.roll(1), k)


class Ring:
    """Knows what was inserted. `early`: also the batch that is asked about."""

    def __init__(self, events, early=False):
        self.events, self.early = events, early

    def reset(self):
        self.of = [[] for _ in range(self.events.num_nodes)]
        self.at = 0

    def insert(self, part):
        for e in range(part.start, part.stop):
            self.of[int(self.events.src[e])].append(e)
            self.of[int(self.events.dst[e])].append(e)
        self.at = part.stop

    def sample(self, nodes, times, k):
        out = [self.of[n][-k:] for n in nodes.tolist()]
        if self.early:
            e = min(self.at, len(self.events) - 1)
            out = [
                ([*row, e] if int(self.events.dst[e]) == n else row) for row, n in zip(out, nodes.tolist(), strict=True)
            ]
        return out


@pytest.mark.parametrize(
    "make", [Plain, Ring, gnnaccel_sampler(), gnnaccel_sampler("before_batch"), gnnaccel_sampler("strict", "uniform")]
)
def test_sound_samplers_pass(make, events):
    report = check(make, events)
    assert [c.name for c in report.checks] == CHECKS
    assert {c.status for c in report.checks} == {"ok"}, report.to_dict()
    assert report.verdict == "no leak found"
    assert report["neighbor count"].value == 0.5


@pytest.mark.parametrize(
    ("make", "leaks", "flaws"),
    [
        (ForgetsOldest, [], ["completeness"]),
        (OwnTakesSlot, ["future events", "neighbor count"], ["completeness"]),
        (SeesAll, ["future events", "own event", "time of neighbors"], ["completeness"]),
        (SeesNow, ["future events", "own event", "time of neighbors"], ["completeness"]),
        (FirstRootsGetMore, ["neighbor count", "order of roots"], ["completeness"]),
        (Cursor, ["future events", "neighbor count", "order of roots"], ["completeness", "asking twice"]),
        (OtherNodes, ["order of roots"], ["completeness"]),
        (lambda e: Ring(e, early=True), ["future events", "own event", "time of neighbors"], []),
        (gnnaccel_sampler("tgl_compat"), ["future events", "neighbor count"], ["completeness"]),
        (gnnaccel_sampler("inclusive"), ["future events", "own event", "time of neighbors"], ["completeness"]),
    ],
)
def test_faults_are_found(make, leaks, flaws, events):
    report = check(make, events)
    assert set(leaks) <= {c.name for c in report.leaks}, report.to_dict()
    assert set(flaws) <= {c.name for c in report.flaws}
    assert report.verdict.startswith("LEAK") == bool(leaks)
    for one in report.leaks:
        assert one.name == "neighbor count" or "at time" in one.example


def test_inclusive_is_told_by_its_own_event(events):
    report = check(gnnaccel_sampler("inclusive"), events, semantics="inclusive")
    assert report["time of neighbors"].status == report["future events"].status == "ok"
    assert report["own event"].status == "leak"


def test_a_sampler_that_draws_anew_is_judged_by_numbers(events):
    report = check(Draws, events)
    assert report["asking twice"].status == "skipped"
    assert not report.leaks and not report.flaws
    report = check(lambda e: type("Leaky", (Draws, SeesAll), {})(e), events)
    assert {"own event", "time of neighbors"} <= {c.name for c in report.leaks}


def test_the_counter_example_names_the_event(events):
    """The own event of a root, when that decides what it is given."""
    example = check(gnnaccel_sampler("tgl_compat"), events)["future events"].example
    own, culprit = re.findall(r"event (\d+)", example)
    assert events.t[int(own)] == events.t[int(culprit)]


@pytest.mark.parametrize("shape", ["array", "tensor", "tuple", "block", "function"])
def test_samples_may_have_many_shapes(shape, events):
    graph = ga.TemporalGraph.from_events(events.src, events.dst, events.t, num_nodes=events.num_nodes)

    def sample(nodes, times, k):
        block = ga.temporal_sample(graph, nodes, times, k)
        eid = block.eid
        return {"array": eid.numpy(), "tensor": eid, "tuple": (block.nbr, eid, block.t)}.get(shape, block)

    make = (lambda _: sample) if shape == "function" else (lambda _: type("S", (), {"sample": staticmethod(sample)})())
    # of the changed stream it knows nothing, and passes that check too easily; all others hold
    assert check(make, events, queries=200).verdict == "no leak found"


def test_pyg(events):
    pytest.importorskip("torch_geometric")
    report = check(pyg_sampler(5), events, queries=200)
    assert report.settings["semantics"] == "before_batch"
    assert not report.leaks, report.to_dict()


def test_pyg_absent(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch_geometric", None)
    with pytest.raises(ValueError, match="'pyg' needs torch_geometric"):
        pyg_sampler(10)


def test_report(events):
    from rich.console import Console

    report = check(gnnaccel_sampler("tgl_compat"), events, name="mine [x]")
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["leak"] and plain["subject"] == "mine [x]" and [c["name"] for c in plain["checks"]] == CHECKS
    with pytest.raises(KeyError, match="no check 'nothing'; there is: future events"):
        report["nothing"]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report.table())
    shown = console.export_text()
    assert "mine [x]" in shown and "LEAK: future events, neighbor count" in shown


def test_the_same_report_every_time(events):
    a, b = (check(gnnaccel_sampler("tgl_compat"), events).to_dict() for _ in range(2))
    assert a == b


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"k": 0}, "must be at least 1"),
        ({"semantics": "loose"}, "semantics must be one of .*'strict'.*, got 'loose'"),
    ],
)
def test_bad_arguments(options, match, events):
    with pytest.raises(ValueError, match=match):
        check(Plain, events, **options)


@pytest.mark.parametrize(("made", "got"), [(3, "int"), (None, "NoneType"), (Plain, "the class Plain")])
def test_a_factory_of_something_else(made, got, events):
    with pytest.raises(
        ValueError, match=rf"mine: make must return a sampler, .*sample\(nodes, times, k\), .*got {got}"
    ):
        check(lambda events: made, events, name="mine")


@pytest.mark.parametrize(
    ("result", "match"),
    [
        (None, "a sample must be event ids"),
        (torch.zeros(3, 2, dtype=torch.int64), r"got int64\[3, 2\]"),
        (np.zeros((150, 2)), "got float64"),
        (np.full((150, 2), 5000), r"event ids of a sample must be in \[-1, 1500\), got 5000..5000"),
    ],
)
def test_bad_samples(result, match, events):
    with pytest.raises(ValueError, match=match):
        check(lambda _: lambda nodes, times, k: result, events)


def test_unknown_samplers_of_ours():
    with pytest.raises(ValueError, match=r"must be one of .*'strict'.*, got 'loose'"):
        gnnaccel_sampler("loose")
    with pytest.raises(ValueError, match="strategy must be one of"):
        gnnaccel_sampler("strict", "best")


def test_real_data(shared_data):
    """On CollegeMsg, k = 10: TGL's way gives a full quota to hardly any true destination, and to nearly all negatives."""
    from gnnaccel.data.registry import load

    stream = load(str(shared_data / "temporal" / "collegemsg"))
    assert check(gnnaccel_sampler(), stream, k=10, batch_size=600)["neighbor count"].value == 0.5
    assert check(gnnaccel_sampler("tgl_compat"), stream, k=10, batch_size=600)["neighbor count"].value > 0.95
