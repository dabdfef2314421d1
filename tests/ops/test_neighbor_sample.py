import math

import pytest
import torch

import gnnaccel as ga
from gnnaccel.baselines.reference.neighbor_sample import neighbor_sample as reference
from gnnaccel.ops.neighbor_sample import neighbor_sample
from tests.harness import DEVICE, F64, INTERPRET, Case, check_op, served_by, threads
from tests.ops.static_rows import graph

if INTERPRET:
    pytest.skip("the kernel is CUDA C++: tests/kernels/test_cuda.py runs it on the host", allow_module_level=True)


def make(roots=40, exclude=0, node_dtype=torch.int64, edges=300, nodes=12, **options):
    shape = {k: options.pop(k) for k in ("relations", "weighted", "hub", "ids") if k in options}

    def build(gen):
        args = graph(gen, edges, nodes, **shape)
        args["nodes"] = torch.randint(-1, nodes, (roots,), generator=gen).to(node_dtype)
        if exclude:
            args["exclude"] = torch.randperm(edges, generator=gen)[:exclude].sort().values
        return {**args, **options}

    return build


SEED = {"seed": 2**40 + 3, "epoch": 1, "batch": 2, "hop": 3}
CASES = [
    Case("no_edges", make(edges=0)),
    Case("no_edges_weighted", make(edges=0, weighted=True, strategy="weighted", relations=2)),
    Case("no_roots", make(roots=0)),
    Case("all_padded", lambda gen: {**make(roots=9)(gen), "nodes": torch.full((9,), -1)}),
    Case("one", make(roots=1, fanout=1)),
    Case("uniform", make(fanout=4, **SEED)),
    Case("whole_rows", make(fanout=70)),
    Case("replace", make(fanout=5, replace=True, **SEED)),
    Case("replace_more_than_a_row", make(edges=20, fanout=9, replace=True)),
    Case("wide_ids", make(fanout=4, ids=torch.int64, node_dtype=torch.int32)),
    Case("over_the_lanes", make(edges=3000, fanout=65, roots=12)),
    Case("over_the_lanes_replace", make(edges=300, fanout=65, roots=12, replace=True)),
    Case("no_edge_ids", make(fanout=4, edge_ids=False)),
    Case("all", make(fanout=None, strategy="all")),
    Case("all_excluded_too", make(fanout=None, strategy="all", exclude=40)),
    Case("exclude", make(fanout=4, exclude=40, **SEED)),
    Case("exclude_odd", make(fanout=7, exclude=60)),
    Case("exclude_most", make(fanout=4, exclude=290)),
    Case("exclude_all", make(fanout=4, exclude=300)),
    Case("exclude_replace", make(fanout=3, exclude=90, replace=True)),
    Case("exclude_no_edge_ids", make(fanout=3, exclude=90, edge_ids=False)),
    Case("weighted", make(fanout=4, weighted=True, strategy="weighted", **SEED)),
    Case("weighted_unasked", make(fanout=4, weighted=True)),
    Case("weighted_replace", make(fanout=4, weighted=True, strategy="weighted", replace=True)),
    Case("weighted_exclude", make(fanout=4, weighted=True, strategy="weighted", exclude=90)),
    Case("weighted_replace_exclude", make(fanout=4, weighted=True, strategy="weighted", replace=True, exclude=200)),
    Case("weighted_whole", make(fanout=70, weighted=True, strategy="weighted")),
    Case("relations", make(fanout=4, relations=4)),
    Case("typed", make(fanout=[2, 3, 0, 4], relations=4, **SEED)),
    Case("typed_replace", make(fanout=[2, 3, 1, 4], relations=4, replace=True)),
    Case("typed_exclude", make(fanout=[2, 3, 1, 5], relations=4, exclude=90)),
    Case("typed_weighted", make(fanout=[2, 3, 1, 5], relations=4, weighted=True, strategy="weighted")),
    Case("typed_weighted_replace", make(fanout=[2, 3, 1, 5], relations=4, weighted=True, strategy="weighted", replace=True)),
    Case("hub", make(edges=4000, nodes=30, hub=True, fanout=20), small=False),
    Case("several_groups", make(edges=4000, nodes=300, roots=1031, fanout=7, exclude=100), small=False),
    Case("several_groups_weighted", make(edges=4000, nodes=300, roots=1031, weighted=True, strategy="weighted"), small=False),
    Case("static", make(edges=400, fanout=5, edge_ids=True), small=False),
]  # fmt: skip


def raw(args):
    fanout = args.get("fanout", 10)
    every = args.get("strategy") == "all"
    exclude = args.get("exclude")
    edge_ids = args.get("edge_ids", True)
    return (
        *(args["indptr"], args["nbr"], args["eid"] if edge_ids or exclude is not None else None),
        *(args.get("relation"), args.get("weight"), exclude, args["nodes"]),
        *([50] if every else fanout if isinstance(fanout, list) else [fanout], isinstance(fanout, list)),
        *(args.get("strategy") == "weighted", args.get("replace", False), edge_ids),
        *(args.get(k, 0) for k in ("seed", "epoch", "batch", "hop")),
    )


# integers and copies of weights: the same bits for every dtype, so one will do
TestNeighborSample = check_op(
    op=neighbor_sample,
    reference=reference,
    cases=CASES,
    schemas=["neighbor_sample"],
    dtypes=[F64],
    overload_args=raw,
)


def line(n, **options):
    """A graph of one node with the neighbours 1, 2, ... of degree n."""
    return {
        "indptr": torch.tensor([0] + [n] * (n + 1), device=DEVICE),
        "nbr": torch.arange(1, n + 1, dtype=torch.int32, device=DEVICE),
        "eid": torch.arange(n, dtype=torch.int32, device=DEVICE) * 10,
        **options,
    }


def roots(*nodes):
    return torch.tensor(nodes, device=DEVICE)


def test_by_hand():
    nbr, eid, count, relation, weight = neighbor_sample(**line(3), nodes=roots(0, 2, -1), fanout=5)
    assert nbr.tolist() == [[1, 2, 3, -1, -1], [-1] * 5, [-1] * 5]
    assert eid.tolist() == [[0, 10, 20, -1, -1], [-1] * 5, [-1] * 5]
    assert count.tolist() == [3, 0, 0] and count.dtype == torch.int32
    assert relation is None and weight is None


def test_relations_by_hand():
    relation = torch.tensor([0, 0, 0, 2, 2, 3], dtype=torch.int16, device=DEVICE)
    g = line(6, relation=relation, num_relations=4)
    nbr, _, count, kinds, _ = neighbor_sample(**g, nodes=roots(0), fanout=[1, 5, 2, 0])
    assert count.tolist() == [3] and kinds.tolist() == [[0, 2, 2, -1, -1, -1, -1, -1]]
    assert nbr[0, 1:3].tolist() == [4, 5]


def frequencies(n, times, **options):
    """How often each subset of a row's places was drawn, by the number of the subset."""
    count = torch.zeros(2**n, dtype=torch.int64)
    g = line(n, **{k: options.pop(k) for k in ("weight",) if k in options})
    nbr, _, used, *_ = neighbor_sample(**g, nodes=torch.zeros(times, dtype=torch.int64, device=DEVICE), **options)
    valid = torch.arange(nbr.shape[1], device=DEVICE) < used[:, None]
    subset = torch.where(valid, 2 ** (nbr.long() - 1), 0).sum(1).cpu()
    return count.index_add_(0, subset, torch.ones_like(subset)).double() / times


def close(got, want, times):
    return bool(((got - want).abs() <= 5 * (want * (1 - want) / times).sqrt() + 1e-12).all())


def test_every_subset_is_equally_likely():
    times, got = 40_000, frequencies(6, 40_000, fanout=3)
    pairs = torch.tensor([float(bin(s).count("1") == 3) for s in range(64)])
    assert close(got, pairs / 20, times)


def test_every_allowed_subset_is_equally_likely():
    exclude = torch.tensor([10, 40], device=DEVICE)
    times, got = 40_000, frequencies(6, 40_000, fanout=3, exclude=exclude)
    allowed = torch.tensor([float(bin(s).count("1") == 3 and not s & 0b010010) for s in range(64)])
    assert close(got, allowed / 4, times)


def successive(weight, k):
    """The probability of each subset when entries are drawn one after the other, each in proportion to what is left."""
    out = torch.zeros(2 ** len(weight), dtype=torch.float64)

    def step(subset, left, p):
        if left == 0:
            out[subset] += p
            return
        total = sum(w for i, w in enumerate(weight) if not subset >> i & 1)
        for i, w in enumerate(weight):
            if w > 0 and not subset >> i & 1:
                step(subset | 1 << i, left - 1, p * w / total)

    step(0, k, 1.0)
    return out


@pytest.mark.parametrize("k", [1, 2, 3])
def test_weighted_draws_have_the_distribution_of_successive_draws(k):
    weight = [1.0, 4.0, 0.0, 2.5, 0.5]
    got = frequencies(5, 40_000, fanout=k, strategy="weighted", weight=torch.tensor(weight, device=DEVICE))
    assert close(got, successive(weight, k), 40_000)


def test_weighted_draws_with_replacement():
    weight = torch.tensor([1.0, 4.0, 0.0, 2.5, 0.5])
    g = line(5, weight=weight.to(DEVICE))
    nodes = torch.zeros(20_000, dtype=torch.int64, device=DEVICE)
    nbr, *_ = neighbor_sample(**g, nodes=nodes, fanout=2, strategy="weighted", replace=True)
    got = torch.bincount(nbr.long().flatten().cpu() - 1, minlength=5).double() / 40_000
    assert close(got, weight.double() / 8, 40_000)
    assert bool((nbr[:, 0] <= nbr[:, 1]).all())


def test_zero_weights_are_never_drawn():
    g = line(5, weight=torch.zeros(5, device=DEVICE))
    for replace in (False, True):
        for fanout in (2, 9):
            *_, count, _, _ = neighbor_sample(**g, nodes=roots(0), fanout=fanout, strategy="weighted", replace=replace)
            assert count.tolist() == [0]


def test_draws_depend_on_each_part_of_the_key():
    g, nodes = line(1000), torch.zeros(8, dtype=torch.int64, device=DEVICE)
    key = {"seed": 5, "epoch": 1, "batch": 2, "hop": 3}
    first = neighbor_sample(**g, nodes=nodes, fanout=8, **key)[0]
    assert torch.equal(first, neighbor_sample(**g, nodes=nodes, fanout=8, **key)[0])
    assert len({tuple(r) for r in first.tolist()}) == 8
    for name in key:
        other = neighbor_sample(**g, nodes=nodes, fanout=8, **{**key, name: key[name] + 1})[0]
        assert not (first == other).all(1).any(), name


def test_same_bits_for_any_number_of_threads():
    args = make(edges=20_000, nodes=900, roots=3000, weighted=True, strategy="weighted")(
        torch.Generator().manual_seed(0)
    )
    runs = []
    for n in (1, 2):
        with threads(n):
            runs.append(neighbor_sample(**{k: v.to(DEVICE) if torch.is_tensor(v) else v for k, v in args.items()}))
    for a, b in zip(*runs, strict=True):
        assert a is None or torch.equal(a, b)


I32, I64 = torch.int32, torch.int64
BAD = [
    ({"fanout": 0}, ValueError, r"fanout must be in \[1, 2\*\*24\), got 0"),
    ({"fanout": -1}, ValueError, "fanout must be in"),
    ({"fanout": 2**24}, ValueError, "fanout must be in"),
    ({"fanout": 2.0}, TypeError, "fanout must be an int or a sequence of ints, got 2.0"),
    ({"fanout": True}, TypeError, "fanout must be an int"),
    ({"fanout": None}, TypeError, "fanout must be an int"),
    ({"fanout": [1, 2]}, ValueError, "fanout must be an int on a graph without relations"),
    ({"fanout": 3, "strategy": "all"}, ValueError, "fanout must be None"),
    ({"strategy": "best"}, ValueError, "strategy must be one of"),
    ({"strategy": "weighted"}, ValueError, "weight must be given"),
    ({"hop": 256}, ValueError, "hop must be in"),
    ({"indptr": torch.zeros(3, dtype=I32)}, TypeError, "indptr must be int64"),
    ({"indptr": torch.zeros(0, dtype=I64)}, ValueError, "indptr must be"),
    ({"nbr": torch.zeros(4)}, TypeError, "nbr must be int32 or int64"),
    ({"nbr": torch.zeros(2, 2, dtype=I32)}, ValueError, "nbr must be"),
    ({"eid": torch.zeros(4, dtype=I64)}, TypeError, "eid must be torch.int32"),
    ({"eid": torch.zeros(3, dtype=I32)}, ValueError, r"eid must be \[4\] like nbr"),
    ({"eid": None}, ValueError, "eid must be given with edge_ids"),
    ({"eid": None, "edge_ids": False, "exclude": torch.zeros(1, dtype=I64)}, ValueError, "eid must be given"),
    ({"relation": torch.zeros(4, dtype=I32)}, TypeError, "relation must be torch.int16"),
    ({"weight": torch.zeros(4, dtype=F64)}, TypeError, "weight must be torch.float32"),
    ({"nodes": torch.zeros(2)}, TypeError, "nodes must be int64 or int32"),
    ({"nodes": torch.zeros(2, 2, dtype=I64)}, ValueError, "nodes must be"),
    ({"exclude": torch.zeros(2, dtype=I32)}, TypeError, "exclude must be int64"),
    ({"exclude": torch.tensor([3, 2])}, ValueError, "exclude must ascend"),
    ({"exclude": torch.zeros(1, 1, dtype=I64)}, ValueError, "exclude must be"),
]
TYPED = {"relation": torch.zeros(4, dtype=torch.int16), "num_relations": 2}
BAD += [
    ({**TYPED, "fanout": [1]}, ValueError, "fanout must have one number for each of 2 relations"),
    ({**TYPED, "fanout": [0, 0]}, ValueError, "fanout must be at least 0 and have a sum"),
    ({**TYPED, "fanout": [3, -1]}, ValueError, "fanout must be at least 0"),
    ({**TYPED, "fanout": [3, 1.5]}, TypeError, "fanout must be an int"),
]


@pytest.mark.parametrize("change, error, text", BAD)
def test_errors(change, error, text):
    g = {k: v.to(DEVICE) for k, v in line(4).items()}
    change = {k: v.to(DEVICE) if torch.is_tensor(v) else v for k, v in change.items()}
    with pytest.raises(error, match="neighbor_sample: " + text):
        neighbor_sample(**{**g, "nodes": roots(0), "fanout": 2, **change})


DATA = [
    ({"nodes": torch.tensor([0, 5])}, r"nodes must be in \[-1, 5\), got 5 at position 1"),
    ({"nodes": torch.tensor([-2])}, r"nodes must be in \[-1, 5\), got -2 at position 0"),
    ({"indptr": torch.tensor([3, 1, 4, 4, 4, 4])}, "indptr must ascend"),
    ({"indptr": torch.tensor([0, 9, 9, 9, 9, 9])}, "indptr must ascend"),
    ({"indptr": torch.tensor([-1, 4, 4, 4, 4, 4])}, "indptr must ascend"),
    ({"weight": torch.tensor([1.0, -1, 1, 1]), "strategy": "weighted"}, "weight must be finite and at least 0"),
    ({"weight": torch.tensor([1.0, math.nan, 1, 1]), "strategy": "weighted"}, "weight must be finite"),
    ({"weight": torch.tensor([1.0, math.inf, 1, 1]), "strategy": "weighted"}, "weight must be finite"),
    ({"relation": torch.tensor([0, 1, 2, 2], dtype=torch.int16), "num_relations": 2, "fanout": [2, 2]}, "indptr must ascend"),
]  # fmt: skip


@pytest.mark.skipif(DEVICE != "cpu", reason="a GPU would have to wait to know")
@pytest.mark.parametrize("key", ["CPU", "CompositeExplicitAutograd"])
@pytest.mark.parametrize("change, text", DATA)
def test_errors_in_the_data(change, text, key):
    def call():
        with pytest.raises(ValueError, match="neighbor_sample: " + text):
            neighbor_sample(**{**line(4), "nodes": roots(0), "fanout": 2, **change})

    if key == "CPU":
        call()
    else:
        with served_by(key):
            call()


def test_it_is_exported():
    assert callable(ga.ops.neighbor_sample) and callable(ga.neighbor_sample)
