import json

import pytest
import torch

from gnnaccel.graph import TimeSemantics


def test_defaults():
    assert TimeSemantics() == TimeSemantics(mode="strict", hop_time="edge", window=None) == TimeSemantics.of("strict")
    given = TimeSemantics("inclusive", "root", 3.5)
    assert TimeSemantics.of(given) is given


@pytest.mark.parametrize("semantics", [TimeSemantics(), TimeSemantics("by_event_id", "root", 7)])
def test_survives_json_and_checkpoints(semantics, tmp_path):
    assert TimeSemantics.from_dict(json.loads(json.dumps(semantics.to_dict()))) == semantics
    torch.save({"semantics": semantics.to_dict()}, tmp_path / "c.pt")
    assert TimeSemantics.from_dict(torch.load(tmp_path / "c.pt", weights_only=True)["semantics"]) == semantics


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"mode": "loose"}, ValueError, "mode must be one of .*'before_batch'.*, got 'loose'"),
        ({"hop_time": "mine"}, ValueError, r"hop_time must be one of \['edge', 'root'\], got 'mine'"),
        ({"window": -1}, ValueError, "window must be >= 0, got -1"),
        ({"window": float("nan")}, ValueError, "window must be >= 0, got nan"),
        ({"window": "a day"}, TypeError, "window must be a number or None, got 'a day'"),
        ({"window": True}, TypeError, "window must be a number or None, got True"),
        ({"mod": "strict"}, ValueError, r"keys must be of .*, got \['mod'\]"),
    ],
)
def test_errors(given, error, match):
    with pytest.raises(error, match=f"TimeSemantics: {match}"):
        TimeSemantics.from_dict(given)
