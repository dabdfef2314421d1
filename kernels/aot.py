"""Ahead-of-time compilation of Triton kernels: proves, without a GPU, that a kernel compiles for one and what it costs.

python -m gnnaccel.kernels.aot                                   # registers, spills, shared memory of every kernel
python -m gnnaccel.kernels.aot gather kg_loss --sm 90 --json     # of those whose names contain these
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import re
import subprocess
import sys
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


def specs() -> list[KernelSpec]:
    """The specialisations that the modules of Triton kernels list."""
    import gnnaccel.kernels.triton as kernels

    found: dict[str, KernelSpec] = {}
    for module in pkgutil.iter_modules(kernels.__path__):
        if not module.name.startswith("_"):
            for spec in importlib.import_module(f"{kernels.__name__}.{module.name}").KERNELS:
                found.setdefault(spec.name, spec)
    return list(found.values())


def report(names: list[str], capabilities: list[int]) -> list[dict[str, Any]]:
    """A row for each kernel whose name contains one of `names` (all without) and each compute capability."""
    rows = []
    for spec in specs():
        if names and not any(name in spec.name for name in names):
            continue
        for capability in capabilities:
            used = compile_kernel(spec, capability)
            rows.append(
                {
                    "kernel": spec.name,
                    "sm": capability,
                    "registers": used.registers,
                    "spill_bytes": used.stack + used.local,
                    "shared_bytes": used.shared,
                    "warps": spec.num_warps,
                    "vector_loads": "ld.global.v4" in used.ptx or "ld.global.v2.b64" in used.ptx,
                }
            )
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m gnnaccel.kernels.aot", description="What every Triton kernel costs."
    )
    parser.add_argument("names", nargs="*", help="parts of names of kernels; by default all")
    parser.add_argument("--sm", type=int, action="append", help="compute capability, repeatable; by default 80 and 90")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    rows = report(options.names, options.sm or [80, 90])
    if not rows:
        print(f"aot: no kernel is named like {', '.join(options.names)}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(rows, indent=1))
        return 0
    width = max(len(row["kernel"]) for row in rows)
    print(f"{'kernel':{width}}  sm  registers  spill B  shared B  warps  128-bit loads")
    for r in rows:
        print(
            f"{r['kernel']:{width}}  {r['sm']}  {r['registers']:9}  {r['spill_bytes']:7}  {r['shared_bytes']:8}"
            f"  {r['warps']:5}  {'yes' if r['vector_loads'] else 'no'}"
        )
    return 0


if __name__ == "__main__":
    # the kernels' modules name this one, not __main__
    sys.exit(importlib.import_module("gnnaccel.kernels.aot").main())
