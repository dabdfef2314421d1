"""Picture and table of speed-ups from stored results, byte-stable: `python -m gnnaccel.bench.report results.json ...`.

    --out docs/speed.svg     bars, for a light page, and docs/speed-dark.svg for a dark one (.png works too)
    --markdown               print the table
    --into README.md         put picture and table between `<!-- bench:begin -->` and `<!-- bench:end -->` of that file

Shown is, for each op, its first case in the mode that includes most (full, else fwd), against every peer. `--all` puts
every case and mode into the table.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import typer

from gnnaccel.bench.results import read

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"

MODE_NAMES = {"fwd": "forward", "bwd": "backward", "full": "forward + backward", "train": "training step"}

#: Both have an opaque ground, so that each can be read wherever it ends up; text has at least 4.5:1 on it.
THEMES = {
    "light": {
        "ground": "#ffffff",
        "text": "#1f2328",
        "muted": "#59636e",
        "grid": "#d8dee4",
        "faster": "#2a6fdb",
        "slower": "#bc4c00",
    },
    "dark": {
        "ground": "#0d1117",
        "text": "#e6edf3",
        "muted": "#9aa4af",
        "grid": "#30363d",
        "faster": "#5b9bff",
        "slower": "#f0883e",
    },
}

Item = tuple[dict[str, Any], dict[str, Any]]  # (peer's row, our row)


def items(documents: Sequence[Mapping[str, Any]], everything: bool = False) -> Iterator[Item]:
    """Pairs of a peer's row and ours, in the order of the files."""
    for document in documents:
        rows = document["rows"]
        for op in dict.fromkeys(r["op"] for r in rows):
            mine = [r for r in rows if r["op"] == op and r["ours"] and r["p50_ms"] is not None]
            if not everything and mine:
                case = mine[0]["case"]
                mine = [r for r in mine if r["case"] == case]
                mine = [r for r in mine if r["mode"] == "full"] or mine[:1]
            for own in mine:
                key = tuple(own[k] for k in ("op", "case", "mode", "threads"))
                for row in rows:
                    if row["ratio"] is not None and tuple(row[k] for k in ("op", "case", "mode", "threads")) == key:
                        yield row, own


def number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def footnote(documents: Sequence[Mapping[str, Any]]) -> str:
    """Where and with what the figures were measured."""
    lines = []
    for document in documents:
        env = document["environment"]
        if env["device"] == "cuda":
            where = f"{env['device_name']}, CUDA {env['cuda']}"
        else:
            where = f"{env['device_name']} ({env['simd']}), {env['threads']} threads"
        lines.append(f"{where}, torch {env['torch']}, commit {env['commit']}")
    return "; ".join(dict.fromkeys(lines))


def markdown(documents: Sequence[Mapping[str, Any]], everything: bool = False) -> str:
    """The table, with misses shown as plainly as hits."""
    head = ("op", "case", "what", "against", "theirs, ms", "ours, ms", "faster", "p20-p80", "their peak memory / ours")
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * 4 + " ---: |" * 5]
    for row, own in items(documents, everything):
        memory = ""
        if row["peak_bytes"] and own["peak_bytes"]:
            memory = f"{row['peak_bytes'] / own['peak_bytes']:.2g}"
        cells = (
            f"`{row['op']}`",
            f"{row['case']}, {row['threads']} thread{'s' if row['threads'] != 1 else ''}",
            MODE_NAMES.get(row["mode"], row["mode"]),
            row["provider"],
            number(row["p50_ms"]),
            number(own["p50_ms"]),
            f"**{row['ratio']:.2f}x**",
            f"{row['ratio_p20']:.2f}-{row['ratio_p80']:.2f}",
            memory,
        )
        lines.append("| " + " | ".join(cells) + " |")
    note = f"Medians of interleaved runs, results checked before timing. {footnote(documents)}."
    return "\n".join([*lines, "", note, ""])


def picture(documents: Sequence[Mapping[str, Any]], path: Path, theme: str = "light") -> None:
    """Draw the bars. The same documents and matplotlib give the same bytes."""
    with fixed_style():
        _draw(list(items(documents)), footnote(documents), path, THEMES[theme])


def fixed_style() -> AbstractContextManager[None]:
    """matplotlib as it comes: the user's matplotlibrc must not show, and the salt makes SVG ids constant."""
    import matplotlib as mpl

    style: dict[str, Any] = {
        **{k: v for k, v in mpl.rcParamsDefault.items() if not k.startswith("backend")},
        "svg.hashsalt": "gnnaccel",
        "svg.fonttype": "path",
        "font.family": "DejaVu Sans",
        "font.size": 10,
    }
    style = {k: v for k, v in style.items() if k in mpl.rcParams and k not in ("date.epoch",)}
    return mpl.rc_context(style)


def save(figure: Any, path: Path, ground: str) -> None:
    """Write a figure, .svg or .png, without a date."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(path, dpi=160, facecolor=ground, metadata=metadata)


def _draw(pairs: list[Item], note: str, path: Path, color: Mapping[str, str]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not pairs:
        raise ValueError("bench: the results hold no ratio to draw")
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row, _ in pairs:
        groups.setdefault((row["op"], row["case"], row["mode"]), []).append(row)
    places: list[tuple[float, dict[str, Any]]] = []
    headings: list[tuple[float, str]] = []
    y = 0.0
    for (op, case, mode), rows in groups.items():
        headings.append((y, f"{op}: {case}, {MODE_NAMES.get(mode, mode)}"))
        for row in sorted(rows, key=lambda r: -r["ratio"]):
            y += 1.0
            places.append((y, row))
        y += 1.5
    height = 0.27 * y + 1.25
    figure = Figure(figsize=(8.0, height), facecolor=color["ground"])
    FigureCanvasAgg(figure)
    margin = min(0.45, 0.04 + 0.0125 * max(len(row["provider"]) for _, row in places))
    axes = figure.add_axes((margin, 0.72 / height, 0.95 - margin, 1 - 1.2 / height), facecolor=color["ground"])
    top = max(row["ratio_p80"] for _, row in places)
    log = top > 40
    left = min(0.5, 0.8 * min(row["ratio_p20"] for _, row in places)) if log else 0.0
    for at, row in places:
        tone = color["faster" if row["ratio"] >= 1 else "slower"]
        axes.barh(at, row["ratio"] - left, left=left, height=0.72, color=tone, linewidth=0)
        axes.plot(
            [row["ratio_p20"], row["ratio_p80"]], [at, at], color=color["text"], linewidth=1.2, solid_capstyle="butt"
        )
        end = max(row["ratio"], row["ratio_p80"])
        axes.annotate(
            f"{row['ratio']:.1f}x",
            (end, at),
            (5, 0),
            textcoords="offset points",
            va="center",
            color=color["text"],
            weight="bold",
        )
        axes.annotate(
            row["provider"], (0, at), (-6, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            va="center", ha="right", color=color["text"],
        )  # fmt: skip
    ground = {"facecolor": color["ground"], "edgecolor": "none", "pad": 2.0}  # no grid line through the headings
    for at, text in headings:
        axes.annotate(
            text,
            (0.02, at),
            xycoords=("figure fraction", "data"),
            va="center",
            color=color["muted"],
            size=9,
            bbox=ground,
        )
    axes.axvline(1.0, color=color["text"], linewidth=1.0, linestyle=(0, (4, 3)))
    if log:
        axes.set_xscale("log")
    axes.set_xlim(left or (left if not log else 0.5), top * (1.6 if log else 1.12))
    axes.set_ylim(y - 0.6, -0.8)
    axes.set_yticks([])
    axes.tick_params(axis="x", colors=color["muted"], length=0, labelsize=9)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.grid(axis="x", color=color["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    figure.text(
        0.02,
        1 - 0.3 / height,
        "How many times faster gnnaccel is than ...",
        color=color["text"],
        size=12,
        weight="bold",
    )
    legend = "dashed: as fast; lines: 20th to 80th percentile of turns in one run"
    figure.text(0.02, 0.27 / height, legend, color=color["muted"], size=8)
    figure.text(0.02, 0.1 / height, note, color=color["muted"], size=8)
    save(figure, path, color["ground"])


def dark_twin(path: Path) -> Path:
    return path.with_name(f"{path.stem}-dark{path.suffix}")


def insert(document: Path, text: str) -> None:
    """Replace what stands between the two marks of `document`."""
    old = document.read_text()
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"bench: {document} has no {BEGIN} ... {END}")
    document.write_text(f"{before}{BEGIN}\n{text}{END}{after}")


def report(
    files: Annotated[list[Path], typer.Argument(help="Result files of `gnnaccel bench --json`.")],
    out: Annotated[
        Path | None, typer.Option(help="Picture to write, .svg or .png; its dark twin goes beside it.")
    ] = None,
    table: Annotated[bool, typer.Option("--markdown", help="Print the table.")] = False,
    into: Annotated[Path | None, typer.Option(help="File whose marked section gets picture and table.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every case and mode in the table.")] = False,
) -> None:
    """Make the speed-up picture and table from stored results."""
    try:
        documents = [read(path) for path in files]
        if out is not None:
            if out.suffix not in (".svg", ".png"):
                raise ValueError(f"bench: --out must end in .svg or .png, got {out}")
            picture(documents, out)
            picture(documents, dark_twin(out), "dark")
        text = markdown(documents, everything)
        if into is not None:
            image = ""
            if out is not None:
                light, dark = (Path(os.path.relpath(p, into.parent)).as_posix() for p in (out, dark_twin(out)))
                image = (
                    f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
                    f'<img alt="Speed-up of gnnaccel over each peer" src="{light}"></picture>\n\n'
                )
            insert(into, image + text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if table:
        typer.echo(text, nl=False)


if __name__ == "__main__":
    typer.run(report)
