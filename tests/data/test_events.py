from __future__ import annotations

import numpy as np
import pytest
import torch

from gnnaccel.data import DataError, TemporalEvents


def L(*x: int) -> torch.Tensor:
    return torch.tensor(x)


def make(**kw) -> TemporalEvents:
    base = {"name": "x", "src": L(0, 1, 0), "dst": L(2, 3, 3), "t": L(1, 2, 2), "num_nodes": 4}
    return TemporalEvents(**{**base, **kw})


def test_basics() -> None:
    e = make(edge_feat=torch.arange(6.0).view(3, 2), label=L(0, 1, 0), bipartite=True)
    assert len(e) == 3 and e.destinations.tolist() == [2, 3]
    assert "3 events" in repr(e) and "bipartite" in repr(e) and "float32[3, 2]" in repr(e)
    part = e.slice(1, 3)
    assert part.t.tolist() == [2, 2] and part.num_nodes == 4 and part.label.tolist() == [1, 0]
    assert part.edge_feat.data_ptr() == e.edge_feat[1:].data_ptr()
    assert e.slice(slice(0, 0)).destinations.tolist() == []
    with pytest.raises(ValueError, match="step"):
        e.slice(slice(0, 3, 2))
    with pytest.raises(AttributeError):
        e.name = "y"  # type: ignore[misc]


def test_num_nodes_is_derived() -> None:
    assert TemporalEvents("x", L(0), L(7), L(0)).num_nodes == 8
    assert TemporalEvents("x", *(torch.empty(0, dtype=torch.int64) for _ in range(3))).num_nodes == 0


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("src", L(0, 1, 0).int(), "src must be an int64 tensor"),
        ("src", [0, 1, 0], "got list"),
        ("dst", L(2, 3), "dst must be as long as src"),
        ("t", L(1, 2), "t must be as long as src"),
        ("t", L(1, 2, 3).float(), "t must be an int64 or float64"),
        ("t", L(2, 1, 3), "in time order"),
        ("t", torch.tensor([0.0, 1.0, float("nan")], dtype=torch.float64), "finite"),
        ("src", L(0, -1, 0), r"ids in \[0, 4\)"),
        ("num_nodes", 3, r"ids in \[0, 3\)"),
        ("num_nodes", -2, "num_nodes must be"),
        ("label", L(1), "label must be"),
        ("edge_feat", torch.zeros(2, 2), "edge_feat must be a floating tensor with 3 rows"),
        ("edge_feat", L(1, 2, 3).view(3, 1), "edge_feat must be a floating"),
        ("node_feat", torch.zeros(3, 2), "node_feat must be a floating tensor with 4 rows"),
        ("node_ids", np.arange(3), "node_ids must be of shape"),
        ("node_ids", np.arange(4.0), "node_ids must be an int64 or str"),
        ("bipartite", True, "bipartite must be False"),
    ],
)
def test_bad_fields(field: str, value: object, text: str) -> None:
    extra = {"dst": L(2, 0, 3)} if field == "bipartite" else {}
    with pytest.raises(ValueError, match=text):
        make(**{field: value, **extra})


def test_summary_by_hand() -> None:
    e = TemporalEvents("x", L(0, 0, 1, 1, 0), L(1, 1, 1, 2, 1), L(5, 5, 5, 6, 9), num_nodes=5, label=L(0, 1, 0, 0, 1))
    s = e.summary()
    assert (s["nodes"], s["sources"], s["destinations"], s["events"]) == (5, 2, 2, 5)
    assert (s["distinct_times"], s["tied_events"], s["t_min"], s["t_max"]) == (3, 2, 5, 9)
    assert (s["self_loops"], s["repeated_events"], s["distinct_pairs"], s["repeated_pairs"]) == (1, 1, 3, 2)
    assert (s["degree_max"], s["degree_median"], s["isolated_nodes"], s["labels"]) == (6, 3, 2, 2)
    empty = torch.empty(0, dtype=torch.int64)
    assert TemporalEvents("x", empty, empty, empty).summary()["events"] == 0


def test_lookup() -> None:
    e = make(node_ids=np.array([10, 20, 10, 20]), bipartite=True)
    assert e.lookup([20, 10], "src").tolist() == [1, 0] and e.lookup([20, 10], "dst").tolist() == [3, 2]
    assert e.lookup(["20"], "dst").tolist() == [3]
    with pytest.raises(ValueError, match="separately"):
        e.lookup([10])
    with pytest.raises(KeyError, match="no node with id 30"):
        e.lookup([10, 30], "src")
    with pytest.raises(KeyError, match="are integers"):
        e.lookup(["bob"], "src")
    with pytest.raises(ValueError, match="side"):
        e.lookup([10], "item")
    named = make(node_ids=np.array(["a", "b", "c", "d"]))
    assert named.lookup(["d", "a"]).tolist() == [3, 0]
    with pytest.raises(KeyError, match="no node with id zz"):
        named.lookup(["zz"])
    assert make().lookup([3]).tolist() == [3]


def test_error_is_one_line() -> None:
    e = DataError("f.csv", "bad\nthing", "fix it", 3)
    assert str(e) == "f.csv: row 3: bad thing; fix it" and e.row == 3 and isinstance(e, ValueError)


def test_pyg_round_trip() -> None:
    pyg = pytest.importorskip("torch_geometric.data")
    e = make(edge_feat=torch.arange(6.0).view(3, 2), label=L(0, 1, 0))
    back = TemporalEvents.from_pyg(e.to_pyg())
    for k in ("src", "dst", "t", "edge_feat", "label"):
        assert torch.equal(getattr(back, k), getattr(e, k))
    assert back.bipartite and back.num_nodes == 4
    odd = pyg.TemporalData(src=L(0, 1), dst=L(1, 0), t=torch.tensor([2.5, 1.0]), msg=L(7, 8))
    e = TemporalEvents.from_pyg(odd)
    assert e.t.tolist() == [1.0, 2.5] and e.t.dtype == torch.float64
    assert e.edge_feat.tolist() == [[8.0], [7.0]] and not e.bipartite and e.src.tolist() == [1, 0]
