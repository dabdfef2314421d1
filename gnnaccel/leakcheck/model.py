"""Checks of a model that scores links."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gnnaccel.data.events import TemporalEvents
from gnnaccel.leakcheck.report import Check, Report
from gnnaccel.leakcheck.stream import KINDS, batches, change, culprit, pick_cuts, told

SEMANTICS = ("strict", "inclusive", "before_batch", "by_event_id")
CANDIDATES = 2  # beside the true destination
Z = 4.5  # standard errors


class _Checker:
    """Runs the model over the stream, changed or not, and keeps its scores.

    Candidates of an event are its destination in the unchanged stream, then random ones; also where the event is changed.
    """

    def __init__(
        self,
        make: Callable[[TemporalEvents], Any],
        events: TemporalEvents,
        parts: list[slice],
        seed: int,
        tolerance: float,
        progress: Any,
    ) -> None:
        self.make, self.events, self.parts, self.tolerance, self.progress = make, events, parts, tolerance, progress
        pool, generator = events.dst.unique(), torch.Generator().manual_seed(seed)
        drawn = pool[torch.randint(0, len(pool), (len(events), CANDIDATES), generator=generator)]
        self.candidates = torch.cat([events.dst[:, None], drawn], 1)

    def run(
        self, events: TemporalEvents, upto: int, candidates: Tensor | None = None, twice: bool = False
    ) -> tuple[Tensor, bool]:
        """Scores `[n, 1 + C]` of the events of the batches up to event `upto`, the positive first; whether asking again gave
        the same."""
        candidates = self.candidates if candidates is None else candidates
        model, out, same = self.make(events), [], True
        if hasattr(model, "reset"):
            model.reset()
        for part in self.parts:
            if part.start > upto:
                break
            rows = self._scores(model, part, candidates[part])
            if twice:
                same = same and not bool(self.differ(rows, self._scores(model, part, candidates[part])).any())
            if hasattr(model, "insert"):
                model.insert(part)
            out.append(rows)
            if self.progress is not None:
                self.progress.update(part.stop - part.start)
        return torch.cat(out), same

    def _scores(self, model: Any, part: slice, candidates: Tensor) -> Tensor:
        B, C = candidates.shape
        with torch.no_grad():
            found = model.scores(part, candidates)
        try:
            positive, negative = (torch.as_tensor(x).detach().cpu() for x in found)
            return torch.cat([positive.reshape(B, 1), negative.reshape(B, C)], 1)
        except (TypeError, ValueError, RuntimeError):
            shapes = (
                [list(getattr(x, "shape", [])) for x in found] if isinstance(found, tuple) else type(found).__name__
            )
            raise ValueError(f"leakcheck: scores must give ([{B}], [{B}, {C}]) for {B} events, got {shapes}") from None

    def differ(self, a: Tensor, b: Tensor) -> Tensor:
        """Which scores are not the same; NaN is the same as NaN."""
        close = (a - b).abs() <= self.tolerance if self.tolerance else a == b
        return ~(close | ((a != a) & (b != b)))


def check_model(
    make: Callable[[TemporalEvents], Any],
    events: TemporalEvents,
    *,
    batch_size: int = 200,
    semantics: str | None = None,
    queries: int = 3000,
    cuts: int = 5,
    seed: int = 0,
    tolerance: float = 0.0,
    name: str = "model",
    progress: Any = None,
) -> Report:
    """Look for leaks in a model.

    Args:
        make: Makes the model for a stream, the same weights each time, in evaluation mode. The model has
            `scores(part, candidates [B, C]) -> (positive [B], negative [B, C])`: scores of the events `part` (a slice of the
            stream) and of their candidate destinations, each at the time of its event, with the state from before the batch. A
            model with state also has `insert(part)`: the events `part` have happened; and it may have `reset()`. `semantics`
            may say what it means to see, `random = True` that a candidate's place in the batch decides what is drawn for it.
        events: A stream, of which the first `queries` events are taken.
        batch_size: Events a batch; under "strict" and "inclusive" events of one time are not parted.
        semantics: What a prediction for an event at t may see: "strict" (events before t), "inclusive" (up to t), "by_event_id"
            (events before it in the stream), "before_batch" (events before its batch). By default the model's, else "strict".
        queries: Events to score.
        cuts: Points of the stream whose future is changed.
        seed: Of candidates and changes.
        tolerance: Scores that differ by no more are the same; 0 compares bits.
        name: What to call the model.
        progress: Object with `update(n)`, e.g. a tqdm bar, or None.

    Returns:
        A `Report` with the checks "future events", "own event", "symmetry", "company", "asking twice", "use of the past".

    Raises:
        ValueError: Bad arguments, `make` returns no model, or scores are of another shape.
    """
    if min(batch_size, queries, cuts) < 1:
        raise ValueError("check_model: batch_size, queries and cuts must be at least 1")
    if semantics not in (None, *SEMANTICS):
        raise ValueError(f"check_model: semantics must be one of {list(SEMANTICS)}, got {semantics!r}")
    if len(events) < 10:
        raise ValueError(f"check_model: events must be at least 10, got {len(events)}")
    events = events.slice(slice(0, min(queries, len(events)))) if queries < len(events) else events
    model = make(events)
    if isinstance(model, type) or not callable(getattr(model, "scores", None)):
        wanted = "a model, which is an object with scores(part, candidates)"
        raise ValueError(f"check_model: {name}: make must return {wanted}, got {told(model)}")
    if semantics is None:
        semantics = getattr(model, "semantics", "strict")
        semantics = semantics if semantics in SEMANTICS else "strict"  # tgl_compat is meant to be strict
    random = bool(getattr(model, "random", False))
    E = len(events)
    parts = batches(events, 0, E, batch_size, "before_batch" if semantics == "by_event_id" else semantics)
    checker = _Checker(make, events, parts, seed, tolerance, progress)
    base = checker.run(events, E)[0]
    report = Report(
        "model", name, events.name, {"semantics": semantics, "batch": batch_size, "events": E, "seed": seed}
    )
    if bool(checker.differ(base, checker.run(events, E)[0]).any()):
        report.checks = [
            Check(
                "repeatability",
                "flaw",
                "two runs over the same events gave other scores",
                "Nothing else can be checked: fix the seeds, switch dropout off, or give a tolerance.",
            )
        ]
        return report
    asked, same = checker.run(events, E, twice=True)
    same = same and not bool(checker.differ(base, asked).any())
    at = pick_cuts(events, E // 4, E, cuts, seed)
    report.checks = [
        *_future(checker, base, at, semantics),
        *_alike(checker, base, random),
        Check(
            "asking twice",
            "ok" if same else "flaw",
            "scores asked for again were the same" if same else "scores asked for again had changed",
            "Asking changes nothing." if same else "Asking changes the model: what is asked decides later scores.",
        ),
        _past(checker, base),
    ]
    return report


def _future(checker: _Checker, base: Tensor, cuts: list[int], semantics: str) -> list[Check]:
    events, ids = checker.events, torch.arange(len(checker.events))
    totals = {"future events": [0, 0], "own event": [0, 0]}
    examples: dict[str, str | None] = {"future events": None, "own event": None}
    for c in cuts:
        part = next(p for p in checker.parts if p.start <= c < p.stop)
        now = events.t[c]
        unseen = {
            "strict": int(torch.searchsorted(events.t, now)),
            "inclusive": int(torch.searchsorted(events.t, now, right=True)),
            "by_event_id": c,
            "before_batch": part.start,
        }[semantics]
        for how in KINDS:
            which = ids >= (max(unseen, c + 1) if how == "times" else unseen)
            # when the event itself goes elsewhere, only its candidates are still the same question
            # the event itself is what is to be predicted: whatever the semantics, it must not be known
            for name, mask in (("future events", which & (ids != c)), ("own event", ids == c)):
                if name == "own event" and how in ("times", "sources"):
                    continue
                other = change(events, mask, how, seed=c)
                if other is None:
                    continue
                got = checker.run(other, c)[0]
                bad = torch.zeros(c + 1, base.shape[1], dtype=torch.bool)
                own = slice(1 if name == "own event" and how == "destinations" else 0, None)
                known = min(unseen, c)
                bad[:known] = checker.differ(base[:known], got[:known])
                bad[c, own] = checker.differ(base[c, own], got[c, own])
                totals[name][0] += int(bad.sum())
                totals[name][1] += known * base.shape[1] + base[c, own].numel()
                if examples[name] is None and bool(bad.any()):
                    examples[name] = _example(checker, base, got, bad, mask, how, c)
    out = []
    for name, (changed, compared) in totals.items():
        what = "other events that it must not see" if name == "future events" else "the event that is predicted itself"
        out.append(
            Check(
                name,
                "leak" if changed else "ok" if compared else "skipped",
                f"{changed:,} of {compared:,} scores changed with {what}",
                "Predictions know what has not happened yet."
                if changed
                else f"Endpoints, times, features and labels of {what} change no score.",
                examples[name],
                changed / max(compared, 1),
            )
        )
    return out


def _example(checker: _Checker, base: Tensor, got: Tensor, bad: Tensor, mask: Tensor, how: str, c: int) -> str:
    """The first score that changed, and the latest event whose change alters it."""
    events = checker.events
    i, j = (int(x) for x in bad.nonzero()[0])

    def differs(changed: TemporalEvents) -> bool:
        return bool(checker.differ(base[i, j], checker.run(changed, c)[0][i, j]))

    low = culprit(events, mask, how, c, differs)
    dst = int(events.dst[i]) if j == 0 else int(checker.candidates[i, j - 1])
    query = (
        f"{int(events.src[i])} -> {dst} at time {events.t[i].item()} (event {i}{'' if j == 0 else ', as a candidate'})"
    )
    return (
        f"score of {query} was {base[i, j].item():.6g} and became {got[i, j].item():.6g} with other {how} of event {low}"
        f" at time {events.t[low].item()}"
    )


def _alike(checker: _Checker, base: Tensor, random: bool) -> list[Check]:
    """The same pair as positive and as candidate; the same pair among others."""
    events, name = checker.events, "symmetry"
    gap = (base[:, 0] - base[:, 1]).double()
    if random:
        error = gap.std().item() / len(gap) ** 0.5
        z = abs(gap.mean().item()) / error if error > 0 else 0.0
        leak = z > Z
        figure = f"positives score {gap.mean().item():+.3g} above the same pairs as candidates, {z:.1f} standard errors"
    else:
        bad = checker.differ(base[:, 0], base[:, 1])
        leak, z = bool(bad.any()), float(bad.double().mean())
        figure = f"{int(bad.sum()):,} of {len(bad):,} pairs score differently as positive and as candidate"
    example = None
    if leak:
        i = int(gap.abs().argmax())
        scores = f"{base[i, 0].item():.6g} as the event {i}, {base[i, 1].item():.6g} as its candidate"
        example = f"{int(events.src[i])} -> {int(events.dst[i])} at time {events.t[i].item()} scores {scores}"
    alike = Check(
        name,
        "leak" if leak else "ok",
        figure,
        "Being asked as the positive is worth something: ranks against negatives mean nothing."
        if leak
        else "A pair scores the same whether it is asked as the positive or as a candidate"
        + (", but for the draws." if random else "."),
        example,
        z,
    )
    others = torch.cat([checker.candidates[:, 1:].roll(1, 0), checker.candidates[:, :1]], 1)
    got = checker.run(events, len(events), others)[0]
    bad = checker.differ(base[:, 0], got[:, 0])
    compared = len(bad)
    if not random:
        bad, compared = bad | checker.differ(base[:, 1], got[:, -1]), 2 * compared
    i = int(bad.nonzero()[0]) if bool(bad.any()) else None
    example = None
    if i is not None:
        pair = f"{int(events.src[i])} -> {int(events.dst[i])} at time {events.t[i].item()} (event {i})"
        example = f"{pair}: {base[i, 0].item():.6g}, then {got[i, 0].item():.6g}"
    company = Check(
        "company",
        "leak" if i is not None else "ok",
        f"{int(bad.sum()):,} of {len(bad):,} events score differently beside other candidates",
        "Which candidates are asked beside it decides a score."
        if i is not None
        else "A score does not depend on the other candidates, nor on their order.",
        example,
        int(bad.sum()) / compared,
    )
    return [alike, company]


def _past(checker: _Checker, base: Tensor) -> Check:
    """A model that ignores all events would pass everything else."""
    events = checker.events
    half = len(events) // 2
    changed = False
    for how in ("destinations", "features"):
        other = change(events, torch.arange(len(events)) < half, how)
        if other is None or changed:
            continue
        got = checker.run(other, len(events))[0]
        changed = bool(checker.differ(base[half:], got[half:]).any())
    return Check(
        "use of the past",
        "ok" if changed else "flaw",
        f"scores {'change' if changed else 'do not change'} with the first half of the events",
        "The checks above can fail."
        if changed
        else "The model ignores what has happened: the checks above say nothing.",
    )
