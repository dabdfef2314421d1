"""Who waited for whom: the stages of a run as a table and a picture."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from gnnaccel.train.gnn.steps import COMPUTE, STAGES
from gnnaccel.train.trainer import StageTimer


class Span(NamedTuple):
    """One piece of work, or of waiting, in seconds since the recorder began."""

    stage: str
    start: float
    stop: float


class StageRecorder(StageTimer):
    """A timer that also remembers when: put it in a `Trainer`'s `timer`.

    Args:
        limit: Spans that are kept; later ones only count.
    """

    def __init__(self, limit: int = 20000) -> None:
        super().__init__()
        self.limit, self.spans, self.zero = limit, [], time.perf_counter()
        self.total: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        stop = time.perf_counter()
        self.seconds[stage] += stop - start
        self.total[stage] = self.total.get(stage, 0.0) + stop - start
        if len(self.spans) < self.limit:
            self.spans.append(Span(stage, start - self.zero, stop - self.zero))


class StageRow(NamedTuple):
    """Seconds of a stage, in all batches.

    Attributes:
        busy: It worked.
        waited: It had nothing to do, since the stage before it was not ready or, for the first, since enough was under way.
    """

    stage: str
    busy: float
    waited: float


def stage_rows(seconds: Mapping[str, float]) -> list[StageRow]:
    """The seven stages, from the seconds of a `StageTimer`; those that did not run are left out."""
    rows = []
    for stage in STAGES[:-1]:
        if stage in seconds:
            rows.append(StageRow(stage, seconds[stage], seconds.get(f"wait.{stage}", 0.0)))
    busy = sum(seconds.get(part, 0.0) for part in COMPUTE)
    return [*rows, StageRow("compute", busy, seconds.get("wait.compute", 0.0))]


def bottleneck(rows: list[StageRow]) -> str:
    """A sentence about who waited for whom."""
    slowest = max(rows, key=lambda row: row.busy)
    compute = rows[-1]
    work = sum(row.busy for row in rows)
    wall = compute.busy + compute.waited
    share = 100 * compute.waited / wall if wall else 0.0
    text = f"compute waited {share:.0f} % of the time; the longest stage is {slowest.stage} ({slowest.busy:.2f} s)"
    return f"{text}; {work:.2f} s of work took {wall:.2f} s" if wall else text


def draw_stages(recorder: StageRecorder, path: str | Path, seconds: float | None = None) -> None:
    """A picture of the first `seconds` (about thirty batches by default): a lane a stage, work dark, waiting light.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("draw_stages: matplotlib is not installed; pip install 'gnnaccel[bench]'") from error
    spans = [span._replace(stage="compute") if span.stage in COMPUTE else span for span in recorder.spans]
    names = [s for s in STAGES if any(span.stage in (s, f"wait.{s}") for span in spans)]
    if seconds is None:
        ends = [span.stop for span in recorder.spans if span.stage == "optimizer"]
        seconds = ends[min(30, len(ends)) - 1] if ends else max((span.stop for span in spans), default=1.0)
    figure = Figure(figsize=(9, 0.45 * len(names) + 1.1), layout="constrained")
    axes = figure.subplots()
    for lane, name in enumerate(names):
        for kind, color in ((f"wait.{name}", "#c9d3df"), (name, "#1f6f8b")):
            bars = [(s.start, s.stop - s.start) for s in spans if s.stage == kind and s.start < seconds]
            axes.broken_barh(bars, (lane - 0.4, 0.8), facecolors=color)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, seconds)
    axes.set_xlabel("seconds; dark: works, light: waits")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(left=False)
    figure.savefig(Path(path), dpi=150, metadata=_plain(path))


def _plain(path: str | Path) -> dict[str, Any]:
    """No dates in the file: the same spans are the same bytes."""
    return {"Date": None} if str(path).endswith(".svg") else {"Software": None}
