from contextlib import nullcontext

import pytest
import torch

from gnnaccel.baselines.reference.event_levels import event_levels as reference
from gnnaccel.ops._event_levels import event_levels
from tests.harness import DEVICE, Case, check_op, served_by

I64 = torch.int64


def make(B, N, C=0, K=0, groups=None, strided=False):
    """`groups`: as many times as there may be; few of them give ties."""

    def build(gen):
        S = (2 + C) * B
        nbr = torch.randint(-1, N, (S, 2 * K if strided else K), generator=gen)
        group = torch.arange(B) if groups is None else torch.randint(-groups, groups, (B,), generator=gen).sort().values
        return {
            "root": torch.randint(0, N, (S,), generator=gen),
            "nbr": nbr[:, ::2] if strided else nbr,
            "group": group,
            "num_nodes": N,
        }

    return build


CASES = [
    Case("empty", make(0, 3, 1, 2)),
    Case("one", make(1, 2)),
    Case("one_self_loop", make(1, 1, 1, 1)),
    Case("chain_of_self_loops", make(6, 1, 1, 2)),
    Case("all_at_once", make(7, 4, 1, 2, groups=1)),
    Case("ties", make(23, 9, 2, 3, groups=5)),
    Case("odd", make(17, 6, 1, 3)),
    Case("strided", make(11, 8, 1, 2, groups=4, strided=True)),
    Case("hub", make(40, 2, 1, 1)),
    Case("far_apart", make(9, 1000, 1, 1)),
    Case("batch", make(200, 150, 1, 5, groups=150), small=False),
]

TestEventLevels = check_op(
    op=lambda **args: tuple(event_levels(**args)),
    reference=reference,
    cases=CASES,
    schemas=["event_levels"],
    dtypes=(torch.float64,),
)


def test_by_hand():
    """(0, 1), (1, 2), (3, 4) and, at one time, (0, 3) and (3, 5); the second event looks at 0 too, the fifth at 1."""
    root = torch.tensor([0, 1, 3, 0, 3, 1, 2, 4, 3, 5, 5, 0, 5, 1, 1], device=DEVICE)
    got = event_levels(
        root,
        torch.tensor([[-1], [0], *[[-1]] * 7, [3], *[[-1]] * 5], device=DEVICE),
        torch.tensor([5, 6, 7, 9, 9], device=DEVICE),
        6,
    )
    # rows: 0 and 1 of event 0; 1, 2 of event 1; 3, 4 of event 2; 0, 3, 5 at time 9
    assert got.row.tolist() == [0, 2, 4, 6, 7, 1, 3, 5, 7, 8]
    assert got.before.tolist() == [-1, -1, 1, -1, -1, -1, 0, 4, -1]
    assert got.last.tolist() == [0, 5, 1, 6, 2, 7, 3, 4, 9]
    levels = [got.order[a:b].tolist() for a, b in zip(got.offset[:-1], got.offset[1:], strict=True)]
    assert levels == [[0, 1, 3, 4, 5, 8], [2, 6, 7]]
    # looked at: 1 after event 0 (by events 1, 3 and 4), 0 after event 0, 3 after event 2
    assert got.read.tolist() == [0, 1, 2, 4]
    assert got.root_version.tolist() == [0, 7, 3, 6, 9, 1, 2, 4, 9, 5, 5, 6, 5, 8, 8]
    assert got.nbr_version.squeeze(1).tolist() == [-1, 6, *[-1] * 7, 9, *[-1] * 5]


def test_a_group_waits_for_what_its_ends_wait_for():
    """Within a level nobody reads what another row of the level leaves, and levels are as few as that allows."""
    gen = torch.Generator().manual_seed(0)
    args = make(300, 40, groups=90)(gen)
    got = event_levels(**{k: v.to(DEVICE) if k != "num_nodes" else v for k, v in args.items()})
    level = torch.empty(len(got.order), dtype=I64)
    for n, (a, b) in enumerate(zip(got.offset[:-1], got.offset[1:], strict=True)):
        level[got.order[a:b].cpu()] = n
    other = got.row[(got.last + 300) % 600].cpu()
    later = got.before.cpu() >= 0
    source = got.before.cpu()[later]
    assert torch.equal(level[later], 1 + torch.maximum(level[source], level[other[source]]))
    assert bool((level[~later] == 0).all())


@pytest.mark.skipif(DEVICE != "cpu", reason="CUDA does not check ids")
@pytest.mark.parametrize("fallback", [False, True])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("root", [0, 3, 0, 1], r"root must be in \[0, 3\), got 3"),
        ("root", [0, -1, 0, 1], r"root must be in \[0, 3\), got -1"),
        ("nbr", [[0], [-2], [0], [0]], r"nbr must be in \[-1, 3\), got -2"),
        ("group", [2, 1], "group must not decrease"),
    ],
)
def test_bad_values(name, value, message, fallback):
    args = {"root": torch.tensor([0, 1, 1, 2]), "nbr": torch.zeros(4, 1, dtype=I64), "group": torch.tensor([0, 1])}
    args[name] = torch.tensor(value)
    with served_by("CompositeExplicitAutograd") if fallback else nullcontext():
        with pytest.raises(ValueError, match=f"event_levels: {message}"):
            event_levels(**args, num_nodes=3)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"root": torch.zeros(4)}, TypeError, "root must be int64, got torch.float32"),
        ({"group": torch.zeros(2, 1, dtype=I64)}, ValueError, r"group must have 1 dimension\(s\), got \[2, 1\]"),
        ({"root": torch.zeros(5, dtype=I64)}, ValueError, "root must have 2 or more nodes for each of 2 events, got 5"),
        ({"root": torch.zeros(2, dtype=I64)}, ValueError, "root must have 2 or more nodes for each of 2 events, got 2"),
        ({"nbr": torch.zeros(3, 1, dtype=I64)}, ValueError, r"nbr must be \[4, K\], got \[3, 1\]"),
    ],
)
def test_bad_arguments(changes, error, message):
    args = {"root": torch.zeros(4, dtype=I64), "nbr": torch.zeros(4, 1, dtype=I64), "group": torch.arange(2)}
    with pytest.raises(error, match=f"event_levels: {message}"):
        event_levels(**{**args, **changes}, num_nodes=3)
