"""The report as Markdown, and the tables that README.md and docs/speed.md share with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gnnaccel.bench import report_data as data
from gnnaccel.bench.report_data import Pair, Row
from gnnaccel.bench.report_text import Document, clock, mode_name, number, size, threads_name, times


def milliseconds(value: float | None) -> str:
    return "" if value is None else number(value)


def cell(value: Any) -> str:
    """Text that cannot end its cell nor begin a tag."""
    text = str(value).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return " ".join(text.split())


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], right: int = 0) -> list[str]:
    """A Markdown table whose last `right` columns are numbers."""
    left = len(head) - right
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * left + " ---: |" * right]
    return lines + ["| " + " | ".join(cell(c) for c in row) + " |" for row in rows]


def markdown(documents: Sequence[Document], c: Mapping[str, Any]) -> str:
    """The report as text, from the contents of the page."""
    lines = ["# gnnaccel benchmark", ""]
    lines += [f"- {cell(name)}: {cell(note)}" for name, note in c["devices"]]
    lines += [f"- measured {', '.join(c['dates'])}"] if c["dates"] else []
    lines += ["", sentence(c["summary"]), "", "## Against peers", ""]
    lines += ["First case of each entry. Ratios are peer / ours, turn by turn: above 1 ours is faster.", ""]
    head = ("op", "case", "what", "against", "theirs, ms", "ours, ms", "faster", "p20-p80", "their peak memory / ours")
    lines += table(head, [pair_cells(p) for p in data.pairs(documents)], 5)
    lines += ["", "## Misses", ""]
    lines += [f"- {cell(miss_line(p))}" for p in c["misses"]] or ["No peer was faster in any case."]
    lines += ["", "## Wrong or failed", ""]
    lines += [
        f"- {cell(r['op'])} {cell(r['case'])}, {cell(r['provider'])}: {r['gate']}, {cell(r['detail'])}"
        for r in c["failures"]
    ] or ["None: every result that has a time was right."]
    lines += ["", "## Peers that did not run", ""]
    lines += [f"- {cell(name)}: {cell(why)} ({cell(', '.join(ops))})" for name, why, ops in c["absent"]] or ["None."]
    if jobs := job_table(documents):
        lines += ["", "## End to end", "", *jobs]
    if c["rates"]:
        lines += ["", "## Rates", ""]
        lines += [f"- {cell(line)}" for line in c["ceilings"]]
        rows = [(r["op"], r["case"], mode_name(r["mode"]), *rate_cells(r)) for r in c["rates"]]
        lines += ["", *table(("op", "case", "what", *RATE_NAMES), rows, len(RATES))]
    curves = data.curves(documents)
    if curves:
        lines += ["", "## Scaling", ""]
        rows = [
            (v.op, v.axis, name, ", ".join(f"{x:g}: {number(ms)}" for x, _, ms, _ in line))
            for v in curves for name, line in v.lines.items()
        ]  # fmt: skip
        lines += table(("what", "along", "provider", "ms"), rows)
    lines += ["", "## Everything", ""]
    head = ("op", "case", "what", "threads", "provider", "gate", "ms", "p20-p80", "ours faster", "peak")
    lines += table(head, [full_cells(row) for _, row in c["rows"]], 4)
    lines += ["", "## Environment", ""]
    for title, found in c["environments"]:
        lines += [f"`{cell(title)}`: " + ", ".join(f"{cell(k)} {cell(v)}" for k, v in found), ""]
    lines += ["## To repeat it", "", *(f"    {' '.join(line.split())}" for line in c["commands"]), ""]
    return "\n".join(lines)


RATES = (("gbps", ""), ("pct_copy", "%"), ("pct_rows", "%"), ("gflops", ""), ("pct_gemm", "%"))
RATE_NAMES = ("GB/s", "of copy", "of random rows", "GFLOP/s", "of GEMM")


def job_table(documents: Sequence[Document]) -> list[str]:
    """End-to-end jobs with their stages."""
    rows = []
    for r in (row for group in data.jobs(documents) for row in group):
        parts = ", ".join(f"{name} {number(ms)}" for name, ms in data.stages(r))
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.2f}x"
        where = f"{r['case']}, {mode_name(r['mode'])}, {threads_name(r['threads'])}"
        rows.append((r["op"], where, r["provider"], parts, clock(r["p50_ms"]), ratio, size(r["peak_bytes"])))
    head = ("job", "case", "provider", "stages, ms", "time", "ours faster", "peak memory")
    return table(head, rows, 3) if rows else []


def rate_cells(row: Row) -> list[str]:
    """What an op reaches, in the order of `RATE_NAMES`."""
    found = [(row.get(name), unit) for name, unit in RATES]
    return ["" if value is None else f"{value:.0f}%" if unit else number(value) for value, unit in found]


def sentence(found: Mapping[str, Any]) -> str:
    if not found["count"]:
        return "Nothing was compared with a peer."
    return (
        f"{found['count']} comparisons of {found['ops']} entries with peers: faster in {found['faster']}, slower in "
        f"{found['slower']}; the median is {found['median']:.2f}x."
    )


def pair_cells(pair: Pair) -> tuple[str, ...]:
    row, own = pair.row, pair.own
    against = row["provider"] + (f" ({pair.yardstick})" if pair.yardstick else "")
    where = f"{row['case']}, {threads_name(row['threads'])}"
    spread = f"{row['ratio_p20']:.2f}-{row['ratio_p80']:.2f}"
    both = (number(row["p50_ms"]), number(own["p50_ms"]), f"{row['ratio']:.2f}x")
    return row["op"], where, mode_name(row["mode"]), against, *both, spread, times(pair.memory)


def full_cells(row: Row) -> tuple[Any, ...]:
    spread = "" if row["p20_ms"] is None else f"{number(row['p20_ms'])}-{number(row['p80_ms'])}"
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}x"
    first = (row["op"], row["case"], row["mode"], row["threads"], row["provider"], row["gate"])
    return *first, milliseconds(row["p50_ms"]), spread, ratio, size(row["peak_bytes"])


def miss_line(pair: Pair) -> str:
    row, own = pair.row, pair.own
    where = f"{row['op']} {row['case']}, {mode_name(row['mode'])}, {threads_name(row['threads'])}"
    both = f"{row['provider']} takes {number(row['p50_ms'])} ms, ours {number(own['p50_ms'])} ms"
    return f"{where}: {both} ({row['ratio']:.2f}x)"
