"""`gnnaccel bench`: run entries, print the table, write JSON and report, compare with a stored run."""

from __future__ import annotations

import itertools
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
import typer
from rich.console import Console

from gnnaccel.bench import base as bases
from gnnaccel.bench import choose, harness, results
from gnnaccel.bench.entries import Row, Settings
from gnnaccel.bench.harness import Runner
from gnnaccel.bench.progress import Watch

# a group reads nothing after its positional argument unless it may be interspersed
app = typer.Typer(
    add_completion=False,
    subcommand_metavar="",
    rich_markup_mode="rich",
    context_settings={"allow_interspersed_args": True},
)

INTERRUPTED = 130
BUDGET, QUICK_BUDGET = 0.6, 0.1  # seconds
REPORT = Path("bench-report")

_SHOWN = {
    "--quick": "everything, small, in three minutes; report in ./bench-report",
    "ops --threads 1,2 --json ops.json": "every op in full, on one thread and on two",
    "gather_rows --shapes 400k_of_2m": "one case of an op",
    'gather_rows --shapes "N=100000,F=64,n=5000"': "with other parameters",
    "tgn,kg-train --report out": "two end-to-end jobs, and a page about them",
    "ops --base main": "against the results committed there; or a file, or `stored`",
}
EPILOG = "\n\n".join(
    [
        "[bold]Examples[/bold]",
        *(f"  gnnaccel bench {args.replace('[', chr(92) + '[')}   [dim]{what}[/dim]" for args, what in _SHOWN.items()),
        "[bold]Exit code[/bold]  0; 1 for a wrong result or a regression; 2 for a wrong argument; 130 after Ctrl-C or SIGTERM, "
        "which keeps and writes what was measured.",
    ]
)


def _numbers(text: str) -> list[int]:
    try:
        found = [int(word) for word in text.split(",")] if text else []
    except ValueError:
        found = [-1]
    if any(n < 0 for n in found):
        raise ValueError(f"bench: --threads must be numbers of threads with commas, got {text!r}")
    return [n or torch.get_num_threads() for n in found] or [torch.get_num_threads()]


def _device(text: str) -> torch.device:
    chosen = text or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(chosen)
    except RuntimeError:
        where = torch.device("meta")
    if where.type not in ("cpu", "cuda"):
        raise ValueError(f"bench: --device must be cpu or cuda, got {chosen!r}")
    if where.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("bench: --device cuda: this torch sees no CUDA device")
    return where


@app.callback(invoke_without_command=True, epilog=EPILOG)
def bench(
    target: Annotated[
        list[str] | None,
        typer.Argument(
            help="Ops or end-to-end jobs by name, `ops`, `models` (all end-to-end jobs), `scaling` (curves) or `all`; "
            "several, also with commas. "
            "By default `ops`, with --quick `all`."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda; by default cuda where there is one.")] = "",
    threads: Annotated[
        str, typer.Option(help="CPU threads; several with commas; 0, as by default: torch's own choice.")
    ] = "",
    shapes: Annotated[
        list[str] | None,
        typer.Option(help="Cases of ops: part of a name or a pattern; or parameters to change, as N=1000,F=64."),
    ] = None,
    base: Annotated[
        str,
        typer.Option(
            metavar="REF",
            help="Compare with a result file, `stored` (this checkout's results of this class of device) or those of a "
            "commit; exit 1 on a regression.",
        ),
    ] = "",
    tol: Annotated[float, typer.Option(help="Allowed slow-down against --base, as a fraction.", min=0)] = 0.1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write results here, and as CSV beside it.")] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write index.html, report.md and results.json into this folder.")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="The main case of each entry, smaller jobs, one mode, short budgets: three minutes."
        ),
    ] = False,
    budget: Annotated[
        float,
        typer.Option(
            help=f"Seconds of timing for each case and mode; 0 = {BUDGET:g}, or {QUICK_BUDGET:g} if quick.", min=0
        ),
    ] = 0,
    data: Annotated[
        str,
        typer.Option(help="Data of an end-to-end job: a stream, of kg-* a graph; by default synthetic, of real size."),
    ] = "",
    compiled: Annotated[bool, typer.Option(help="Time torch.compile beside the main case of an op.")] = True,
    correctness_only: Annotated[
        bool, typer.Option("--correctness-only", help="Only the gate, on tiny inputs: is every entry right?")
    ] = False,
    list_only: Annotated[bool, typer.Option("--list", help="List entries, cases and providers, and stop.")] = False,
) -> None:
    """Measure ops and training against the libraries people use today.

    Each result is checked first; a wrong one prints no number. Ours and its peers run in turns; ratios are taken turn by turn.
    """
    console, progress = Console(), Console(stderr=True)
    if not console.is_terminal:
        console = Console(width=140)
    harness.discover()
    try:
        ops, jobs = choose.select(target or ["all" if quick or list_only or correctness_only else "ops"])
        if list_only:
            _list(ops, jobs, console)
            return
        counts, where, changed = _numbers(threads), _device(device), choose.Shapes.parse(shapes or [])
        if changed is not None:
            if jobs and not ops:
                raise ValueError("bench: --shapes chooses cases of ops; sizes of jobs are options of their modules")
            ops, jobs = choose.narrow(ops, changed), []
        settings = Settings(
            device=where,
            quick=quick,
            correctness_only=correctness_only,
            budget=budget or (QUICK_BUDGET if quick else BUDGET),
            min_rounds=3 if quick else 7,
            data=data or None,
            one_thread=True,
            compiled=compiled,
            shapes=changed,
        )
        _writable(json_file, report)
        runner = Runner(settings)
        stored = bases.load(base, harness.environment(where), counts) if base else None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    rows: list[Row] = []
    interrupted = not _run(runner, ops, jobs, counts, progress, rows)
    with harness.cpu_threads(max(counts)):
        document = runner.document(rows)
    document["settings"] |= {"threads": counts, "interrupted": interrupted}
    results.show(rows, console)
    _ceilings(document, console)
    if quick and not correctness_only and json_file is None and report is None:
        report = REPORT
    _write(document, json_file, report, console)
    failed: list[Row | str] = [r for r in rows if r.gate in ("red", "error")]
    if stored is not None and rows:
        failed += _regressions(rows, document["environment"], stored, tol, base, console)
    if interrupted:
        kept = [str(p) for p in (json_file, report) if p is not None]
        where_to = f"; what was measured is in {' and '.join(kept)}" if kept else ""
        progress.print(f"interrupted after {len(rows)} rows{where_to}", style="bold yellow", highlight=False)
        raise typer.Exit(INTERRUPTED)
    if failed:
        raise typer.Exit(1)


def _writable(json_file: Path | None, report: Path | None) -> None:
    """Make the folders of results now: what cannot be written should not be known only after minutes of measuring."""
    for option, folder in (("--json", json_file and json_file.parent), ("--report", report)):
        if folder is None:
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise ValueError(
                f"bench: {option}: {folder} must be a folder that can be written to, got {error}"
            ) from None


def _list(ops: Sequence[str], jobs: Sequence[str], console: Console) -> None:
    for name in ops:
        entry = harness.REGISTRY[name]
        console.print(f"{name}: {', '.join(entry.cases)}; {', '.join(entry.providers)}", highlight=False, markup=False)
    for name in jobs:
        console.print(f"{name}: end to end", highlight=False)


def _ceilings(document: Mapping[str, Any], console: Console) -> None:
    env = document["environment"]
    line = (
        f"{env['device_name']}, {env['simd']}, {env['threads']} threads, torch {env['torch']}, commit {env['commit']}"
    )
    for n, r in document["rates"].items():
        line += f"; {n}t: copy {r['copy_gbps']:.1f} GB/s, GEMM {r['gemm_gflops']:.0f} GFLOP/s"
        line += f", random rows {r['rows_gbps']:.1f} GB/s" if "rows_gbps" in r else ""
    console.print(line, highlight=False, style="dim")


def _write(document: Mapping[str, Any], json_file: Path | None, report: Path | None, console: Console) -> None:
    if json_file is not None:
        console.print(f"wrote {json_file} and {results.write(document, json_file)}", highlight=False, soft_wrap=True)
    if report is None:
        return
    from gnnaccel.bench.report_page import write_report

    results.write(document, report / "results.json")
    page = write_report([results.read(report / "results.json")], report)
    console.print(
        f"wrote {report / 'results.json'}, {report / 'report.md'} and {page}", highlight=False, soft_wrap=True
    )


def _regressions(
    rows: Sequence[Row], env: Mapping[str, Any], stored: Mapping[str, Any], tol: float, name: str, console: Console
) -> list[str]:
    try:
        problems = results.compare(rows, env, stored, tol)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    for problem in problems:
        console.print(f"[bold red]regression[/bold red] {problem}", highlight=False)
    if not problems:
        console.print(f"no regression against {name} (tolerance {tol:.0%})", highlight=False)
    return problems


def _run(
    runner: Runner, ops: Sequence[str], jobs: Sequence[str], counts: Sequence[int], console: Console, rows: list[Row]
) -> bool:
    """Append the rows of all entries, for each number of threads; False when Ctrl-C ended it."""
    settings = runner.settings
    parts: list[tuple[str, float, int]] = []
    # ops first, with every number of threads: jobs set up the process' allocator as a trainer does
    for n, name in itertools.product(dict.fromkeys(counts), ops):
        entry = harness.REGISTRY[name]
        guess = len(runner.cases(entry)) * len(runner.modes(entry)) * (1.5 * settings.budget + 0.5)
        guess += 10 if entry.compile and settings.compiled and not settings.quick else 0
        parts.append((name, 0.3 if settings.correctness_only else guess, n))
    for n, name in itertools.product(dict.fromkeys(counts), jobs):
        seconds = harness.END_TO_END[name].seconds[settings.quick]
        parts.append((name, 1.0 if settings.correctness_only else seconds, n))
    with Watch([(name, seconds) for name, seconds, _ in parts], console) as watch, _ended_as_by_ctrl_c():
        try:
            for name, seconds, n in parts:
                with harness.cpu_threads(n), watch.part(name if len(counts) == 1 else f"{name}, {n}t", seconds):
                    for row in _guarded(runner, name):
                        watch.say(f"{row.op} {row.case} {row.mode}")
                        rows.append(row)
        except KeyboardInterrupt:
            return False
    return True


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM, which time limits and schedulers send, keeps what was measured too."""

    def stop(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _guarded(runner: Runner, name: str) -> Iterator[Row]:
    """The rows of one entry; a failure becomes a row, so that it cannot cost the results of the others."""
    try:
        if name in harness.REGISTRY:
            yield from runner.run(harness.REGISTRY[name])
            return
        if not runner.settings.correctness_only:
            runner.rates_now()
        yield from harness.END_TO_END[name].run(runner)
    except Exception as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        yield Row(name, "-", "-", "-", True, "error", text, torch.get_num_threads())


def main() -> None:
    app()
