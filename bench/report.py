"""Pictures and tables from stored results, byte-stable: `python -m gnnaccel.bench.report`.

--committed              everything that the repository shows, from everything in bench/results: docs/speed.svg,
                         docs/roofline.svg, docs/scaling.svg, their dark twins, the tables of docs/speed.md and README.md
results.json ...         of these files instead:
  --out speed.svg        the short picture, and speed-dark.svg for a dark page (.png works too)
  --markdown             print the table
  --into PAGE.md         put picture and table between `<!-- bench:begin -->` and `<!-- bench:end -->` of that file
  --page DIR             a page for the browser, and the same as Markdown
  --all                  every case and mode in the table
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from gnnaccel.bench import report_data as data
from gnnaccel.bench import report_draw as draw
from gnnaccel.bench.report_bars import bars
from gnnaccel.bench.report_draw import dark_twin
from gnnaccel.bench.report_markdown import RATE_NAMES, job_table, miss_line, pair_cells, rate_cells, sentence
from gnnaccel.bench.report_markdown import table as md_table
from gnnaccel.bench.report_page import summary, write_report
from gnnaccel.bench.report_text import Document, ceilings, clock, footnote, mode_name, threads_name
from gnnaccel.bench.results import read

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
DRAWN_BY = re.compile(r"<!-- drawn by matplotlib (\S+) -->")


def markdown(documents: Sequence[Document], everything: bool = False) -> str:
    """The table of comparisons, with misses shown as plainly as hits."""
    head = ("op", "case", "what", "against", "theirs, ms", "ours, ms", "faster", "p20-p80", "their peak memory / ours")
    rows = []
    for pair in data.pairs(documents, everything):
        op, where, what, against, theirs, ours, ratio, *rest = pair_cells(pair)
        rows.append((f"`{op}`", where, what, against, theirs, ours, f"**{ratio}**", *rest))
    note = f"Medians of interleaved runs, results checked before timing. {footnote(documents)}."
    return "\n".join([*md_table(head, rows, 5), "", note, ""])


def short_table(documents: Sequence[Document]) -> str:
    """The figures of the short picture."""
    lines = []
    for device, found in data.headline(documents):
        rows = [
            (what, f"{p.row['op']}, {p.row['case']}, {threads_name(p.row['threads'])}", clock(p.own["p50_ms"]),
             f"{p.row['provider']} {clock(p.row['p50_ms'])}", f"{p.row['ratio']:.2f}x")
            for what, p in found
        ]  # fmt: skip
        lines += [*md_table((device, "entry, case", "gnnaccel", "fastest peer", "faster"), rows, 3), ""]
    return "\n".join(lines)


def rates_table(documents: Sequence[Document]) -> str:
    """What part of the rates measured in the same run our kernels reach."""
    rows = []
    for r in (r for document in documents for r in data.counted(document)):
        where = f"{r['case']}, {threads_name(r['threads'])}"
        rows.append((f"`{r['op']}`", where, mode_name(r["mode"]), *rate_cells(r)))
    lines = [f"- {line}" for line in ceilings(documents)]
    return "\n".join([*lines, "", *md_table(("op", "case", "what", *RATE_NAMES), rows, len(RATE_NAMES)), ""])


def shown(path: Path, page: Path, alt: str) -> str:
    """HTML that shows a picture, or its dark twin to who likes it dark."""
    light, dark = (Path(os.path.relpath(p, page.parent)).as_posix() for p in (path, dark_twin(path)))
    return f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}"><img alt="{alt}" src="{light}"></picture>\n'


ALT = {
    "speed": "How many times faster gnnaccel is than the fastest peer, op by op",
    "roofline": "Operations a byte against GFLOP/s of each op, under the measured copy and GEMM rates",
    "scaling": "Milliseconds against fanout, batch, width, history, negatives and threads",
}


def marked(document: Path) -> tuple[str, str, str]:
    """What stands before, between and after the two marks of `document`."""
    before, begin, rest = document.read_text("utf-8").partition(BEGIN)
    inside, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"bench: {document} has no {BEGIN} ... {END}")
    return before, inside.removeprefix("\n"), after


def insert(document: Path, text: str) -> None:
    """Replace what stands between the two marks of `document`."""
    before, _, after = marked(document)
    document.write_text(f"{before}{BEGIN}\n{text}{END}{after}", "utf-8")


def sections(documents: Sequence[Document], root: Path, drawn_by: str) -> dict[Path, str]:
    """What stands between the marks of README.md and docs/speed.md."""
    readme, page, folder = root / "README.md", root / "docs" / "speed.md", root / "docs"
    found = summary([p for p in data.pairs(documents) if not p.yardstick])
    counted = f"{sentence(found)}\n"
    pictured = {name: folder / f"{name}.svg" for name in ALT}
    text = [shown(pictured["speed"], page, ALT["speed"]), counted]
    text += ["### Every entry against every peer\n", markdown(documents)]
    if data.misses(documents):
        text += ["### Misses\n", "In any case and mode, the worst first.\n"]
        text += ["\n".join(f"- {line}" for line in map(miss_line, data.misses(documents))) + "\n"]
    if jobs := job_table(documents):
        text += [
            "### Jobs\n",
            "A batch, step, call or evaluation, in turns. Stages are means; those of a pipeline run at the same time.\n",
        ]
        text += ["\n".join([*jobs, ""])]
    rooflines = data.roofs(documents)
    text += [
        "### Rates\n",
        shown(pictured["roofline"], page, ALT["roofline"]) if rooflines else "",
        rates_table(documents),
    ]
    if data.curves(documents):
        text += ["### Scaling\n", shown(pictured["scaling"], page, ALT["scaling"])]
    text += [f"<!-- drawn by matplotlib {drawn_by} -->\n"]
    fold = "<details><summary>The same as a table</summary>\n"
    short = [shown(pictured["speed"], readme, ALT["speed"]), counted, fold, short_table(documents), "</details>\n"]
    return {readme: "\n".join(short), page: "\n".join(t for t in text if t)}


def draw_committed(documents: Sequence[Document], folder: Path) -> list[Path]:
    """The pictures of docs/; returns their paths."""
    made = []
    for theme in draw.THEMES:
        for name in ALT:
            path = folder / f"{name}.svg"
            path = path if theme == "light" else dark_twin(path)
            roofs, curves = data.roofs(documents), data.curves(documents)
            if name == "speed":
                bars(documents, path, theme)
            elif name == "roofline" and roofs:
                draw.roof_picture(max(roofs, key=lambda r: len(r.points)), path, theme)
            elif name == "scaling" and curves:
                draw.scaling_picture(curves, path, theme)
            else:
                continue
            made.append(path)
    return made


def regenerate(root: Path) -> list[Path]:
    """All that `root`, a checkout, shows of its committed results; returns the files written."""
    draw.need_matplotlib()
    import matplotlib

    documents = data.committed(root / "bench" / "results")
    made = draw_committed(documents, root / "docs")
    for path, text in sections(documents, root, matplotlib.__version__).items():
        insert(path, text)
        made.append(path)
    return made


def report(
    files: Annotated[list[Path] | None, typer.Argument(help="Result files of `gnnaccel bench --json`.")] = None,
    committed: Annotated[
        bool, typer.Option("--committed", help="Everything README and docs/speed.md show, from all committed results.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Picture to write, .svg or .png; its dark twin goes beside it.")
    ] = None,
    table: Annotated[bool, typer.Option("--markdown", help="Print the table.")] = False,
    into: Annotated[Path | None, typer.Option(help="File whose marked section gets picture and table.")] = None,
    page: Annotated[Path | None, typer.Option(help="Folder for index.html and report.md.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every case and mode in the table.")] = False,
) -> None:
    """Make pictures and tables from stored results."""
    try:
        if committed == bool(files):
            raise ValueError("bench: give result files, or --committed and no file")
        if committed:
            documents = data.committed(ROOT / "bench" / "results")
            if out is None and into is None and page is None and not table:
                for path in regenerate(ROOT):
                    typer.echo(f"wrote {path.relative_to(ROOT)}")
        else:
            documents = [read(path) for path in files or []]
        if out is not None:
            if out.suffix not in (".svg", ".png"):
                raise ValueError(f"bench: --out must end in .svg or .png, got {out}")
            bars(documents, out)
            bars(documents, dark_twin(out), "dark")
        text = markdown(documents, everything)
        if into is not None:
            insert(into, (shown(out, into, ALT["speed"]) + "\n" if out is not None else "") + text)
        if page is not None:
            typer.echo(f"wrote {write_report(documents, page)}")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if table:
        typer.echo(text, nl=False)


if __name__ == "__main__":
    typer.run(report)
