"""The device under a benchmark: what it is, how fast it copies and multiplies, how to time on it, what memory a call takes."""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch


def percentiles(values: list[float]) -> tuple[float, float, float]:
    """20th, 50th and 80th percentile."""
    p20, p50, p80 = np.percentile(np.asarray(values, dtype=np.float64), [20, 50, 80])
    return float(p20), float(p50), float(p80)


class Clock(Protocol):
    """Times `inner` calls of `fn`; `prepare`, when given, runs outside the clock before each call and makes its argument."""

    def __call__(self, fn: Callable[..., Any], prepare: Callable[[], Any] | None, inner: int) -> float:
        """Seconds of one call."""
        ...


class CpuClock:
    def __call__(self, fn: Callable[..., Any], prepare: Callable[[], Any] | None, inner: int) -> float:
        if prepare is None:
            start = time.perf_counter()
            for _ in range(inner):
                fn()
            return (time.perf_counter() - start) / inner
        total = 0.0
        for _ in range(inner):
            made = prepare()
            start = time.perf_counter()
            fn(made)
            total += time.perf_counter() - start
            del made
        return total / inner


class CudaClock:
    """CUDA events. Before each call a buffer of twice the L2 cache is written, so that no call finds its input in cache; the
    write also keeps the queue filled, so launch gaps of short calls stay hidden as in a busy stream."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        size = 2 * torch.cuda.get_device_properties(device).L2_cache_size
        self.flush = torch.empty(max(size, 1 << 26), dtype=torch.uint8, device=device)

    def __call__(self, fn: Callable[..., Any], prepare: Callable[[], Any] | None, inner: int) -> float:
        with torch.cuda.device(self.device):
            events = []
            for _ in range(inner):
                args = () if prepare is None else (prepare(),)
                self.flush.zero_()
                start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                start.record()
                fn(*args)
                stop.record()
                events.append((start, stop))
            torch.cuda.synchronize(self.device)
            return sum(start.elapsed_time(stop) for start, stop in events) / inner / 1e3


def clock_for(device: torch.device) -> Clock:
    return CudaClock(device) if device.type == "cuda" else CpuClock()


@contextmanager
def no_gc() -> Iterator[None]:
    """Collect now, and not again inside."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def back_memory(size: int) -> None:
    """Touch and free so many bytes, in huge pages where there are such. Nothing for less than 4 MiB, nor outside Linux.

    A host may hold back what a virtual machine has free. Who gets such a page first waits for it, ten times longer than in a
    loop in which memory goes round; outputs that ask for huge pages would meet one call after call.
    """
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if size < 4 << 20 or advice is None:
        return
    with contextlib.suppress(OSError), mmap.mmap(-1, size) as block:  # too little memory, or no huge pages
        block.madvise(advice)
        for at in range(0, size, mmap.PAGESIZE):
            block[at] = 1


def peak_extra_bytes(fn: Callable[[], Any], device: torch.device) -> int | None:
    """Largest sum of torch allocations alive at one time during `fn`, beyond what was alive before; outputs count.

    CUDA: the caching allocator's statistics. CPU: torch's allocator events; memory that a C++ kernel takes from the heap by
    itself is not seen. None where this torch has no such events.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        fn()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    try:
        # the kineto profiler measures the same, but starts in a second and writes to stderr
        from torch._C._profiler import _ExperimentalConfig
        from torch.autograd import ProfilerConfig, ProfilerState, _disable_profiler_legacy, _enable_profiler_legacy
    except ImportError:
        return None
    _enable_profiler_legacy(ProfilerConfig(ProfilerState.CPU, False, True, False, False, False, _ExperimentalConfig()))
    try:
        result = fn()
    finally:
        events = _disable_profiler_legacy()
    del result
    live = peak = 0
    for thread in events:
        for event in thread:
            if event.kind() == "memory_alloc":
                live += event.cpu_memory_usage()
                peak = max(peak, live)
    return peak


def measure_rates(device: torch.device, clock: Clock, seconds: float = 1.5, quick: bool = False) -> dict[str, float]:
    """Ceilings of this device, now, with the current threads: a copy and a copy of random rows of 512 bytes (GB/s, read and
    written), and a float32 matrix product (GFLOP/s).

    The rows come from a table of 1 GB (a quarter of that in a quick run) by `index_select` into a buffer that is used again:
    what an op that gathers can reach, which on CPU is far below a copy.
    """
    cuda = device.type == "cuda"
    share = seconds / 3

    def copy() -> float:
        n = (1 << 28) if cuda else (1 << 25)  # floats: far beyond any cache
        x, y = torch.ones(n, device=device), torch.empty(n, device=device)
        return 8.0 * n / _best(lambda: y.copy_(x), clock, share)

    def gemm() -> float:
        m = 8192 if cuda else 1536
        a, b, c = (torch.rand(m, m, device=device) for _ in range(3))
        return 2.0 * m**3 / _best(lambda: torch.mm(a, b, out=c), clock, share)

    def rows() -> float:
        size, count = (1 << 19 if quick else 1 << 21), (1 << 20 if cuda else 1 << 17)
        table, out = torch.ones(size, 128, device=device), torch.empty(count, 128, device=device)
        ids = torch.randint(size, (count,), generator=torch.Generator().manual_seed(0)).to(device)
        return 1024.0 * count / _best(lambda: torch.index_select(table, 0, ids, out=out), clock, share)

    return {"copy_gbps": copy() / 1e9, "gemm_gflops": gemm() / 1e9, "rows_gbps": rows() / 1e9}


def _best(fn: Callable[[], Any], clock: Clock, seconds: float) -> float:
    fn()
    times, start = [], time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - start < seconds and len(times) < 100):
        times.append(clock(fn, None, 1))
    # a ceiling: the undisturbed runs, not the typical ones
    return percentiles(times)[0]


def environment(device: torch.device) -> dict[str, Any]:
    """What a reader needs to judge or repeat a measurement."""
    record: dict[str, Any] = {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "simd": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "os": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "commit": git_commit(),
    }
    record |= {module: _version(*names) for module, names in PACKAGES.items()}
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        record |= {"cuda": torch.version.cuda, "sm": f"{major}.{minor}"}
    return record


def cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def git_commit() -> str | None:
    """Commit of the checkout that this package is imported from, with `+` when it has uncommitted changes."""
    folder = Path(__file__).resolve().parent

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(*names: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


#: What is recorded of every run: module -> distributions that may contain it
PACKAGES = {
    "gnnaccel": ("gnnaccel",),
    "numpy": ("numpy",),
    "triton": ("triton",),
    "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "torch_geometric": ("torch_geometric",),
    "torch_sparse": ("torch_sparse",),
    "tgm": ("tgm-lib",),
    "pykeen": ("pykeen",),
    "dgl": ("dgl",),
    "sklearn": ("scikit-learn",),
}
