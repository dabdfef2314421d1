"""Benchmark entries as data, and the runner: correctness gate, interleaved timing, peak memory, rates.

The rules. A provider is timed only after its outputs and gradients agreed with the float64 reference (or, where there is none,
with ours): a red gate prints no number. Ours and every peer take turns within one run, so that a noisy neighbour or a
falling clock hits all of them, and the ratio is taken turn by turn: baseline / ours of the same turn, with its median
and its 20th and 80th percentile. Nothing that only one side needs is timed: `prepare` and `view` run outside the clock.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gnnaccel.bench.device import Clock, clock_for, environment, measure_rates, no_gc, peak_extra_bytes, percentiles

MODES = ("fwd", "bwd", "full")

#: Largest error relative to the largest value of the reference. Above rounding noise of the longest reductions here, and far
#: below what a wrong formula gives; ops are held to tighter bounds by their tests.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}

Args = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One op to measure.

    Attributes:
        op: Name of the op.
        cases: Case name -> parameters (shapes, dtypes), named after real graphs where possible. The key `threads`, when there,
            is the number of CPU threads of that case.
        make: `(params, device, seed) -> dict` of call arguments.
        providers: Name -> callable of those arguments; `"gnnaccel"` is ours, the others are peers.
        reference: The float64 oracle, for the correctness gate.
        grad: Arguments that get gradients; empty for ops without.
        bytes: `(arguments) -> int`, bytes that must be moved (forward).
        flops: `(arguments) -> int`, operations that must be done (forward).
        ours: Which provider is ours.
        modes: Which of fwd, bwd, full to time; by default all of them, or fwd alone when there are no gradients.
        bytes_bwd: As `bytes`, of the backward pass alone.
        flops_bwd: As `flops`, of the backward pass alone.
        tiny: Parameters of a case that takes milliseconds, for `--correctness-only`; by default the smallest of `cases`.
        quick: Cases of `--quick`; by default the first.
        reference_cases: Cases (and `"tiny"`) judged by the reference; in the others peers are judged against ours. By default
            all. For references that would take minutes.
        tol: Relative tolerance of the gate, or one per provider; by default `TOLERANCE`. Say why when you set it.
        prepare: Provider -> `(arguments) -> arguments` in the form that the provider takes, outside the clock.
        view: Provider (or `"reference"`) -> `(result) -> outputs` in the form that ours has, for the gate only.
        check: `(provider, outputs, wanted) -> None | str`, replaces the comparison of values, e.g. for random draws. Returns
            what is wrong.
        fresh: Arguments that the op changes in place: each call gets its own copy, made outside the clock.
        missing: Peers that could not be imported -> why; printed as such.
        extra: Anything else, carried into the JSON.
    """

    op: str
    cases: Mapping[str, Mapping[str, Any]]
    make: Callable[..., Args]
    providers: Mapping[str, Callable[..., Any]]
    reference: Callable[..., Any] | None = None
    grad: tuple[str, ...] = ()
    bytes: Callable[[Args], int] | None = None
    flops: Callable[[Args], int] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    ours: str = "gnnaccel"
    modes: tuple[str, ...] | None = None
    bytes_bwd: Callable[[Args], int] | None = None
    flops_bwd: Callable[[Args], int] | None = None
    tiny: Mapping[str, Any] | None = None
    quick: tuple[str, ...] | None = None
    reference_cases: tuple[str, ...] | None = None
    tol: float | Mapping[str, float] | None = None
    prepare: Mapping[str, Callable[[Args], Args]] = field(default_factory=dict)
    view: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    check: Callable[[str, list[Tensor], list[Tensor]], str | None] | None = None
    fresh: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.ours not in self.providers:
            raise ValueError(f"bench: {self.op}: providers must contain {self.ours!r}, got {sorted(self.providers)}")
        if unknown := set(self.modes or ()) - set(MODES):
            raise ValueError(f"bench: {self.op}: modes must be of {MODES}, got {sorted(unknown)}")

    def timed_modes(self) -> tuple[str, ...]:
        return self.modes if self.modes is not None else MODES if self.grad else ("fwd",)

    def tiny_case(self) -> tuple[str, Mapping[str, Any]]:
        if self.tiny is not None:
            return "tiny", self.tiny
        # the product of the integers is a fair guess of the work
        return min(self.cases.items(), key=lambda kv: math.prod(v for v in kv[1].values() if type(v) is int and v > 0))

    def quick_cases(self) -> tuple[str, ...]:
        return self.quick if self.quick is not None else tuple(self.cases)[:1]


@dataclass
class Row:
    """One provider in one mode of one case: a line of the results. Times in ms, rates in GB/s and GFLOP/s.

    `gate` is `ok`, `red` (wrong result: no numbers), `error` (it raised) or `missing` (not installed). `ratio` is this
    provider's time over ours, turn by turn (above 1: ours is faster).
    """

    op: str
    case: str
    mode: str
    provider: str
    ours: bool
    gate: str
    detail: str = ""
    threads: int = 0
    p20_ms: float | None = None
    p50_ms: float | None = None
    p80_ms: float | None = None
    rounds: int = 0
    inner: int = 0
    ratio: float | None = None
    ratio_p20: float | None = None
    ratio_p80: float | None = None
    peak_bytes: int | None = None
    gbps: float | None = None
    pct_copy: float | None = None
    gflops: float | None = None
    pct_gemm: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """How to run. `budget` is seconds of timing for each (case, mode); `data` is what end-to-end jobs train on."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    quick: bool = False
    correctness_only: bool = False
    budget: float = 2.0
    min_rounds: int = 7
    max_rounds: int = 200
    seed: int = 0
    data: str | None = None


@dataclass(frozen=True)
class EndToEnd:
    """A whole job (a training epoch) instead of one op: `run(runner)` yields rows."""

    name: str
    run: Callable[[Runner], Iterator[Row]]


REGISTRY: dict[str, Entry] = {}
END_TO_END: dict[str, EndToEnd] = {}


def register(entry: Entry) -> Entry:
    if entry.op in REGISTRY:
        raise ValueError(f"bench: op {entry.op!r} is registered twice")
    REGISTRY[entry.op] = entry
    return entry


def register_end_to_end(job: EndToEnd) -> EndToEnd:
    if job.name in END_TO_END:
        raise ValueError(f"bench: {job.name!r} is registered twice")
    END_TO_END[job.name] = job
    return job


def discover() -> None:
    """Import every module of gnnaccel.bench, so that its entries register."""
    import gnnaccel.bench

    for module in pkgutil.iter_modules(gnnaccel.bench.__path__):
        if module.name != "__main__":
            importlib.import_module(f"gnnaccel.bench.{module.name}")


# --- correctness gate -----------------------------------------------------------------------------------------------------


def tensors(result: Any) -> list[Tensor]:
    """The tensors of a result, in order: a tensor, a sequence, a mapping or a dataclass of them."""
    if isinstance(result, Tensor):
        return [result]
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        result = [getattr(result, f.name) for f in dataclasses.fields(result)]
    elif isinstance(result, Mapping):
        result = list(result.values())
    if isinstance(result, (tuple, list)):
        return [t for item in result for t in tensors(item)]
    return []


def _leaves(args: Args, names: Sequence[str]) -> list[Tensor]:
    return [args[n] for n in names if isinstance(args.get(n), Tensor)]


def _with_leaves(args: Args, names: Sequence[str]) -> Args:
    """The arguments with fresh leaves, so that no provider sees another's graph."""
    return {k: v.detach().requires_grad_() if k in names and isinstance(v, Tensor) else v for k, v in args.items()}


def _weights(outs: Sequence[Tensor]) -> list[Tensor]:
    """Fixed incoming gradients: cheap, sign-changing, the same for every provider and dtype."""
    return [
        torch.cos(torch.arange(o.numel(), dtype=torch.float64)).reshape(o.shape).to(o.dtype).to(o.device) for o in outs
    ]


def _differentiable(outs: Sequence[Tensor]) -> list[Tensor]:
    return [o for o in outs if o.requires_grad]


def _oracle_args(args: Args) -> Args:
    def convert(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.detach().cpu()
        return value.double() if value.dtype.is_floating_point else value.clone()

    return {k: convert(v) for k, v in args.items()}


@dataclass
class _Outcome:
    outs: list[Tensor]
    grads: list[Tensor]


def _outcome(entry: Entry, name: str, fn: Callable[..., Any], args: Args, grad: Sequence[str]) -> _Outcome:
    # never let one provider's in-place change reach the next
    args = {k: v.clone() if k in entry.fresh and isinstance(v, Tensor) else v for k, v in args.items()}
    args = _with_leaves(args, grad)
    result = fn(**args)
    view = entry.view.get(name)
    outs = tensors(view(result) if view else result)
    live = _differentiable(outs)
    leaves = _leaves(args, grad)
    if not leaves or not live:
        return _Outcome([o.detach() for o in outs], [])
    found = torch.autograd.grad(live, leaves, _weights(live), allow_unused=True)
    grads = [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, found, strict=True)]
    return _Outcome([o.detach() for o in outs], grads)


def _disagreement(got: Tensor, want: Tensor, tol: float | None) -> str | None:
    if got.shape != want.shape:
        return f"shape {list(got.shape)}, expected {list(want.shape)}"
    a, b = got.cpu(), want.cpu()
    if not got.dtype.is_floating_point or not want.dtype.is_floating_point:
        wrong = int((a != b).sum())
        return f"{wrong} of {a.numel()} values differ" if wrong else None
    if a.numel() == 0:
        return None
    limit = tol if tol is not None else max(TOLERANCE.get(a.dtype, 2e-4), TOLERANCE.get(b.dtype, 2e-4))
    a, b = a.double(), b.double()
    error, scale = (a - b).abs().max().item(), b.abs().max().item()
    if not error <= limit * max(scale, 1e-6):  # also catches NaN
        return f"error {error:.2e} on values up to {scale:.2e} (allowed {limit:.0e} of that)"
    return None


def _compare(entry: Entry, name: str, got: _Outcome, want: _Outcome) -> str | None:
    tol = entry.tol.get(name) if isinstance(entry.tol, Mapping) else entry.tol
    if entry.check is not None:
        if problem := entry.check(name, got.outs, want.outs):
            return problem
        got, want = _Outcome([], got.grads), _Outcome([], want.grads)
    for kind, have, wanted in (("output", got.outs, want.outs), ("gradient", got.grads, want.grads)):
        if len(have) != len(wanted):
            return f"{len(have)} {kind}s, expected {len(wanted)}"
        for i, (a, b) in enumerate(zip(have, wanted, strict=True)):
            if problem := _disagreement(a, b, tol):
                label = entry.grad[i] if kind == "gradient" and i < len(entry.grad) else str(i)
                return f"{kind} {label}: {problem}"
    return None


def gate(entry: Entry, case: str, args: Args, prepared: Mapping[str, Args]) -> dict[str, tuple[str, str]]:
    """Judge every provider on these arguments: provider -> (`ok` | `red` | `error`, what is wrong)."""
    use_reference = entry.reference is not None and (entry.reference_cases is None or case in entry.reference_cases)
    verdict: dict[str, tuple[str, str]] = {}
    want: _Outcome | None = None
    if use_reference and entry.reference is not None:
        want = _outcome(entry, "reference", entry.reference, _oracle_args(args), entry.grad)
    for name in sorted(entry.providers, key=lambda n: n != entry.ours):
        try:
            got = _outcome(entry, name, entry.providers[name], prepared[name], entry.grad)
        except Exception as error:  # a peer may fail in any way; the table says how
            verdict[name] = ("error", f"{type(error).__name__}: {error}".splitlines()[0])
            continue
        if want is None:
            # no oracle here: the first that ran, ours unless it failed, is what the others must agree with
            want = got
            verdict[name] = ("ok", "")
            continue
        problem = _compare(entry, name, got, want)
        verdict[name] = ("red", problem) if problem else ("ok", "")
    if not use_reference and len(verdict) < 2:
        verdict[entry.ours] = ("red", "nothing to compare with: no reference and no peer")
    return verdict


# --- timing ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """What the clock runs: `fn()`, or `fn(prepare())` with `prepare` outside the clock."""

    fn: Callable[..., Any]
    prepare: Callable[[], Any] | None = None

    def once(self) -> Any:
        return self.fn() if self.prepare is None else self.fn(self.prepare())


def call_for(entry: Entry, fn: Callable[..., Any], args: Args, mode: str) -> Call:
    """The timed call of one provider in one mode."""
    fresh = [k for k in entry.fresh if isinstance(args.get(k), Tensor)]

    def renew() -> Args:
        return {**args, **{k: args[k].clone() for k in fresh}}

    if mode == "fwd":

        def forward(a: Args = args) -> Any:
            with torch.no_grad():
                return fn(**a)

        return Call(forward, renew if fresh else None)

    args = _with_leaves(args, entry.grad)
    leaves = _leaves(args, entry.grad)
    weights = _weights(_differentiable(tensors(fn(**renew()))))

    def backward(outs: list[Tensor]) -> Any:
        return torch.autograd.grad(outs, leaves, weights, allow_unused=True)

    def graph(a: Args | None = None) -> list[Tensor]:
        return _differentiable(tensors(fn(**(args if a is None else a))))

    if mode == "bwd":
        return Call(backward, lambda: graph(renew()))

    def both(a: Args | None = None) -> Any:
        return backward(graph(a))

    return Call(both, renew if fresh else None)


def interleave(
    calls: Mapping[str, Call], clock: Clock, settings: Settings
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Time all calls in turns until the budget is spent; returns seconds a call by turn, and the calls in each turn."""
    inner: dict[str, int] = {}
    for name, call in calls.items():
        call.once()
        guess = min(clock(call.fn, call.prepare, 1) for _ in range(2))
        # a turn of at least 0.2 ms keeps the clock's own cost below a thousandth
        inner[name] = max(1, min(1000, math.ceil(2e-4 / max(guess, 1e-7))))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    with no_gc():
        start = time.perf_counter()
        for turn in range(settings.max_rounds):
            if turn >= settings.min_rounds and time.perf_counter() - start > settings.budget:
                break
            # rotate, so that nobody always runs in the cache that the same predecessor left
            shift = turn % len(order)
            for name in order[shift:] + order[:shift]:
                seconds[name].append(clock(calls[name].fn, calls[name].prepare, inner[name]))
    return seconds, inner


def _rates(row: Row, entry: Entry, args: Args, rates: Mapping[str, float]) -> None:
    parts = {"fwd": (True, False), "bwd": (False, True), "full": (True, True)}[row.mode]

    def total(forward: Callable[[Args], int] | None, backward: Callable[[Args], int] | None) -> int | None:
        used = [f for f, wanted in zip((forward, backward), parts, strict=True) if wanted]
        return None if any(f is None for f in used) else sum(f(args) for f in used if f is not None)

    if not row.p50_ms:
        return
    if (moved := total(entry.bytes, entry.bytes_bwd)) is not None:
        row.gbps = moved / row.p50_ms / 1e6
        row.pct_copy = 100.0 * row.gbps / rates["copy_gbps"]
    if (done := total(entry.flops, entry.flops_bwd)) is not None:
        row.gflops = done / row.p50_ms / 1e6
        row.pct_gemm = 100.0 * row.gflops / rates["gemm_gflops"]


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


class Runner:
    """Runs entries with one device, one clock and one set of measured rates (per number of threads)."""

    def __init__(
        self, settings: Settings, clock: Clock | None = None, rates: Mapping[str, float] | None = None
    ) -> None:
        self.settings = settings
        self.clock = clock if clock is not None else clock_for(settings.device)
        self.rates: dict[int, Mapping[str, float]] = {}
        self._fixed_rates = rates

    def rates_now(self) -> Mapping[str, float]:
        n = torch.get_num_threads()
        if n not in self.rates:
            self.rates[n] = self._fixed_rates or measure_rates(self.settings.device, self.clock)
        return self.rates[n]

    def run(self, entry: Entry) -> Iterator[Row]:
        """Rows of one entry: every case, mode and provider."""
        if self.settings.correctness_only:
            cases = dict([entry.tiny_case()])
        else:
            chosen = entry.quick_cases() if self.settings.quick else tuple(entry.cases)
            cases = {name: entry.cases[name] for name in chosen}
        for case, params in cases.items():
            with cpu_threads(params.get("threads")) as threads:
                for row in self._case(entry, case, params):
                    row.threads = threads
                    yield row

    def _case(self, entry: Entry, case: str, params: Mapping[str, Any]) -> Iterator[Row]:
        settings = self.settings
        args = entry.make(params, str(settings.device), settings.seed)
        prepared = {name: entry.prepare[name](args) if name in entry.prepare else args for name in entry.providers}
        verdict = gate(entry, case, args, prepared)

        def row(name: str, mode: str) -> Row:
            status, detail = verdict[name]
            return Row(entry.op, case, mode, name, name == entry.ours, status, detail)

        good = [name for name, (status, _) in verdict.items() if status == "ok"]
        if settings.correctness_only or entry.ours not in good:
            # without ours there is no ratio, and a peer's bare time is no result of this project
            yield from (row(name, "gate") for name in verdict)
            return
        for mode in entry.timed_modes():
            calls = {name: call_for(entry, entry.providers[name], prepared[name], mode) for name in good}
            rates = self.rates_now()
            seconds, inner = interleave(calls, self.clock, settings)
            mine = seconds[entry.ours]
            for name in verdict:
                out = row(name, mode)
                if name in calls:
                    p20, p50, p80 = percentiles(seconds[name])
                    out.p20_ms, out.p50_ms, out.p80_ms = 1e3 * p20, 1e3 * p50, 1e3 * p80
                    out.rounds, out.inner = len(seconds[name]), inner[name]
                    if name != entry.ours:
                        turns = [theirs / own for theirs, own in zip(seconds[name], mine, strict=True)]
                        out.ratio_p20, out.ratio, out.ratio_p80 = percentiles(turns)
                    call = calls[name]
                    if mode != "bwd":  # the graph that bwd starts from is made outside; full tells the whole
                        out.peak_bytes = peak_extra_bytes(call.once, settings.device)
                    _rates(out, entry, args, rates)
                yield out
            for name, why in entry.missing.items():
                yield Row(entry.op, case, mode, name, False, "missing", why)

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
