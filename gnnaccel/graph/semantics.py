"""What a query at time t may see."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, cast, get_args

from gnnaccel.ops.temporal_sample import MODES

Mode = Literal["strict", "inclusive", "before_batch", "by_event_id", "tgl_compat"]
HopTime = Literal["edge", "root"]


@dataclass(frozen=True)
class TimeSemantics:
    """The rule by which events (t', eid') are visible to a root at time t. Kept in checkpoints and beside metrics.

    Attributes:
        mode: `"strict"`: t' < t. `"inclusive"`: t' <= t. `"before_batch"`: (t', eid') before the first event of the batch,
            and t' <= t. `"by_event_id"`: (t', eid') before (t, the root's own event id); pairs compare lexicographically.
            `"tgl_compat"`: as TGL's sampler has it, which leaks; to compare with, see `gnnaccel.temporal_sample`.
        hop_time: Time of the roots of the next hop: `"edge"`, the time of the edge that led there (TGAT, TGN), or `"root"`, the
            time of the first root (DySAT).
        window: If given, only events with t - t' <= window.
    """

    mode: Mode = "strict"
    hop_time: HopTime = "edge"
    window: int | float | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"TimeSemantics: mode must be one of {list(MODES)}, got {self.mode!r}")
        if self.hop_time not in get_args(HopTime):
            raise ValueError(f"TimeSemantics: hop_time must be one of {list(get_args(HopTime))}, got {self.hop_time!r}")
        if self.window is None:
            return
        if isinstance(self.window, bool) or not isinstance(self.window, (int, float)):
            raise TypeError(f"TimeSemantics: window must be a number or None, got {self.window!r}")
        if math.isnan(self.window) or self.window < 0:
            raise ValueError(f"TimeSemantics: window must be >= 0, got {self.window!r}")

    @classmethod
    def of(cls, semantics: str | TimeSemantics) -> TimeSemantics:
        """`semantics` itself, or the defaults with that mode."""
        return semantics if isinstance(semantics, TimeSemantics) else cls(cast(Mode, semantics))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for checkpoints (`weights_only=True` loads it) and JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TimeSemantics:
        """Inverse of `to_dict`; an unknown key is an error."""
        known = [f.name for f in fields(cls)]
        if unknown := sorted(set(data) - set(known)):
            raise ValueError(f"TimeSemantics: keys must be of {known}, got {unknown}")
        return cls(**data)
