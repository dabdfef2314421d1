"""The short picture of speed-ups: a bar an op, against the peer that comes closest."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnnaccel.bench.report_data import Pair, by_device, headline
from gnnaccel.bench.report_draw import THEMES, bare, fixed_style, new_figure, save
from gnnaccel.bench.report_text import Document, clock, run_notes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEGEND = (
    "orange: slower than a peer; lines: 20th to 80th percentile of turns in one run; each grid line is a factor of two"
)
WIDTH = 8.4  # inches


def bars(documents: Sequence[Document], path: Path, theme: str = "light") -> None:
    """Draw `headline` of each device. The same documents and matplotlib give the same bytes.

    Raises:
        ValueError: There is no ratio to draw, or no matplotlib.
    """
    groups = headline(documents)
    if not groups:
        raise ValueError("bench: the results hold no ratio to draw")
    color = THEMES[theme]
    notes = [LEGEND]
    for device, group in by_device(documents).items():
        notes += textwrap.wrap(f"{device}: {run_notes(group)}", 125)
    with fixed_style():
        save(draw_bars(groups, notes, color), path, color["ground"])


def against(pair: Pair) -> str:
    """Both times in a few words."""
    name = textwrap.shorten(pair.row["provider"], 34, placeholder="...")
    return f"{name} {clock(pair.row['p50_ms'])}, ours {clock(pair.own['p50_ms'])}"


def draw_bars(groups: Sequence[tuple[str, Any]], notes: Sequence[str], color: Mapping[str, str]) -> Figure:
    rows: list[tuple[float, str, Pair]] = []
    titles: list[tuple[float, str]] = []
    y = 0.0
    for device, found in groups:
        titles.append((y, device))
        for what, pair in found:
            y += 1.0
            rows.append((y, what, pair))
        y += 1.6
    head, foot = 0.5, 0.5 + 0.17 * len(notes)
    height = 0.3 * y + head + foot
    figure = new_figure(WIDTH, height, color)
    first = text_width(figure, [what for _, what, _ in rows], 10)
    second = text_width(figure, [against(pair) for *_, pair in rows], 8)
    left = min(0.02 + first + 0.025 + second + 0.015, 0.68)
    axes = figure.add_axes((left, foot / height, 0.9 - left, 1 - (head + foot) / height), facecolor=color["ground"])
    place: dict[str, Any] = {"xycoords": ("figure fraction", "data"), "va": "center"}
    for at, what, pair in rows:
        row = pair.row
        axes.barh(
            at, row["ratio"] - 1, left=1, height=0.66, color=color["slower" if pair.miss else "faster"], linewidth=0
        )
        spread = (row["ratio_p20"], row["ratio_p80"])
        axes.plot(spread, [at, at], color=color["text"], linewidth=1, solid_capstyle="butt")
        axes.annotate(
            f"{row['ratio']:.{1 if row['ratio'] >= 1.95 else 2}f}x", (max(row["ratio"], spread[1], 1.0), at), (5, 0),
            textcoords="offset points", va="center", color=color["text"], weight="bold",
        )  # fmt: skip
        axes.annotate(what, (0.02, at), color=color["text"], **place)
        axes.annotate(against(pair), (left - 0.015, at), color=color["muted"], size=8, ha="right", **place)
    for at, text in titles:
        axes.annotate(text, (0.02, at), color=color["muted"], size=9, **place)
    axes.axvline(1.0, color=color["text"], linewidth=1.0)
    axes.set_xscale("log", base=2)
    low = 0.9 * min(0.5, *(pair.row["ratio_p20"] for _, _, pair in rows))
    high = 1.15 * max(4.0, *(pair.row["ratio_p80"] for _, _, pair in rows))
    axes.set_xlim(low, high)
    axes.set_xticks([t for k in range(-20, 21) if low <= (t := 2.0**k) <= high])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.set_ylim(y - 0.7, -0.7)
    axes.set_yticks([])
    axes.grid(axis="x", color=color["grid"], linewidth=0.8)
    bare(axes, color)
    if math.log2(high / low) > 8:  # a picture cannot hold a name for every doubling
        for i, label in enumerate(axes.xaxis.get_ticklabels()):
            label.set_visible(i % 2 == 1)
    title = "How many times faster gnnaccel is than the fastest peer"
    figure.text(0.02, 1 - 0.3 / height, title, color=color["text"], size=12, weight="bold")
    for i, text in enumerate(reversed(notes)):
        figure.text(0.02, (0.1 + 0.17 * i) / height, text, color=color["muted"], size=8)
    return figure


def text_width(figure: Figure, texts: Sequence[str], size: float) -> float:
    """Width of the widest text, as a part of the figure's."""
    from matplotlib.text import Text

    found = [Text(0, 0, text, size=size, figure=figure) for text in texts]
    return max(t.get_window_extent().width for t in found) / (figure.get_figwidth() * figure.dpi)
