"""Checks of a sampler of past neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gnnaccel.data.events import TemporalEvents
from gnnaccel.data.negatives import NegativeSampler
from gnnaccel.leakcheck.counts import neighbor_count_check
from gnnaccel.leakcheck.report import Check, Report
from gnnaccel.leakcheck.stream import KINDS, SEMANTICS, History, as_event_ids, batches, change, culprit, pick_cuts, told

ROLES = ("source", "destination", "negative destination")


class Roots(NamedTuple):
    """Roots of a batch: its sources, its destinations, a negative each."""

    part: slice
    nodes: Tensor  # [3B]
    times: Tensor  # [3B]

    def tell(self, i: int) -> str:
        B = len(self.nodes) // 3
        role, event = ROLES[i // B], self.part.start + i % B
        return f"node {int(self.nodes[i])} at time {self.times[i].item()} ({role} of event {event})"


class _Checker:
    def __init__(
        self, make: Callable[[TemporalEvents], Any], events: TemporalEvents, k: int, parts: list[slice], seed: int
    ) -> None:
        self.make, self.events, self.k, self.parts = make, events, k, parts
        self.negatives = NegativeSampler(events, seed=seed)
        self.exact = True

    def start(self, events: TemporalEvents, upto: int) -> Any:
        """A new sampler that has seen the batches before event `upto`."""
        sampler = self.make(events)
        if hasattr(sampler, "reset"):
            sampler.reset()
        if hasattr(sampler, "insert"):
            for part in self.parts:
                if part.start >= upto:
                    break
                sampler.insert(part)
        return sampler

    def ask(self, sampler: Any, nodes: Tensor, times: Tensor) -> np.ndarray:
        call = sampler.sample if hasattr(sampler, "sample") else sampler
        return as_event_ids(call(nodes, times, self.k), len(nodes), len(self.events))

    def roots(self, part: slice) -> Roots:
        e, t = self.events, self.events.t[part]
        return Roots(part, torch.cat([e.src[part], e.dst[part], self.negatives.sample(part)[:, 0]]), t.repeat(3))

    def differ(self, a: np.ndarray, b: np.ndarray, exact: bool) -> np.ndarray:
        """Which roots were given other events, in whatever order; or, not `exact`, another number of them."""
        if not (exact and self.exact):
            return (a >= 0).sum(1) != (b >= 0).sum(1)
        width = max(a.shape[1], b.shape[1])
        a, b = (np.sort(np.pad(x, ((0, 0), (0, width - x.shape[1])), constant_values=-1), 1) for x in (a, b))
        return (a != b).any(1)


def check_sampler(
    make: Callable[[TemporalEvents], Any],
    events: TemporalEvents,
    *,
    k: int = 10,
    batch_size: int = 200,
    semantics: str | None = None,
    queries: int = 20_000,
    cuts: int = 4,
    seed: int = 0,
    tolerance: float = 0.02,
    name: str = "sampler",
    progress: Any = None,
) -> Report:
    """Look for leaks in a sampler.

    Args:
        make: Makes the sampler of a stream. The sampler is a function `(nodes [R], times [R], k)`, or an object with such a
            method `sample`. It returns the events it found for each root: ids as an array `[R, K]` padded with -1, a list of
            ids a root, `(nbr, eid, t)`, or an object with `eid`. A sampler with state also has `insert(part)`: the events
            `part` (a slice) have happened, called after the batch was sampled; and it may have `reset()`. `random = True`
            says that a root's place in a batch decides what is drawn for it.
        events: A stream. The last `queries` of its events, at most 30%, are asked about.
        k: Neighbours a root.
        batch_size: Events a batch; roots of a batch are asked for together.
        semantics: What a root at t may see: "strict" (events before t), "inclusive" (up to t), "before_batch" (before its
            batch). By default "before_batch" for a sampler with `insert`, else "strict".
        queries: Events to ask about.
        cuts: Points of the stream whose future is changed.
        seed: Of negatives, changes and permutations.
        tolerance: As in `neighbor_count_check`.
        name: What to call the sampler.
        progress: Object with `update(n)` and `total`, e.g. a tqdm bar, or None.

    Returns:
        A `Report` with the checks "future events", "own event", "neighbor count", "order of roots", "time of neighbors",
        "completeness", "asking twice".

    Raises:
        ValueError: Bad arguments, `make` returns no sampler, or a sample is in none of the shapes above.
    """
    if min(k, batch_size, queries, cuts) < 1:
        raise ValueError("check_sampler: k, batch_size, queries and cuts must be at least 1")
    if semantics not in (None, *SEMANTICS):
        raise ValueError(f"check_sampler: semantics must be one of {list(SEMANTICS)}, got {semantics!r}")
    E = len(events)
    first = E - min(queries, max(1, int(0.3 * E)))
    if E < 10:
        raise ValueError(f"check_sampler: events must be at least 10, got {E}")
    sampler = make(events)
    if isinstance(sampler, type) or not callable(getattr(sampler, "sample", sampler)):
        wanted = "a sampler, which is an object with sample(nodes, times, k), or a function (nodes, times, k)"
        raise ValueError(f"check_sampler: {name}: make must return {wanted}, got {told(sampler)}")
    semantics = semantics or ("before_batch" if hasattr(sampler, "insert") else "strict")
    before = batches(events, 0, first, batch_size, semantics)
    # a batch must not begin at a time of the one before it, unless that is its semantics
    first = before[-1].stop
    parts = batches(events, first, E, batch_size, semantics) if first < E else []
    if semantics != "before_batch" and parts and events.t[first] == events.t[first - 1]:
        parts = parts[1:] or parts
    checker = _Checker(make, events, k, [*before, *parts], seed)
    at = pick_cuts(events, parts[0].start, E, cuts, seed)
    if progress is not None:
        progress.total = E - parts[0].start
    report = Report(
        "sampler", name, events.name, {"semantics": semantics, "neighbors": k, "batch": batch_size, "seed": seed}
    )
    closely = _look_closely(checker, at, semantics)
    report.checks = [
        closely[0],
        *_stream_checks(checker, parts, semantics, tolerance, seed, progress),
        *closely[1:],
    ]
    order = (
        "future events",
        "own event",
        "neighbor count",
        "order of roots",
        "time of neighbors",
        "completeness",
        "asking twice",
    )
    report.checks.sort(key=lambda c: order.index(c.name))
    return report


def _stream_checks(
    checker: _Checker, parts: list[slice], semantics: str, tolerance: float, seed: int, progress: Any
) -> list[Check]:
    """Everything that is asked of every root: neighbours' times, their number, and what the number says."""
    events, k, history = checker.events, checker.k, History(checker.events)
    sampler = checker.start(events, parts[0].start)
    given: tuple[list, list] = ([], [])
    past: tuple[list, list] = ([], [])
    late = itself = missing = foreign = total = 0
    late_example = own_example = missing_example = None
    src, dst = events.src.numpy(), events.dst.numpy()
    for part in parts:
        roots = checker.roots(part)
        ids = checker.ask(sampler, roots.nodes, roots.times)
        if hasattr(sampler, "insert"):
            sampler.insert(part)
        end = history.end(roots.times, semantics, part.start).numpy()
        nodes, real, B = roots.nodes.numpy(), ids >= 0, part.stop - part.start
        too_late = real & (ids >= end[:, None])
        own = real & ((src[ids] == nodes[:, None]) | (dst[ids] == nodes[:, None]))
        ordered = np.sort(np.where(own & ~too_late, ids, -1), 1)
        distinct = ((ordered >= 0) & (np.diff(ordered, axis=1, prepend=-1) != 0)).sum(1)
        wanted = np.minimum(history.count(roots.nodes, torch.from_numpy(end)).numpy(), k)
        short = distinct < wanted
        event = np.tile(np.arange(part.start, part.stop), 2)
        told = (ids[: 2 * B] == event[:, None]).any(1)
        itself += int(told.sum())
        if own_example is None and told.any():
            own_example = f"{roots.tell(int(told.nonzero()[0][0]))} was given that event"
        late, foreign = late + int(too_late.any(1).sum()), foreign + int((real & ~own).any(1).sum())
        missing, total = missing + int(short.sum()), total + len(nodes)
        if late_example is None and too_late.any():
            i, j = (int(x[0]) for x in too_late.nonzero())
            e = int(ids[i, j])
            late_example = f"{roots.tell(i)} was given event {e} at time {events.t[e].item()}"
        if missing_example is None and short.any():
            i = int(short.nonzero()[0][0])
            missing_example = f"{roots.tell(i)} was given {distinct[i]} of {wanted[i]} events"
        strict = history.end(roots.times, "before_batch" if semantics == "before_batch" else "strict", part.start)
        had = history.count(roots.nodes, strict).numpy()
        for role in (0, 1):
            rows = slice((1 + role) * B, (2 + role) * B)
            given[role].append(real[rows].sum(1))
            past[role].append(had[rows])
        if progress is not None:
            progress.update(B)
    allowed = {"strict": "before the root", "inclusive": "up to the root", "before_batch": "before the batch"}[
        semantics
    ]
    time_check = Check(
        "time of neighbors",
        "leak" if late else "ok",
        f"{late:,} of {total:,} roots were given an event that is not {allowed}",
        f"A sample holds only events {allowed}." if not late else "The future, or the label itself, is in the sample.",
        late_example,
        late / total,
    )
    own_check = Check(
        "own event",
        "leak" if itself else "ok",
        f"{itself:,} of {2 * total // 3:,} ends of events were given the event itself",
        "The sample holds what is to be predicted." if itself else "No sample holds the event that is to be predicted.",
        own_example,
        itself / max(2 * total // 3, 1),
    )
    what = f"{missing:,} of {total:,} roots were given fewer than min({k}, events {allowed})"
    if foreign:
        what += f"; {foreign:,} were given events of other nodes"
    loss = Check(
        "completeness",
        "flaw" if missing or foreign else "ok",
        what,
        "History is lost." if missing else "Events are not the root's." if foreign else "No history is lost.",
        missing_example,
        missing / total,
    )
    columns = [np.concatenate(x) for x in (*given, *past)]
    count = neighbor_count_check((columns[0], columns[1]), (columns[2], columns[3]), k, tolerance, seed)
    return [count, own_check, time_check, loss]


def _look_closely(checker: _Checker, cuts: list[int], semantics: str) -> list[Check]:
    """At a few cuts: change what comes after, ask in another order, ask again."""
    events = checker.events
    compared = changed = turned = again = asked = 0
    future_example = order_example = again_example = None
    kinds: set[str] = set()
    random = False
    for c in cuts:
        part = next(p for p in checker.parts if p.start <= c < p.stop)
        roots = checker.roots(part)
        sampler = checker.start(events, part.start)
        random = bool(getattr(sampler, "random", False))
        base = checker.ask(sampler, roots.nodes, roots.times)
        fresh = checker.ask(checker.start(events, part.start), roots.nodes, roots.times)
        checker.exact = checker.exact and not checker.differ(base, fresh, True).any()
        twice = checker.differ(base, checker.ask(sampler, roots.nodes, roots.times), True)
        again, asked = again + int(twice.sum()), asked + len(base)
        if again_example is None and twice.any():
            again_example = roots.tell(int(twice.nonzero()[0][0]))

        order = torch.randperm(len(base), generator=torch.Generator().manual_seed(c))
        mixed = checker.ask(checker.start(events, part.start), roots.nodes[order], roots.times[order])
        other = np.full((len(base), mixed.shape[1]), -1)
        other[order.numpy()] = mixed
        half = order[: len(base) // 2]
        alone = checker.ask(checker.start(events, part.start), roots.nodes[half], roots.times[half])
        moved = checker.differ(base, other, not random)
        moved[half.numpy()] |= checker.differ(base[half.numpy()], alone, not random)
        turned += int(moved.sum())
        if order_example is None and moved.any():
            order_example = roots.tell(int(moved.nonzero()[0][0]))

        now, ids = events.t[c], torch.arange(len(events))
        if semantics == "before_batch":
            later, judged = ids >= part.start, torch.ones(len(base), dtype=torch.bool)
        else:
            later = events.t >= now if semantics == "strict" else events.t > now
            judged = roots.times <= now
        for how in KINDS:
            other_events = change(events, later, how, seed=c)
            if other_events is None:
                continue
            kinds.add(how)
            got = checker.ask(checker.start(other_events, part.start), roots.nodes, roots.times)
            bad = checker.differ(base, got, True) & judged.numpy()
            compared, changed = compared + int(judged.sum()), changed + int(bad.sum())
            if future_example is None and bad.any():
                i = int(bad.nonzero()[0][0])

                def differs(stream: TemporalEvents, part=part, roots=roots, base=base, i=i) -> bool:
                    again = checker.ask(checker.start(stream, part.start), roots.nodes, roots.times)
                    return bool(checker.differ(base[i : i + 1], again[i : i + 1], True)[0])

                e = culprit(events, later, how, c, differs)
                future_example = f"{roots.tell(i)} was given other events when the {how} of event {e} at time "
                future_example += f"{events.t[e].item()} changed"
    blind = "" if checker.exact else " in number (it draws anew at every call, so samples cannot be compared)"
    future = Check(
        "future events",
        "leak" if changed else "ok",
        f"{changed:,} of {compared:,} samples changed{blind} with {', '.join(h for h in KINDS if h in kinds)} of later events",
        "What has not happened yet decides what is sampled."
        if changed
        else "Events that a root must not see do not change its sample.",
        future_example,
        changed / max(compared, 1),
    )
    turn = Check(
        "order of roots",
        "leak" if turned else "ok",
        f"{turned:,} of {asked:,} samples changed{' in number' if random or not checker.exact else ''} with order or company",
        "The place of a root in the batch, which tells positives from negatives, decides what is sampled."
        if turned
        else "Positives and negatives are treated alike, in any order and company.",
        order_example,
        turned / max(asked, 1),
    )
    twice_check = Check(
        "asking twice",
        "flaw" if again and checker.exact else "ok" if checker.exact else "skipped",
        f"{again:,} of {asked:,} samples changed when asked for again",
        "Asking changes the sampler."
        if again and checker.exact
        else "Asking changes nothing."
        if checker.exact
        else "The sampler draws anew at every call; seed it by what is drawn for to have this checked.",
        again_example if checker.exact else None,
        again / max(asked, 1),
    )
    return [future, turn, twice_check]
