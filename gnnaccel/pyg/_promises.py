"""Tensors that are formed only where somebody looks at them: rows of a table, time encodings, and both side by side.

A program that is written for PyTorch Geometric gathers the messages of its edges, encodes their times, concatenates the two and
hands that to a layer. Here each step is a promise, and `TransformerConv` reads what the promises are made of where it lies: no
row of an edge is ever written to memory, in either direction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from gnnaccel.ops import time_encode

# answered without the values
_ABOUT = {Tensor.dim, Tensor.size, Tensor.__len__}
_ABOUT |= {getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "is_cuda", "layout")}


class EdgeParts(NamedTuple):
    """What edge features are made of: row i is `[cos(t[i] w + b) | table[rows[i]]]`, without either half where it is None."""

    table: Tensor | None = None
    rows: Tensor | None = None  # None: row i
    t: Tensor | None = None
    w: Tensor | None = None
    b: Tensor | None = None

    def versions(self) -> list[int]:
        return [0 if x.is_inference() else x._version for x in self if x is not None]


def _refuse(name: Any) -> NoReturn:
    raise RuntimeError(f"{name}: got rows that were not formed yet; pass a clone() of them")


class _Source(torch.autograd.Function):
    """Where a gradient of a promise itself would go: without this it would be lost without a word."""

    @staticmethod
    def forward(ctx: Any, promise: Promise, *parts: Tensor | None) -> Promise:
        ctx.mark_dirty(promise)  # so that it is the result itself
        return promise

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        _refuse("backward")


class Promise(Tensor):
    """A tensor of known shape whose values are made at first use, once, with their gradients.

    Whatever is done with it goes to its values, except for `torch.cat` of time encodings with features, which makes another
    promise. Values made after one of the parts was changed in place would be other ones, so that raises a `RuntimeError`, as
    autograd does for tensors that it has saved. So does the backward pass of a `torch.autograd.Function` that was given the
    promise itself: torch asks nobody for its values there.
    """

    parts: EdgeParts
    made_of: list[int]
    values: Tensor | None
    with_grad: bool

    @staticmethod
    def __new__(cls, columns: int, like: Tensor, parts: EdgeParts) -> Promise:
        rows = next(x for x in (parts.t, parts.rows, parts.table) if x is not None)
        self = Tensor._make_wrapper_subclass(cls, (len(rows), columns), dtype=like.dtype, device=like.device)
        with torch._C.DisableTorchFunctionSubclass():
            self.parts, self.made_of, self.values, self.with_grad = (
                parts,
                parts.versions(),
                None,
                torch.is_grad_enabled(),
            )
            floating = parts.table, parts.w, parts.b
            if self.with_grad and any(x is not None and x.requires_grad for x in floating):
                self = _Source.apply(self, *floating)
            if any(x is not None and x.is_inference() for x in parts):
                self.dense()  # nobody would notice a change of such a part
        return self

    def unchanged_parts(self) -> EdgeParts:
        """The parts, if they are what they were."""
        if self.parts.versions() != self.made_of:
            raise RuntimeError(
                "gnnaccel.pyg: times, weights or messages were changed in place before what was computed from them was used; "
                "use it before, or clone it"
            )
        return self.parts

    def dense(self) -> Tensor:
        """The values, an ordinary tensor."""
        if self.values is None:
            table, rows, t, w, b = self.unchanged_parts()
            with torch.set_grad_enabled(self.with_grad):
                halves = [] if t is None else [time_encode(t, w, b)]
                if table is not None:
                    halves.append(table if rows is None else table.index_select(0, rows))
                self.values = halves[0] if len(halves) == 1 else torch.cat(halves, dim=1)
        return self.values

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func in _ABOUT or (func is Tensor.to and _stays(*args, **kwargs)):
                return args[0] if func is Tensor.to else func(*args, **kwargs)
            promise = _cat(*args, **kwargs) if func is torch.cat else None
            if promise is not None:
                return promise
            args, kwargs = tree_map(lambda x: x.dense() if isinstance(x, Promise) else x, (args, kwargs))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        _refuse(func)


def _stays(self: Tensor, *args: Any, **kwargs: Any) -> bool:
    """Whether `self.to(...)` is self."""
    if isinstance(self, Promise) and not kwargs and len(args) == 1 and isinstance(args[0], (str, torch.device)):
        return torch.device(args[0]) == self.device
    return False


def _cat(tensors: Any, dim: int = 0, **others: Any) -> Promise | None:
    """Time encodings with features behind them, or None for any other concatenation."""
    if dim not in (-1, 1) or others or len(tensors) != 2 or type(tensors[0]) is not Promise:
        return None
    first, features = tensors
    with_grad = torch.is_grad_enabled()
    if (
        first.parts.t is None
        or first.parts.table is not None
        or first.values is not None
        or first.with_grad != with_grad
    ):
        return None
    if features.dim() != 2 or features.dtype != first.dtype or features.device != first.device:
        return None
    if len(features) != len(first):
        return None
    times = first.unchanged_parts()
    if type(features) is Promise and features.values is None:
        if features.parts.t is not None:
            return None
        times = times._replace(table=features.unchanged_parts().table, rows=features.parts.rows)
    else:
        times = times._replace(table=features.dense() if type(features) is Promise else features)
    return Promise(first.shape[1] + features.shape[1], first, times)


def encoded_times(t: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """`time_encode(t, w, b)`, `[n, T]`, as a promise where that is possible."""
    if t.dtype != w.dtype or torch.compiler.is_compiling():
        return time_encode(t, w, b)
    return Promise(len(w), w, EdgeParts(t=t, w=w, b=b))


def edge_parts(edge_attr: Tensor | None) -> EdgeParts:
    """What edge features are made of; an ordinary tensor is its own table."""
    if not isinstance(edge_attr, Promise):
        return EdgeParts(edge_attr)
    return edge_attr.unchanged_parts() if edge_attr.values is None else EdgeParts(edge_attr.values)


class EventRows(Tensor):
    """A table whose rows, chosen by ids, are a promise. Everything else that is computed from it is an ordinary tensor."""

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func is Tensor.__getitem__ and _gathers(*args):
                table, rows = args
                return Promise(table.shape[1], table, EdgeParts(table.as_subclass(Tensor), rows))
            return func(*args, **(kwargs or {}))


def _gathers(table: Any, rows: Any) -> bool:
    """Whether `table[rows]` are rows without wrapping and without a gradient."""
    if type(table) is not EventRows or type(rows) is not Tensor or rows.dtype != torch.int64 or rows.dim() != 1:
        return False
    if table.device != rows.device or table.requires_grad or len(rows) == 0 or torch.compiler.is_compiling():
        return False
    if table.device.type != "cpu":
        return False  # to look at the ids would wait for the device
    low, high = torch.aminmax(rows)
    return 0 <= int(low) and int(high) < len(table)


def event_rows(table: Any) -> Any:
    """`table` as `EventRows`, if it is a plain floating matrix."""
    plain = type(table) is Tensor and table.dim() == 2 and table.is_floating_point() and not table.requires_grad
    return table.as_subclass(EventRows) if plain else table
