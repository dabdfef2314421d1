"""What is called: contenders, their arguments and results, and the calls that the clock runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gnnaccel.bench.entries import Args, Entry


@dataclass(frozen=True)
class Contender:
    """A provider with its arguments; `threads` when it runs on fewer than the others, `like` when the entry's rules (view,
    tolerance, check) are those of another provider."""

    fn: Callable[..., Any]
    args: Args
    threads: int | None = None
    like: str = ""


def tensors(result: Any) -> list[Tensor]:
    """The tensors of a result, in order: a tensor, a sequence, a mapping or a dataclass of them."""
    if isinstance(result, Tensor):
        return [result]
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        result = [getattr(result, f.name) for f in dataclasses.fields(result)]
    elif isinstance(result, Mapping):
        result = list(result.values())
    if isinstance(result, (tuple, list)):
        return [t for item in result for t in tensors(item)]
    return []


def leaves(args: Args, names: Sequence[str]) -> list[Tensor]:
    return [args[n] for n in names if isinstance(args.get(n), Tensor)]


def with_leaves(args: Args, names: Sequence[str]) -> Args:
    """The arguments with fresh leaves, so that no provider sees another's graph."""
    return {k: v.detach().requires_grad_() if k in names and isinstance(v, Tensor) else v for k, v in args.items()}


def weights(outs: Sequence[Tensor]) -> list[Tensor]:
    """Fixed incoming gradients: cheap, sign-changing, the same for every provider and dtype."""
    return [
        torch.cos(torch.arange(o.numel(), dtype=torch.float64)).reshape(o.shape).to(o.dtype).to(o.device) for o in outs
    ]


def differentiable(outs: Sequence[Tensor]) -> list[Tensor]:
    return [o for o in outs if o.requires_grad]


@dataclass(frozen=True)
class Call:
    """What the clock runs: `fn()`, or `fn(prepare())` with `prepare` outside the clock; on so many CPU threads."""

    fn: Callable[..., Any]
    prepare: Callable[[], Any] | None = None
    threads: int | None = None

    def once(self) -> Any:
        return self.fn() if self.prepare is None else self.fn(self.prepare())


def call_for(entry: Entry, contender: Contender, mode: str) -> Call:
    """The timed call of one contender in one mode."""
    fn, args, threads = contender.fn, contender.args, contender.threads
    fresh = [k for k in entry.fresh if isinstance(args.get(k), Tensor)]

    def renew() -> Args:
        return {**args, **{k: args[k].clone() for k in fresh}}

    if mode == "fwd":

        def forward(a: Args = args) -> Any:
            with torch.no_grad():
                return fn(**a)

        return Call(forward, renew if fresh else None, threads)

    args = with_leaves(args, entry.grad)
    inputs = leaves(args, entry.grad)
    incoming = weights(differentiable(tensors(fn(**renew()))))

    def backward(outs: list[Tensor]) -> Any:
        return torch.autograd.grad(outs, inputs, incoming, allow_unused=True)

    def graph(a: Args | None = None) -> list[Tensor]:
        return differentiable(tensors(fn(**(args if a is None else a))))

    if mode == "bwd":
        return Call(backward, lambda: graph(renew()), threads)

    def both(a: Args | None = None) -> Any:
        return backward(graph(a))

    return Call(both, renew if fresh else None, threads)
