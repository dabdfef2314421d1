"""Lazy Adam on rows: a program for each occurrence, of which the first of each row works."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from gnnaccel.kernels.aot import KernelSpec
from gnnaccel.kernels.triton._sparse import (
    accumulate,
    bits,
    block,
    first_of_row,
    number,
    put,
    rounding,
    sort_rows,
    total,
)

_NUMBERS = ("scale", "root", "beta1", "rest1", "beta2", "rest2", "eps", "factor", "seed")


@triton.jit(do_not_specialize=list(_NUMBERS))
def sparse_adam_kernel(
    table,
    exp_avg,
    exp_avg_sq,
    ids,
    order,
    end,
    grad,
    num_rows,
    D,
    stride,
    scale,
    root,
    beta1,
    rest1,
    beta2,
    rest2,
    eps,
    factor,
    seed,
    NORM: tl.constexpr,
    ROUND: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    p = tl.program_id(0).to(tl.int64)
    row, mine = first_of_row(ids, p, num_rows)
    if mine:
        last = tl.load(end + p)
        for i_d in range(0, D, BLOCK):
            o_d = i_d + tl.arange(0, BLOCK)
            m = o_d < D
            at = row * D + o_d
            b_w = tl.load(table + at, mask=m, other=0.0).to(ACC)
            b_g = total(grad, order, p, last, stride, o_d, m, b_w, number(factor, ACC), NORM, ACC)
            b_m = number(beta1, ACC) * tl.load(exp_avg + at, mask=m, other=0.0) + number(rest1, ACC) * b_g
            b_v = number(beta2, ACC) * tl.load(exp_avg_sq + at, mask=m, other=0.0) + number(rest2, ACC) * (b_g * b_g)
            tl.store(exp_avg + at, b_m, mask=m)
            tl.store(exp_avg_sq + at, b_v, mask=m)
            b_w -= number(scale, ACC) * b_m / (tl.sqrt(b_v) * number(root, ACC) + number(eps, ACC))
            put(table, row, D, o_d, m, b_w, i_d, seed, ROUND, BLOCK)


def sparse_adam_step(
    table: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    ids: Sequence[Tensor],
    grad: Sequence[Tensor],
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    regularization: float,
    norm: int,
    seed: int | None,
) -> None:
    n, D = table.shape
    if D == 0 or sum(len(i) for i in ids) == 0:
        return
    by = sort_rows(ids, grad)
    scale, root = lr / (1 - beta1**step), 1 / (1 - beta2**step) ** 0.5
    numbers = (scale, root, beta1, 1 - beta1, beta2, 1 - beta2, eps, regularization * norm)
    sparse_adam_kernel[(len(by.ids),)](
        table,
        exp_avg,
        exp_avg_sq,
        by.ids,
        by.order,
        by.end,
        by.grad,
        n,
        D,
        by.grad.stride(0),
        *(bits(x) for x in numbers),
        seed or 0,
        NORM=norm if regularization else 0,
        ROUND=rounding(table, seed),
        ACC=accumulate(table),
        BLOCK=block(D, table.device),
    )


KERNELS = [
    KernelSpec(
        f"sparse_adam_{name}",
        sparse_adam_kernel,
        {
            **dict.fromkeys(("table", "grad"), pointer),
            **dict.fromkeys(("exp_avg", "exp_avg_sq"), "*fp32"),
            **dict.fromkeys(("ids", "order", "end"), "*i64"),
            **dict.fromkeys(("num_rows", "D", "stride"), "i32"),
            **dict.fromkeys(_NUMBERS, "i64"),
        },
        {"NORM": norm, "ROUND": draw, "ACC": tl.float32, "BLOCK": 512},
        ("D", "stride"),
    )
    for name, pointer, norm, draw in (("float32", "*fp32", 0, 0), ("bfloat16", "*bf16", 3, 1))
]
