"""`gnnaccel data`: list, fetch and inspect data sets."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gnnaccel.data import REGISTRY, DataError, DownloadError, cache_dir, fetch, load
from gnnaccel.data.readers import FORMATS
from gnnaccel.data.registry import _present, find

app = typer.Typer(
    name="data",
    help="Data sets: list the known ones, fetch them, look into one.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    epilog="Data is kept in `$GNNACCEL_DATA`, else `~/.cache/gnnaccel`. Example: `gnnaccel data info wikipedia`",
)


def _one_line_errors(f: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(f)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            f(*args, **kwargs)
        except (DataError, DownloadError, ValueError) as e:
            print(f"error: {e}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("interrupted; run the same command to continue", file=sys.stderr)
            raise typer.Exit(130) from None

    return run


def _console() -> Console:
    # A pipe has no width of its own: do not fold the table into 80 columns
    return Console() if sys.stdout.isatty() else Console(width=160)


@app.command("list", epilog="Example: `gnnaccel data list`")
@_one_line_errors
def list_() -> None:
    """The sets that can be fetched, and those that are here."""
    table = Table(title="data sets", caption=f"kept in {cache_dir()}")
    table.add_column("name", no_wrap=True)
    for head in ("nodes", "events", "edge features"):
        table.add_column(head, justify="right")
    for head in ("bipartite", "licence", "here"):
        table.add_column(head)
    table.add_row("synthetic", "900", "20,000", "8", "yes", "", "built in")
    for d in REGISTRY.values():
        here = "yes" if find(d.name) else ""
        table.add_row(d.name, f"{d.nodes:,}", f"{d.events:,}", str(d.edge_dim), _yes(d.bipartite), d.licence, here)
    for name in _present(cache_dir()):
        if name not in REGISTRY:
            table.add_row(name, "", "", "", "", "", "yes")
    _console().print(table)


@app.command(
    "fetch", epilog="Example: `gnnaccel data fetch wikipedia`. An interrupted download continues where it stopped."
)
@_one_line_errors
def fetch_(
    name: Annotated[str, typer.Argument(help="A name from `gnnaccel data list`.")],
    force: Annotated[bool, typer.Option("--force", help="Download again even if it is here.")] = False,
) -> None:
    """Download a set and check its hash."""
    path = fetch(name, force=force)
    record = REGISTRY[name]
    print(f"{name}: {path} ({path.stat().st_size / 2**20:,.1f} MiB)")
    print(f"licence: {record.licence}; source: {record.source}")
    if record.note:
        print(f"note: {record.note}")


@app.command(
    "info",
    epilog="Examples: `gnnaccel data info wikipedia`, `gnnaccel data info clicks.csv --src user --dst item --time when`,"
    " `gnnaccel data info synthetic:events=50000,seed=1`",
)
@_one_line_errors
def info(
    source: Annotated[str, typer.Argument(metavar="NAME|PATH", help="A data set, a file or a folder.")],
    format: Annotated[str, typer.Option(help=f"One of {', '.join(FORMATS)}.")] = "auto",
    src: Annotated[str, typer.Option(help="Column of the sources.")] = "src",
    dst: Annotated[str, typer.Option(help="Column of the destinations.")] = "dst",
    time: Annotated[str, typer.Option(help="Column of the times.")] = "t",
    label: Annotated[str, typer.Option(help="Column of the labels.")] = "label",
    strict: Annotated[bool, typer.Option("--strict", help="Rows out of time order are an error.")] = False,
) -> None:
    """What is in a set: sizes, time, ties, repeats, degrees."""
    options: dict[str, Any] = {"src": src, "dst": dst, "t": time, "label": label, "strict": strict}
    if format != "auto":
        options["format"] = format
    s = load(source, **options).summary()
    unit = f" {s['time_unit']}" if s["time_unit"] else " (unit unknown)"
    share = f" ({s['tied_events'] / max(1, s['events']):.1%} of events share the time of the one before)"
    rows = {
        "nodes": f"{s['nodes']:,} ({s['sources']:,} sources, {s['destinations']:,} destinations)",
        "events": f"{s['events']:,}",
        "bipartite": _yes(s["bipartite"]),
        "time": f"{s['t_min']} .. {s['t_max']}{unit}, {s['time_dtype']}",
        "distinct times": f"{s['distinct_times']:,}{share}",
        "self-loops": f"{s['self_loops']:,}",
        "distinct pairs": f"{s['distinct_pairs']:,} ({s['repeated_pairs'] / max(1, s['events']):.1%} of events repeat a pair)",
        "repeated events": f"{s['repeated_events']:,} (same source, destination and time)",
        "edge features": str(s["edge_feat"] or "none"),
        "node features": str(s["node_feat"] or "none"),
        "labels": "none" if s["labels"] is None else f"{s['labels']:,} non-zero",
        "degree": ", ".join(
            [f"mean {s['degree_mean']:.1f}", *(f"{k} {s[f'degree_{k}']:,}" for k in ("median", "p99", "max"))]
        ),
        "isolated nodes": f"{s['isolated_nodes']:,}",
    }
    table = Table(title=s["name"], show_header=False)
    for key, value in rows.items():
        table.add_row(key, value)
    _console().print(table)


def _yes(x: bool) -> str:
    return "yes" if x else "no"
