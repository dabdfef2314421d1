"""A page and a Markdown file from result documents: `write_report(documents, folder)`, or `gnnaccel bench --report DIR`.

The page is one file: style sheet, pictures and the few lines of script that sort tables stand in it, and it loads nothing.
It has no date of now and no random ids, so the same documents give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from gnnaccel.bench import report_data as data
from gnnaccel.bench.report_data import Pair, Row
from gnnaccel.bench.report_markdown import RATE_NAMES, markdown, milliseconds, rate_cells
from gnnaccel.bench.report_text import (
    Document,
    ceilings,
    clock,
    mode_name,
    number,
    run_notes,
    size,
    times,
)

FOLDER = Path(__file__).parent / "page"

#: Of the environment, in this order; whatever else a document has comes after.
ENVIRONMENT = (
    "device_name",
    "cpu",
    "cores",
    "simd",
    "threads",
    "os",
    "python",
    "torch",
    "cuda",
    "sm",
    "triton",
    "commit",
)


TONES = 6  # of stages; the last is for those too short to see


def write_report(documents: Sequence[Document], folder: Path) -> Path:
    """Write `index.html`, a page that needs no network, and `report.md`, its text, into `folder`.

    Without matplotlib the page has no roofline and no curves, and says so; bars and tables are there all the same.

    Args:
        documents: Result documents of schema 1, as `gnnaccel bench` makes them; several runs and devices may be mixed.
        folder: Made if it is not there; files of these names are replaced.

    Returns:
        Path of the page.

    Raises:
        ValueError: No document, or one that is none of `gnnaccel bench`.
    """
    if not documents:
        raise ValueError("bench: documents must hold at least one run, got none")
    for i, document in enumerate(documents):
        if not data.is_results(document) or "environment" not in document:
            raise ValueError(f"bench: documents[{i}] must be a result document of schema 1")
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "index.html"
    _replace(page, html(documents))
    _replace(folder / "report.md", markdown(documents, contents(documents)))
    return page


def _replace(path: Path, text: str) -> None:
    """A reader never sees half a file."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def html(documents: Sequence[Document]) -> str:
    import jinja2
    from markupsafe import Markup

    loader = jinja2.FileSystemLoader(FOLDER)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "ms": milliseconds,
        "number": number,
        "size": size,
        "mode": mode_name,
        "rate_cells": rate_cells,
        "clock": clock,
        "times": times,
        "lost": data.lost,
    }
    roofs, curves, why = pictures(documents)
    return environment.get_template("report.html").render(
        **contents(documents),
        roofs=[(title, Markup(svg)) for title, svg in roofs],
        curves=[(title, where, Markup(svg)) for title, where, svg in curves],
        no_pictures=why,
        style=Markup((FOLDER / "report.css").read_text("utf-8")),
        script=Markup((FOLDER / "report.js").read_text("utf-8")),
    )


def pictures(documents: Sequence[Document]) -> tuple[list[tuple[str, str]], list[tuple[str, str, str]], str]:
    """(title, svg) of rooflines, (title, device, svg) of curves, and why there are none."""
    found_roofs, found_curves = data.roofs(documents), data.curves(documents)
    if not found_roofs and not found_curves:
        return [], [], ""
    from gnnaccel.bench import report_draw as draw

    try:
        draw.need_matplotlib()
    except ValueError as error:
        return [], [], str(error).removeprefix("bench: ")
    roofs, curves = [], []
    for i, roof in enumerate(found_roofs):
        with draw.fixed_style(f"roof{i}", "none"):
            label = f"Roofline of {roof.title}: operations a byte against GFLOP/s"
            roofs.append((roof.title, draw.inline(draw.draw_roof(roof, draw.PAGE), f"roof{i}", label)))
    for i, curve in enumerate(found_curves):
        with draw.fixed_style(f"curve{i}", "none"):
            label = f"{curve.op}: milliseconds against {draw.AXES.get(curve.axis, curve.axis)}"
            svg = draw.inline(draw.draw_curve(curve, draw.PAGE), f"curve{i}", label)
            curves.append((curve.op, ", ".join(t for t in (curve.threads, curve.device) if t), svg))
    return roofs, curves, ""


def contents(documents: Sequence[Document]) -> dict[str, Any]:
    """What both writings show, as plain data."""
    shown = list(data.pairs(documents))
    peers = [p for p in shown if not p.yardstick]
    rows = [(document["environment"], row) for document in documents for row in document["rows"]]
    return {
        "devices": [(name, run_notes(group)) for name, group in data.by_device(documents).items()],
        "dates": sorted({str(d["date"]) for d in documents if d.get("date")}),
        "summary": summary(peers),
        "scale": Scale(shown),
        "ops": grouped(shown),
        "misses": data.misses(documents),
        "failures": data.failures(documents),
        "absent": data.absent(documents),
        "rates": [r for d in documents for r in data.counted(d)],
        "ceilings": ceilings(documents),
        "rate_names": RATE_NAMES,
        "jobs": [(group[0], stacked(group)) for group in data.jobs(documents)],
        "memory": [p for p in shown if p.memory is not None],
        "rows": rows,
        "environments": environments(documents),
        "commands": list(dict.fromkeys(data.command(d) for d in documents)),
    }  # fmt: skip


def summary(peers: Sequence[Pair]) -> dict[str, Any]:
    ratios = [p.row["ratio"] for p in peers]
    return {
        "count": len(ratios),
        "faster": sum(r >= 1 for r in ratios),
        "slower": sum(r < 1 for r in ratios),
        "ops": len({(p.row["op"], p.environment["device_name"]) for p in peers}),
        "median": median(ratios) if ratios else None,
    }


class Scale:
    """Where a ratio lies on the bars' axis, in percent of its width; doublings are equally far apart."""

    def __init__(self, shown: Sequence[Pair]) -> None:
        low = min([0.5, *(p.row["ratio_p20"] for p in shown)])
        high = max([4.0, *(p.row["ratio_p80"] for p in shown)])
        self.low, self.high = float(math.floor(math.log2(low))), math.log2(high) + 0.1
        self.unit = round(100 / (self.high - self.low), 3)  # of a doubling

    def at(self, ratio: float) -> float:
        return round(100 * (math.log2(max(ratio, 1e-9)) - self.low) / (self.high - self.low), 2)

    def bar(self, low: float, high: float) -> str:
        """Left end and width of what reaches from one ratio to another."""
        left, right = sorted((self.at(low), self.at(high)))
        return f"--left: {left:.2f}%; --width: {right - left:.2f}%"


def grouped(shown: Sequence[Pair]) -> list[tuple[Row, str, list[Pair]]]:
    """Comparisons by op and run, (our row, device, comparisons), the fastest peer last, then what is none."""
    groups: dict[int, list[Pair]] = {}
    for pair in shown:
        groups.setdefault(id(pair.own), []).append(pair)
    return [
        (
            found[0].own,
            found[0].environment["device_name"],
            sorted(found, key=lambda p: (bool(p.yardstick), -p.row["ratio"])),
        )
        for found in groups.values()
    ]


def stacked(group: Sequence[Row]) -> list[tuple[Row, list[tuple[str, float, float, int]]]]:
    """Of each row of a job (stage, ms, percent of all stages, colour); a stage that can be seen has one colour throughout."""
    shares = []
    for row in group:
        total = sum(ms for _, ms in data.stages(row)) or 1.0
        shares.append([(name, ms, round(100 * ms / total, 2)) for name, ms in data.stages(row)])
    seen = list(dict.fromkeys(name for found in shares for name, _, percent in found if percent >= 1))
    tones = {name: i % (TONES - 1) for i, name in enumerate(seen)}
    return [
        (row, [(name, ms, percent, tones.get(name, TONES - 1)) for name, ms, percent in found])
        for row, found in zip(group, shares, strict=True)
    ]


def environments(documents: Sequence[Document]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """What was recorded, by run; equal ones once."""
    out: dict[str, list[tuple[str, Any]]] = {}
    for document in documents:
        env: Mapping[str, Any] = document["environment"]
        names = [n for n in ENVIRONMENT if n in env] + [n for n in env if n not in ENVIRONMENT and n != "device"]
        found = [(n.replace("_", " "), "-" if env[n] is None else env[n]) for n in names]
        out.setdefault(repr(found), [(data.command(document), found)])  # type: ignore[arg-type]
    return [item for items in out.values() for item in items]  # type: ignore[misc]
