"""Benchmark entries as data, and the registry that the runner reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One op to measure.

    Attributes:
        op: Name of the op.
        cases: Case name -> parameters (shapes, dtypes), named after real graphs where possible.
        make: `(params, device, seed) -> dict` of call arguments.
        providers: Name -> callable of those arguments; `"gnnaccel"` is ours, the others are peers.
        reference: The float64 oracle, for the correctness gate.
        grad: Arguments that get gradients; empty for ops without.
        bytes: `(arguments) -> int`, bytes that must be moved (forward).
        flops: `(arguments) -> int`, operations that must be done (forward).
    """

    op: str
    cases: Mapping[str, Mapping[str, Any]]
    make: Callable[..., dict[str, Any]]
    providers: Mapping[str, Callable[..., Any]]
    reference: Callable[..., Any] | None = None
    grad: tuple[str, ...] = ()
    bytes: Callable[[dict[str, Any]], int] | None = None
    flops: Callable[[dict[str, Any]], int] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


REGISTRY: dict[str, Entry] = {}


def register(entry: Entry) -> Entry:
    if entry.op in REGISTRY:
        raise ValueError(f"bench: op {entry.op!r} is registered twice")
    REGISTRY[entry.op] = entry
    return entry
