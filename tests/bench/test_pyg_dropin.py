"""The race of the example's two readings, on a small stream."""

import json

import pytest

pytest.importorskip("torch_geometric")
from gnnaccel.bench import pyg_dropin


@pytest.fixture
def stream(tmp_path):
    """A file of events; the example gives them random messages."""
    from tests.pyg.conftest import stream

    src, dst, t, _ = (x.tolist() for x in stream(events=260))
    path = tmp_path / "events.csv"
    path.write_text("src,dst,t\n" + "\n".join(f"{u},{v},{x}" for u, v, x in zip(src, dst, t, strict=True)) + "\n")
    return str(path)


def test_the_gate_and_the_race(stream, tmp_path, capsys):
    out = tmp_path / "results.json"
    pyg_dropin.main(stream, batch_size=40, segment=2, gate_batches=2, batches=3, threads=0, json_file=out)
    report = json.loads(out.read_text())
    assert report["gate"]["gate_loss"] < 1e-6 and report["gate"]["gate_memory"] < 1e-6
    assert [(r["mode"], r["provider"]) for r in report["rows"]] == [
        ("train", "gnnaccel"), ("train", "pyg"), ("eval", "gnnaccel"), ("eval", "pyg"),
    ]  # fmt: skip
    assert all(r["epoch_s"] > 0 and r["p50_ms"] > 0 for r in report["rows"])
    assert "x (" in capsys.readouterr().out


def test_the_gate_sees_a_difference(stream, monkeypatch):
    from gnnaccel.pyg import LastNeighborLoader

    insert = LastNeighborLoader.insert
    monkeypatch.setattr(LastNeighborLoader, "insert", lambda self, src, dst: insert(self, src[1:], dst[1:]))
    with pytest.raises(SystemExit, match="losses or scores differ"):
        pyg_dropin.gate(stream, 40, 3)
