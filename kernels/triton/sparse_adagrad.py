"""Adagrad on rows: a program for each occurrence, of which the first of each row works."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from gnnaccel.kernels.aot import KernelSpec
from gnnaccel.kernels.triton._sparse import (
    accumulate,
    bits,
    block,
    first_of_row,
    gradient,
    number,
    penalty,
    put,
    rounding,
    sort_rows,
    total,
)

ROW, ROW_DUP, FULL = 0, 1, 2


@triton.jit(do_not_specialize=["lr", "eps", "factor", "seed"])
def sparse_adagrad_kernel(
    table,
    state,
    ids,
    order,
    end,
    grad,
    num_rows,
    D,
    stride,
    lr,
    eps,
    factor,
    seed,
    FULL: tl.constexpr,
    NORM: tl.constexpr,
    ROUND: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Modes `row` and `full`."""
    p = tl.program_id(0).to(tl.int64)
    row, mine = first_of_row(ids, p, num_rows)
    if mine:
        last = tl.load(end + p)
        rate, small, c = number(lr, ACC), number(eps, ACC), number(factor, ACC)
        if not FULL:
            squares = tl.zeros([], ACC)
            for i_d in range(0, D, BLOCK):
                o_d = i_d + tl.arange(0, BLOCK)
                m = o_d < D
                b_w = tl.load(table + row * D + o_d, mask=m, other=0.0).to(ACC)
                b_g = total(grad, order, p, last, stride, o_d, m, b_w, c, NORM, ACC)
                squares += tl.sum(b_g * b_g, axis=0)
            s = tl.load(state + row) + squares / D
            tl.store(state + row, s)
            scale = rate / (tl.sqrt(s) + small)
        for i_d in range(0, D, BLOCK):
            o_d = i_d + tl.arange(0, BLOCK)
            m = o_d < D
            b_w = tl.load(table + row * D + o_d, mask=m, other=0.0).to(ACC)
            b_g = total(grad, order, p, last, stride, o_d, m, b_w, c, NORM, ACC)
            if FULL:
                b_s = tl.load(state + row * D + o_d, mask=m, other=0.0) + b_g * b_g
                tl.store(state + row * D + o_d, b_s, mask=m)
                b_w -= rate * b_g / (tl.sqrt(b_s) + small)
            else:
                b_w -= scale * b_g
            put(table, row, D, o_d, m, b_w, i_d, seed, ROUND, BLOCK)


@triton.jit(do_not_specialize=["factor"])
def sparse_adagrad_squares_kernel(
    table,
    ids,
    order,
    grad,
    squares,
    num_rows,
    D,
    stride,
    factor,
    NORM: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Mean square of the gradient at each sorted position."""
    p = tl.program_id(0).to(tl.int64)
    row = tl.load(ids + p).to(tl.int64)
    if (row >= 0) & (row < num_rows):
        c, mean = number(factor, ACC), tl.zeros([], ACC)
        for i_d in range(0, D, BLOCK):
            o_d = i_d + tl.arange(0, BLOCK)
            m = o_d < D
            b_g = gradient(grad, order, p, stride, o_d, m, ACC)
            if NORM > 0:
                b_g += penalty(tl.load(table + row * D + o_d, mask=m, other=0.0).to(ACC), c, NORM)
            mean += tl.sum(b_g * b_g, axis=0)
        tl.store(squares + p, mean / D)


@triton.jit(do_not_specialize=["lr", "eps"])
def sparse_adagrad_scales_kernel(state, ids, end, squares, scales, num_rows, lr, eps, ACC: tl.constexpr):
    """State of the row after each sorted position, as the factor of a gradient; at the last one it is stored."""
    p = tl.program_id(0).to(tl.int64)
    row, mine = first_of_row(ids, p, num_rows)
    if mine:
        last = tl.load(end + p)
        s = tl.load(state + row)
        while p < last:
            s += tl.load(squares + p)
            tl.store(scales + p, number(lr, ACC) / (tl.sqrt(s) + number(eps, ACC)))
            p += 1
        tl.store(state + row, s)


@triton.jit(do_not_specialize=["factor", "seed"])
def sparse_adagrad_dup_kernel(
    table,
    ids,
    order,
    end,
    run,
    grad,
    scales,
    num_rows,
    D,
    stride,
    factor,
    seed,
    NORM: tl.constexpr,
    ROUND: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Mode `row_dup`: every list (run) moves the row by the state that it leaves."""
    p = tl.program_id(0).to(tl.int64)
    row, mine = first_of_row(ids, p, num_rows)
    if mine:
        last = tl.load(end + p)
        for i_d in range(0, D, BLOCK):
            o_d = i_d + tl.arange(0, BLOCK)
            m = o_d < D
            b_w = tl.load(table + row * D + o_d, mask=m, other=0.0).to(ACC)
            b_extra = tl.zeros([BLOCK], ACC)
            if NORM > 0:
                b_extra += penalty(b_w, number(factor, ACC), NORM)
            q = p
            while q < last:
                scale = tl.load(scales + tl.load(run + q) - 1)
                b_w -= scale * (gradient(grad, order, q, stride, o_d, m, ACC) + b_extra)
                q += 1
            put(table, row, D, o_d, m, b_w, i_d, seed, ROUND, BLOCK)


def sparse_adagrad_step(
    table: Tensor,
    state: Tensor,
    ids: Sequence[Tensor],
    grad: Sequence[Tensor],
    lr: float,
    kind: int,
    eps: float,
    regularization: float,
    norm: int,
    seed: int | None,
) -> None:
    n, D = table.shape
    if D == 0 or sum(len(i) for i in ids) == 0:
        return
    by = sort_rows(ids, grad, runs=kind == ROW_DUP)
    grid = (len(by.ids),)
    sizes = (n, D, by.grad.stride(0))
    factor = bits(regularization * norm)
    how = {"NORM": norm if regularization else 0, "ACC": accumulate(table), "BLOCK": block(D, table.device)}
    numbers = (bits(lr), bits(eps), factor, seed or 0)
    draw = {"ROUND": rounding(table, seed)}
    if kind != ROW_DUP:
        rows = (table, state, by.ids, by.order, by.end, by.grad)
        sparse_adagrad_kernel[grid](*rows, *sizes, *numbers, FULL=kind == FULL, **how, **draw)
        return
    squares, scales = state.new_empty((2, *grid))
    sparse_adagrad_squares_kernel[grid](table, by.ids, by.order, by.grad, squares, *sizes, factor, **how)
    sparse_adagrad_scales_kernel[grid](state, by.ids, by.end, squares, scales, n, bits(lr), bits(eps), ACC=how["ACC"])
    rows = (table, by.ids, by.order, by.end, by.run, by.grad, scales)
    sparse_adagrad_dup_kernel[grid](*rows, *sizes, factor, seed or 0, **how, **draw)


_POINTERS = {"ids": "*i64", "order": "*i64", "end": "*i64", "run": "*i64"}
_STATES = dict.fromkeys(("state", "squares", "scales"), "*fp32")
_SIZES = {"num_rows": "i32", "D": "i32", "stride": "i32", "lr": "i64", "eps": "i64", "factor": "i64", "seed": "i64"}


def _spec(name: str, kernel: Any, table: str, norm: int, **more: Any) -> KernelSpec:
    constants = {"NORM": norm, "ACC": tl.float32, "BLOCK": 512, **more}
    signature = {"table": table, "grad": table, **_POINTERS, **_STATES, **_SIZES}
    return KernelSpec(
        name,
        kernel,
        {k: signature[k] for k in kernel.arg_names if k in signature},
        {k: v for k, v in constants.items() if k in kernel.arg_names},
        tuple(k for k in ("D", "stride") if k in kernel.arg_names),
    )


KERNELS = [
    _spec("sparse_adagrad_row", sparse_adagrad_kernel, "*fp32", 0, FULL=False, ROUND=0),
    _spec("sparse_adagrad_full", sparse_adagrad_kernel, "*fp32", 3, FULL=True, ROUND=0),
    _spec("sparse_adagrad_bfloat16", sparse_adagrad_kernel, "*bf16", 3, FULL=False, ROUND=1),
    _spec("sparse_adagrad_float16", sparse_adagrad_kernel, "*fp16", 1, FULL=False, ROUND=2),
    _spec("sparse_adagrad_squares", sparse_adagrad_squares_kernel, "*fp32", 3),
    _spec("sparse_adagrad_scales", sparse_adagrad_scales_kernel, "*fp32", 3),
    _spec("sparse_adagrad_dup", sparse_adagrad_dup_kernel, "*fp32", 3, ROUND=0),
]
