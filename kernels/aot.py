"""Ahead-of-time compilation of Triton kernels: proves, without a GPU, that a kernel compiles for one and what it costs."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class KernelSpec:
    """One specialisation of a Triton kernel.

    Attributes:
        name: Unique name, used as the test id.
        kernel: The `@triton.jit` function.
        signature: Argument name -> Triton type ("*fp32", "i64", "fp32", ...); constexpr arguments are left out.
        constexprs: Argument name -> value.
        aligned: Names of arguments divisible by 16 (pointers are always taken as such).
        num_warps: Warps a program.
        max_registers: Upper bound asserted by the tests.
        vector_loads: Whether 128-bit global loads must appear in the PTX.
    """

    name: str
    kernel: Any
    signature: dict[str, str]
    constexprs: dict[str, Any] = field(default_factory=dict)
    aligned: tuple[str, ...] = ()
    num_warps: int = 4
    max_registers: int = 255
    vector_loads: bool = False


@dataclass(frozen=True)
class Resources:
    registers: int
    stack: int
    local: int
    shared: int
    ptx: str


def compile_kernel(spec: KernelSpec, capability: int) -> Resources:
    """Compile `spec` for compute capability `capability` (80, 90) and read its resources. Needs Triton, no GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = list(spec.kernel.arg_names)
    signature = {n: "constexpr" if n in spec.constexprs else spec.signature[n] for n in names}
    attrs = {
        (i,): [["tt.divisibility", 16]]
        for i, n in enumerate(names)
        if signature[n].startswith("*") or n in spec.aligned
    }
    source = ASTSource(fn=spec.kernel, signature=signature, constexprs=dict(spec.constexprs), attrs=attrs)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": spec.num_warps})
    usage = _resource_usage(compiled.asm["cubin"])
    return Resources(
        registers=usage.get("REG", 0),
        stack=usage.get("STACK", 0),
        local=usage.get("LOCAL", 0),
        shared=compiled.metadata.shared,
        ptx=compiled.asm["ptx"],
    )


def _resource_usage(cubin: bytes) -> dict[str, int]:
    import triton

    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([cuobjdump, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
