import pytest
import torch

from gnnaccel.baselines.reference.last_neighbors import last_neighbors as reference
from gnnaccel.baselines.reference.last_neighbors import last_neighbors_insert as reference_insert
from gnnaccel.ops._last_neighbors import last_neighbors, last_neighbors_insert_
from tests.harness import Case, check_op

I64 = torch.int64


def empty_tables(nodes, size):
    return torch.zeros((nodes, size), dtype=I64), torch.full((nodes, size), -1)


def make_insert(nodes, size, before, events):
    """Tables after `before` events, and `events` more; every node is drawn often, some are self-loops."""

    def build(gen):
        src, dst = torch.randint(0, nodes, (2, before + events), generator=gen)
        tables = empty_tables(nodes, size)
        if before:
            tables = reference_insert(*tables, src[:before], dst[:before], 7)
        return {
            "neighbors": tables[0],
            "e_id": tables[1],
            "src": src[before:],
            "dst": dst[before:],
            "first": 7 + before,
        }

    return build


def make(nodes, size, before, roots):
    def build(gen):
        args = make_insert(nodes, size, before, 0)(gen)
        n_id = torch.randperm(nodes, generator=gen)[:roots]
        return {"neighbors": args["neighbors"], "e_id": args["e_id"], "n_id": n_id}

    return build


def insert(neighbors, e_id, src, dst, first):
    """The op on copies: the checks call it twice and compare."""
    tables = neighbors.clone(), e_id.clone()
    last_neighbors_insert_(*tables, src, dst, first)
    return tables


TestLastNeighbors = check_op(
    op=last_neighbors,
    reference=reference,
    cases=[
        Case("empty", make(4, 3, 0, 0)),
        Case("no_roots", make(4, 3, 9, 0)),
        Case("no_events", make(4, 3, 0, 4)),
        Case("one", make(2, 1, 1, 1)),
        Case("odd", make(23, 5, 60, 11)),
        Case("batch", make(900, 10, 5000, 400), small=False),
    ],
    schemas=["last_neighbors"],
    dtypes=(torch.float64,),
    compile=False,
)

TestInsert = check_op(
    op=insert,
    reference=reference_insert,
    cases=[
        Case("empty", make_insert(4, 3, 0, 0)),
        Case("one", make_insert(2, 1, 0, 1)),
        Case("first", make_insert(9, 4, 0, 6)),
        Case("more_than_fit", make_insert(3, 4, 10, 40)),
        Case("odd", make_insert(23, 5, 60, 17)),
        Case("batch", make_insert(900, 10, 3000, 400), small=False),
    ],
    schemas=["last_neighbors_insert_"],
    dtypes=(torch.float64,),
    compile=False,
)


def test_by_hand():
    tables = empty_tables(4, 2)
    last_neighbors_insert_(*tables, torch.tensor([0, 0, 0]), torch.tensor([1, 2, 3]), 0)
    assert tables[0][0].tolist() == [3, 2] and tables[1][0].tolist() == [2, 1]
    nodes, edges, events = last_neighbors(*tables, torch.tensor([2, 0]))
    assert nodes.tolist() == [0, 2, 3]
    assert edges.tolist() == [[0, 2, 1], [1, 0, 0]]
    assert events.tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"src": torch.rand(2)}, TypeError, "src must be int64, got torch.float32"),
        ({"src": torch.tensor([0, 9])}, ValueError, r"src must be in \[0, 4\), got 9"),
        ({"dst": torch.tensor([-1, 0])}, ValueError, r"dst must be in \[0, 4\), got -1"),
        ({"dst": torch.tensor([0])}, ValueError, r"dst must be \[2\] like src, got \[1\]"),
        ({"src": torch.tensor([[0, 1]])}, ValueError, r"src must have one dimension, got \[1, 2\]"),
        ({"e_id": torch.zeros((4, 2), dtype=I64)}, ValueError, r"must be \[N, size\], got \[4, 3\] and \[4, 2\]"),
        ({"neighbors": torch.zeros((3, 4), dtype=I64).T}, ValueError, "neighbors must be contiguous, got strides"),
    ],
)
def test_errors(change, error, match):
    neighbors, e_id = empty_tables(4, 3)
    args = {"neighbors": neighbors, "e_id": e_id, "src": torch.tensor([0, 1]), "dst": torch.tensor([2, 3]), **change}
    with pytest.raises(error, match=f"last_neighbors_insert_: .*{match}"):
        last_neighbors_insert_(**args, first=0)
    assert bool((e_id == -1).all())


def test_a_root_out_of_range():
    with pytest.raises(ValueError, match=r"last_neighbors: n_id must be in \[0, 4\), got 4"):
        last_neighbors(*empty_tables(4, 3), torch.tensor([1, 4]))
