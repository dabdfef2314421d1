"""`TemporalData` without torch_geometric."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnnaccel.pyg._promises import EventRows, event_rows


class TemporalData:
    """A stream of events, as `torch_geometric.data.TemporalData`: attributes that are tensors with one row an event.

    Args:
        src: Sources, int64 `[E]`.
        dst: Destinations, int64 `[E]`.
        t: Times, `[E]`.
        msg: Messages, `[E, F]`.
        **kwargs: Anything else, as `y`.

    `data[2:5]`, `data[indices]` and `data[mask]` are the events chosen, as views where they can be; `data["src"]` is an
    attribute. `torch_geometric.data.TemporalData` works in its place wherever this package takes one.
    """

    src: Tensor
    dst: Tensor
    t: Tensor

    def __init__(
        self,
        src: Tensor | None = None,
        dst: Tensor | None = None,
        t: Tensor | None = None,
        msg: Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        for key, value in {"src": src, "dst": dst, "t": t, "msg": msg, **kwargs}.items():
            if value is not None:
                setattr(self, key, value)

    @property
    def msg(self) -> Tensor:
        """Messages; `msg[ids]` are read where they lie once something needs them (see `docs/pyg.md`)."""
        if "msg" not in self.__dict__:
            raise AttributeError("TemporalData has no msg")
        return event_rows(self.__dict__["msg"])

    @msg.setter
    def msg(self, value: Tensor) -> None:
        self.__dict__["msg"] = value.as_subclass(Tensor) if type(value) is EventRows else value

    @msg.deleter
    def msg(self) -> None:
        del self.__dict__["msg"]

    @classmethod
    def from_dict(cls, mapping: dict[str, Any]) -> TemporalData:
        return cls(**mapping)

    def to_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def keys(self) -> list[str]:
        return list(self.__dict__)

    def __contains__(self, key: str) -> bool:
        return key in self.__dict__

    @property
    def num_nodes(self) -> int:
        """The largest id + 1."""
        return max(int(self.src.max()), int(self.dst.max())) + 1

    @property
    def num_events(self) -> int:
        return self.src.size(0)

    num_edges = num_events

    @property
    def edge_index(self) -> Tensor:
        """Sources and destinations, `[2, E]`."""
        return torch.stack([self.src, self.dst])

    def size(self, dim: int | None = None) -> Any:
        """Largest source and largest destination, as torch_geometric has it."""
        size = (int(self.src.max()), int(self.dst.max()))
        return size if dim is None else size[dim]

    def __len__(self) -> int:
        return self.num_events

    def __iter__(self) -> Iterator[TemporalData]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return self.__dict__[index]
        return self.index_select(index)

    def __setitem__(self, key: str, value: Any) -> None:
        self.__dict__[key] = value

    def index_select(self, index: Any) -> TemporalData:
        """Events chosen by an int, slice, list, int64 indices or bool mask."""
        if isinstance(index, int):
            index = slice(index, index + 1)
        elif isinstance(index, (list, tuple)):
            index = torch.tensor(index)
        elif not isinstance(index, (slice, Tensor)):
            raise IndexError(f"TemporalData: index must be an int, slice, list or tensor, got {type(index).__name__}")
        elif isinstance(index, Tensor) and index.dtype not in (torch.int64, torch.bool):
            raise IndexError(f"TemporalData: index must be int64 or bool, got {index.dtype}")
        events = self.num_events
        return self._map(lambda x: x[index] if x.dim() and x.size(0) == events else x)

    def _map(self, fn: Callable[[Tensor], Tensor]) -> TemporalData:
        out = type(self).__new__(type(self))
        out.__dict__ = {k: fn(v) if isinstance(v, Tensor) else v for k, v in self.__dict__.items()}
        return out

    def to(self, device: Any, *args: Any, **kwargs: Any) -> TemporalData:
        """On another device, in place as torch_geometric does it; returns itself."""
        self.__dict__ = self._map(lambda x: x.to(device, *args, **kwargs)).__dict__
        return self

    def cpu(self) -> TemporalData:
        return self.to("cpu")

    def cuda(self, device: Any = None, non_blocking: bool = False) -> TemporalData:
        return self.to("cuda" if device is None else device, non_blocking=non_blocking)

    def pin_memory(self) -> TemporalData:
        self.__dict__ = self._map(lambda x: x.pin_memory()).__dict__
        return self

    def clone(self) -> TemporalData:
        return self._map(lambda x: x.clone())

    def train_val_test_split(
        self, val_ratio: float = 0.15, test_ratio: float = 0.15
    ) -> tuple[TemporalData, TemporalData, TemporalData]:
        """Parts before, between and after the quantiles of time; events of one time stay together."""
        ends = np.quantile(self.t.cpu().numpy(), [1.0 - val_ratio - test_ratio, 1.0 - test_ratio])
        val, test = (int((self.t <= end).sum()) for end in ends)
        return self[:val], self[val:test], self[test:]

    def __repr__(self) -> str:
        shapes = (f"{k}={list(v.shape) if isinstance(v, Tensor) else v}" for k, v in self.__dict__.items())
        return f"TemporalData({', '.join(shapes)})"
