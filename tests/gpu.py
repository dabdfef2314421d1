"""`make test-gpu`: every op's cases on the real kernels, captured steps, and a part of them under compute-sanitizer.

    python tests/gpu.py --limit 560             # what has not begun by then is not run, and the exit code says so
    python tests/gpu.py --device cpu --only ops # a rehearsal without a GPU

Needs nothing but pytest: no network, no data. With pytest-xdist several processes share the GPU, since most of the time goes
into compiling kernels; with pytest-timeout a test that hangs costs itself alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# a sanitized kernel is 10 to 50 times as slow: one dtype of the small cases, of ops with all sorts of memory access
SANITIZED = (
    "gather_rows", "gather_aggregate", "unique_nodes", "temporal_sample", "neighbor_sample", "temporal_attention",
    "memory_update", "kg_loss", "kg_rank", "sparse_adagrad",
)  # fmt: skip
SHARED_MEMORY = ("temporal_sample", "neighbor_sample", "kg_loss", "gather_aggregate")  # what racecheck looks at
ONE_DTYPE = "matches_reference and not float64 and not float16 and not bfloat16 and not batch"


@dataclass(frozen=True)
class Step:
    """Arguments of pytest; `tool` of compute-sanitizer; at most `share` of the limit."""

    name: str
    args: tuple[str, ...]
    share: float
    tool: str = ""


def found(*patterns: str) -> tuple[str, ...]:
    return tuple(sorted(str(p.relative_to(ROOT)) for pattern in patterns for p in ROOT.glob(pattern)))


def steps() -> list[Step]:
    def files(ops: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"tests/ops/test_{op}.py" for op in ops)

    return [
        Step("captured", found("tests/train/test_capture*.py", "tests/train/*/test_capture*.py"), 0.2),
        Step("ops", ("tests/ops",), 0.6),
        Step("kernels", ("tests/kernels",), 0.3),
        Step("marked", ("-m", "gpu", "tests"), 0.2),
        Step("memcheck", (*files(SANITIZED), "-k", ONE_DTYPE), 0.4, "memcheck"),
        Step("racecheck", (*files(SHARED_MEMORY), "-k", ONE_DTYPE), 0.2, "racecheck"),
    ]


def command(step: Step, jobs: int) -> list[str]:
    # warnings of other versions of torch, Triton and CuPy are no errors here
    run = [sys.executable, "-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider", "--tb=short"]
    if importlib.util.find_spec("pytest_timeout"):
        run += ["--timeout=180" if not step.tool else "--timeout=300"]
    if importlib.util.find_spec("xdist") and jobs > 1 and not step.tool:
        run += ["-n", str(jobs), "--dist", "loadfile" if step.name == "captured" else "load"]
    if step.tool:
        # torch asks the driver things that fail, and looks at the answer; its own checks are no finding
        run = ["compute-sanitizer", "--tool", step.tool, "--report-api-errors", "no", "--error-exitcode", "86", *run]
    return [*run, *step.args]


def stopped(process: subprocess.Popen[str]) -> None:
    """End a step and what it started."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(what: list[str], env: dict[str, str], seconds: float) -> tuple[int | None, str]:
    """Exit code, None if time was up, and the last line that has counts of tests in it. Prints as it comes."""
    process = subprocess.Popen(
        what, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert process.stdout is not None
    pipe, counts = process.stdout, [""]

    def read() -> None:
        for line in pipe:
            print(line, end="", flush=True)
            if re.search(r"\d+ (passed|failed|error|skipped|deselected)", line):
                counts[0] = line.strip("= \n")

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        code: int | None = process.wait(seconds)
    except subprocess.TimeoutExpired:
        stopped(process)
        code = None
    reader.join(5)
    pipe.close()
    return code, counts[0]


def sanitizer_problem(env: dict[str, str]) -> str:
    """Why compute-sanitizer can't be used here; empty if it can."""
    if shutil.which("compute-sanitizer") is None:
        return "compute-sanitizer is not on PATH"
    code = "import torch; x = torch.ones(8, device='cuda'); torch.cuda.synchronize()"
    what = ["compute-sanitizer", "--report-api-errors", "no", "--error-exitcode", "86", sys.executable, "-c", code]
    try:
        ran = subprocess.run(what, env=env, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return "compute-sanitizer does not end on a program of one kernel"
    said = (ran.stdout + ran.stderr).strip().splitlines() or ["it said nothing"]
    return f"compute-sanitizer does not work on this machine: {said[-1]}" if ran.returncode else ""


def describe(device: str) -> None:
    import torch

    print(f"python {sys.version.split()[0]}, torch {torch.__version__}", end="")
    for name in ("triton", "cupy"):
        print(f", {name} {__import__(name).__version__}" if importlib.util.find_spec(name) else f", no {name}", end="")
    print(f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no CUDA device", flush=True)
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("tests/gpu.py: this torch sees no CUDA device; --device cpu rehearses without one")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds for everything")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--jobs", type=int, default=min(8, (os.cpu_count() or 2) // 2), help="processes of a step")
    parser.add_argument("--only", default="", help="names of steps, with commas")
    options = parser.parse_args()
    describe(options.device)
    env = {**os.environ, "GNNACCEL_TEST_DEVICE": options.device, "OMP_NUM_THREADS": "2", "PYTHONUNBUFFERED": "1"}
    chosen = [s for s in steps() if not options.only or s.name in options.only.split(",")]
    if unknown := set(filter(None, options.only.split(","))) - {s.name for s in steps()}:
        parser.error(f"--only must be among {', '.join(s.name for s in steps())}, got {', '.join(sorted(unknown))}")
    whole = min(1.0, sum(s.share for s in chosen))  # a part of the steps has their shares of the whole limit
    begin, results, failed, cannot = time.monotonic(), [], False, None
    for step in chosen:
        left = options.limit - (time.monotonic() - begin)
        if step.tool:
            if cannot is None:
                cannot = "no CUDA device" if options.device == "cpu" else sanitizer_problem(env)
            if cannot:
                results.append((step.name, "not run", cannot))
                continue
        if not step.args:
            results.append((step.name, "not run", "no such tests"))
            continue
        if left < 10:
            results.append((step.name, "NOT RUN", "time was up"))
            failed = True
            continue
        print(f"--- {step.name}", flush=True)
        # without torch's cache every tensor is an allocation of its own, whose ends memcheck knows
        more = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if step.tool else {}
        code, counts = run(command(step, options.jobs), {**env, **more}, min(left, step.share / whole * options.limit))
        # 5: nothing was collected
        verdict = "TIME UP" if code is None else "ok" if code in (0, 5) else "FAILED"
        failed |= verdict in ("TIME UP", "FAILED")
        results.append((step.name, verdict, counts))
    print("\n".join(["", *(f"{name:10} {verdict:8} {detail}" for name, verdict, detail in results)]))
    sys.exit(failed)


if __name__ == "__main__":
    main()
