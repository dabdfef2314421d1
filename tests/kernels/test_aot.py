"""Every Triton kernel compiles ahead of time for sm_80 and sm_90, without spills."""

import json
import os
from dataclasses import replace
from importlib.metadata import version

import pytest

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
    pytest.skip("the interpreter replaces the compiler in this process", allow_module_level=True)

import triton.language as tl

from gnnaccel.kernels.aot import KernelSpec, compile_kernel, main, specs

SOME_BYTES = 32 if tuple(int(x) for x in version("triton").split(".")[:2]) < (3, 9) else 0


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("spec", specs(), ids=lambda s: s.name)
def test_compiles_without_spills(spec: KernelSpec, capability: int) -> None:
    used = compile_kernel(spec, capability)
    assert used.registers <= spec.max_registers
    # the compiler of Triton 3.6 keeps some bytes of four kernels on the stack, which later ones do not
    assert used.stack <= SOME_BYTES, f"{used.stack} bytes of stack: registers spill"
    assert used.local == 0, f"{used.local} bytes of local memory: registers spill"
    assert used.shared <= 99 * 1024
    if spec.vector_loads:
        assert "ld.global.v4" in used.ptx or "ld.global.v2.b64" in used.ptx, "no 128-bit loads"


def in_float64(spec: KernelSpec) -> KernelSpec:
    signature = {n: "*fp64" if t in ("*fp32", "*fp16", "*bf16") else t for n, t in spec.signature.items()}
    constexprs = {n: tl.float64 if v is tl.float32 else v for n, v in spec.constexprs.items()}
    return replace(spec, name=f"{spec.name}_float64", signature=signature, constexprs=constexprs)


TIMED = ("time_encode", "temporal_attention", "mailbox_attention", "memory_update_gather")


@pytest.mark.parametrize("spec", [in_float64(s) for s in specs() if s.name.startswith(TIMED)], ids=lambda s: s.name)
def test_kernels_with_time_compile_in_float64(spec: KernelSpec) -> None:
    """Another branch of the same source, which the interpreter types less strictly than the compiler."""
    assert compile_kernel(spec, 90).registers > 0


def test_the_report_says_what_a_kernel_costs(capsys):
    assert main(["kg_draw", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(r["kernel"], r["sm"], r["spill_bytes"]) for r in rows] == [("kg_draw", 80, 0), ("kg_draw", 90, 0)]
    assert all(0 < r["registers"] < 255 for r in rows)
    assert main(["kg_draw", "--sm", "90"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["no such kernel"]) == 2
