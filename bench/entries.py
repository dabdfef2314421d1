"""Benchmarks as data: entries of ops, end-to-end jobs, rows of results, and how to run them."""

from __future__ import annotations

import atexit
import gc
import importlib
import math
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gnnaccel.bench.choose import Shapes
    from gnnaccel.bench.harness import Runner

MODES = ("fwd", "bwd", "full")

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
        bytes_bwd: As `bytes`, of the backward pass alone; by default those of the forward pass and the gradients, once each.
        flops_bwd: As `flops`, of the backward pass alone.
        tiny: Parameters of a case that takes milliseconds, for `--correctness-only`; by default the smallest of `cases`.
        quick: Cases of `--quick`: names among `cases`, or smaller ones with their parameters; by default the first.
        compile: Provider that `torch.compile` takes too, as a peer of that name, in the first case that runs.
        gathers: Whether its bytes are mostly rows of 256 bytes and more at random places: judged by that rate as well.
        reference_cases: Cases (and `"tiny"`) judged by the reference; in the others peers are judged against ours. By default
            all. For references that would take minutes.
        tol: Relative tolerance of the gate, or one per provider; by default `TOLERANCE`. Say why when you set it.
        prepare: Provider -> `(arguments) -> arguments` in the form that the provider takes, outside the clock.
        view: Provider (or `"reference"`) -> `(result) -> outputs` in the form that ours has, for the gate only.
        check: `(provider, outputs, wanted) -> None | str`, replaces the comparison of values, e.g. for random draws. Returns
            what is wrong.
        fresh: Arguments that the op changes in place: each call gets its own copy, made outside the clock.
        missing: Peers that could not be imported -> why; printed as such.
        refuses: Provider -> `(arguments) -> str`, why it cannot do this case (a dtype that it has not), or "" where it can.
            Printed as missing.
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
    quick: tuple[str, ...] | Mapping[str, Mapping[str, Any]] | None = None
    reference_cases: tuple[str, ...] | None = None
    tol: float | Mapping[str, float] | None = None
    prepare: Mapping[str, Callable[[Args], Args]] = field(default_factory=dict)
    view: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    check: Callable[[str, list[Tensor], list[Tensor]], str | None] | None = None
    fresh: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    refuses: Mapping[str, Callable[[Args], str]] = field(default_factory=dict)
    compile: str = ""
    gathers: bool = False

    def __post_init__(self) -> None:
        if self.ours not in self.providers:
            raise ValueError(f"bench: {self.op}: providers must contain {self.ours!r}, got {sorted(self.providers)}")
        if unknown := set(self.modes or ()) - set(MODES):
            raise ValueError(f"bench: {self.op}: modes must be of {MODES}, got {sorted(unknown)}")
        if self.compile and self.compile not in self.providers:
            raise ValueError(f"bench: {self.op}: compile must be among {sorted(self.providers)}, got {self.compile!r}")

    def timed_modes(self) -> tuple[str, ...]:
        return self.modes if self.modes is not None else MODES if self.grad else ("fwd",)

    def tiny_case(self) -> tuple[str, Mapping[str, Any]]:
        if self.tiny is not None:
            return "tiny", self.tiny
        # the product of the integers is a fair guess of the work
        return min(self.cases.items(), key=lambda kv: math.prod(v for v in kv[1].values() if type(v) is int and v > 0))

    def quick_cases(self) -> Mapping[str, Mapping[str, Any]]:
        if isinstance(self.quick, Mapping):
            return self.quick
        names = self.quick if self.quick is not None else tuple(self.cases)[:1]
        return {name: self.cases[name] for name in names}


@dataclass
class Row:
    """One provider in one mode of one case: a line of the results. Times in ms, rates in GB/s and GFLOP/s.

    `gate` is `ok`, `red` (wrong result: no numbers), `error` (it raised), `missing` (not installed, or cannot do this case) or
    `skipped` (left out of a short run). `ratio` is this provider's time over ours, turn by turn (above 1: ours is faster). The
    percentages are of the rates of a copy, of a copy of random rows and of a matrix product, measured in the same run with as
    many threads.
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
    pct_rows: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """How to run. `budget` is seconds of timing for each (case, mode), at least `min_rounds` turns unless that takes six times
    as long; a call of more than `slow` seconds gets two turns; `data` is what end-to-end jobs train on; `one_thread` lets our
    op run on one thread, too, where there are more; `compiled` times torch.compile where an entry names a provider for it."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    quick: bool = False
    correctness_only: bool = False
    budget: float = 2.0
    min_rounds: int = 7
    max_rounds: int = 200
    slow: float = 2.0
    seed: int = 0
    data: str | None = None
    one_thread: bool = False
    compiled: bool = False
    shapes: Shapes | None = None


@dataclass(frozen=True)
class EndToEnd:
    """A whole job (a training epoch) instead of one op: `run(runner)` yields rows. `seconds` is a guess of what it takes, for
    the progress bar: in full, and with `--quick`."""

    name: str
    run: Callable[[Runner], Iterator[Row]]
    seconds: tuple[float, float] = (30.0, 2.0)


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
    # modules stay: the collection before each measurement need not walk them again
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # some of them complain of what is left at the end
