import pytest
import torch

from gnnaccel.baselines.reference.sample_hops import sample_hops as reference
from gnnaccel.ops.neighbor_sample import neighbor_sample
from gnnaccel.ops.sample_hops import sample_hops
from gnnaccel.ops.unique_nodes import unique_nodes
from tests.harness import DEVICE, F64, INTERPRET, Case, check_op, served_by, threads
from tests.ops.static_rows import graph

if INTERPRET:
    pytest.skip("the kernel is CUDA C++: tests/kernels/test_cuda.py runs it on the host", allow_module_level=True)


def make(fanouts, seeds=5, edges=300, nodes=40, exclude=0, **options):
    shape = {k: options.pop(k) for k in ("relations", "weighted", "hub", "ids") if k in options}

    def build(gen):
        args = graph(gen, edges, nodes, **shape)
        args |= {"seeds": torch.randperm(nodes, generator=gen)[:seeds], "fanouts": fanouts}
        if exclude:
            args["exclude"] = torch.randperm(edges, generator=gen)[:exclude].sort().values
        return {**args, **options}

    return build


def flat(result):
    nodes, *lists = result
    return [nodes, *(tensor for tensors in lists for tensor in tensors)]


def op(**args):
    return flat(sample_hops(**args))


CASES = [
    Case("no_edges", make([3, 2], edges=0)),
    Case("no_seeds", make([3, 2], seeds=0)),
    Case("one_hop", make([3])),
    Case("three_hops", make([4, 3, 2], seed=7, epoch=2, batch=3)),
    Case("replace", make([4, 3], replace=True)),
    Case("edge_ids", make([4, 3], edge_ids=True)),
    Case("wide_ids", make([4, 3], ids=torch.int64, edge_ids=True)),
    Case("all", make([-1, -1], edge_ids=True)),
    Case("all_named", make([-1, -1], strategy="all")),
    Case("all_of_no_seeds", make([-1, 2], seeds=0)),
    Case("some_and_all", make([2, -1, 3], weighted=True, strategy="weighted", replace=True)),
    Case("exclude", make([5, 3], exclude=90, edge_ids=True)),
    Case("exclude_without_edge_ids", make([5, 3], exclude=90)),
    Case("weighted", make([4, 3], weighted=True, strategy="weighted")),
    Case("relations", make([4, 3], relations=3, edge_ids=True)),
    Case("typed", make([[2, 0, 3], 4, [1, 1, 1]], relations=3)),
    Case("large", make([7, 6, 5], seeds=300, edges=20_000, nodes=4000), small=False),
]


def raw(args):
    fanouts, exclude = args["fanouts"], args.get("exclude")
    edge_ids = args.get("edge_ids", False)
    return (
        *(args["indptr"], args["nbr"], args["eid"] if edge_ids or exclude is not None else None),
        *(args.get("relation"), args.get("weight"), exclude, args["seeds"].to(args["nbr"].dtype)),
        [f for hop in fanouts for f in (hop if isinstance(hop, list) else [hop])],
        [len(hop) if isinstance(hop, list) else 0 for hop in fanouts],
        *(args.get("strategy") == "weighted", args.get("replace", False), edge_ids),
        *(args.get(k, 0) for k in ("seed", "epoch", "batch")),
    )


TestSampleHops = check_op(
    op=op,
    reference=lambda **args: flat(reference(**args)),
    cases=CASES,
    schemas=["sample_hops"],
    dtypes=[F64],
    overload_args=raw,
)


def chain():
    """0 <- 1 <- 2 <- 3, and 0 <- 3."""
    return {
        "indptr": torch.tensor([0, 2, 3, 4, 4], device=DEVICE),
        "nbr": torch.tensor([1, 3, 2, 3], dtype=torch.int32, device=DEVICE),
        "eid": torch.tensor([0, 3, 1, 2], dtype=torch.int32, device=DEVICE),
    }


def test_by_hand():
    seeds = torch.tensor([1, 0], device=DEVICE)
    nodes, row, count, eid, relation, weight = sample_hops(**chain(), seeds=seeds, fanouts=[3, 2], edge_ids=True)
    assert nodes.tolist() == [1, 0, 2, 3] and nodes.dtype == torch.int32
    assert row[0].tolist() == [[2, -1, -1], [0, 3, -1]]
    assert count[0].tolist() == [1, 2]
    assert eid[0].tolist() == [[1, -1, -1], [0, 3, -1]]
    assert row[1].tolist() == [[2, -1], [0, 3], [3, -1], [-1, -1]]
    assert count[1].tolist() == [1, 2, 1, 0]
    assert relation == [] and weight == []
    assert {x.dtype for x in (*row, *count)} == {torch.int32}


def test_excluded_edges_are_never_taken():
    exclude = torch.tensor([1, 3], device=DEVICE)
    seeds = torch.tensor([1, 0], device=DEVICE)
    nodes, row, count, *_ = sample_hops(**chain(), seeds=seeds, fanouts=[3], exclude=exclude)
    assert nodes.tolist() == [1, 0] and count[0].tolist() == [0, 1] and row[0][1].tolist() == [0, -1, -1]


def test_it_is_the_composition_of_its_parts():
    g = graph(torch.Generator().manual_seed(3), 20_000, 3000, weighted=True)
    g = {k: v.to(DEVICE) for k, v in g.items()}
    seeds = torch.randperm(3000)[:200].to(DEVICE)
    key = {"seed": 11, "epoch": 1, "batch": 4, "strategy": "weighted"}
    nodes, row, count, *_ = sample_hops(**g, seeds=seeds, fanouts=[6, 5, 4], **key)
    found = seeds.int()
    for hop, fanout in enumerate([6, 5, 4]):
        nbr, _, n, *_ = neighbor_sample(**g, nodes=found, fanout=fanout, hop=hop, **key)
        assert torch.equal(n, count[hop])
        assert torch.equal(torch.where(row[hop] >= 0, nodes[row[hop].long()], -1), nbr)
        found, _ = unique_nodes(torch.cat([found, nbr.flatten()]), 3000)
        assert torch.equal(nodes[: len(found)], found)
    assert len(found) == len(nodes)


def test_calls_leave_nothing_behind():
    """The table of numbers outlives a call: other graphs, failures and smaller calls between must not show."""
    small, large = (make([4, 3], nodes=n)(torch.Generator().manual_seed(n)) for n in (30, 600))
    small, large = ({k: v.to(DEVICE) if torch.is_tensor(v) else v for k, v in g.items()} for g in (small, large))
    want = [op(**small), op(**large)]
    bad = large["seeds"].clone()
    bad[-1] = bad[0]
    for _ in range(3):
        for args, outs in zip((small, large), want, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(op(**args), outs, strict=True))
        with pytest.raises(ValueError):
            op(**{**large, "seeds": bad})


@pytest.mark.skipif(DEVICE != "cpu", reason="threads of the CPU")
def test_calls_from_several_threads():
    from concurrent.futures import ThreadPoolExecutor

    args = [make([5, 4], seeds=20, nodes=300 + i, edges=4000)(torch.Generator().manual_seed(i)) for i in range(4)]
    want = [op(**a) for a in args]
    with threads(1), ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            for got, outs in zip(pool.map(lambda a: op(**a), args), want, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(got, outs, strict=True))


BAD = [
    ({"fanouts": []}, ValueError, "fanouts must have 1 to 256 entries"),
    ({"fanouts": 3}, TypeError, "fanouts must be a sequence"),
    ({"fanouts": [3, 0]}, ValueError, r"fanouts\[1\] must be in \[1, 2\*\*24\), or -1 for all, got 0"),
    ({"fanouts": [-2]}, ValueError, r"fanouts\[0\] must be in"),
    ({"fanouts": [2.5]}, TypeError, r"fanouts\[0\] must be an int"),
    ({"fanouts": [[1]]}, ValueError, r"fanouts\[0\] must be an int on a graph without relations"),
    ({"fanouts": [3], "strategy": "all"}, ValueError, "fanouts must be -1 with strategy='all'"),
    ({"strategy": "weighted"}, ValueError, "weight must be given"),
    ({"strategy": "none"}, ValueError, "strategy must be one of"),
    ({"seeds": torch.tensor([0, 4])}, ValueError, r"seeds must be in \[0, 4\), got 4 at position 1"),
    ({"seeds": torch.tensor([0, -1])}, ValueError, r"seeds must be in \[0, 4\), got -1"),
    ({"seeds": torch.tensor([0, 2, 0])}, ValueError, "seeds must be distinct, got 0 more than once"),
    ({"seeds": torch.tensor([0.0])}, TypeError, "seeds must be int64 or int32"),
    ({"seeds": torch.tensor([[0]])}, ValueError, "seeds must be"),
    ({"eid": None, "edge_ids": True}, ValueError, "eid must be given"),
    ({"exclude": torch.tensor([2, 1])}, ValueError, "exclude must ascend"),
    ({"nbr": torch.tensor([1, 9, 2, 3], dtype=torch.int32)}, ValueError, r"nbr must be in \[0, 4\), got 9"),
    ({"nbr": torch.tensor([1, -1, 2, 3], dtype=torch.int32)}, ValueError, "nbr must be in"),
    ({"indptr": torch.tensor([2, 0, 3, 4, 4])}, ValueError, "indptr must ascend"),
]


@pytest.mark.parametrize("key", ["CPU", "CompositeExplicitAutograd"])
@pytest.mark.parametrize("change, error, text", BAD)
def test_errors(change, error, text, key):
    args = {**chain(), "seeds": torch.tensor([0, 1]), "fanouts": [2], **change}

    def call():
        with pytest.raises(error, match="sample_hops: " + text):
            sample_hops(**{k: v.to(DEVICE) if torch.is_tensor(v) else v for k, v in args.items()})

    if key == "CPU":
        call()
    else:
        with served_by(key):
            call()
