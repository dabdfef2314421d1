"""Benchmark of `gather_aggregate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers.gather_aggregate import MISSING, PROVIDERS, edge_list
from gnnaccel.baselines.reference.gather_aggregate import gather_aggregate as reference
from gnnaccel.bench.harness import Entry, register
from gnnaccel.ops.gather_aggregate import gather_aggregate
from gnnaccel.ops.gather_rows import quantize_rows


def make(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    """R roots with K neighbours each, one in ten with fewer; every row of the table is as likely."""
    gen = torch.Generator().manual_seed(seed)
    N, R, K = params["N"], params["R"], params["K"]
    count = torch.where(torch.rand(R, generator=gen) < 0.9, K, torch.randint(1, K + 1, (R,), generator=gen))
    nbr = torch.randint(0, N, (R, K), generator=gen).masked_fill(torch.arange(K) >= count.unsqueeze(1), -1)
    table = torch.randn(N, params["F"], generator=gen)
    if params.get("distinct"):
        nbr, table = without_ties(params, nbr, gen)
    dtype, scale, weight = getattr(torch, params.get("dtype", "float32")), None, None
    if dtype == torch.int8:
        table, scale = quantize_rows(table)
    else:
        table = table.to(dtype)
    if params.get("weight"):
        weight = torch.rand(R, K, generator=gen)
    args = {"table": table, "nbr": nbr, "count": count, "weight": weight, "scale": scale}
    args = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in args.items()}
    return {**args, "reduce": params.get("reduce", "mean")}


def without_ties(params: Mapping[str, Any], nbr: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
    """Neighbours, each root's from as many parts of the table, and values of which no column has one twice.

    The gradient of a maximum of equals is a matter of rules. Ours gives it to the first; torch.segment_reduce divides it
    where it is positive, and gives all of it to each where it is negative.
    """
    N, K, F = params["N"], params["K"], params["F"]
    part = N // K
    nbr = torch.where(nbr < 0, nbr, nbr % part + part * torch.arange(K))
    # odd factors permute the numbers of 24 bits, which float32 holds
    factor, start = (
        2 * torch.randint(0, 1 << 23, (F,), generator=gen) + 1,
        torch.randint(0, 1 << 24, (F,), generator=gen),
    )
    number = (torch.arange(N).unsqueeze(1) * factor + start) % (1 << 24)
    return nbr, (number.float() - (1 << 23)) / (1 << 22)


def flat(args: dict[str, Any]) -> dict[str, Any]:
    """The same edges as a list, for the peers."""
    nbr, count, weight = args["nbr"], args["count"], args["weight"]
    ids, root, indptr = edge_list(nbr, count)
    live = torch.arange(nbr.shape[1], device=nbr.device) < count.unsqueeze(1)
    others = {name: args[name] for name in ("table", "reduce", "scale")}
    return {**others, "ids": ids, "root": root, "indptr": indptr, "weight": None if weight is None else weight[live]}


def moved(args: Mapping[str, Any]) -> int:
    table, (R, K), edges = args["table"], args["nbr"].shape, int(args["count"].sum())
    size = 4 if args["scale"] is not None else table.element_size()
    row = table.shape[1] * table.element_size() + (0 if args["scale"] is None else 4)
    return edges * row + R * (8 * K + table.shape[1] * size)


def moved_back(args: Mapping[str, Any]) -> int:
    """Each edge reads its root's gradient, each row of the table is written."""
    table, edges = args["table"], int(args["count"].sum())
    return table.element_size() * table.shape[1] * (edges + table.shape[0]) + 8 * edges


LARGE = {"N": 2_000_000, "F": 128, "R": 160_000, "K": 10, "threads": 1}
SMALL = {**LARGE, "R": 16_000}
QUICK = {**LARGE, "N": 500_000, "R": 4000}

register(
    Entry(
        op="gather_aggregate",
        cases={
            "mean_16k_k10_of_2m": SMALL,
            "mean_160k_k10_of_2m": LARGE,
            "mean_16k_k10_of_2m_2threads": {**SMALL, "threads": 2},
            "max_16k_k10_of_2m": {**SMALL, "reduce": "max"},
            "weighted_sum_16k_k10_of_2m": {**SMALL, "reduce": "sum", "weight": True},
            "half_16k_k10_of_2m": {**SMALL, "dtype": "float16"},
            "int8_16k_k10_of_2m": {**SMALL, "dtype": "int8"},
        },
        quick={"mean_4k_k10_of_500k": QUICK},
        tiny={"N": 40, "F": 20, "R": 30, "K": 4},
        make=make,
        providers={"gnnaccel": gather_aggregate, **PROVIDERS},
        compile="index_select+index_add",
        gathers=True,
        missing=MISSING,
        prepare=dict.fromkeys(PROVIDERS, flat),
        reference=reference,
        reference_cases=("tiny",),
        modes=("fwd",),
        bytes=moved,
        refuses={"F.embedding_bag": lambda args: "" if args["scale"] is None else "no int8 tables"},
        # half: the peers sum in half precision
        tol=5e-3,
    )
)

register(
    Entry(
        op="gather_aggregate_grad",
        cases={
            "mean_16k_k10_of_100k": {**SMALL, "N": 100_000},
            "max_16k_k10_of_100k": {**SMALL, "N": 100_000, "reduce": "max", "distinct": True},
        },
        quick={"mean_4k_k10_of_25k": {**QUICK, "N": 25_000}},
        tiny={"N": 40, "F": 20, "R": 30, "K": 4},
        make=make,
        providers={"gnnaccel": gather_aggregate, **PROVIDERS},
        compile="index_select+index_add",
        gathers=True,
        missing=MISSING,
        prepare=dict.fromkeys(PROVIDERS, flat),
        reference=reference,
        reference_cases=("tiny",),
        grad=("table",),
        modes=("bwd", "full"),
        bytes=moved,
        bytes_bwd=moved_back,
    )
)


def quantised(
    rows: Tensor, scale: Tensor, table: Tensor, nbr: Tensor, count: Tensor, weight: None, reduce: str
) -> Tensor:
    return gather_aggregate(rows, nbr, count, reduce, scale=scale)


def single(rows: Tensor, scale: Tensor, table: Tensor, nbr: Tensor, count: Tensor, weight: None, reduce: str) -> Tensor:
    return gather_aggregate(table, nbr, count, reduce)


def make_both(params: Mapping[str, Any], device: str, seed: int) -> dict[str, Any]:
    args = make(params, device, seed)
    args.pop("scale")
    rows, scale = quantize_rows(args["table"])
    return {**args, "rows": rows, "scale": scale}


# int8 against float32, ours both
register(
    Entry(
        op="gather_aggregate_int8",
        cases={"mean_160k_k10_of_2m": LARGE, "mean_16k_k10_of_2m": SMALL},
        quick={"mean_4k_k10_of_500k": QUICK},
        tiny={"N": 40, "F": 20, "R": 30, "K": 4},
        make=make_both,
        providers={"gnnaccel": quantised, "gnnaccel float32": single},
        gathers=True,
        bytes=moved,
        modes=("fwd",),
        # a step of int8 is 1/127 of the largest of 128 normal numbers, about 3; means of ten halve that again
        tol=2e-2,
    )
)
