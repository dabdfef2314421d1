"""How far a run is: a bar with the time that is left on a terminal, a line an entry elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


def span(seconds: float) -> str:
    seconds = round(seconds)
    return f"{seconds} s" if seconds < 100 else f"{round(seconds / 60)} min"


class Watch:
    """Tells the progress of `parts`, pairs of a name and a guess of its seconds.

    The guess says how much of the run a part is; how long the run takes is learnt from what is done.
    """

    def __init__(self, parts: Sequence[tuple[str, float]], console: Console) -> None:
        self.total, self.count = sum(seconds for _, seconds in parts), len(parts)
        self.console, self.begun, self.done, self.number = console, time.perf_counter(), 0.0, 0
        left = TextColumn("{task.fields[left]}")
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), left)
        self.bar = Progress(*columns, console=console, transient=True) if console.is_terminal else None

    def left(self) -> str:
        if not self.done or self.done >= self.total:
            return ""
        return f"about {span((time.perf_counter() - self.begun) * (self.total / self.done - 1))} left"

    def __enter__(self) -> Watch:
        if self.bar is not None:
            self.bar.start()
            self.task = self.bar.add_task("", total=self.total, left="")
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    @contextmanager
    def part(self, name: str, seconds: float) -> Iterator[None]:
        start = time.perf_counter()
        self.say(name)
        yield
        self.done += seconds
        self.number += 1
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, left=self.left())
        else:
            took, left = span(time.perf_counter() - start), self.left()
            line = f"[{self.number}/{self.count}] {name}: {took}" + (f", {left}" if left else "")
            self.console.print(line, highlight=False, markup=False)

    def say(self, text: str) -> None:
        """What is being done now."""
        if self.bar is not None:
            self.bar.update(self.task, description=text)
