"""`gnnaccel info`."""

from __future__ import annotations

import importlib.metadata
import platform

import torch
from rich.table import Table

from gnnaccel.cli._common import out
from gnnaccel.ops import _library

#: by the folder of gnnaccel.kernels
KINDS = {"triton": "Triton", "cuda": "CUDA through CuPy"}


def info() -> None:
    """Versions, build, threads, SIMD level, GPU, and which backend serves each op."""
    import gnnaccel

    facts = Table(box=None, show_header=False, pad_edge=False)
    for key, value in {
        "gnnaccel": gnnaccel.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "cupy": _version("cupy-cuda13x", "cupy-cuda12x", "cupy"),
        "C++ extension": str(_library.EXTENSION or "not built: ops run on plain torch"),
        "threads": f"{torch.get_num_threads()} of {torch.get_num_interop_threads()} inter-op",
        "SIMD": torch.backends.cpu.get_cpu_capability(),
        "CPU": _cpu(),
        "GPU": _gpu(),
    }.items():
        facts.add_row(f"[bold]{key}[/bold]", value)
    out.print(facts)
    ops = Table(title="Backends", title_justify="left")
    for column in ("op", "cpu", "cuda"):
        ops.add_column(column)
    for name in gnnaccel.ops.__all__:
        if hasattr(torch.ops.gnnaccel, name):
            served = _inner(name)
            ops.add_row(name, _library.backend_of(served, "cpu"), _on_cuda(served))
    out.print(ops)


def _on_cuda(op: str) -> str:
    """What serves `op` on CUDA, read off the kernels that its implementation imports when it is called."""
    implementation = _library.IMPLS.get((op, "CUDA"))
    if implementation is None:
        return "composed in torch"
    imported = {name.split(".")[2] for name in implementation.__code__.co_names if name.startswith("gnnaccel.kernels.")}
    return " + ".join(KINDS[kind] for kind in sorted(imported)) or "composed of ops"


def _inner(op: str) -> str:
    """The op that does the work of `op`: an inner one, `op` and a suffix, where that is a frame in torch around it."""
    if op == "topk_similar":
        return "kg_topk_queries"  # another op's inner one
    composed = _library.IMPLS.get((op, "CompositeExplicitAutograd"))
    names = () if composed is None or (op, "CUDA") in _library.IMPLS else composed.__code__.co_names
    return next((n for n in names if n.startswith(f"{op}_") and (n, "CUDA") in _library.IMPLS), op)


def _version(*names: str) -> str:
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "none"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
