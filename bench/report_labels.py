"""Where the labels of a scatter go: near their points, and never over one another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, bottom, right, top

LETTER = 0.6  # width of a letter by its height, on average, in a wide face


def place_labels(
    texts: Sequence[str], spots: Sequence[Point], line: Sequence[Point], frame: Box, size: float = 12.5
) -> list[Point]:
    """Centres of labels that touch no other label, no point and no point of `line`, and stay in `frame`.

    Greedy: from left to right each takes the nearest free place, further out where it is crowded. Where nothing is free the
    label stays on its point.

    Args:
        texts: Labels.
        spots: Their points, in pixels.
        line: Points that labels must not cover.
        frame: Where labels may be.
        size: Height of a letter in pixels.
    """
    taken = [_around(p, 5, 5) for p in spots] + [_around(p, 2, 2) for p in line]
    out = list(spots)
    for i in sorted(range(len(texts)), key=lambda i: (spots[i], texts[i])):
        half = half_width(texts[i], size)
        for center in _places(spots[i], half, size):
            box = _around(center, half, 0.65 * size)
            inside = frame[0] <= box[0] and frame[1] <= box[1] and box[2] <= frame[2] and box[3] <= frame[3]
            if inside and not any(_touch(box, t) for t in taken):
                out[i] = center
                taken.append(box)
                break
    return out


def half_width(text: str, size: float = 12.5) -> float:
    return LETTER * size * len(text) / 2 + 3


def _places(spot: Point, half: float, size: float) -> Iterator[Point]:
    """Right, left, above and below first, then in ellipses further and further out."""
    x, y = spot
    yield from ((x + half + 6, y), (x - half - 6, y), (x, y + size), (x, y - size))
    for ring in range(1, 40):
        gap = 0.6 * size * ring
        for k in range(16):
            angle = math.pi * k / 8
            yield x + (half + gap) * math.cos(angle), y + (size + gap) * math.sin(angle)


def _around(center: Point, half: float, tall: float) -> Box:
    return center[0] - half, center[1] - tall, center[0] + half, center[1] + tall


def _touch(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
