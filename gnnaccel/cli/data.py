"""`gnnaccel data`: list, fetch and inspect data sets."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gnnaccel.data import (
    REGISTRY,
    DataError,
    Dataset,
    DownloadError,
    TemporalEvents,
    cache_dir,
    chronological_split,
    draw_negatives,
    fetch,
    load,
    write_negatives,
)
from gnnaccel.data._node_files import is_node_file, is_node_folder
from gnnaccel.data.nodes import PARTS, NodeData, find_nodes, load_nodes, present_nodes, split_stats
from gnnaccel.data.readers import FORMATS
from gnnaccel.data.registry import find, present

app = typer.Typer(
    name="data",
    help="Data sets: list the known ones, fetch them, look into one.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    epilog="Data is kept in `$GNNACCEL_DATA`, else `~/.cache/gnnaccel`. Example: `gnnaccel data info wikipedia`",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def _one_line_errors(f: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(f)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            f(*args, **kwargs)
        except (DownloadError, OSError, ValueError) as e:
            print(f"error: {e}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("interrupted; run the same command to continue", file=sys.stderr)
            raise typer.Exit(130) from None

    return run


def _console() -> Console:
    # A pipe has no width of its own: do not fold the table into 80 columns
    return Console() if sys.stdout.isatty() else Console(width=160)


def _print(table: Table) -> None:
    _console().print(table)


@app.command("list", epilog="Examples: `gnnaccel data list`, `gnnaccel data list --json`")
@_one_line_errors
def list_(as_json: AsJson = False) -> None:
    """The sets that can be fetched, and those that are here."""
    here = present()
    if as_json:
        known = [{**_published(d), "name": d.name, "here": d.name in here} for d in REGISTRY.values()]
        known += [{"name": n, "here": True} for n in here if n not in REGISTRY]
        print(json.dumps(known + [{"name": n, "here": True, "kind": "nodes"} for n in present_nodes()], indent=2))
        return
    caption = f"kept in {cache_dir()}; with py-tgb also tgb:NAME and TGB's own negatives (eval --negatives-file tgb)"
    table = Table(title="data sets", caption=caption)
    table.add_column("name", no_wrap=True)
    for head in ("nodes", "events", "edge features"):
        table.add_column(head, justify="right")
    for head in ("bipartite", "licence", "here"):
        table.add_column(head)
    table.add_row("synthetic", "900", "20,000", "8", "yes", "", "built in")
    for d in REGISTRY.values():
        mark = "yes" if d.name in here else ""
        table.add_row(d.name, f"{d.nodes:,}", f"{d.events:,}", str(d.edge_dim), _yes(d.bipartite), d.licence, mark)
    for name in here:
        if name not in REGISTRY:
            table.add_row(Text(name), "", "", "", "", "", "yes")
    _print(table)
    nodes = Table(title="node data sets")
    nodes.add_column("name", no_wrap=True)
    nodes.add_column("here")
    nodes.add_row("synthetic-nodes", "built in")
    for name in present_nodes():
        nodes.add_row(Text(name), "yes")
    _print(nodes)


@app.command(
    "fetch",
    epilog="Examples: `gnnaccel data fetch wikipedia`, `gnnaccel data fetch reddit mooc lastfm`."
    " An interrupted download continues where it stopped.",
)
@_one_line_errors
def fetch_(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Names from `gnnaccel data list`.")],
    force: Annotated[bool, typer.Option("--force", help="Download again even if it is here.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Download sets and check their hashes."""
    failed = []
    for name in names:
        try:
            path = fetch(name, force=force, progress=not quiet)
        except (DataError, DownloadError) as e:
            # One that is out of reach does not keep the others from coming
            print(f"error: {e}", file=sys.stderr)
            failed.append(name)
            continue
        record = REGISTRY[name]
        print(f"{name}: {path} ({path.stat().st_size / 2**20:,.1f} MiB)")
        print(f"licence: {record.licence}; source: {record.source}")
        if record.note:
            print(f"note: {record.note}")
    if failed:
        raise typer.Exit(2)


@app.command(
    "info",
    epilog="Examples: `gnnaccel data info wikipedia`, `gnnaccel data info clicks.csv --src user --dst item --time when`,"
    " `gnnaccel data info synthetic:events=50000,seed=1`, `gnnaccel data info cora`",
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
    as_json: AsJson = False,
) -> None:
    """What is in a set: sizes, time, ties, repeats, degrees; of node data, classes and the split. Nothing is fetched."""
    record = REGISTRY.get(source)
    if record is not None and not Path(source).exists() and find(source) is None:
        facts = _published(record)
        if as_json:
            print(json.dumps({"name": source, "here": False, **facts}, indent=2))
            return
        rows = {k.replace("_", " "): _text(v) for k, v in facts.items()}
        _show(f"{source}, as published (not here)", rows, f"gnnaccel data fetch {source}")
        return
    if _is_node_data(source):
        _show_nodes(load_nodes(source), as_json)
        return
    options: dict[str, Any] = {"src": src, "dst": dst, "t": time, "label": label, "strict": strict}
    if format != "auto":
        options["format"] = format
    events = load(source, download=False, **options)
    s = events.summary()
    if as_json:
        print(json.dumps(s, indent=2))
        return
    unit = f" {s['time_unit']}" if s["time_unit"] else " (unit unknown)"
    share = f" ({s['tied_events'] / max(1, s['events']):.1%} of events share the time of the one before)"
    repeats = f" ({s['repeated_pairs'] / max(1, s['events']):.1%} of events repeat a pair)"
    degrees = [f"mean {s['degree_mean']:.1f}", *(f"{k} {s[f'degree_{k}']:,}" for k in ("median", "p99", "max"))]
    rows = {
        "nodes": f"{s['nodes']:,} ({s['sources']:,} sources, {s['destinations']:,} destinations)",
        "node ids": _ids(events),
        "events": f"{s['events']:,}",
        "bipartite": _yes(s["bipartite"]),
        "time": f"{s['t_min']} .. {s['t_max']}{unit}, {s['time_dtype']}",
        "distinct times": f"{s['distinct_times']:,}{share}",
        "self-loops": f"{s['self_loops']:,}",
        "distinct pairs": f"{s['distinct_pairs']:,}{repeats}",
        "repeated events": f"{s['repeated_events']:,} (same source, destination and time)",
        "edge features": str(s["edge_feat"] or "none"),
        "node features": str(s["node_feat"] or "none"),
        "labels": "none" if s["labels"] is None else f"{s['labels']:,} non-zero",
        "degree": ", ".join(degrees),
        "isolated nodes": f"{s['isolated_nodes']:,}",
    }
    _show(s["name"], rows)


@app.command(
    "negatives",
    epilog="Examples: `gnnaccel data negatives wikipedia --out wikipedia-test.npz`,"
    " `gnnaccel data negatives my/edges.csv --split val --count 20 --historical 0 --out val.npz`."
    " Then: `gnnaccel eval RUN --negatives-file wikipedia-test.npz`",
)
@_one_line_errors
def negatives_(
    source: Annotated[str, typer.Argument(metavar="NAME|PATH", help="A data set, a file or a folder.")],
    to: Annotated[Path, typer.Option("--out", "-o", help="npz file to write.")],
    part: Annotated[str, typer.Option("--split", help="test or val.")] = "test",
    count: Annotated[int, typer.Option(min=1, help="Negatives a query.")] = 100,
    historical: Annotated[float, typer.Option(min=0, max=1, help="Share of former destinations of the source.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
    val_fraction: Annotated[float, typer.Option(help="Share of the events for validation.")] = 0.15,
    test_fraction: Annotated[float, typer.Option(help="Share of the events for test.")] = 0.15,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Draw negatives of a split once and write them, so that others can judge their models by the very same lists."""
    if part not in ("test", "val"):
        raise ValueError(f"--split must be test or val, got {part!r}")
    if to.suffix != ".npz":
        raise ValueError(f"--out must be an .npz file, got {to}")
    if to.exists() and not overwrite:
        raise ValueError(f"{to} exists; give --overwrite or another --out")
    events = load(source)
    split = chronological_split(events.t, val=val_fraction, test=test_fraction)
    chosen = split.test if part == "test" else split.val
    lists = draw_negatives(events, chosen, count=count, historical=historical, seed=seed)
    write_negatives(to, lists, events, chosen)
    print(f"{len(lists):,} queries, {len(lists.ids):,} negatives in {to}")


def _is_node_data(source: str) -> bool:
    if Path(source).exists():
        return is_node_folder(Path(source)) or is_node_file(Path(source))
    return source.partition(":")[0] == "synthetic-nodes" or (find(source) is None and find_nodes(source) is not None)


def _show_nodes(data: NodeData, as_json: bool) -> None:
    stats, graph = split_stats(data), data.graph
    degree = graph.in_degree()
    features = None if data.x is None else f"{str(data.x.dtype).removeprefix('torch.')} {list(data.x.shape)}"
    facts = {
        "name": data.name, "nodes": data.num_nodes, "edges": graph.num_edges, "relations": graph.num_relations,
        "features": features, "classes": data.num_classes, "degree_max": int(degree.max()) if data.num_nodes else 0,
        **stats, "notes": list(data.notes),
    }  # fmt: skip
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    mean = graph.num_edges / max(data.num_nodes, 1)
    rows = {
        "nodes": f"{data.num_nodes:,} ({stats['isolated']:,} without an edge)",
        "edges": f"{graph.num_edges:,}, of {graph.num_relations} relation{'s' * (graph.num_relations > 1)}",
        "edges into a node": f"mean {mean:.1f}, max {facts['degree_max']:,}",
        "features": features or "none",
        "classes": str(data.num_classes or "none"),
        "homophily": "unknown" if stats["homophily"] is None else f"{stats['homophily']:.3f}",
    }
    for part in PARTS:
        p = stats[part]
        rows[part] = (
            f"{p['nodes']:,} nodes ({p['share']:.1%}), by class: {', '.join(f'{n:,}' for n in p['classes'][:20])}"
        )
    rows["in no part"] = f"{stats['outside']:,} with a label, {stats['unlabelled']:,} without"
    for i, note in enumerate(data.notes):
        rows["note" + " " * i] = note
    _show(data.name, rows)


def _show(title: str, rows: dict[str, str], caption: str | None = None) -> None:
    table = Table(title=Text(title), caption=caption, show_header=False)
    for key, value in rows.items():
        # Ids and addresses are shown as they are, not as markup
        table.add_row(key, Text(value))
    _print(table)


def _published(d: Dataset) -> dict[str, Any]:
    return {
        "nodes": d.nodes,
        "events": d.events,
        "edge_features": d.edge_dim,
        "bipartite": d.bipartite,
        "licence": d.licence,
        "source": d.source,
        "url": d.urls[0],
        "note": d.note,
    }


def _ids(events: TemporalEvents) -> str:
    if events.node_ids is None or not events.num_nodes:
        return "contiguous"
    ids = events.node_ids.tolist()
    if isinstance(ids[0], str):
        return (
            f"text, {len(max(ids, key=len))} characters at most: " + ", ".join(ids[:3]) + (", ..." if ids[3:] else "")
        )
    return f"integers, {min(ids)} .. {max(ids)}"


def _text(x: Any) -> str:
    if isinstance(x, bool):
        return _yes(x)
    return f"{x:,}" if isinstance(x, int) else str(x or "none")


def _yes(x: bool) -> str:
    return "yes" if x else "no"
