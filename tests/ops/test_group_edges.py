import pytest
import torch

from gnnaccel.baselines.peers.group_edges import PROVIDERS
from gnnaccel.baselines.reference.group_edges import group_edges as reference
from gnnaccel.ops._group_edges import group_edges
from tests.harness import DEVICE, Case, check_op, outputs, served_by, to_device

I64 = torch.int64
LARGE = 1 << 40
KEYS = pytest.mark.parametrize("key", ["CPU", "CompositeExplicitAutograd"])


def make(E, N, grouped=False, hub=False, strided=False):
    """Few targets get many edges, and some none; an edge may come again."""

    def build(gen):
        source, target = torch.randint(0, 99, (E,), generator=gen), (torch.rand(E, generator=gen) ** 2 * N).long()
        if grouped:
            target = target.sort().values
        if hub:
            target[E // 10 :] = N // 2
        if strided:
            source, target = torch.stack([source, target], dim=1).unbind(1)
        return {"source": source, "target": target, "num_nodes": N, "limit": LARGE}

    return build


CASES = [
    Case("no_nodes", make(0, 0)),
    Case("no_edges", make(0, 3)),
    Case("one", make(1, 1)),
    Case("one_node", make(5, 1)),
    Case("unsorted", make(40, 7)),
    Case("grouped", make(40, 7, grouped=True)),
    Case("most_have_none", make(5, 60)),
    Case("hub", make(300, 9, hub=True)),
    Case("strided", make(33, 8, strided=True)),
    Case("batch", make(5000, 900), small=False),
]

# the op itself: whether it gives None depends on the size of a table, which fake tensors do not have
TestGroupEdges = check_op(
    op=torch.ops.gnnaccel.group_edges.default,
    reference=reference,
    cases=CASES,
    schemas=["group_edges"],
    dtypes=(torch.float64,),
    compile=False,
)


def call(op, **args):
    result = op(**to_device(args))
    return None if result is None else [x.cpu() for x in outputs(result)]


@KEYS
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_none_above_the_limit(case, key):
    """As the reference at, just above and far above the limit, and so does the peer."""
    args = case.make(torch.Generator().manual_seed(5))
    neighbor, _, count = reference(**args)
    with served_by(key):
        for limit in (neighbor.numel(), neighbor.numel() - 1, neighbor.numel() // 2, 0):
            args["limit"] = max(limit, 0)
            want = reference(**args)
            assert (want is None) == (args["limit"] < neighbor.numel())
            for op in (group_edges, *(PROVIDERS.values() if len(count) else ())):
                got = call(op, **args)
                assert (got is None) == (want is None)
                for a, b in zip(got or (), want or (), strict=True):
                    assert a.dtype == b.dtype and torch.equal(a, b)


def test_by_hand():
    args = {"source": torch.tensor([7, 5, 7, 0]), "target": torch.tensor([2, 0, 2, 2]), "num_nodes": 3}
    neighbor, edge, count = call(group_edges, **args, limit=9)
    assert neighbor.tolist() == [[5, -1, -1], [-1, -1, -1], [7, 7, 0]]
    assert edge.tolist() == [[1, -1, -1], [-1, -1, -1], [0, 2, 3]]
    assert count.tolist() == [1, 0, 3]
    assert call(group_edges, **args, limit=8) is None


@KEYS
def test_sources_are_any_numbers_and_inputs_stay(key):
    source, target = torch.tensor([-(2**62), 2**62, -1]), torch.tensor([1, 0, 1])
    with served_by(key):
        neighbor, _, _ = call(group_edges, source=source, target=target, num_nodes=2, limit=4)
    assert neighbor.tolist() == [[2**62, -1], [-(2**62), -1]]
    assert source.tolist() == [-(2**62), 2**62, -1] and target.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"source": torch.rand(2)}, TypeError, "source must be int64, got torch.float32"),
        ({"target": torch.zeros(2).int()}, TypeError, "target must be int64, got torch.int32"),
        ({"source": torch.zeros(3, dtype=I64)}, ValueError, r"source must be \[2\], got \[3\]"),
        ({"source": torch.zeros(2, 1, dtype=I64)}, ValueError, r"source must be \[2\], got \[2, 1\]"),
        ({"target": torch.zeros(2, 1, dtype=I64)}, ValueError, r"target must be \[2\], got \[2, 1\]"),
        ({"target": torch.tensor(0)}, ValueError, r"target must be \[1\], got \[\]"),
        ({"num_nodes": -1}, ValueError, "num_nodes must be >= 0, got -1"),
    ],
)
def test_errors(change, error, match):
    args = {"source": torch.tensor([0, 1]), "target": torch.tensor([1, 3]), "num_nodes": 4, "limit": 8, **change}
    with pytest.raises(error, match=f"group_edges: {match}"):
        group_edges(**args)


@pytest.mark.skipif(DEVICE != "cpu", reason="CUDA does not check ids")
@KEYS
@pytest.mark.parametrize(("num_nodes", "bad"), [(4, 4), (4, -1), (0, 0)])
def test_a_target_out_of_range(key, num_nodes, bad):
    target = torch.tensor([bad] if num_nodes == 0 else [1, bad, 0])
    with (
        served_by(key),
        pytest.raises(ValueError, match=rf"group_edges: target must be in \[0, {num_nodes}\), got {bad}"),
    ):
        group_edges(torch.zeros_like(target), target, num_nodes, 99)
