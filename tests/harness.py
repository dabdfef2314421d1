"""`check_op`: one list of cases, every promise an op makes.

An op's test file says what the op is (`check_op(...)` returns a test class) and lists cases; the class checks, for each case:
forward and gradients against the float64 reference in each dtype, fp64 gradcheck, opcheck, torch.compile, bitwise
repeatability over runs and thread counts, outputs that never show uninitialised memory, the plain-torch fallback, and fake
tensors on CPU and CUDA.

The same classes run on other backends:
    TRITON_INTERPRET=1 pytest -m interpret      the op's CUDA implementation, interpreted on CPU, on cases with `small=True`
    GNNACCEL_TEST_DEVICE=cuda pytest            the real kernels
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from gnnaccel.ops._library import IMPLS

INTERPRET = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
DEVICE = os.environ.get("GNNACCEL_TEST_DEVICE", "cpu")

F64, F32, F16, BF16 = torch.float64, torch.float32, torch.float16, torch.bfloat16


@dataclass(frozen=True)
class Case:
    """Inputs of one call.

    Attributes:
        name: Test id.
        make: `(generator) -> dict` of arguments by name. Floating tensors named in `check_op(cast=...)` are made in float64
            and cast to the tested dtype; all others are passed as they are.
        small: Whether the case is small enough for the Triton interpreter and for gradcheck.
    """

    name: str
    make: Callable[[torch.Generator], dict[str, Any]]
    small: bool = True


@dataclass
class OpUnderTest:
    op: Callable[..., Any]
    reference: Callable[..., Any]
    cases: Sequence[Case]
    names: Sequence[str]
    cast: Sequence[str]
    grad: Sequence[str]
    dtypes: Sequence[torch.dtype]
    length: Callable[[dict[str, Any]], int]
    tolerance: dict[torch.dtype, float] = field(default_factory=dict)
    compile: bool = True


def outputs(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [r for r in result if isinstance(r, Tensor)]


def to_device(args: dict[str, Any]) -> dict[str, Any]:
    return {k: v.to(DEVICE) if isinstance(v, Tensor) and DEVICE != "cpu" else v for k, v in args.items()}


def _inputs(spec: OpUnderTest, case: Case, dtype: torch.dtype, grad: bool = False) -> dict[str, Any]:
    args = case.make(torch.Generator().manual_seed(1234))
    for name in spec.cast:
        if isinstance(args.get(name), Tensor):
            strided = not args[name].is_contiguous()
            cast = args[name].to(dtype)
            # .to() keeps strides only for dense tensors; keep "not contiguous" as the case made it
            args[name] = cast.T.contiguous().T if strided and cast.is_contiguous() and cast.dim() == 2 else cast
    args = to_device(args)
    if grad:
        for name in spec.grad:
            if isinstance(args.get(name), Tensor):
                args[name] = args[name].detach().requires_grad_()
    return args


def _as_float64(spec: OpUnderTest, args: dict[str, Any]) -> dict[str, Any]:
    """The oracle's inputs: the very values the op saw (after rounding to its dtype), in float64 on CPU."""
    out = {}
    for name, value in args.items():
        if isinstance(value, Tensor):
            grad = value.requires_grad
            value = value.detach().cpu()
            value = value.double() if name in spec.cast else value
            value = value.requires_grad_() if grad else value
        out[name] = value
    return out


def _bound(spec: OpUnderTest, dtype: torch.dtype, length: int, scale: float) -> float:
    """Error bound: eps of the dtype times the root of the reduction length times the size of the values."""
    eps = torch.finfo(dtype).eps
    factor = spec.tolerance.get(dtype, 64.0 if dtype == F64 else 8.0)
    floor = eps if dtype in (F64, F32) else 0.0
    return factor * eps * math.sqrt(max(length, 1)) * max(scale, 1e-3) + floor


def assert_close(spec: OpUnderTest, got: Tensor, want: Tensor, dtype: torch.dtype, length: int, what: str) -> None:
    assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, expected {tuple(want.shape)}"
    if not want.dtype.is_floating_point:
        assert torch.equal(got.cpu().to(want.dtype), want), f"{what}: integers differ"
        return
    got64, want64 = got.detach().cpu().double(), want.detach().double()
    assert torch.isfinite(got64).all() or not torch.isfinite(want64).all(), f"{what}: not finite"
    if want64.numel():
        error = (got64 - want64).abs().max().item()
        bound = _bound(spec, dtype, length, want64.abs().max().item())
        assert error <= bound, f"{what}: error {error:.3e} above {bound:.3e} ({dtype})"


@contextmanager
def served_by(key: str) -> Iterator[None]:
    """Serve every op that has a Python implementation under `key` by it on CPU."""
    with ExitStack() as stack:
        lib = stack.enter_context(torch.library._scoped_library("gnnaccel", "IMPL"))
        for (name, impl_key), fn in IMPLS.items():
            if impl_key == key:
                lib.impl(name, fn, "CPU", allow_override=True)
        yield


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fresh tensors are filled with NaN (integers: the maximum), so an element that a kernel forgot shows."""
    was, fill = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = fill
        torch.use_deterministic_algorithms(was)


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(spec: OpUnderTest, args: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and gradients of a fixed weighting of the floating outputs."""
    outs = outputs(spec.op(**args))
    leaves = [args[n] for n in spec.grad if isinstance(args.get(n), Tensor) and args[n].requires_grad]
    floating = [o for o in outs if o.dtype.is_floating_point and o.requires_grad]
    if not leaves or not floating:
        return outs, []
    weights = [_weights(o) for o in floating]
    grads = torch.autograd.grad(floating, leaves, weights, allow_unused=True)
    return outs, [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, grads, strict=True)]


def _weights(o: Tensor) -> Tensor:
    # cheap, sign-changing, and the same for oracle and op
    return torch.cos(torch.arange(o.numel(), dtype=F64)).reshape(o.shape).to(o.dtype).to(o.device)


def check_op(
    *,
    op: Callable[..., Any],
    reference: Callable[..., Any],
    cases: Sequence[Case],
    schemas: Sequence[str],
    cast: Sequence[str] = (),
    grad: Sequence[str] = (),
    dtypes: Sequence[torch.dtype] = (F64, F32, F16, BF16),
    length: Callable[[dict[str, Any]], int] = lambda args: 1,
    tolerance: dict[torch.dtype, float] | None = None,
    compile: bool = True,
    overload_args: Callable[[dict[str, Any]], tuple[Any, ...]] | None = None,
) -> type:
    """Make the test class of an op.

    Args:
        op: The public function, called with the case's arguments by name.
        reference: The oracle, called with the same arguments in float64.
        cases: What to call it with.
        schemas: Names of the torch ops behind it; each is asserted to have a fake and an autograd formula that is right or
            raises.
        cast: Arguments whose floating tensors follow the tested dtype.
        grad: Arguments that get gradients.
        dtypes: Tested dtypes; float64 is also gradchecked.
        length: Reduction length of a case, which scales the tolerance.
        tolerance: Per dtype, multiples of eps * sqrt(length) * max|x| (default 8, float64 64). Say why when you set it.
        compile: Whether `torch.compile(fullgraph=True)` must work.
        overload_args: Positional arguments of the first schema for `torch.library.opcheck`; by default the case's values.
    """
    spec = OpUnderTest(
        op, reference, cases, list(schemas), list(cast), list(grad), list(dtypes), length, tolerance or {}, compile
    )
    chosen = [c for c in cases if c.small or not INTERPRET]
    small = [c for c in cases if c.small]
    tested = [d for d in dtypes if not INTERPRET or d in (F64, F32)] or list(dtypes)
    by_case = pytest.mark.parametrize("case", chosen, ids=lambda c: c.name)
    by_small = pytest.mark.parametrize("case", small, ids=lambda c: c.name)
    by_dtype = pytest.mark.parametrize("dtype", tested, ids=lambda d: str(d).removeprefix("torch."))
    not_interpreted = pytest.mark.skipif(INTERPRET, reason="not about the kernel")
    cpu_only = pytest.mark.skipif(DEVICE != "cpu" or INTERPRET, reason="about the CPU build")

    class Checks:
        @pytest.fixture(autouse=True)
        def _backend(self) -> Iterator[None]:
            if not INTERPRET:
                yield
                return
            with served_by("CUDA"):
                yield

        @pytest.mark.interpret
        @by_dtype
        @by_case
        def test_matches_reference(self, case: Case, dtype: torch.dtype) -> None:
            args = _inputs(spec, case, dtype, grad=True)
            oracle_args = _as_float64(spec, args)
            with poisoned_memory():
                outs, grads = _run(spec, args)
            want_outs = outputs(spec.reference(**oracle_args))
            n = spec.length(args)
            for i, (got, want) in enumerate(zip(outs, want_outs, strict=True)):
                assert_close(spec, got, want, dtype, n, f"output {i}")
            leaves = [oracle_args[k] for k in spec.grad if isinstance(oracle_args.get(k), Tensor)]
            floating = [o for o in want_outs if o.dtype.is_floating_point and o.requires_grad]
            if not grads:
                return
            # round the weights as the op's outputs do, so that only the op's own error is judged
            weights = [_weights(o).to(dtype).double() for o in floating]
            wants = torch.autograd.grad(floating, leaves, weights, allow_unused=True)
            names = [k for k in spec.grad if isinstance(args.get(k), Tensor)]
            for name, got, leaf, want in zip(names, grads, leaves, wants, strict=True):
                assert_close(spec, got, torch.zeros_like(leaf) if want is None else want, dtype, n, f"grad of {name}")

        @pytest.mark.interpret
        @by_small
        def test_gradcheck(self, case: Case) -> None:
            if not spec.grad or F64 not in spec.dtypes:
                pytest.skip("no gradients")
            args = _inputs(spec, case, F64, grad=True)
            names = [n for n in spec.grad if isinstance(args.get(n), Tensor)]
            if INTERPRET and sum(args[n].numel() for n in names) > 64:
                pytest.skip("too many calls for the interpreter")

            def call(*leaves: Tensor) -> tuple[Tensor, ...]:
                outs = outputs(spec.op(**{**args, **dict(zip(names, leaves, strict=True))}))
                return tuple(o for o in outs if o.dtype.is_floating_point)

            assert torch.autograd.gradcheck(call, [args[n] for n in names], fast_mode=True, atol=1e-6)

        @not_interpreted
        @by_small
        def test_opcheck(self, case: Case) -> None:
            args = _inputs(spec, case, F32 if F32 in spec.dtypes else spec.dtypes[0], grad=True)
            positional = overload_args(args) if overload_args else tuple(args.values())
            torch.library.opcheck(getattr(torch.ops.gnnaccel, spec.names[0]).default, positional)

        @not_interpreted
        def test_compiles(self) -> None:
            if not spec.compile:
                pytest.skip("the op is not meant to be compiled")
            case = chosen[-1]
            dtype = F32 if F32 in spec.dtypes else spec.dtypes[0]
            # aot_eager traces forward and backward through fakes and autograd; code generation is not ours to test
            compiled = torch.compile(spec.op, fullgraph=True, dynamic=True, backend="aot_eager")
            args = _inputs(spec, case, dtype, grad=True)
            eager_outs, eager_grads = _run(spec, args)
            outs, grads = _run(OpUnderTest(**{**vars(spec), "op": compiled}), args)
            for a, b in zip([*eager_outs, *eager_grads], [*outs, *grads], strict=True):
                assert torch.equal(a, b)

        @not_interpreted
        @by_dtype
        def test_bitwise_repeatable(self, dtype: torch.dtype) -> None:
            for case in chosen:
                runs = []
                for n in (1, 2, 1):
                    with threads(n):
                        args = _inputs(spec, case, dtype, grad=True)
                        runs.append([t for ts in _run(spec, args) for t in ts])
                for other in runs[1:]:
                    for a, b in zip(runs[0], other, strict=True):
                        assert torch.equal(_bits(a), _bits(b)), case.name

        @cpu_only
        @by_case
        def test_fallback_matches_reference(self, case: Case) -> None:
            with served_by("CompositeExplicitAutograd"):
                self.test_matches_reference(case, F64 if F64 in spec.dtypes else spec.dtypes[0])

        @not_interpreted
        @pytest.mark.parametrize("device", ["cpu", "cuda"])
        def test_fake(self, device: str) -> None:
            from torch._subclasses.fake_tensor import FakeTensorMode
            from torch.fx.experimental.symbolic_shapes import ShapeEnv

            case = chosen[-1]
            args = _inputs(spec, case, F32 if F32 in spec.dtypes else spec.dtypes[0])
            real = outputs(spec.op(**args))
            # the shape environment gives outputs whose size depends on data a symbol for it
            with FakeTensorMode(allow_non_fake_inputs=False, shape_env=ShapeEnv(), static_shapes=True) as mode:
                fakes = {
                    k: torch.empty_strided(v.shape, v.stride(), dtype=v.dtype, device=device)
                    if isinstance(v, Tensor)
                    else v
                    for k, v in args.items()
                }
                fakes = {k: mode.from_tensor(v) if isinstance(v, Tensor) else v for k, v in fakes.items()}
                for got, want in zip(outputs(spec.op(**fakes)), real, strict=True):
                    assert got.dtype == want.dtype
                    assert got.dim() == want.dim()
                    assert got.device.type == device

        @not_interpreted
        @pytest.mark.parametrize("name", schemas)
        def test_has_fake_and_autograd(self, name: str) -> None:
            from torch._library.simple_registry import singleton

            assert singleton.find(f"gnnaccel::{name}").fake_impl.kernel is not None, "no fake"
            if spec.grad:
                # without a formula torch differentiates through an op as if it were constant, silently
                assert torch._C._dispatch_has_kernel_for_dispatch_key(f"gnnaccel::{name}", "Autograd"), "no autograd"

    return Checks


def _bits(t: Tensor) -> Tensor:
    if not t.dtype.is_floating_point:
        return t
    return t.contiguous().view({8: torch.int64, 4: torch.int32, 2: torch.int16}[t.element_size()])
