"""Models with one fault each, and all of ours."""

import pytest
import torch

from gnnaccel.data.synthetic import synthetic_events
from gnnaccel.leakcheck import check_model, model_of_task
from gnnaccel.train.config import load_config, preset_names

SMALL = {
    "model": ["model.dim_random=5"],
    "memory": ["memory.dim=8", "memory.dim_time=6"],
    "aggregator": ["aggregator.dim=8", "aggregator.dim_time=6"],
}


@pytest.fixture(scope="module")
def events():
    return synthetic_events(num_events=600, num_src=40, num_dst=20, feat_dim=3, seed=3)


def check(make, events, **options):
    return check_model(make, events, **{"batch_size": 50, "cuts": 3, **options})


class Counts:
    """How often a destination and its features were seen, from what was inserted."""

    def __init__(self, events):
        self.events = events

    def reset(self):
        self.seen = torch.zeros(self.events.num_nodes, dtype=torch.float64)

    def score(self, part, nodes):
        return self.seen[nodes]

    def scores(self, part, candidates):
        every = self.score(part, torch.cat([self.events.dst[part, None], candidates], 1))
        return every[:, 0], every[:, 1:]

    def insert(self, part):
        for e in range(part.start, part.stop):
            self.seen[self.events.dst[e]] += 1 + float(self.events.edge_feat[e].sum())


class ReadsOwnFeature(Counts):
    def score(self, part, nodes):
        return super().score(part, nodes) + self.events.edge_feat[part].sum(1, keepdim=True)


class ReadsOwnLabel(Counts):
    def score(self, part, nodes):
        return super().score(part, nodes) + self.events.label[part, None]


class NormalisesByAll(Counts):
    def score(self, part, nodes):
        return super().score(part, nodes) / self.events.edge_feat.std()


class SeesTheBatch(Counts):
    def score(self, part, nodes):
        return (
            super().score(part, nodes) + torch.bincount(self.events.dst[part], minlength=self.events.num_nodes)[nodes]
        )


class SeesLaterTimes(Counts):
    def score(self, part, nodes):
        return super().score(part, nodes) + float(self.events.t[min(part.stop, len(self.events) - 1)])


class PrefersPositives(Counts):
    def scores(self, part, candidates):
        positive, negative = super().scores(part, candidates)
        return positive + 1e-9, negative


class RanksTogether(Counts):
    def score(self, part, nodes):
        return super().score(part, nodes).softmax(1)


class LearnsFromQuestions(Counts):
    def score(self, part, nodes):
        self.seen[nodes.flatten()] += 1
        return super().score(part, nodes)


class IgnoresAll(Counts):
    def score(self, part, nodes):
        return nodes.double()


class Rolls(Counts):
    def score(self, part, nodes):
        return torch.rand(nodes.shape)


def test_a_sound_model_passes(events):
    report = check(Counts, events)
    assert {c.status for c in report.checks} == {"ok"}, report.to_dict()
    names = ["future events", "own event", "symmetry", "company", "asking twice", "use of the past"]
    assert [c.name for c in report.checks] == names


@pytest.mark.parametrize(
    ("make", "leaks"),
    [
        (ReadsOwnFeature, {"own event"}),
        (ReadsOwnLabel, {"own event"}),
        (NormalisesByAll, {"future events", "own event"}),
        (SeesTheBatch, {"future events", "own event"}),
        (SeesLaterTimes, {"future events"}),
        (PrefersPositives, {"symmetry"}),
        (RanksTogether, {"company", "own event"}),  # softmax over the row: its own score changes the others
    ],
)
def test_leaks_are_found(make, leaks, events):
    report = check(make, events)
    assert {c.name for c in report.leaks} == leaks, report.to_dict()
    assert all(" at time " in c.example for c in report.leaks)


def test_the_counter_example_names_the_event(events):
    example = check(ReadsOwnLabel, events)["own event"].example
    event = example.split("(event ")[1].split(")")[0].split(",")[0]
    assert f"labels of event {event} at time" in example


@pytest.mark.parametrize(
    ("make", "flaw"), [(LearnsFromQuestions, "asking twice"), (IgnoresAll, "use of the past"), (Rolls, "repeatability")]
)
def test_flaws_are_found(make, flaw, events):
    assert flaw in [c.name for c in check(make, events).flaws]


def test_tolerance(events):
    assert not check(PrefersPositives, events, tolerance=1e-6).leaks


def small(preset, *more):
    config = load_config(preset)
    settings = [s for section, some in SMALL.items() if section in type(config).model_fields for s in some]
    if preset == "edgebank":
        settings = []
    return load_config(preset, None, [*settings, *more])


@pytest.mark.parametrize("preset", preset_names())
def test_no_model_of_ours_leaks(preset, events):
    """Not a bit of a score changes with what is at or after its time, with its company, or with being the positive."""
    report = check(model_of_task(small(preset)), events)
    assert report.verdict == "no leak found", report.to_dict()
    assert all(c.status == "ok" for c in report.checks)


@pytest.mark.parametrize("semantics", ["before_batch", "by_event_id"])
def test_other_semantics(semantics, events):
    report = check(model_of_task(small("tgn", f"data.semantics={semantics}")), events)
    assert report.settings["semantics"] == semantics
    assert report.verdict == "no leak found", report.to_dict()


def test_what_tgl_and_inclusive_give_away(events):
    tgl = small("tgn", "data.semantics=tgl_compat", "sampler.neighbors=3")
    report = check(model_of_task(tgl), events, cuts=6)
    assert "own event" in [c.name for c in report.leaks]
    inclusive = check(model_of_task(small("tgn", "data.semantics=inclusive")), events)
    assert [c.name for c in inclusive.leaks] == ["own event"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"cuts": 0}, "must be at least 1"),
        ({"semantics": "loose"}, "semantics must be one of"),
        ({"queries": 0}, "at least 1"),
    ],
)
def test_bad_arguments(options, match, events):
    with pytest.raises(ValueError, match=match):
        check(Counts, events, **options)


@pytest.mark.parametrize(
    ("made", "got"),
    [(3, "int"), (None, "NoneType"), (Counts, "the class Counts"), (print, "builtin_function_or_method")],
)
def test_a_factory_of_something_else(made, got, events):
    with pytest.raises(ValueError, match=rf"mine: make must return a model, .*scores\(part, candidates\), got {got}"):
        check(lambda events: made, events, name="mine")


def test_bad_scores(events):
    class Wrong(Counts):
        def scores(self, part, candidates):
            return super().scores(part, candidates)[0]

    with pytest.raises(ValueError, match=r"scores must give \(\[50\], \[50, 3\]\) for 50 events"):
        check(Wrong, events)
