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
from torch import Tensor

LIB = torch.library.Library("gnnaccel", "FRAGMENT")

#: Python implementations by (op, key). Tests re-register them under another key, e.g. Triton's on CPU in the interpreter.
IMPLS: dict[tuple[str, str], Callable[..., Any]] = {}

# what `keyed` repeats for the overload that it makes
_SCHEMAS: dict[str, str] = {}
_FAKES: dict[str, Callable[..., Any]] = {}
_FORMULAS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {}


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
    _SCHEMAS[schema.partition("(")[0]] = schema


def impl(name: str, key: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a Python implementation of op `name` under dispatch key `key`."""

    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        LIB.impl(name, fn, key)
        IMPLS[name, key] = fn
        return fn

    return register


def fake(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the shape function of op `name` (meta tensors, torch.compile, torch.export)."""

    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        _FAKES[name] = fn
        return torch.library.register_fake(f"gnnaccel::{name}", fn, lib=LIB)

    return register


def autograd(name: str, backward: Callable[..., Any], setup_context: Callable[..., Any]) -> None:
    """Register the autograd formula of op `name`, whose schema has positional arguments without defaults.

    As `torch.library.register_autograd`, which looks through the schema anew on each call: longer than a small op takes.
    """
    packet, _, overload = name.partition(".")
    op = getattr(getattr(torch.ops.gnnaccel, packet), overload or "default")
    _FORMULAS[name] = (backward, setup_context)

    def forward(ctx: Any, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            output = op(*args)
        setup_context(ctx, args, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function = type(f"GeneratedBackwardFor_gnnaccel_{packet}{overload}", (torch.autograd.Function,), methods)

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


def keyed(*names: str) -> None:
    """Give ops with a `SymInt seed` an overload `keyed` with `Tensor seed`, one int64 on the device of the other tensors.

    A number given to a kernel is recorded in a CUDA graph and stays the same at each replay; a tensor is read. Call after all
    that the op has is registered. CUDA implementations are called with either; elsewhere the tensor is read and the op called.
    """
    for name in names:
        schema = _SCHEMAS[name].replace("SymInt seed", "Tensor seed", 1)
        define(schema.replace("(", ".keyed(", 1))
        op = getattr(torch.ops.gnnaccel, name)
        at = [a.name for a in op.keyed._schema.arguments].index("seed")

        def read(*args: Any, op: Any = op.default, at: int = at) -> Any:
            return op(*args[:at], int(args[at]), *args[at + 1 :])

        impl(f"{name}.keyed", "CompositeExplicitAutograd")(read)
        if (name, "CUDA") in IMPLS:
            impl(f"{name}.keyed", "CUDA")(IMPLS[name, "CUDA"])
        fake(f"{name}.keyed")(_FAKES[name])
        autograd(f"{name}.keyed", *_FORMULAS[name])


def seeded(name: str, seed: int | Tensor) -> Any:
    """The overload of op `name` for this kind of seed."""
    op = getattr(torch.ops.gnnaccel, name)
    return op.keyed if isinstance(seed, Tensor) else op.default


def check_seed(owner: str, seed: int | Tensor) -> None:
    """Raise unless `seed` is a number or one int64."""
    if isinstance(seed, Tensor) and (seed.dtype != torch.int64 or seed.numel() != 1):
        raise ValueError(f"{owner}: seed must be a number or one int64, got {seed.dtype} {list(seed.shape)}")


def run(op: Any, *args: Any) -> Any:
    """`op(*args)`; where no gradient is wanted, past autograd, whose way through Python takes as long as a small op."""
    # the compiler knows the first, and stops reading there
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and torch._C._any_requires_grad(*args)):
        return op(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def on_host(t: Tensor) -> bool:
    """Whether values of `t` can be looked at without waiting for a device."""
    return t.device.type == "cpu"


def backend_of(name: str, device: str) -> str:
    """Which implementation serves op `name` on `device` ("cpu" or "cuda"): "C++", "Triton/CuPy" or "torch"."""
    key = {"cpu": "CPU", "cuda": "CUDA"}[device]
    for line in torch._C._dispatch_dump_table(f"gnnaccel::{name}").splitlines():
        if line.startswith(f"{key}: ") and line.endswith("[kernel]"):
            return "C++" if device == "cpu" else "Triton/CuPy"
    return "torch"
