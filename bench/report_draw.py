"""Pictures of results by matplotlib: the same documents and matplotlib give the same bytes, whatever the user's style is."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnnaccel.bench.report_data import Curve, Roof
from gnnaccel.bench.report_labels import half_width, place_labels

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
    known: Any = {k: v for k, v in style.items() if k in mpl.rcParams and k != "date.epoch"}
    return mpl.rc_context(known)


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


# --- roofline -------------------------------------------------------------------------------------------------------------


def draw_roof(roof: Roof, color: Mapping[str, str]) -> Figure:
    """Operations a byte against operations a second, under what copies and matrix products reach on the device."""
    figure = new_figure(9.2, 5.4, color)
    axes = figure.add_axes((0.085, 0.12, 0.895, 0.82), facecolor=color["ground"])
    points = [(row["gflops"] / row["gbps"], row["gflops"], row["op"]) for row in roof.points]
    ridge = roof.gemm / roof.copy
    left, right = min(ridge / 4, *(x for x, *_ in points)) / 3, max(ridge, *(x for x, *_ in points)) * 5
    bottom, top = min(y for _, y, _ in points) / 3, max(roof.gemm, *(y for _, y, _ in points)) * 2.5
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    plain_ticks(axes.xaxis, left, right)
    plain_ticks(axes.yaxis, bottom, top)
    axes.plot([left, ridge, right], [left * roof.copy, roof.gemm, roof.gemm], color=color["text"], linewidth=1.4)
    axes.scatter([p[0] for p in points], [p[1] for p in points], s=30, color=color["faster"], linewidths=0, zorder=3)
    axes.set_xlabel("operations a byte (counted, not measured)", color=color["muted"], size=10)
    axes.set_ylabel("GFLOP/s", color=color["muted"], size=10)
    axes.grid(color=color["grid"], linewidth=0.8)
    bare(axes, color, 10)
    where = axes.transData.transform
    spots = [tuple(map(float, where((x, y)))) for x, y, _ in points]
    line = [tuple(map(float, where((x, min(x * roof.copy, roof.gemm))))) for x in _steps(left, right)]
    box = axes.get_window_extent()
    labels = place_labels([op for *_, op in points], spots, line, (box.x0, box.y0, box.x1, box.y1))
    for (x, y, op), (sx, sy), (lx, ly) in zip(points, spots, labels, strict=True):
        far = math.hypot(max(abs(lx - sx) - half_width(op), 0), max(abs(ly - sy) - 8, 0)) > 10
        arrow = {"arrowstyle": "-", "color": color["muted"], "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3}
        axes.annotate(
            op, (x, y), ((lx - sx) * 72 / figure.dpi, (ly - sy) * 72 / figure.dpi), textcoords="offset points",
            ha="center", va="center", size=9, color=color["text"], arrowprops=arrow if far else None,
        )  # fmt: skip
    note: dict[str, Any] = {"textcoords": "offset points", "va": "bottom", "size": 9, "color": color["muted"]}
    axes.annotate(f"GEMM {roof.gemm:.0f} GFLOP/s", (right, roof.gemm), (0, 4), ha="right", **note)
    start = max(left, bottom / roof.copy) * 1.15
    slope = math.degrees(math.atan2(line[1][1] - line[0][1], line[1][0] - line[0][0]))
    place = (start, start * roof.copy)
    axes.annotate(f"copy {roof.copy:.1f} GB/s", place, (0, 4), rotation=slope, rotation_mode="anchor", **note)
    return figure


def plain_ticks(axis: Any, low: float, high: float) -> None:
    """Powers of ten as they are read, on a short axis also twice and five times them."""
    factors = (1, 2, 5) if high / low < 150 else (1,)
    ticks = [m * 10.0**k for k in range(-6, 13) for m in factors]
    axis.set_ticks([t for t in ticks if low <= t <= high])
    axis.set_ticks([], minor=True)
    axis.set_major_formatter(lambda value, _: f"{value:g}" if value < 1e6 else f"{value / 1e6:g}M")


def _steps(low: float, high: float, count: int = 80) -> list[float]:
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
    figure = new_figure(4.3, 3.0, color) if axes is None else axes.figure
    if axes is None:
        axes = figure.add_axes((0.155, 0.165, 0.815, 0.72), facecolor=color["ground"])
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
    axes.xaxis.set_ticks([], minor=True)
    low = min(p for line in curve.lines.values() for _, p, *_ in line) / 1.5
    high = max(p for line in curve.lines.values() for *_, p in line) * 1.5
    axes.set_ylim(low, high)
    plain_ticks(axes.yaxis, low, high)
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
    rows, tall = math.ceil(len(found) / 2), 3.25
    height = tall * rows + 0.35
    figure = new_figure(8.4, height, color)
    for i, curve in enumerate(found):
        row, column = divmod(i, 2)
        bottom = 0.35 + tall * (rows - 1 - row) + 0.5
        axes = figure.add_axes((0.075 + 0.5 * column, bottom / height, 0.405, 1.95 / height), facecolor=color["ground"])
        draw_curve(curve, color, axes)
        where = curve.device if len({c.device for c in found}) > 1 else ""
        words = textwrap.wrap(", ".join(t for t in (curve.op, curve.threads, where) if t), 52)[:2]
        place = (0.02 + 0.5 * column, (bottom + 2.62) / height)
        figure.text(*place, "\n".join(words), color=color["text"], size=9, weight="bold", va="top")
    figure.text(0.02, 0.12 / height, note, color=color["muted"], size=8)
    return figure


def scaling_picture(found: Sequence[Curve], path: Path, theme: str = "light") -> None:
    color = THEMES[theme]
    note = "lines: medians; bands: 20th to 80th percentile. " + "; ".join(dict.fromkeys(c.device for c in found))
    with fixed_style():
        save(draw_grid(found, note, color), path, color["ground"])


def roof_picture(roof: Roof, path: Path, theme: str = "light") -> None:
    color = THEMES[theme]
    with fixed_style():
        figure = draw_roof(roof, color)
        figure.text(0.02, 0.965, f"What each op reaches: {roof.title}", color=color["text"], size=11, weight="bold")
        save(figure, path, color["ground"])
