"""The runner: correctness gate, interleaved timing, peak memory, rates.

The rules. A provider is timed only after its outputs and gradients agreed with the float64 reference (or, where there is none,
with ours): a red gate prints no number. Ours and every peer take turns within one run, so that a noisy neighbour or a
falling clock hits all of them, and the ratio is taken turn by turn: baseline / ours of the same turn, with its median
and its 20th and 80th percentile. Nothing that only one side needs is timed: `prepare` and `view` run outside the clock.

Beside the peers that an entry names there may be two more: `gnnaccel 1t`, ours on one thread, and `torch.compile` of the peer
that `Entry.compile` names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gnnaccel.bench.calls import Call, Contender, call_for, leaves
from gnnaccel.bench.compiled import COMPILED, compiled, lacking
from gnnaccel.bench.device import (
    Clock,
    back_memory,
    clock_for,
    environment,
    measure_rates,
    peak_extra_bytes,
    percentiles,
)
from gnnaccel.bench.entries import (
    END_TO_END,
    MODES,
    REGISTRY,
    Args,
    EndToEnd,
    Entry,
    Row,
    Settings,
    discover,
    register,
    register_end_to_end,
)
from gnnaccel.bench.gate import TOLERANCE, gate
from gnnaccel.bench.timing import cpu_threads, interleave

__all__ = [
    "END_TO_END",
    "MODES",
    "REGISTRY",
    "TOLERANCE",
    "Args",
    "Call",
    "EndToEnd",
    "Entry",
    "Row",
    "Runner",
    "Settings",
    "cpu_threads",
    "discover",
    "interleave",
    "register",
    "register_end_to_end",
]

ONE_THREAD = "gnnaccel 1t"

_MOST_BACKED = 1 << 30  # bytes that are touched before the clock runs


def _rates(row: Row, entry: Entry, args: Args, rates: Mapping[str, float]) -> None:
    parts = {"fwd": (True, False), "bwd": (False, True), "full": (True, True)}[row.mode]

    def bytes_bwd(args: Args) -> int:
        """What the forward pass reads and writes is read once more, and the gradients are written."""
        assert entry.bytes is not None
        return entry.bytes(args) + sum(t.numel() * t.element_size() for t in leaves(args, entry.grad))

    back = entry.bytes_bwd or (bytes_bwd if entry.bytes else None)

    def total(forward: Callable[[Args], int] | None, backward: Callable[[Args], int] | None) -> int | None:
        used = [f for f, wanted in zip((forward, backward), parts, strict=True) if wanted]
        return None if any(f is None for f in used) else sum(f(args) for f in used if f is not None)

    if not row.p50_ms:
        return
    if (moved := total(entry.bytes, back)) is not None:
        row.gbps = moved / row.p50_ms / 1e6
        row.pct_copy = 100.0 * row.gbps / rates["copy_gbps"]
        if entry.gathers and rates.get("rows_gbps"):
            row.pct_rows = 100.0 * row.gbps / rates["rows_gbps"]
    if (done := total(entry.flops, entry.flops_bwd)) is not None:
        row.gflops = done / row.p50_ms / 1e6
        row.pct_gemm = 100.0 * row.gflops / rates["gemm_gflops"]


class Runner:
    """Runs entries with one device, one clock and one set of measured rates (per number of threads)."""

    def __init__(
        self, settings: Settings, clock: Clock | None = None, rates: Mapping[str, float] | None = None
    ) -> None:
        self.settings = settings
        self.clock = clock if clock is not None else clock_for(settings.device)
        self.rates: dict[int, Mapping[str, float]] = {}
        self._fixed_rates = rates
        self._done: set[tuple[str, str, int]] = set()

    def rates_now(self) -> Mapping[str, float]:
        n = torch.get_num_threads()
        if n not in self.rates:
            self.rates[n] = self._fixed_rates or measure_rates(
                self.settings.device, self.clock, quick=self.settings.quick
            )
        return self.rates[n]

    def cases(self, entry: Entry) -> Mapping[str, Mapping[str, Any]]:
        """What of an entry these settings run."""
        settings = self.settings
        if settings.correctness_only:
            return dict([entry.tiny_case()])
        chosen = entry.quick_cases() if settings.quick else entry.cases
        return chosen if settings.shapes is None else settings.shapes.cases(entry, chosen)

    def modes(self, entry: Entry) -> tuple[str, ...]:
        """A quick run times the mode that includes most."""
        return entry.timed_modes()[-1:] if self.settings.quick else entry.timed_modes()

    def run(self, entry: Entry) -> Iterator[Row]:
        """Rows of one entry: every case, mode and provider. A case that says its number of threads runs once in this runner."""
        for i, (case, params) in enumerate(self.cases(entry).items()):
            with cpu_threads(params.get("threads")) as threads:
                if (entry.op, case, threads) in self._done:
                    continue
                self._done.add((entry.op, case, threads))
                for row in self._case(entry, case, params, main=i == 0):
                    row.threads = threads
                    yield row

    def _contenders(
        self, entry: Entry, args: Args, main: bool
    ) -> tuple[dict[str, Contender], dict[str, tuple[str, str]]]:
        """Who takes part, and who does not: name -> (`missing` | `skipped`, why)."""
        settings, absent = self.settings, {name: ("missing", why) for name, why in entry.missing.items()}
        absent |= {name: ("missing", why) for name, asked in entry.refuses.items() if (why := asked(args))}
        found = {
            name: Contender(fn, entry.prepare[name](args) if name in entry.prepare else args)
            for name, fn in entry.providers.items()
            if name not in absent
        }
        ours = found[entry.ours]
        if settings.one_thread and settings.device.type == "cpu" and torch.get_num_threads() > 1:
            found[ONE_THREAD] = dataclasses.replace(ours, threads=1, like=entry.ours)
        if entry.compile and main and settings.compiled:
            if settings.quick and not settings.correctness_only:
                absent[COMPILED] = ("skipped", "it compiles for longer than a quick run may take")
            elif why := lacking(settings):
                absent[COMPILED] = ("missing", why)
            elif entry.compile in absent:
                absent[COMPILED] = absent[entry.compile]
            else:
                eager = found[entry.compile]
                found[COMPILED] = dataclasses.replace(eager, fn=compiled(eager.fn, settings), like=entry.compile)
        return found, absent

    def _case(self, entry: Entry, case: str, params: Mapping[str, Any], main: bool) -> Iterator[Row]:
        settings = self.settings
        args = entry.make(params, str(settings.device), settings.seed)
        contenders, absent = self._contenders(entry, args, main)
        verdict = gate(entry, case, args, contenders)

        def row(name: str, mode: str) -> Row:
            status, detail = verdict[name]
            return Row(entry.op, case, mode, name, name == entry.ours, status, detail)

        good = [name for name, (status, _) in verdict.items() if status == "ok"]
        if settings.correctness_only or entry.ours not in good:
            # without ours there is no ratio, and a peer's bare time is no result of this project
            yield from (row(name, "gate") for name in verdict)
            yield from (Row(entry.op, case, "gate", name, False, *why) for name, why in absent.items())
            return
        for mode in self.modes(entry):
            calls = {name: call_for(entry, contenders[name], mode) for name in good}
            rates = self.rates_now()
            peaks = {name: self._peak(call) for name, call in calls.items()}
            if settings.device.type == "cpu":
                back_memory(min(8 * max(peak or 0 for peak in peaks.values()), _MOST_BACKED))
            seconds, inner = interleave(calls, self.clock, settings)
            mine = seconds[entry.ours]
            for name in verdict:
                out = row(name, mode)
                if name in calls:
                    p20, p50, p80 = percentiles(seconds[name])
                    out.p20_ms, out.p50_ms, out.p80_ms = 1e3 * p20, 1e3 * p50, 1e3 * p80
                    out.rounds, out.inner = len(seconds[name]), inner[name]
                    if name != entry.ours:
                        both = zip(seconds[name], mine, strict=False)  # who is slow has fewer turns
                        turns = [theirs / own for theirs, own in both]
                        out.ratio_p20, out.ratio, out.ratio_p80 = percentiles(turns)
                    if mode != "bwd":  # the graph that bwd starts from is made outside; full tells the whole
                        out.peak_bytes = peaks[name]
                    _rates(out, entry, args, rates)
                yield out
            yield from (Row(entry.op, case, mode, name, False, *why) for name, why in absent.items())

    def _peak(self, call: Call) -> int | None:
        with cpu_threads(call.threads):
            return peak_extra_bytes(call.once, self.settings.device)

    def document(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Everything measured, as plain data."""
        settings = self.settings
        return {
            "schema": 1,
            "environment": environment(settings.device),
            "rates": {str(n): dict(r) for n, r in sorted(self.rates.items())},
            "settings": {
                "quick": settings.quick,
                "budget_s": settings.budget,
                "seed": settings.seed,
                "data": settings.data and Path(settings.data).name,
            },
            "rows": [dataclasses.asdict(r) for r in rows],
        }
