import pytest
import torch

import gnnaccel as ga
from gnnaccel.baselines.reference.latest_per_node import latest_per_node as reference
from tests.harness import Case, check_op

I32, I64, F64 = torch.int32, torch.int64, torch.float64


def make(n, nodes, times, dtype=I64, time_dtype=I64, eid=None, padded=0.0, strided=False):
    """Times from a short range, so that there are ties; event ids in random order with ties too."""

    def build(gen):
        def draw(low, high):
            values = torch.randint(low, high, (n, 2), generator=gen)
            return values[:, 0] if strided else values[:, 0].contiguous()

        ids = draw(0, nodes)
        ids = torch.where(torch.rand(n, generator=gen) < padded, -1, ids) if padded else ids
        return {
            "nodes": ids.to(dtype),
            "t": draw(-times, times).to(time_dtype),
            "eid": draw(0, max(n // 2, 1)).to(eid) if eid else None,
        }

    return build


CASES = [
    Case("empty", make(0, 1, 1)),
    Case("one", make(1, 5, 9, eid=I64)),
    Case("all_padded", make(9, 5, 9, padded=2.0, eid=I64)),
    Case("hub", make(41, 1, 4, eid=I32)),
    Case("hub_by_position", make(41, 1, 1)),
    Case("odd", make(23, 7, 3, padded=0.3)),
    Case("odd_int32", make(23, 7, 3, I32, eid=I32, padded=0.3)),
    Case("float_times", make(47, 9, 3, time_dtype=F64, eid=I64)),
    Case("strided", make(31, 6, 3, time_dtype=F64, eid=I64, strided=True)),
    Case("several_blocks", make(300, 60, 50, eid=I64, padded=0.1)),
    Case("batch", make(1200, 400, 10**9, eid=I64), small=False),
    Case("many", make(20011, 3000, 100, I32, eid=I32, padded=0.1), small=False),
]

TestLatestPerNode = check_op(
    op=ga.latest_per_node, reference=reference, cases=CASES, schemas=["latest_per_node"], dtypes=(torch.float64,)
)


def test_by_hand():
    nodes = torch.tensor([4, 2, 4, -1, 2, 4])
    t = torch.tensor([10, 30, 20, 99, 30, 20])
    found, position = ga.latest_per_node(nodes, t)
    assert found.tolist() == [4, 2]
    assert position.tolist() == [5, 4]
    # event ids decide ties of the time, whatever the position
    found, position = ga.latest_per_node(nodes, t, torch.tensor([0, 9, 8, 0, 1, 7]))
    assert found.tolist() == [4, 2]
    assert position.tolist() == [2, 1]


def test_self_loop_keeps_the_later_end():
    """Both ends of a self-loop have one time and one event id: the later position wins."""
    found, position = ga.latest_per_node(torch.tensor([3, 3]), torch.tensor([5, 5]), torch.tensor([1, 1]))
    assert (found.tolist(), position.tolist()) == ([3], [1])


def test_times_keep_their_precision():
    """Neighbouring times above 2**53, and negative zero."""
    t = torch.tensor([2**53 + 1, 2**53, 2**53 + 1, 2**53 + 2])
    assert ga.latest_per_node(torch.tensor([0, 0, 1, 1]), t)[1].tolist() == [0, 3]
    t = torch.tensor([0.0, -0.0, -1.5, -2.5], dtype=F64)
    assert ga.latest_per_node(torch.tensor([0, 0, 1, 1]), t)[1].tolist() == [1, 2]


def test_extreme_times():
    t = torch.tensor([torch.iinfo(I64).min, torch.iinfo(I64).max])
    assert ga.latest_per_node(torch.tensor([0, 1]), t)[1].tolist() == [0, 1]
    t = torch.tensor([float("-inf"), float("inf"), 0.0], dtype=F64)
    assert ga.latest_per_node(torch.tensor([0, 1, 1]), t)[1].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"nodes": torch.rand(3)}, TypeError, "nodes must be int32 or int64, got torch.float32"),
        ({"t": torch.rand(3)}, TypeError, "t must be int64 or float64, got torch.float32"),
        ({"eid": torch.rand(3)}, TypeError, "eid must be int32 or int64, got torch.float32"),
        ({"nodes": torch.zeros(3, 1, dtype=I64)}, ValueError, r"nodes must be \[n\], got \[3, 1\]"),
        ({"t": torch.arange(4)}, ValueError, r"t must be \[3\] like nodes, got \[4\]"),
        ({"eid": torch.arange(2)}, ValueError, r"eid must be \[3\] like nodes, got \[2\]"),
    ],
)
def test_errors(change, error, match):
    args = {"nodes": torch.arange(3), "t": torch.arange(3), "eid": torch.arange(3), **change}
    with pytest.raises(error, match=f"latest_per_node: {match}"):
        ga.latest_per_node(**args)
