"""`gnnaccel bench`: run entries, print the table, write JSON, compare with a stored run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gnnaccel.bench import harness, results
from gnnaccel.bench.harness import Row, Runner, Settings

# a group reads nothing after its positional argument unless it may be interspersed
app = typer.Typer(add_completion=False, subcommand_metavar="", context_settings={"allow_interspersed_args": True})


def select(target: str) -> tuple[list[str], list[str]]:
    """Names of op entries and of end-to-end jobs behind `target`."""
    ops, jobs = list(harness.REGISTRY), list(harness.END_TO_END)
    if target == "all":
        return ops, jobs
    if target == "ops":
        return ops, []
    if target in ops or target in jobs:
        return [n for n in ops if n == target], [n for n in jobs if n == target]
    raise typer.BadParameter(f"{target!r} is none of all, ops, {', '.join(ops + jobs)}")


@app.callback(invoke_without_command=True)
def bench(
    target: Annotated[str, typer.Argument(help="An op, an end-to-end job, `ops` or `all`.")] = "ops",
    device: Annotated[str, typer.Option(help="cpu or cuda; by default cuda where there is one.")] = "",
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves torch's default.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="The main case of each entry, short budgets.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write results here, and as CSV beside it.")] = None,
    base: Annotated[Path | None, typer.Option(help="Stored results to compare with; exit 1 on a regression.")] = None,
    tol: Annotated[float, typer.Option(help="Allowed slow-down against --base, as a fraction.")] = 0.1,
    budget: Annotated[
        float, typer.Option(help="Seconds of timing for each case and mode; 0 = 2, or 0.5 if quick.")
    ] = 0,
    data: Annotated[
        str,
        typer.Option(help="Data of an end-to-end job: a stream, of kg-* a graph; by default synthetic, of real size."),
    ] = "",
    correctness_only: Annotated[
        bool, typer.Option("--correctness-only", help="Only the gate, on tiny inputs: is every entry right?")
    ] = False,
    list_only: Annotated[bool, typer.Option("--list", help="List the entries and stop.")] = False,
) -> None:
    """Measure ops and training against the libraries people use today.

    Each result is checked first; a wrong one prints no number. Exit code: 0, or 1 for a failed check or a regression.
    """
    console, progress_console = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=120)
    harness.discover()
    if list_only:
        for name, entry in harness.REGISTRY.items():
            console.print(f"{name}: {', '.join(entry.cases)}; {', '.join(entry.providers)}", highlight=False)
        for name in harness.END_TO_END:
            console.print(f"{name}: end to end", highlight=False)
        return
    ops, jobs = select(target)
    stored = None
    if base is not None:
        try:
            stored = results.read(base)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(chosen)
    except RuntimeError as error:
        raise typer.BadParameter(f"--device must be cpu or cuda, got {chosen!r}") from error
    if where.type == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("--device cuda: this torch sees no CUDA device")
    settings = Settings(
        device=where,
        quick=quick,
        correctness_only=correctness_only,
        budget=budget or (0.5 if quick else 2.0),
        data=data or None,
    )
    with harness.cpu_threads(threads or None):
        runner = Runner(settings)
        rows = _run(runner, ops, jobs, progress_console)
        document = runner.document(rows)
    results.show(rows, console)
    env = document["environment"]
    console.print(
        f"{env['device_name']}, {env['simd']}, {env['threads']} threads, torch {env['torch']}, commit {env['commit']}"
        + "".join(
            f"; {n}t: copy {r['copy_gbps']:.1f} GB/s, GEMM {r['gemm_gflops']:.0f} GFLOP/s"
            for n, r in document["rates"].items()
        ),
        highlight=False,
        style="dim",
    )
    if json_file is not None:
        table = results.write(document, json_file)
        console.print(f"wrote {json_file} and {table}", highlight=False)
    failed: list[Row | str] = [r for r in rows if r.gate in ("red", "error")]
    if stored is not None:
        try:
            problems = results.compare(rows, env, stored, tol)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        for problem in problems:
            console.print(f"[bold red]regression[/bold red] {problem}", highlight=False)
        if not problems:
            console.print(f"no regression against {base} (tolerance {tol:.0%})", highlight=False)
        failed += problems
    if failed:
        raise typer.Exit(1)


def _run(runner: Runner, ops: list[str], jobs: list[str], console: Console) -> list[Row]:
    rows: list[Row] = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(ops) + len(jobs))

        def describe(row: Row) -> None:
            progress.update(task, description=f"{row.op} {row.case} {row.mode}")

        for name in ops:
            progress.update(task, description=name)
            rows += _collect(name, runner.run(harness.REGISTRY[name]), describe)
            progress.advance(task)
        for name in jobs:
            progress.update(task, description=name)
            if not runner.settings.correctness_only:
                runner.rates_now()
            rows += _collect(name, harness.END_TO_END[name].run(runner), describe)
            progress.advance(task)
    return rows


def _collect(name: str, found: Iterator[Row], seen: Callable[[Row], None]) -> list[Row]:
    """The rows of one entry; a failure becomes a row, so that it cannot cost the results of the others."""
    rows: list[Row] = []
    try:
        for row in found:
            seen(row)
            rows.append(row)
    except Exception as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        rows.append(Row(name, "-", "-", "-", True, "error", text, torch.get_num_threads()))
    return rows


def main() -> None:
    app()
