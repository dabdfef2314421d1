"""Pictures of results by matplotlib: the same documents and matplotlib give the same bytes, whatever the user's style is."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnnaccel.bench.report_data import Curve, Document, Roof, clock, footnote, headline
from gnnaccel.bench.report_labels import place_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Grounds are opaque, so that a picture can be read wherever it ends up; text has at least 4.5:1 on them.
THEMES = {
    "light": {
        "ground": "#ffffff",
        "text": "#1f2328",
        "muted": "#59636e",
        "grid": "#d8dee4",
        "faster": "#2a6fdb",
        "slower": "#bc4c00",
        "third": "#7d3fb2",
        "fourth": "#1a7f37",
    },
    "dark": {
        "ground": "#0d1117",
        "text": "#e6edf3",
        "muted": "#9aa4af",
        "grid": "#30363d",
        "faster": "#5b9bff",
        "slower": "#f0883e",
        "third": "#c297ff",
        "fourth": "#56d364",
    },
}

#: Colours that stand for the variables of a page's style sheet, and are replaced by them in `inline`.
PAGE = {name: f"#0102{i:02x}" for i, name in enumerate(THEMES["light"], start=16)}

MARKERS = ("o", "s", "^", "D")


def need_matplotlib() -> None:
    """
    Raises:
        ValueError: There is no matplotlib.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError("bench: pictures need matplotlib: pip install 'gnnaccel[bench]' or matplotlib") from error


def fixed_style(salt: str = "gnnaccel", font: str = "path") -> AbstractContextManager[None]:
    """matplotlib as it comes: the user's matplotlibrc must not show, and the salt makes SVG ids constant."""
    need_matplotlib()
    import matplotlib as mpl

    style: dict[str, Any] = {
        **{k: v for k, v in mpl.rcParamsDefault.items() if not k.startswith("backend")},
        "svg.hashsalt": salt,
        "svg.fonttype": font,
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "text.parse_math": False,
    }
    style = {k: v for k, v in style.items() if k in mpl.rcParams and k not in ("date.epoch",)}
    return mpl.rc_context(style)


def save(figure: Any, path: Path, ground: str) -> None:
    """Write a figure, .svg or .png, without a date."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(path, dpi=160, facecolor=ground, metadata=metadata)


def dark_twin(path: Path) -> Path:
    return path.with_name(f"{path.stem}-dark{path.suffix}")


def inline(figure: Figure, name: str, title: str) -> str:
    """The figure as an <svg> for a page: text as text, colours by the page's variables, ids that no other picture has."""
    buffer = StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for part in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->", r"<defs>\s*</defs>"):
        svg = re.sub(part, "", svg, flags=re.DOTALL)
    for variable, color in PAGE.items():
        svg = svg.replace(color, f"var(--{variable})")
    svg = re.sub(r"font: ([^;'\"]*px) [^;\"]*", r"font: \1 var(--font)", svg)
    used = set(re.findall(r"#([\w.-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r"(url\(|href=\")#", rf"\1#{name}-", svg)
    svg = re.sub(r"\s*<g>\s*</g>", "", svg)
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    head = f'<svg class="plot" role="img" aria-labelledby="{name}-title" viewBox="{box[1]}"'
    head += f' style="--width: {figure.get_figwidth() * 72:.0f}px" xmlns:xlink="http://www.w3.org/1999/xlink">'
    label = title.replace("&", "&amp;").replace("<", "&lt;")
    svg = re.sub(r"<svg[^>]*>", lambda _: f'{head}\n<title id="{name}-title">{label}</title>', svg, count=1)
    return re.sub(r"\n\s*", "\n", svg)


def new_figure(width: float, height: float, color: Mapping[str, str]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor=color["ground"])
    FigureCanvasAgg(figure)
    return figure


def bare(axes: Any, color: Mapping[str, str], size: float = 9) -> None:
    """No frame, quiet ticks."""
    axes.tick_params(which="both", colors=color["muted"], length=0, labelsize=size)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)


# --- bars -----------------------------------------------------------------------------------------------------------------


def bars(documents: Sequence[Document], path: Path, theme: str = "light") -> None:
    """The short picture: `headline` of each device, on a scale of doublings from "as fast"."""
    groups = headline(documents)
    if not groups:
        raise ValueError("bench: the results hold no ratio to draw")
    color = THEMES[theme]
    with fixed_style():
        figure = draw_bars(groups, footnote(documents), color)
        save(figure, path, color["ground"])


def draw_bars(groups: Sequence[tuple[str, Any]], note: str, color: Mapping[str, str]) -> Figure:
    rows: list[tuple[float, str, Any]] = []
    titles: list[tuple[float, str]] = []
    y = 0.0
    for device, found in groups:
        titles.append((y, device))
        for what, pair in found:
            y += 1.0
            rows.append((y, what, pair))
        y += 1.6
    notes = note.split("; ")
    head, foot = 0.62, 0.62 + 0.16 * len(notes)
    height = 0.3 * y + head + foot
    figure = new_figure(8.4, height, color)
    axes = figure.add_axes((0.47, foot / height, 0.44, 1 - (head + foot) / height), facecolor=color["ground"])
    for at, what, pair in rows:
        row = pair.row
        tone = color["slower" if pair.miss else "faster"]
        axes.barh(at, row["ratio"] - 1, left=1, height=0.66, color=tone, linewidth=0)
        axes.plot(
            [row["ratio_p20"], row["ratio_p80"]], [at, at], color=color["text"], linewidth=1, solid_capstyle="butt"
        )
        end = max(row["ratio"], row["ratio_p80"], 1.0)
        axes.annotate(
            f"{row['ratio']:.{1 if row['ratio'] >= 1.95 else 2}f}x", (end, at), (5, 0), textcoords="offset points",
            va="center", color=color["text"], weight="bold",
        )  # fmt: skip
        place: dict[str, Any] = {"xycoords": ("figure fraction", "data"), "va": "center"}
        axes.annotate(what, (0.02, at), color=color["text"], **place)
        against = f"{row['provider']} {clock(row['p50_ms'])}, ours {clock(pair.own['p50_ms'])}"
        axes.annotate(against, (0.455, at), color=color["muted"], size=8, ha="right", **place)
    for at, text in titles:
        axes.annotate(text, (0.02, at), xycoords=("figure fraction", "data"), va="center", color=color["muted"], size=9)
    axes.axvline(1.0, color=color["text"], linewidth=1.0)
    axes.set_xscale("log", base=2)
    low = min(0.5, *(pair.row["ratio_p20"] for _, _, pair in rows))
    high = max(4.0, *(pair.row["ratio_p80"] for _, _, pair in rows))
    ticks = [2.0**k for k in range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1)]
    axes.set_xlim(low * 0.9, high * 1.15)
    axes.set_xticks([t for t in ticks if low * 0.9 <= t <= high * 1.15])
    axes.set_ylim(y - 0.7, -0.7)
    axes.set_yticks([])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.grid(axis="x", color=color["grid"], linewidth=0.8)
    bare(axes, color)
    title = "How many times faster gnnaccel is than the fastest peer"
    figure.text(0.02, 1 - 0.3 / height, title, color=color["text"], size=12, weight="bold")
    legend = "orange: slower than a peer; lines: 20th to 80th percentile of turns in one run; a scale of doublings"
    for i, text in enumerate([*reversed(notes), legend]):
        figure.text(0.02, (0.1 + 0.16 * i) / height, text, color=color["muted"], size=8)
    return figure


# --- roofline -------------------------------------------------------------------------------------------------------------


def draw_roof(roof: Roof, color: Mapping[str, str]) -> Figure:
    """Operations a byte against operations a second, under what copies and matrix products reach on the device."""
    figure = new_figure(9.2, 5.4, color)
    axes = figure.add_axes((0.085, 0.12, 0.895, 0.84), facecolor=color["ground"])
    xs = [row["gflops"] / row["gbps"] for row in roof.points]
    ys = [row["gflops"] for row in roof.points]
    ridge = roof.gemm / roof.copy
    left, right = min(*xs, ridge / 4) / 3, max(*xs, ridge) * 4
    bottom, top = min(ys) / 3, max(*ys, roof.gemm) * 2.2
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.plot([left, ridge, right], [left * roof.copy, roof.gemm, roof.gemm], color=color["text"], linewidth=1.4)
    axes.scatter(xs, ys, s=30, color=color["faster"], linewidths=0, zorder=3)
    axes.set_xlabel("operations a byte (counted, not measured)", color=color["muted"], size=10)
    axes.set_ylabel("GFLOP/s", color=color["muted"], size=10)
    axes.grid(color=color["grid"], linewidth=0.8)
    bare(axes, color, 10)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    where = axes.transData.transform
    box = axes.get_window_extent()
    spots = [tuple(where((x, y))) for x, y in zip(xs, ys, strict=True)]
    roof_line = [tuple(where((x, min(x * roof.copy, roof.gemm)))) for x in _steps(left, right)]
    texts = [(f"GEMM {roof.gemm:.0f} GFLOP/s", *where((right, roof.gemm)), True)]
    labels = place_labels([row["op"] for row in roof.points], spots, roof_line, (box.x0, box.y0, box.x1, box.y1))
    px = 72 / figure.dpi
    for row, (sx, sy), (lx, ly) in zip(roof.points, spots, labels, strict=True):
        far = math.hypot(lx - sx, ly - sy) > 60
        arrow = (
            {"arrowstyle": "-", "color": color["muted"], "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2} if far else None
        )
        axes.annotate(
            row["op"], (row["gflops"] / row["gbps"], row["gflops"]), ((lx - sx) * px, (ly - sy) * px),
            textcoords="offset points", ha="center", va="center", size=9, color=color["text"], arrowprops=arrow,
        )  # fmt: skip
    for text, tx, ty, _ in texts:
        axes.annotate(
            text,
            (tx * px, ty * px + 4),
            xycoords="figure points",
            ha="right",
            va="bottom",
            size=9,
            color=color["muted"],
        )
    slope = math.degrees(math.atan2(roof_line[1][1] - roof_line[0][1], roof_line[1][0] - roof_line[0][0]))
    axes.annotate(
        f"copy {roof.copy:.1f} GB/s", (left * 1.15, left * 1.15 * roof.copy), (0, 4), textcoords="offset points",
        rotation=slope, rotation_mode="anchor", va="bottom", size=9, color=color["muted"],
    )  # fmt: skip
    return figure


def _steps(low: float, high: float, count: int = 60) -> list[float]:
    return [low * (high / low) ** (i / count) for i in range(count + 1)]


# --- curves ---------------------------------------------------------------------------------------------------------------

AXES = {
    "fanout": "neighbours a root",
    "batch": "roots of a batch",
    "dim": "width of a row",
    "history": "events in a node's history",
    "negatives": "negatives a triple",
    "threads": "threads",
}


def draw_curve(curve: Curve, color: Mapping[str, str], axes: Any = None) -> Figure:
    """Milliseconds along the axis, both in powers; a band from the 20th to the 80th percentile."""
    figure = new_figure(4.9, 3.5, color) if axes is None else axes.figure
    if axes is None:
        axes = figure.add_axes((0.14, 0.155, 0.83, 0.68), facecolor=color["ground"])
    tones = [color[k] for k in ("faster", "slower", "third", "fourth")]
    xs = sorted({x for line in curve.lines.values() for x, *_ in line})
    for i, (name, line) in enumerate(curve.lines.items()):
        x, low, middle, high = zip(*line, strict=True)
        tone = tones[i % len(tones)]
        axes.fill_between(x, low, high, color=tone, alpha=0.18, linewidth=0)
        axes.plot(x, middle, color=tone, linewidth=1.8, marker=MARKERS[i % len(MARKERS)], markersize=5, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(xs, [f"{x / 1e6:g}M" if x >= 1e6 else f"{x / 1e3:g}k" if x >= 1e4 else f"{x:g}" for x in xs])
    axes.minorticks_off()
    low = min(p for line in curve.lines.values() for _, p, *_ in line)
    high = max(p for line in curve.lines.values() for *_, p in line)
    steps = [m * 10.0**k for k in range(-5, 7) for m in ((1, 2, 5) if high / low < 30 else (1,))]
    axes.set_ylim(low / 1.5, high * 1.5)
    axes.set_yticks([t for t in steps if low / 1.5 <= t <= high * 1.5])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(AXES.get(curve.axis, curve.axis), color=color["muted"], size=10)
    axes.set_ylabel("ms", color=color["muted"], size=10)
    axes.grid(color=color["grid"], linewidth=0.8)
    bare(axes, color, 10)
    axes.legend(
        frameon=False, labelcolor=color["text"], fontsize=10, ncols=3, loc="lower left", bbox_to_anchor=(-0.02, 1.0),
        borderaxespad=0.1, handlelength=1.6, columnspacing=1.2,
    )  # fmt: skip
    return figure


def draw_grid(found: Sequence[Curve], note: str, color: Mapping[str, str]) -> Figure:
    """Curves side by side, for a picture by itself."""
    rows = math.ceil(len(found) / 2)
    height = 3.1 * rows + 0.45
    figure = new_figure(8.4, height, color)
    for i, curve in enumerate(found):
        row, column = divmod(i, 2)
        bottom = (0.45 + 3.1 * (rows - 1 - row) + 0.5) / height
        axes = figure.add_axes((0.075 + 0.5 * column, bottom, 0.405, 1.95 / height), facecolor=color["ground"])
        draw_curve(curve, color, axes)
        text = (0.02 + 0.5 * column, bottom + 2.35 / height)
        figure.text(*text, curve.op, color=color["text"], size=10, weight="bold")
    figure.text(0.02, 0.12 / height, note, color=color["muted"], size=8)
    return figure


def scaling_picture(found: Sequence[Curve], path: Path, theme: str = "light") -> None:
    color = THEMES[theme]
    note = "lines: medians; bands: 20th to 80th percentile. " + "; ".join(dict.fromkeys(c.where for c in found))
    with fixed_style():
        save(draw_grid(found, note, color), path, color["ground"])


def roof_picture(roof: Roof, path: Path, theme: str = "light") -> None:
    color = THEMES[theme]
    with fixed_style():
        save(draw_roof(roof, color), path, color["ground"])
