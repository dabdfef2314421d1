"""`make bench-gpu`: what this library promises on a GPU, each beside eager PyTorch and torch.compile, in one command.

    python -m gnnaccel.bench.gpu --limit 460 --out bench/results
    python -m gnnaccel.bench.gpu --data path/to/wikipedia      # TGN on the real stream instead of one of its size
    python -m gnnaccel.bench.gpu --rehearse                    # the same commands on tiny inputs, without a GPU

Every entry is a process of its own, the most wanted first, with the time that is left, at most its own limit; those that end
early leave theirs to the others. Results are written as they come; an entry whose time is up is interrupted as by Ctrl-C and
keeps the rows it has: a compilation that hangs costs itself alone. Needs no network and no data. Writes OUT/<gpu>/ops.json and
models.json, which `gnnaccel bench --base` and the report read like any other.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from gnnaccel.bench import results
from gnnaccel.bench.device import environment

GRACE = 10.0  # seconds in which an interrupted job writes what it has
LEAST = 10.0  # with less it is not begun


@dataclass(frozen=True)
class Job:
    """A target of `gnnaccel bench`, the file that its rows go to, and the seconds that it may take at most."""

    target: str
    file: str
    limit: float
    options: tuple[str, ...] = ()


# in the order of what is wanted most; the limits are more than the whole may take, since most jobs end early
JOBS = (
    Job("tgn", "models", 170, ("--data",)),
    Job("kg-gpu", "models", 150),
    Job("temporal_sample_gpu", "ops", 45),
    Job("gather_rows_gpu", "ops", 90),
    Job("sage-gpu", "models", 110),
    Job("temporal_attention", "ops", 70, ("--quick",)),
    Job("memory_update", "ops", 60, ("--quick",)),
    Job("gather_rows_pinned", "ops", 40),
    Job("gather_aggregate", "ops", 60, ("--quick",)),
    Job("neighbor_sample", "ops", 45, ("--quick",)),
    Job("unique_nodes", "ops", 40, ("--quick",)),
)


def slug(name: str) -> str:
    """A folder's name for a device: `NVIDIA H100 80GB HBM3` is `h100-80gb-hbm3`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("nvidia", "")).strip("-") or "gpu"


def command(job: Job, part: Path, device: str, data: str, rehearse: bool) -> list[str]:
    what = [sys.executable, "-m", "gnnaccel.bench", job.target, "--device", device, "--json", str(part)]
    if rehearse:
        return [*what, "--correctness-only"]
    for option in job.options:
        what += [option] if option != "--data" else ["--data", data] if data else []
    return what


def run(what: Sequence[str], seconds: float) -> tuple[str, str]:
    """How it ended (`ok`, `failed`, `time up`), and the end of what it said."""
    # compiled kernels are kept between the processes by Triton and inductor themselves
    with tempfile.TemporaryFile("w+") as said:
        env = {**os.environ, "GNNACCEL_BENCH_GPU": "1"}  # a rehearsal has the entries of `gpu_ops` too
        process = subprocess.Popen(
            what,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=env,
            preexec_fn=hear_interrupts,
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            interrupt(process)
            return "time up", ""
        except KeyboardInterrupt:
            interrupt(process)
            raise
        said.seek(0)
        lines = said.read().strip().splitlines()
    return ("ok" if code == 0 else "failed"), "\n".join(lines[-12:]) if code else ""


def hear_interrupts() -> None:
    """A shell's background jobs ignore interrupts, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """End a job as Ctrl-C does, upon which it writes the rows it has; by force if that takes long."""
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # with all that it started
    process.wait()


def merged(document: dict[str, Any] | None, part: dict[str, Any]) -> dict[str, Any]:
    """A file's document with the rows of one more job."""
    if document is None:
        return part
    rates = {**part["rates"], **document["rates"]}
    interrupted = any(d.get("settings", {}).get("interrupted", False) for d in (document, part))
    settings = {**document.get("settings", {}), "interrupted": interrupted}
    return {**document, "rates": rates, "settings": settings, "rows": [*document["rows"], *part["rows"]]}


def measure(
    out: Path, device: str, limit: float, data: str, rehearse: bool, jobs: Sequence[Job] = JOBS
) -> Iterator[tuple[Job, str, str]]:
    """Run the jobs; for each how it ended and what it said. Files are written after each."""
    documents: dict[str, dict[str, Any]] = {}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for job in jobs:
            left = limit - (time.monotonic() - begin) - GRACE
            if left < LEAST:
                yield job, "not run", "time was up"
                continue
            part = Path(folder) / f"{job.target}.json"
            ended, said = run(command(job, part, device, data, rehearse), min(left, job.limit))
            found = json.loads(part.read_text("utf-8")) if part.exists() else {"rows": []}
            if found["rows"]:
                documents[job.file] = merged(documents.get(job.file), found)
                results.write(documents[job.file], out / f"{job.file}.json")
            yield job, ended, f"{len(found['rows'])} rows kept" if ended == "time up" else said


def main(
    out: Annotated[Path, typer.Option(help="Results go to a folder in here, named after the GPU.")] = Path(
        "bench/results"
    ),
    limit: Annotated[float, typer.Option(help="Seconds for everything.", min=1)] = 460.0,
    data: Annotated[str, typer.Option(help="Stream for TGN; by default synthetic, of Wikipedia's size.")] = "",
    only: Annotated[str, typer.Option(help="Targets, with commas.")] = "",
    rehearse: Annotated[bool, typer.Option("--rehearse", help="Tiny inputs, checks only, on CPU if need be.")] = False,
) -> None:
    """Measure on the present GPU."""
    console = Console(stderr=True)
    if not torch.cuda.is_available() and not rehearse:
        raise SystemExit("gnnaccel.bench.gpu: this torch sees no CUDA device; --rehearse goes without")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    names = [n.strip() for n in only.split(",") if n.strip()]
    if unknown := set(names) - {job.target for job in JOBS}:
        raise typer.BadParameter(f"--only must be among {', '.join(j.target for j in JOBS)}, got {sorted(unknown)[0]}")
    folder = out / (slug(environment(torch.device(device))["device_name"]) if device == "cuda" else "rehearsal")
    jobs = [job for job in JOBS if not names or job.target in names]
    table, start, good = Table("entry", "seconds", "", ""), time.monotonic(), True
    for job, ended, said in measure(folder, device, limit, data, rehearse, jobs):
        seconds, start = time.monotonic() - start, time.monotonic()
        console.print(f"{job.target}: {ended}, {seconds:.0f} s", highlight=False)
        if said:
            console.print(said, highlight=False, markup=False)
        table.add_row(job.target, f"{seconds:.0f}", ended, said.splitlines()[-1] if said else "")
        good &= ended == "ok"
    console.print(table)
    console.print(f"results: {folder}", highlight=False)
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    typer.run(main)
