"""How a report says things: times, sizes, devices, threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]

MODE_NAMES = {
    "fwd": "forward",
    "bwd": "backward",
    "full": "forward + backward",
    "train": "training step",
    "step": "training step",
    "batch": "a batch",
    "filtered": "filtered evaluation",
}


def mode_name(mode: str) -> str:
    return MODE_NAMES.get(mode, mode)


def threads_name(threads: int) -> str:
    return f"{threads} thread{'s' if threads != 1 else ''}"


def device_name(env: Mapping[str, Any]) -> str:
    """As it is printed: a GPU with its CUDA, a CPU with its SIMD level."""
    if env["device"] == "cuda":
        return f"{env['device_name']}, CUDA {env.get('cuda')}"
    return f"{env['device_name']} ({env['simd']})"


def run_notes(group: Sequence[Document]) -> str:
    """What the runs on one device have in common, and of what there were several."""
    found: dict[str, dict[str, None]] = {"torch": {}, "threads": {}, "commit": {}}
    for document in group:
        for name, values in found.items():
            values[str(document["environment"].get(name))] = None
    if group[0]["environment"]["device"] == "cuda":
        found.pop("threads")
    return "; ".join(
        f"{name}{'s' if len(v) > 1 and name == 'commit' else ''} {', '.join(v)}" for name, v in found.items()
    )


def footnote(documents: Sequence[Document]) -> str:
    """Where and with what the figures were measured."""
    lines = []
    for document in documents:
        env = document["environment"]
        where = device_name(env) + ("" if env["device"] == "cuda" else f", {threads_name(env['threads'])}")
        lines.append(f"{where}, torch {env['torch']}, commit {env['commit']}")
    return "; ".join(dict.fromkeys(lines))


def ceilings(documents: Sequence[Document]) -> list[str]:
    """The rates of each device, in words."""
    lines = []
    for document in documents:
        for threads, rates in document.get("rates", {}).items():
            env = document["environment"]
            where = device_name(env) + ("" if env["device"] == "cuda" else f", {threads_name(int(threads))}")
            rows = f", random rows {rates['rows_gbps']:.1f} GB/s" if "rows_gbps" in rates else ""
            lines.append(f"{where}: copy {rates['copy_gbps']:.1f} GB/s{rows}, GEMM {rates['gemm_gflops']:.0f} GFLOP/s")
    return list(dict.fromkeys(lines))


def number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def times(ratio: float | None) -> str:
    """How many times, to two digits."""
    return "" if ratio is None else f"{ratio:.2g}" if ratio < 100 else f"{ratio:.0f}"


def clock(ms: float) -> str:
    """A time with its unit."""
    return f"{number(ms / 1e3)} s" if ms >= 1000 else f"{number(ms)} ms" if ms >= 0.1 else f"{number(ms * 1e3)} µs"


def size(count: float | None) -> str:
    if count is None:
        return ""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
