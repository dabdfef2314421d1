"""The latency job runs, checks its answers, and tells a wrong one. No real timing here."""

from types import SimpleNamespace

import torch

from gnnaccel.bench import session
from gnnaccel.bench.harness import Runner, Settings


def tiny(path, settings):
    from gnnaccel.data.synthetic import synthetic_events

    return SimpleNamespace(events=synthetic_events(1500, 60, 30, feat_dim=4))


def test_rows(monkeypatch):
    monkeypatch.setattr(session, "load_stream", tiny)
    monkeypatch.setattr(session, "DIM", 8)
    monkeypatch.setattr(session, "CALLS", 16)
    rows = list(session.run(Runner(Settings(quick=True))))
    assert [(r.case, r.provider) for r in rows] == [
        ("score_1x30", "gnnaccel"),
        ("score_1x30", "LinkTask"),
        ("score_after_ingest", "gnnaccel"),
        ("ingest_1", "gnnaccel"),
        ("ingest_200", "gnnaccel"),
    ]
    assert all(r.gate == "ok" and r.p50_ms > 0 and r.extra["p99_ms"] >= r.p50_ms for r in rows)
    assert rows[1].ratio > 0


def test_wrong_answers_are_red(monkeypatch):
    from gnnaccel.train.link import LinkTask

    monkeypatch.setattr(session, "load_stream", tiny)
    monkeypatch.setattr(session, "DIM", 8)
    monkeypatch.setattr(LinkTask, "probabilities", lambda self, src, other, t: torch.zeros(other.shape))
    (row,) = session.run(Runner(Settings(correctness_only=True)))
    assert row.gate == "red"
    assert "answers differ from the trainer's by 0." in row.detail


def test_it_is_registered():
    from gnnaccel.bench import harness

    assert harness.END_TO_END["session"].run is session.run
