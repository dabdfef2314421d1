from contextlib import nullcontext

import pytest
import torch

import gnnaccel as ga
from gnnaccel.baselines.reference.unique_nodes import unique_nodes as reference
from gnnaccel.ops.unique_nodes import unique_nodes_padded
from tests.harness import DEVICE, INTERPRET, Case, check_op, served_by, threads

I32, I64 = torch.int32, torch.int64


def make(shape, high, dtype=I64, padded=0.0, num_nodes=None, strided=False):
    def build(gen):
        ids = torch.randint(0, max(high, 1), shape, generator=gen)
        ids = ids.masked_fill(torch.rand(shape, generator=gen) < padded, -1).to(dtype)
        return {"ids": ids.T if strided else ids, "num_nodes": num_nodes}

    return build


def distinct(n, num_nodes=None):
    return lambda gen: {"ids": torch.randperm(n, generator=gen) * 1_000_003, "num_nodes": num_nodes}


def colliding(n):
    """Ids whose hashes (Fibonacci hashing, both devices) all start in the last slot of the table, so that probing wraps."""
    inverse = pow(0x9E3779B97F4A7C15, -1, 2**64)
    ids = [(2**64 - 1 - k) * inverse % 2**64 for k in range(8 * n)]
    ids = torch.tensor([i for i in ids if i < 2**63][:n])
    return lambda gen: {"ids": ids[torch.randint(0, n, (3 * n,), generator=gen)], "num_nodes": None}


CASES = [
    Case("empty", make((0,), 1)),
    Case("empty_bounded", make((0,), 1, num_nodes=0)),
    Case("scalar", make((), 5)),
    Case("one", make((1,), 9, num_nodes=9)),
    Case("all_padded", make((4, 3), 5, padded=2.0)),
    Case("all_padded_bounded", make((4, 3), 5, I32, padded=2.0, num_nodes=5)),
    Case("hub", make((37,), 1)),
    Case("all_distinct", distinct(67)),
    Case("colliding", colliding(45)),
    Case("odd", make((7, 3), 11, padded=0.3)),
    Case("odd_int32_bounded", make((7, 3), 11, I32, padded=0.3, num_nodes=11)),
    Case("strided", make((5, 6), 12, padded=0.2, num_nodes=12, strided=True)),
    Case("several_blocks", make((300,), 90, padded=0.1)),
    Case("sparse_ids", make((4099,), 2**62), small=False),
    Case("sparse_ids_bounded", make((4099,), 2**40, num_nodes=2**40), small=False),
    Case("many", make((200, 101), 9000, padded=0.3, num_nodes=9000), small=False),
    Case("many_int32_hashed", make((200, 101), 9000, I32, padded=0.3), small=False),
]

TestUniqueNodes = check_op(
    op=ga.unique_nodes, reference=reference, cases=CASES, schemas=["unique_nodes"], dtypes=(torch.float64,)
)


def test_by_hand():
    unique, inverse = ga.unique_nodes(torch.tensor([[7, -1, 3], [7, 0, 3]]))
    assert unique.tolist() == [7, 3, 0]
    assert inverse.tolist() == [[0, -1, 1], [0, 2, 1]]
    assert inverse.dtype == I64


def test_table_of_an_earlier_call_does_not_show():
    """The tables outlive the call: calls of different sizes, bounded and hashed, in turns."""
    gen = torch.Generator().manual_seed(0)
    with threads(1):
        for turn in range(300):
            n, high = int(torch.randint(0, 50, (), generator=gen)), int(torch.randint(1, 100, (), generator=gen))
            # every third call has ids whose upper half looks like the epoch of a coming call
            ids = torch.randint(-1, high, (n,), generator=gen) + (torch.randint(0, 400, (n,)) << 32) * (turn % 3 == 0)
            high = high if turn % 3 else 2**50
            for got, want in zip(ga.unique_nodes(ids, high if turn % 2 else None), reference(ids), strict=True):
                assert torch.equal(got, want)


def test_table_is_given_back_after_a_large_call():
    ids = torch.arange(3_000_000).repeat(2)
    unique, inverse = ga.unique_nodes(ids)
    assert torch.equal(unique[inverse], ids)
    assert torch.equal(unique, ids[:3_000_000])


def test_largest_ids():
    for dtype in (I32, I64):
        top = torch.iinfo(dtype).max
        unique, inverse = ga.unique_nodes(torch.tensor([top, torch.iinfo(dtype).min, top - 1, top], dtype=dtype))
        assert unique.tolist() == [top, top - 1]
        assert inverse.tolist() == [0, -1, 1, 0]


@pytest.mark.parametrize("num_nodes", [0, 5, 2**20])
def test_id_past_num_nodes(num_nodes):
    ids = torch.tensor([-1, num_nodes])
    with pytest.raises(ValueError, match=f"unique_nodes: ids must be below num_nodes = {num_nodes}, got {num_nodes}"):
        ga.unique_nodes(ids, num_nodes)
    # and the table is usable afterwards
    assert ga.unique_nodes(ids)[0].tolist() == [num_nodes]


@pytest.mark.parametrize(
    ("args", "error", "match"),
    [
        ((torch.rand(3),), TypeError, "ids must be int32 or int64, got torch.float32"),
        ((torch.arange(3), -1), ValueError, "num_nodes must be at least 0, got -1"),
    ],
)
def test_errors(args, error, match):
    with pytest.raises(error, match=f"unique_nodes: {match}"):
        ga.unique_nodes(*args)


@pytest.mark.interpret
@pytest.mark.parametrize("case", [c for c in CASES if c.small], ids=lambda c: c.name)
def test_padded_is_the_same_in_one_size(case):
    ids = case.make(torch.Generator().manual_seed(0))["ids"].to(DEVICE)
    with served_by("CUDA") if INTERPRET else nullcontext():
        unique, inverse = ga.unique_nodes(ids)
        padded, same, count = unique_nodes_padded(ids)
    assert padded.shape == (ids.numel(),) and padded.dtype == ids.dtype and count.shape == (1,)
    assert count.item() == len(unique) and torch.equal(padded[: len(unique)], unique)
    assert (padded[len(unique) :] == -1).all() and torch.equal(same, inverse)


def test_padded_errors_and_fakes():
    with pytest.raises(TypeError, match=r"unique_nodes_padded: ids must be int32 or int64, got torch\.float32"):
        unique_nodes_padded(torch.zeros(3))
    torch.library.opcheck(torch.ops.gnnaccel.unique_nodes_padded.default, (torch.tensor([3, -1, 3]),))
