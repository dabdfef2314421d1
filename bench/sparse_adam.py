"""Benchmark of `sparse_adam_`, on the rows of `sparse_adagrad_`'s."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gnnaccel.baselines.peers.sparse_adam import PROVIDERS
from gnnaccel.baselines.reference.sparse_adam import sparse_adam_ as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.bench.sparse_adagrad import CASES, TINY, giving_tables, moved, rows
from gnnaccel.ops.sparse_adam import sparse_adam_


def make_adam(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    gen, args = rows(params, device, seed)
    shape, m = args["table"].shape, params["m"]
    moments = {
        "exp_avg": torch.randn(shape, generator=gen).to(device) / m,
        # far from 0, where it would matter to which root eps is added
        "exp_avg_sq": (0.5 + torch.rand(shape, generator=gen)).to(device) / m**2,
    }
    return {**args, **moments, "step": 100}


register(
    Entry(
        op="sparse_adam",
        cases=CASES,
        tiny=TINY,
        reference_cases=("tiny",),
        make=make_adam,
        providers={name: giving_tables(op) for name, op in {"gnnaccel": sparse_adam_, **PROVIDERS}.items()},
        reference=giving_tables(reference),
        fresh=("table", "exp_avg", "exp_avg_sq"),
        bytes=moved,
    )
)
