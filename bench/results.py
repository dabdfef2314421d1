"""Results on disk and on screen: JSON, CSV, table, comparison with a stored run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gnnaccel.bench.base import difference
from gnnaccel.bench.entries import Row

COLUMNS = [f.name for f in fields(Row) if f.name != "extra"]


def write(document: Mapping[str, Any], path: Path) -> Path:
    """Write `path` (JSON) and the same rows beside it as CSV; returns the CSV's path."""
    replace(path, json.dumps(_rounded(document), indent=1) + "\n")
    env, text = document["environment"], io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, "device", "torch", "commit"])
    for row in _rounded(document)["rows"]:
        values = ["" if row[c] is None else row[c] for c in COLUMNS]
        writer.writerow([*values, env["device_name"], env["torch"], env["commit"]])
    return replace(path.with_suffix(".csv"), text.getvalue())


def replace(path: Path, text: str) -> Path:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
    return path


def read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"bench: {path} is not a readable result file ({error})") from error
    if not isinstance(document, dict) or document.get("schema") != 1 or "rows" not in document:
        raise ValueError(f"bench: {path} is not a result file of schema 1")
    return document


def _rounded(value: Any) -> Any:
    """Six significant digits: more is noise, and makes diffs of committed results unreadable."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(v) for v in value]
    return value


def _ms(value: float) -> str:
    return f"{value:.4f}" if value < 0.1 else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _size(n: int | None) -> str:
    if n is None:
        return ""
    value = float(n)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def _of(value: float | None, *percent: float | None) -> str:
    shares = " ".join(f"{p:.0f}%" for p in percent if p is not None)
    return "" if value is None else f"{value:.3g}" + (f" [dim]{shares}[/dim]" if shares else "")


def show(rows: Sequence[Row], console: Console) -> None:
    """One table per op, one section per case and mode."""
    for op in dict.fromkeys(r.op for r in rows):
        table = Table(title=op, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("provider", no_wrap=True)
        rows_rate = any(r.pct_rows is not None for r in rows if r.op == op)
        copy = "GB/s (copy, rows)" if rows_rate else "GB/s (copy)"
        for name in ("ms", "p20-p80", "ours faster", "p20-p80", "peak extra", copy, "GFLOP/s (GEMM)"):
            table.add_column(name, justify="right")
        last = None
        for row in (r for r in rows if r.op == op):
            key = (row.case, row.mode, row.threads)
            if key != last:
                if last is not None:
                    table.add_section()
                table.add_row(f"[cyan]{row.case} {row.mode}, {row.threads}t[/cyan]")
                last = key
            name = f"  [bold]{row.provider}[/bold]" if row.ours else f"  {row.provider}"
            if row.p50_ms is None:
                style = {"ok": "green", "missing": "dim", "skipped": "dim"}.get(row.gate, "bold red")
                table.add_row(name, f"[{style}]{row.gate}[/{style}]")
                continue
            table.add_row(
                name,
                _ms(row.p50_ms),
                f"[dim]{_ms(row.p20_ms or 0)}-{_ms(row.p80_ms or 0)}[/dim]",
                "" if row.ratio is None else f"{row.ratio:.2f}x",
                "" if row.ratio is None else f"[dim]{row.ratio_p20:.2f}-{row.ratio_p80:.2f}[/dim]",
                _size(row.peak_bytes),
                _of(row.gbps, row.pct_copy, row.pct_rows),
                _of(row.gflops, row.pct_gemm),
            )
        console.print(table)
        for row in (r for r in rows if r.op == op and "stages_ms" in r.extra):
            console.print(f"  {_job(row)}", highlight=False, markup=False)
        for note in dict.fromkeys(
            f"{r.gate} {r.case} {r.provider}: {r.detail}" for r in rows if r.op == op and r.detail
        ):
            console.print(f"  {note}", highlight=False, markup=False)


def _job(row: Row) -> str:
    """What an end-to-end row has beyond its time: stages and, for ours, the floor."""
    extra = row.extra
    stages = ", ".join(f"{stage} {_ms(ms)}" for stage, ms in extra["stages_ms"].items())
    text = f"{row.case} {row.provider}: {extra['batches']} batches in {extra['total_s']:.2f} s, mean {_ms(extra['mean_ms'])} ms"
    text += f" ({stages})" if stages else ""
    if "floor_ms" in extra:
        text += (
            f"; the updater's GEMMs, {extra['updater_gflop']:.2f} GFLOP over {extra['updater_rows']:.0f} nodes a batch, take"
            f" {_ms(extra['floor_ms'])} ms at {extra['gemm_gflops']:.0f} GFLOP/s"
        )
    return text


def compare(rows: Sequence[Row], environment: Mapping[str, Any], base: Mapping[str, Any], tol: float) -> list[str]:
    """Regressions of our rows against a stored run; empty when there is none.

    Slower: the median is more than `tol` above the stored median, and even the fast fifth of the new turns is slower than
    the stored median (which keeps one noisy burst from failing a run). Larger: peak memory is more than `tol` above.
    Broken: the gate was green and no longer is.

    Raises:
        ValueError: `base` is of another device, or nothing in it was run now.
    """
    if other := difference(environment, base["environment"]):
        raise ValueError(f"bench: {other}; times of different devices are not compared")

    def key_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return row["op"], row["case"], row["mode"], row["provider"], row["threads"]

    stored = {key_of(r): r for r in base["rows"] if r["ours"] and r["gate"] == "ok" and r["p50_ms"] is not None}
    failed_cases = {(r.op, r.case): r for r in rows if r.ours and r.gate != "ok"}
    problems, compared = [], 0
    for (op, case), row in failed_cases.items():
        if any(k[:2] == (op, case) for k in stored):
            compared += 1
            problems.append(f"{op} {case}: gate was green, now {row.gate}: {row.detail}")
    for row in rows:
        old = stored.get(key_of(asdict(row)))
        if old is None or row.p50_ms is None or row.p20_ms is None:
            continue
        compared += 1
        where = f"{row.op} {row.case} {row.mode}"
        if row.p50_ms > old["p50_ms"] * (1 + tol) and row.p20_ms > old["p50_ms"]:
            problems.append(
                f"{where}: {_ms(row.p50_ms)} ms, was {_ms(old['p50_ms'])} ms (+{row.p50_ms / old['p50_ms'] - 1:.0%})"
            )
        if row.peak_bytes is not None and old["peak_bytes"] and row.peak_bytes > old["peak_bytes"] * (1 + tol):
            problems.append(f"{where}: peak {_size(row.peak_bytes)}, was {_size(old['peak_bytes'])}")
    if not compared:
        raise ValueError("bench: the base holds none of the cases that were run (same threads?); nothing was compared")
    return problems
