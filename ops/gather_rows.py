"""`gather_rows`: feature rows by id, dequantised on the way; `quantize_rows` makes the int8 tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._library import autograd, define, fake, impl, run

FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

define("gather_rows(Tensor table, Tensor ids, Tensor? scale, ScalarType dtype, bool deterministic) -> Tensor")
define("gather_rows_out(Tensor(a!) out, Tensor table, Tensor ids, Tensor? scale) -> ()")
define("gather_rows_backward(Tensor grad, Tensor ids, SymInt num_rows, ScalarType dtype, bool deterministic) -> Tensor")


def check_reachable(owner: str, tensors: dict[str, Tensor | None], ids: Tensor) -> None:
    """The GPU reads pinned host memory in place, and no other memory of the host."""
    for name, x in tensors.items():
        if x is not None and x.device != ids.device and not (ids.is_cuda and x.is_pinned()):
            raise ValueError(f"{owner}: {name} must be on {ids.device} like ids, or pinned, got {x.device}")


def _on_device(table: Tensor, ids: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The arguments as the kernel reads them."""
    check_reachable("gather_rows", {"table": table, "scale": scale}, ids)
    # a slice of columns is read in place; only rows whose elements are apart are copied
    table = table if table.shape[1] <= 1 or table.stride(1) == 1 else table.contiguous()
    return table, ids.contiguous(), None if scale is None else scale.contiguous()


@impl("gather_rows", "CUDA")
def _cuda(table: Tensor, ids: Tensor, scale: Tensor | None, dtype: torch.dtype, deterministic: bool) -> Tensor:
    from gnnaccel.kernels.triton.gather_rows import gather_rows_fwd

    out = torch.empty((*ids.shape, table.shape[1]), dtype=dtype, device=ids.device)
    gather_rows_fwd(out, *_on_device(table, ids, scale))
    return out


@impl("gather_rows_out", "CUDA")
def _cuda_out(out: Tensor, table: Tensor, ids: Tensor, scale: Tensor | None) -> None:
    from gnnaccel.kernels.triton.gather_rows import gather_rows_fwd

    gather_rows_fwd(out, *_on_device(table, ids, scale))


@impl("gather_rows_backward", "CUDA")
def _cuda_backward(grad: Tensor, ids: Tensor, num_rows: int, dtype: torch.dtype, deterministic: bool) -> Tensor:
    from gnnaccel.kernels.triton.gather_rows import gather_rows_bwd

    return gather_rows_bwd(grad.contiguous(), ids.contiguous(), num_rows, dtype, deterministic)


def _check_ids(ids: Tensor, num_rows: int) -> None:
    if ids.numel() and int(ids.max()) >= num_rows:
        raise ValueError(f"gather_rows: ids must be below {num_rows} (rows of table), got {int(ids.max())}")


@impl("gather_rows", "CompositeExplicitAutograd")
def _composite(table: Tensor, ids: Tensor, scale: Tensor | None, dtype: torch.dtype, deterministic: bool) -> Tensor:
    _check_ids(ids, table.shape[0])
    out = torch.zeros((*ids.shape, table.shape[1]), dtype=dtype, device=ids.device)
    real = ids >= 0
    rows = table[ids[real].long()]
    if scale is not None:
        rows = rows.to(torch.promote_types(dtype, torch.float32)) * scale[ids[real].long()].unsqueeze(1)
    out[real] = rows.to(dtype)
    return out


@impl("gather_rows_out", "CompositeExplicitAutograd")
def _composite_out(out: Tensor, table: Tensor, ids: Tensor, scale: Tensor | None) -> None:
    out.copy_(_composite(table, ids, scale, out.dtype, True))


@impl("gather_rows_backward", "CompositeExplicitAutograd")
def _composite_backward(grad: Tensor, ids: Tensor, num_rows: int, dtype: torch.dtype, deterministic: bool) -> Tensor:
    _check_ids(ids, num_rows)
    acc = torch.promote_types(torch.promote_types(grad.dtype, dtype), torch.float32)
    real = ids >= 0
    out = torch.zeros((num_rows, grad.shape[-1]), dtype=acc, device=grad.device)
    return out.index_add_(0, ids[real].long(), grad[real].to(acc)).to(dtype)


@fake("gather_rows")
def _fake(table: Tensor, ids: Tensor, scale: Tensor | None, dtype: torch.dtype, deterministic: bool) -> Tensor:
    return ids.new_empty((*ids.shape, table.shape[1]), dtype=dtype)


@fake("gather_rows_out")
def _fake_out(out: Tensor, table: Tensor, ids: Tensor, scale: Tensor | None) -> None:
    pass


@fake("gather_rows_backward")
def _fake_backward(grad: Tensor, ids: Tensor, num_rows: int, dtype: torch.dtype, deterministic: bool) -> Tensor:
    return grad.new_empty((num_rows, grad.shape[-1]), dtype=dtype)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    table, ids, _, _, ctx.deterministic = inputs
    ctx.save_for_backward(ids)
    ctx.num_rows, ctx.dtype = table.shape[0], table.dtype


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (ids,) = ctx.saved_tensors
    table = run(torch.ops.gnnaccel.gather_rows_backward.default, grad, ids, ctx.num_rows, ctx.dtype, ctx.deterministic)
    return table, None, None, None, None


# linear: the derivative of the scatter is the gather, so any order of differentiation works
def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, ids, _, _, ctx.deterministic = inputs
    ctx.save_for_backward(ids)
    ctx.dtype = grad.dtype


def _backward_backward(ctx: Any, grad_table: Tensor) -> tuple[Tensor | None, ...]:
    (ids,) = ctx.saved_tensors
    rows = run(torch.ops.gnnaccel.gather_rows.default, grad_table, ids, None, ctx.dtype, ctx.deterministic)
    return rows, None, None, None, None


autograd("gather_rows", _backward, _setup)
autograd("gather_rows_backward", _backward_backward, _setup_backward)


def gather_rows(
    table: Tensor,
    ids: Tensor,
    scale: Tensor | None = None,
    *,
    dtype: torch.dtype | None = None,
    deterministic: bool = True,
    out: Tensor | None = None,
) -> Tensor:
    """Rows of a feature table by id, converted to the compute dtype in the same pass.

    Args:
        table: `[N, F]`, floating or int8. Columns may be a slice of a wider table; it is read in place. With `ids` on CUDA it
            may stay in pinned host memory (`table.pin_memory()`), of which the GPU then fetches just these rows.
        ids: Row of each output, int32 or int64, any shape. A negative id (padding) gives a row of zeros.
        scale: Size of one int8 step in each row, float32 `[N]`; with int8 tables only (`quantize_rows` makes both).
        dtype: Floating dtype of the output; by default that of `table`, float32 for int8.
        deterministic: On CUDA, whether gradients are summed in a fixed order (by sorting the ids) or with atomics, which is
            faster and differs in the last bits from run to run. `torch.use_deterministic_algorithms(True)` overrides False.
        out: Where to put the rows, `[*ids.shape, F]`, contiguous, on the device of `ids`, sharing no memory with the other
            arguments; its dtype is the output's. For loaders that fetch megabytes a batch: memory that is used again costs
            no page faults. `buffer[:n]` of a buffer of the largest batch will do. Not where a gradient is wanted.

    Returns:
        `out`, or a new tensor, `[*ids.shape, F]`, `dtype`, on the device of `ids`; int8 rows are multiplied by their scale.

    Gradients: in a floating `table`, of any order (the op is linear); sums run in float32 (float64 for float64).

    Determinism: forward is bitwise reproducible everywhere; the gradient on CPU too, for any number of threads, and on CUDA
    as `deterministic` says.

    Raises:
        TypeError: An argument has an unsupported dtype.
        ValueError: A shape does not fit, `scale` is missing for int8, given for a floating table or requires grad, `table`
            and `ids` are on different devices (unless pinned, and without grad), or (on CPU) an id is not below N. On CUDA
            such an id gives a row of zeros: checking would wait for the device.
    """
    if table.dtype not in (*FLOATING, torch.int8):
        raise TypeError(f"gather_rows: table must be float64, float32, float16, bfloat16 or int8, got {table.dtype}")
    if ids.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"gather_rows: ids must be int32 or int64, got {ids.dtype}")
    if table.dim() != 2:
        raise ValueError(f"gather_rows: table must be [N, F], got {list(table.shape)}")
    if table.dtype == torch.int8:
        if scale is None:
            raise ValueError("gather_rows: scale must be given with an int8 table, got None")
        if scale.dtype != torch.float32:
            raise TypeError(f"gather_rows: scale must be float32, got {scale.dtype}")
        if scale.shape != table.shape[:1]:
            raise ValueError(f"gather_rows: scale must be {list(table.shape[:1])} like table, got {list(scale.shape)}")
        if scale.requires_grad:
            raise ValueError("gather_rows: scale must not require grad (it is data), got a tensor that does; detach it")
    elif scale is not None:
        raise ValueError(f"gather_rows: scale must be None with a table of {table.dtype}, got a tensor")
    if table.requires_grad and table.device != ids.device:
        raise ValueError(f"gather_rows: table must be on {ids.device} like ids to get a gradient, got {table.device}")
    given = dtype is not None
    if dtype is None:
        dtype = torch.float32 if table.dtype == torch.int8 else table.dtype
    elif dtype not in FLOATING:
        raise TypeError(f"gather_rows: dtype must be float64, float32, float16 or bfloat16, got {dtype}")
    if out is not None:
        _check_out(out, table, ids, dtype if given else out.dtype)
        torch.ops.gnnaccel.gather_rows_out(out, table, ids, scale)
        return out
    deterministic = deterministic or torch.are_deterministic_algorithms_enabled()
    return run(torch.ops.gnnaccel.gather_rows.default, table, ids, scale, dtype, deterministic)


def _check_out(out: Tensor, table: Tensor, ids: Tensor, dtype: torch.dtype) -> None:
    shape = [*ids.shape, table.shape[1]]
    if out.dtype not in FLOATING:
        raise TypeError(f"gather_rows: out must be float64, float32, float16 or bfloat16, got {out.dtype}")
    if out.dtype != dtype:
        raise TypeError(f"gather_rows: out must be {dtype} as dtype says, got {out.dtype}")
    if list(out.shape) != shape or not out.is_contiguous():
        text = "" if out.is_contiguous() else " not contiguous"
        raise ValueError(f"gather_rows: out must be {shape}, contiguous, got {list(out.shape)}{text}")
    if out.device != ids.device:
        raise ValueError(f"gather_rows: out must be on {ids.device} like ids, got {out.device}")
    if out.requires_grad or (table.requires_grad and torch.is_grad_enabled()):
        raise ValueError("gather_rows: out must be None where a gradient is wanted, got a tensor")


def quantize_rows(table: Tensor, chunk: int = 1 << 16) -> tuple[Tensor, Tensor]:
    """int8 copy of a table with one scale a row: `table[i] ~ rows[i] * scale[i]`, a quarter of float32's memory.

    Args:
        table: `[N, F]`, floating, finite.
        chunk: Rows converted at a time; bounds the temporary memory.

    Returns:
        `(rows, scale)`: int8 `[N, F]` in -127 .. 127, and float32 `[N]`, the largest magnitude of each row / 127 (0 for a row
        of zeros). The error of an element is at most `scale / 2`, plus float32 rounding.

    Determinism: bitwise reproducible.

    Raises:
        TypeError: `table` is not floating.
        ValueError: `table` is not `[N, F]`, or not finite.
    """
    if table.dtype not in FLOATING:
        raise TypeError(f"quantize_rows: table must be floating, got {table.dtype}")
    if table.dim() != 2:
        raise ValueError(f"quantize_rows: table must be [N, F], got {list(table.shape)}")
    if chunk < 1:
        raise ValueError(f"quantize_rows: chunk must be at least 1, got {chunk}")
    rows = torch.empty(table.shape, dtype=torch.int8, device=table.device)
    scale = torch.zeros(table.shape[:1], dtype=torch.float32, device=table.device)
    if table.shape[1] == 0:
        return rows, scale
    for start in range(0, table.shape[0], chunk):
        part = table[start : start + chunk].detach().to(torch.promote_types(table.dtype, torch.float32))
        step = (part.abs().amax(1) / 127).to(torch.float32)
        if not bool(torch.isfinite(step).all()):
            row = start + int((~torch.isfinite(step)).nonzero()[0])
            raise ValueError(f"quantize_rows: table must be finite in float32, got row {row} that is not")
        # a row whose step underflowed is zeros; dividing by 1 keeps it so
        quotient = part / torch.where(step > 0, step, 1).unsqueeze(1)
        rows[start : start + chunk] = quotient.round().clamp(-127, 127).to(torch.int8)
        scale[start : start + chunk] = step
    return rows, scale
