"""Benchmark of `gather_rows`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers.gather_rows import NO_GRAD, PROVIDERS
from gnnaccel.baselines.reference.gather_rows import gather_rows as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.ops.gather_rows import gather_rows, quantize_rows


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    gen = torch.Generator().manual_seed(seed)
    table = torch.randn(params["N"], params["F"], generator=gen)
    ids = torch.randint(0, params["N"], (params["n"],), generator=gen)
    dtype = getattr(torch, params["dtype"])
    scale = None
    if dtype == torch.int8:
        table, scale = quantize_rows(table)
        scale = scale.to(device)
    else:
        table = table.to(dtype)
    return {"table": table.to(device), "ids": ids.to(device), "scale": scale, "dtype": torch.float32}


def moved(args: dict[str, Any]) -> int:
    table, n = args["table"], args["ids"].numel()
    return n * (table.shape[1] * (table.element_size() + 4) + 8)


def cast_reference(table: Tensor, ids: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    return reference(table, ids, scale)


register(
    Entry(
        op="gather_rows",
        cases={
            "memory_19k_of_1m": {"N": 1_000_000, "F": 100, "n": 19_800, "dtype": "float32"},
            "wikipedia_edges_6k": {"N": 157_474, "F": 172, "n": 6_000, "dtype": "float32"},
            "batch600_memory": {"N": 9_227, "F": 100, "n": 1_200, "dtype": "float32"},
            "half_19k_of_1m": {"N": 1_000_000, "F": 100, "n": 19_800, "dtype": "float16"},
            "int8_19k_of_1m": {"N": 1_000_000, "F": 100, "n": 19_800, "dtype": "int8"},
            "200k_of_1m": {"N": 1_000_000, "F": 100, "n": 200_000, "dtype": "float32"},
            # index_select is a loop of row copies: the rate of random rows that others are judged by
            "400k_of_2m": {"N": 2_000_000, "F": 128, "n": 400_000, "dtype": "float32"},
        },
        quick=("wikipedia_edges_6k",),
        tiny={"N": 50, "F": 20, "n": 30, "dtype": "float32"},
        make=make,
        providers={"gnnaccel": gather_rows, **NO_GRAD},
        compile="torch.index_select",
        gathers=True,
        reference=cast_reference,
        modes=("fwd",),
        bytes=moved,
    )
)


def make_grad(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    args = make(params, device, seed)
    gen = torch.Generator().manual_seed(seed)
    # popular rows come often
    ids = (torch.rand(params["n"], generator=gen, dtype=torch.float64) ** 3 * params["N"]).long()
    return {**args, "ids": ids.to(device)}


register(
    Entry(
        op="gather_rows_grad",
        cases={
            "block_k10_batch600": {"N": 9_227, "F": 100, "n": 18_000, "dtype": "float32"},
            "embedding_100k_of_100k": {"N": 100_000, "F": 100, "n": 100_000, "dtype": "float32"},
        },
        tiny={"N": 50, "F": 20, "n": 300, "dtype": "float32"},
        make=make_grad,
        providers={"gnnaccel": gather_rows, **PROVIDERS},
        compile="torch.index_select",
        gathers=True,
        reference=cast_reference,
        reference_cases=("tiny",),
        grad=("table",),
        modes=("bwd", "full"),
        bytes=moved,
        bytes_bwd=lambda a: 4 * (a["ids"].numel() + a["table"].shape[0]) * a["table"].shape[1],
    )
)
