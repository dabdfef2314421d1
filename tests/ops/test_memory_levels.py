from contextlib import nullcontext

import pytest
import torch

from gnnaccel.baselines.reference.event_levels import event_levels
from gnnaccel.baselines.reference.memory_levels import memory_levels as reference
from gnnaccel.ops import memory_update
from gnnaccel.ops._memory_levels import memory_levels
from tests.harness import DEVICE, Case, check_op, served_by

I64, F64 = torch.int64, torch.float64
CAST = ("old", "time_w", "time_b", "w_ih", "w_hh", "b_ih", "b_hh")


def make(B, N, D, De=0, T=3, groups=5, cell="gru", time_dtype=I64, feature_dtype=None):
    def build(gen):
        node = torch.randint(0, N, (2 * B,), generator=gen)
        t = torch.randint(0, groups, (B,), generator=gen).sort().values
        row, before, last, order, offset = event_levels(node, node.new_empty(2 * B, 0), t, N)[:5]
        G = (3 if cell == "gru" else 1) * D

        def values(*shape, scale=1.0):
            return torch.randn(*shape, generator=gen, dtype=F64) * scale

        features = values(B, De) if De else None
        return {
            "old": values(N, D),
            "old_update": torch.randint(-20, 0, (N,), generator=gen).to(time_dtype),
            "node": node,
            "row": row,
            "before": before,
            "last": last,
            "order": order,
            "offset": offset,
            "times": t.repeat(2).to(time_dtype),
            "event_ids": torch.randperm(B, generator=gen),
            "edge_feat": features if feature_dtype is None or features is None else features.to(feature_dtype),
            "time_w": values(T),
            "time_b": values(T),
            "w_ih": values(G, 2 * D + De + T, scale=0.3),
            "w_hh": values(G, D, scale=0.3),
            "b_ih": values(G),
            "b_hh": values(G),
            "cell": cell,
        }

    return build


CASES = [
    Case("empty", make(0, 3, 2, 1)),
    Case("one", make(1, 2, 1)),
    Case("self_loops", make(5, 1, 2, 3)),
    Case("at_once", make(7, 4, 3, 2, groups=1)),
    Case("odd", make(13, 5, 3, 5, groups=9)),
    Case("rnn_float_times", make(11, 6, 4, 2, cell="rnn", time_dtype=F64)),
    Case("half_features", make(6, 4, 3, 17, feature_dtype=torch.float16)),
    Case("no_time", make(6, 4, 3, 1, T=0)),
    Case("batch", make(150, 60, 20, 9, T=8, groups=70), small=False),
]

TestMemoryLevels = check_op(
    op=memory_levels,
    reference=reference,
    cases=CASES,
    schemas=["memory_levels"],
    cast=CAST,
    dtypes=(torch.float64, torch.float32),
    length=lambda args: args["w_ih"].shape[1] * max(len(args["offset"]) - 1, 1),  # errors pass from level to level
    overload_args=lambda args: (*(v for k, v in args.items() if k != "cell"), args["cell"] == "gru"),
)


def made(**changes):
    args = make(6, 4, 3, 2)(torch.Generator().manual_seed(0))
    args = {k: v.float() if k in CAST else v for k, v in args.items()} | changes
    return {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in args.items()}


def test_a_row_has_the_bits_of_memory_update():
    args = {
        k: v.float() if k in CAST else v for k, v in make(200, 50, 20, 9, T=8, groups=90)(torch.Generator()).items()
    }
    args = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in args.items()}
    memory, last_update, mail, mail_time = memory_levels(**args)
    weights = [args[k] for k in CAST[1:]]
    later = (args["before"] >= 0).nonzero().squeeze(1)
    assert len(later) > 200
    source = args["before"][later]
    alone = memory_update(mail, (mail_time - last_update)[source], memory, *weights, rows=source)
    assert torch.equal(memory[later], alone)
    assert torch.equal(last_update[later], mail_time[source])


@pytest.mark.skipif(DEVICE != "cpu", reason="CUDA does not check ids")
@pytest.mark.parametrize("name", ["node", "row", "last", "before", "event_ids"])
@pytest.mark.parametrize("fallback", [False, True])
def test_ids_out_of_range(name, fallback):
    args = made()
    args[name] = args[name].clone()
    args[name][0] = 99
    with served_by("CompositeExplicitAutograd") if fallback else nullcontext():
        with pytest.raises(ValueError, match=f"memory_levels: {name} is out of range"):
            memory_levels(**args)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"old": torch.zeros(4, 3, dtype=torch.float16)}, TypeError, "old must be float32 or float64"),
        ({"times": torch.zeros(12)}, TypeError, "old_update and times must both be int64 or float64"),
        ({"times": torch.zeros(11, dtype=I64)}, ValueError, r"times must be \[12\], got \[11\]"),
        ({"row": torch.zeros(12)}, TypeError, "row must be int64"),
        ({"edge_feat": torch.zeros(6, 2, dtype=I64)}, TypeError, "edge_feat must be floating"),
        ({"edge_feat": torch.zeros(6, 3)}, ValueError, "w_ih must be"),
    ],
)
def test_bad_arguments(changes, error, message):
    with pytest.raises(error, match=f"memory_levels: {message}"):
        memory_levels(**made(**changes))
