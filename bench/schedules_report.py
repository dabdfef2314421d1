"""Picture and tables of docs/schedules.md from stored results, byte-stable: `python -m gnnaccel.bench.schedules_report FOLDER`.

FOLDER                   holds staleness-*.json, exact-*.json and pipeline-*.json, some or all
--out docs/staleness.svg for a light page, and docs/staleness-dark.svg for a dark one
--into docs/schedules.md put them between `<!-- staleness:begin -->` and `<!-- staleness:end -->`, and so on
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gnnaccel.bench.report_draw import THEMES, dark_twin, fixed_style, save
from gnnaccel.bench.staleness import SCHEDULES, summary

COLORS = {
    "light": {"plain": "#bc4c00", "chunks": "#8250df", "exact": "#2a6fdb"},
    "dark": {"plain": "#f0883e", "chunks": "#b78aff", "exact": "#5b9bff"},
}


def where(document: Mapping[str, Any]) -> str:
    env = document["environment"]
    threads = f"{env['threads']} thread{'s' if env['threads'] != 1 else ''}"
    return f"{env['device_name']} ({env['simd']}), {threads}, torch {env['torch']}, commit {env['commit']}"


def staleness_table(document: Mapping[str, Any]) -> str:
    """One row for each batch size and schedule."""
    runs = document["runs"]
    seeds = len({r["seed"] for r in runs})
    lines = [
        "| batch | schedule | updates missed | AP | MRR | AP, exact test | MRR, exact test |",
        "| ---: | --- |" + " ---: |" * 5,
    ]
    for (batch, schedule), f in sorted(summary(runs).items(), key=lambda x: (x[0][0], SCHEDULES.index(x[0][1]))):
        cells = []
        for key in ("ap", "mrr", "exact_ap", "exact_mrr"):
            mean, spread = f[key]
            cells.append(f"{mean:.4f} ± {spread:.4f}" if seeds > 1 else f"{mean:.4f}")
        lines.append(f"| {batch} | {schedule} | {f['staleness'][0]:.2f} | " + " | ".join(cells) + " |")
    note = (
        f"TGN on {document['data']}, {document['epochs']} epochs, {seeds} seed{'s' if seeds > 1 else ''}, chunks of "
        f"{document['chunk']}, learning rate {document['lr']:g} at batch {document['lr_batch']} and growing with the batch "
        f"size to the power {document['lr_power']:g}. {where(document)}."
    )
    return "\n".join([*lines, "", note, ""])


def exact_table(document: Mapping[str, Any]) -> str:
    """One row for each batch size."""
    lines = [
        "| batch | levels a batch | most | plain, ms a batch | exact, ms a batch | plain, s an epoch | exact, s an epoch |",
        "|" + " ---: |" * 7,
    ]
    for r in document["rows"]:
        keys = ("plain_batch_ms", "exact_batch_ms", "plain_epoch_seconds", "exact_epoch_seconds")
        cells = [f"{r[k]:.1f}" if k in r else "" for k in keys]
        lines.append(f"| {r['batch']} | {r['levels_mean']:.1f} | {r['levels_max']} | " + " | ".join(cells) + " |")
    note = (
        f"TGN on {document['data']} with {document['edge_features']} edge features, medians of {document['repeats']} turns "
        f"over the last {document['events']} training events; epochs are extrapolated. {where(document)}."
    )
    return "\n".join([*lines, "", note, ""])


def pipeline_table(document: Mapping[str, Any]) -> str:
    """One row for each model and look-ahead."""
    stages = list(document["rows"][0]["stage_ms"])
    lines = [
        "| model | look-ahead | ms a batch | " + " | ".join(f"`{s}`" for s in stages) + " |",
        "| --- |" + " ---: |" * (2 + len(stages)),
    ]
    for r in document["rows"]:
        cells = [f"{r['stage_ms'][s]:.2f}" for s in stages]
        lines.append(f"| {r['model']} | {r['lookahead']} | **{r['batch_ms']:.2f}** | " + " | ".join(cells) + " |")
    note = (
        f"Batches of {document['batch']}, {document['edge_features']} edge features, medians of {document['repeats']} turns "
        f"over the last {document['events']} training events. {where(document)}."
    )
    return "\n".join([*lines, "", note, ""])


def picture(document: Mapping[str, Any], path: Path, theme: str = "light") -> None:
    """Test AP against the updates that a training batch misses, a line for each schedule. Same input, same bytes."""
    with fixed_style():
        _draw(document, path, {**THEMES[theme], **COLORS[theme]})


def _draw(document: Mapping[str, Any], path: Path, color: Mapping[str, str]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = summary(document["runs"])
    figure = Figure(figsize=(8.0, 4.0), facecolor=color["ground"])
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, key, title in zip(
        panels, ("ap", "exact_ap"), ("tested in batches of 200", "tested with the memory of batch 1"), strict=True
    ):
        for schedule in SCHEDULES:
            points = sorted((b, f) for (b, s), f in found.items() if s == schedule)
            if not points:
                continue
            x = [f["staleness"][0] for _, f in points]
            y = [f[key][0] for _, f in points]
            spread = [f[key][1] for _, f in points]
            axes.errorbar(x, y, spread, color=color[schedule], marker="o", markersize=5, linewidth=1.5, label=schedule)
            for (batch, _), at, value in zip(points, x, y, strict=True):
                axes.annotate(
                    f"{batch}", (at, value), (6, -3), textcoords="offset points", color=color[schedule], size=8
                )
        axes.set_facecolor(color["ground"])
        axes.set_title(title, color=color["text"], size=10)
        axes.set_xlabel("updates of its own node that a prediction misses", color=color["muted"], size=9)
        axes.tick_params(colors=color["muted"], length=0, labelsize=9)
        axes.grid(color=color["grid"], linewidth=0.8)
        axes.set_axisbelow(True)
        axes.margins(x=0.12)
        for side in axes.spines.values():
            side.set_visible(False)
    panels[0].set_ylabel("test AP", color=color["muted"], size=9)
    panels[0].legend(frameon=False, labelcolor=color["text"], fontsize=9, loc="lower left")
    seeds = len({r["seed"] for r in document["runs"]})
    count = f"{seeds} seed{'s' if seeds > 1 else ''}"
    note = f"TGN on {document['data']}, {document['epochs']} epochs, {count}; numbers at the points: training batch"
    figure.text(0.02, 0.02, note, color=color["muted"], size=8)
    figure.subplots_adjust(left=0.09, right=0.98, top=0.91, bottom=0.2, wspace=0.06)
    save(figure, path, color["ground"])


TABLES = {"staleness": staleness_table, "exact": exact_table, "pipeline": pipeline_table}


def insert(document: Path, name: str, text: str) -> None:
    """Replace what stands between the two marks `name` of `document`."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = document.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"schedules_report: {document} has no {begin} ... {end}")
    document.write_text(f"{before}{begin}\n{text}{end}{after}")


def report(
    folder: Annotated[Path, typer.Argument(help="Where the results are.")],
    out: Annotated[
        Path | None, typer.Option(help="Picture to write, .svg or .png; its dark twin goes beside it.")
    ] = None,
    into: Annotated[Path | None, typer.Option(help="File whose marked sections get the tables.")] = None,
) -> None:
    """Make the picture and the tables of the schedules."""
    try:
        for name, table in TABLES.items():
            for path in sorted(folder.glob(f"{name}-*.json")):
                document = json.loads(path.read_text())
                if name == "staleness" and out is not None:
                    picture(document, out)
                    picture(document, dark_twin(out), "dark")
                if into is not None:
                    insert(into, name, table(document))
                else:
                    typer.echo(table(document))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


if __name__ == "__main__":
    typer.run(report)
