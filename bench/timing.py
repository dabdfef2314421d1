"""Time that calls take, in turns."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from gnnaccel.bench.calls import Call
from gnnaccel.bench.device import Clock, no_gc
from gnnaccel.bench.entries import Settings


@contextmanager
def cpu_threads(n: int | None) -> Iterator[int]:
    before = torch.get_num_threads()
    if n is not None and n != before:
        torch.set_num_threads(n)
    try:
        yield torch.get_num_threads()
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def interleave(
    calls: Mapping[str, Call], clock: Clock, settings: Settings
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Time all calls in turns until the budget is spent; returns seconds a call by turn, and the calls in each turn.

    A call that takes longer than `settings.slow` seconds takes part in the first two turns alone, of which its warming up, the
    second call after the gate's, is one: a library a hundred times slower must not decide how long the others are timed.
    """
    inner: dict[str, int] = {}
    slow: dict[str, float] = {}
    for name, call in calls.items():
        with cpu_threads(call.threads):
            guess = clock(call.fn, call.prepare, 1)
            if guess < settings.budget:  # the first call of a quick one is mostly warming up
                guess = min(clock(call.fn, call.prepare, 1) for _ in range(2))
        if guess > settings.slow:
            slow[name] = guess
        # a turn of at least 0.2 ms keeps the clock's own cost below a thousandth
        inner[name] = max(1, min(1000, math.ceil(2e-4 / max(guess, 1e-7))))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    with no_gc():
        start = time.perf_counter()
        for turn in range(settings.max_rounds):
            spent = time.perf_counter() - start
            if turn >= settings.min_rounds and spent > settings.budget:
                break
            if turn >= 3 and spent > 6 * settings.budget:  # slow ones get by with less turns
                break
            # rotate, so that nobody always runs in the cache that the same predecessor left
            shift = turn % len(order)
            for name in order[shift:] + order[:shift]:
                if name in slow and turn != 1:
                    seconds[name] += [slow[name]] * (turn == 0)
                    continue
                call, began = calls[name], time.perf_counter()
                with cpu_threads(call.threads):
                    seconds[name].append(clock(call.fn, call.prepare, inner[name]))
                if name in slow:  # its time is not taken from the others' budget
                    start += time.perf_counter() - began
    return seconds, inner
