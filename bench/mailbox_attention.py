"""Benchmark of `mailbox_attention`: APAN's whole updater, ours (absorbed projections) against the projected form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers.mailbox_attention import PROVIDERS
from gnnaccel.baselines.peers.mailbox_attention import updater as projected
from gnnaccel.bench.harness import Entry, register
from gnnaccel.nn.mailbox_attention import MailboxAttention

PARAMETERS = {
    "time_w": "time_encoder.w",
    "time_b": "time_encoder.b",
    "wq": "query.weight",
    "bq": "query.bias",
    "wk": "key.weight",
    "bk": "key.bias",
    "wv": "value.weight",
    "bv": "value.bias",
    "wo": "output.weight",
    "bo": "output.bias",
    "norm_weight": "norm.weight",
    "norm_bias": "norm.bias",
}
STATE = ("mail", "mail_time", "has_mail", "nodes", "times")


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    gen = torch.Generator().manual_seed(seed)
    N, P, S, M, T, D = (params[k] for k in ("N", "P", "S", "M", "T", "D"))
    torch.manual_seed(seed)
    named = dict(MailboxAttention(M, T, D, heads=params["H"]).named_parameters())
    has = torch.arange(S) < torch.where(
        torch.rand(N, 1, generator=gen) < 0.8, S, torch.randint(1, S + 1, (N, 1), generator=gen)
    )
    args: dict[str, Any] = {
        "memory": torch.randn(N, D, generator=gen),
        "mail": torch.randn(N, S, M, generator=gen) * has.unsqueeze(-1),
        # short spans: the peer forms its angle in float32 and would fail the correctness gate at Unix scales
        "mail_time": torch.randint(0, 50, (N, S), generator=gen) * has,
        "has_mail": has,
        "nodes": torch.randint(0, N, (P,), generator=gen),
        "times": torch.randint(50, 100, (P,), generator=gen),
        **{short: named[name].detach().clone() for short, name in PARAMETERS.items()},
    }
    return {k: v.to(device) for k, v in args.items()} | {"heads": params["H"]}


def ours(**args: Any) -> Tensor:
    key = (args["mail"].shape[-1], args["time_w"].shape[0], args["wq"].shape[0], args["heads"])
    if key not in _MODULES:
        # only its forward is used: the parameters are given in each call
        _MODULES[key] = MailboxAttention(*key, dropout=0.0).to("meta")
    parameters = {name: args[short] for short, name in PARAMETERS.items()}
    rows = args["memory"][args["nodes"]]
    return torch.func.functional_call(_MODULES[key], parameters, (rows, *(args[k] for k in STATE)))


_MODULES: dict[tuple[int, ...], MailboxAttention] = {}


def flops(args: Mapping[str, Any]) -> int:
    """Products of P rows: the carried queries, the values of both heads' sums, the output; and two passes over the mails."""
    (D, F), P = args["wk"].shape, len(args["nodes"])
    mails = int(args["has_mail"][args["nodes"]].sum())
    H = args["heads"]
    return 2 * P * D * (H * F + F + D) + mails * (4 * H * F + 20 * args["time_w"].shape[0])


def moved(args: Mapping[str, Any]) -> int:
    """Each row's mails and memory once; u and z once."""
    (D, F), P = args["wk"].shape, len(args["nodes"])
    mails = int(args["has_mail"][args["nodes"]].sum())
    return mails * (args["mail"].shape[-1] * 4 + 8) + 4 * P * (2 * D + 2 * args["heads"] * F)


APAN = {"N": 9228, "S": 10, "M": 372, "T": 100, "D": 100, "H": 2}

register(
    Entry(
        op="mailbox_attention",
        cases={
            "apan_batch600_features": {**APAN, "P": 1800},
            "apan_batch600_features_1thread": {**APAN, "P": 1800, "threads": 1},
            "apan_batch600": {**APAN, "P": 1800, "M": 200},
            "apan_batch200_features": {**APAN, "P": 600},
            "apan_batch200": {**APAN, "P": 600, "M": 200},
        },
        make=make,
        providers={"gnnaccel": ours, **PROVIDERS},
        compile="torch",
        reference=projected,
        grad=tuple(PARAMETERS),
        bytes=moved,
        flops=flops,
        flops_bwd=lambda args: 2 * flops(args),
        quick=("apan_batch200",),
        tiny={"N": 30, "P": 20, "S": 4, "M": 9, "T": 5, "D": 8, "H": 2},
    )
)
