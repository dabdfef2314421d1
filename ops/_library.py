"""Registration: one `torch.library.Library`, the C++ extension, and the few verbs every op file uses.

Dispatch is PyTorch's own. The CPU key is filled by the C++ extension, the CUDA key by Python (Triton or CuPy,
imported on first call), and CompositeExplicitAutograd by plain torch, which serves every other device and builds without
the extension.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

LIB = torch.library.Library("gnnaccel", "FRAGMENT")

#: Python implementations by (op, key). Tests re-register them under another key, e.g. Triton's on CPU in the interpreter.
IMPLS: dict[tuple[str, str], Callable[..., Any]] = {}


def _load_extension() -> Path | None:
    import gnnaccel

    for folder in gnnaccel.__path__:
        path = Path(folder) / "_C.abi3.so"
        if path.exists():
            torch.ops.load_library(str(path))
            return path
    return None


EXTENSION: Path | None = _load_extension()
HAS_CPP: bool = EXTENSION is not None


def define(schema: str) -> None:
    """Define an op, e.g. `define("time_encode(Tensor dt, Tensor w, Tensor b) -> Tensor")`."""
    LIB.define(schema, tags=(torch.Tag.pt2_compliant_tag,))


def impl(name: str, key: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a Python implementation of op `name` under dispatch key `key`."""

    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        LIB.impl(name, fn, key)
        IMPLS[name, key] = fn
        return fn

    return register


def fake(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the shape function of op `name` (meta tensors, torch.compile, torch.export)."""
    return torch.library.register_fake(f"gnnaccel::{name}", lib=LIB)


def autograd(name: str, backward: Callable[..., Any], setup_context: Callable[..., Any]) -> None:
    """Register the autograd formula of op `name`, whose schema has positional arguments without defaults.

    As `torch.library.register_autograd`, which looks through the schema anew on each call: longer than a small op takes.
    """
    op = getattr(torch.ops.gnnaccel, name).default

    def forward(ctx: Any, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            output = op(*args)
        setup_context(ctx, args, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function = type(f"GeneratedBackwardFor_gnnaccel_{name}", (torch.autograd.Function,), methods)

    def kernel(*args: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return function.apply(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    LIB.impl(name, kernel, "Autograd")


def once_differentiable(name: str) -> None:
    """Make a second differentiation through op `name` raise. Without this torch returns wrong gradients silently."""

    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    def backward(ctx: Any, *grads: Any) -> NoReturn:
        raise RuntimeError(f"gnnaccel::{name} is once differentiable: double backward is not implemented")

    autograd(name, backward, setup)


def backend_of(name: str, device: str) -> str:
    """Which implementation serves op `name` on `device` ("cpu" or "cuda"): "C++", "Triton/CuPy" or "torch"."""
    key = {"cpu": "CPU", "cuda": "CUDA"}[device]
    for line in torch._C._dispatch_dump_table(f"gnnaccel::{name}").splitlines():
        if line.startswith(f"{key}: ") and line.endswith("[kernel]"):
            return "C++" if device == "cpu" else "Triton/CuPy"
    return "torch"
