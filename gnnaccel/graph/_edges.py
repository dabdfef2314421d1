"""What edges may be: checks that builders and readers of `Graph` share. Errors begin with `owner`, who asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnnaccel.graph.temporal import _tensor

__all__ = ["MOST_RELATIONS", "check_range", "check_rows", "ids", "names", "narrow", "relations", "weights", "writable"]

MOST_RELATIONS = 2**15 - 1


def writable(x: Any) -> Any:
    """A copy of an array that is read-only, which torch would take with a warning; anything else as it is."""
    return x.copy() if isinstance(x, np.ndarray) and not x.flags.writeable else x


def ids(owner: str, name: str, x: Any, keep: bool = False) -> Tensor:
    """Integers `[n]`, contiguous; int64, or int32 where they may `keep` it."""
    x = _tensor(owner, name, writable(x))
    if x.dtype.is_floating_point and x.numel():
        raise TypeError(f"{owner}: {name} must be integers, got {x.dtype}")
    return x.to(torch.int32 if keep and x.dtype == torch.int32 else torch.int64).contiguous()


def check_rows(owner: str, indptr: Tensor, entries: int) -> None:
    if len(indptr) < 1 or int(indptr[0]) != 0:
        raise ValueError(f"{owner}: indptr must begin with 0, got {indptr[:1].tolist()}")
    if bool((falls := indptr[1:] < indptr[:-1]).any()):
        i = int(falls.nonzero()[0])
        given = f"{int(indptr[i + 1])} after {int(indptr[i])}"
        raise ValueError(f"{owner}: indptr must never fall, got {given} at position {i + 1}")
    if int(indptr[-1]) != entries:
        raise ValueError(f"{owner}: indptr must end with the number of edges ({entries}), got {int(indptr[-1])}")


def check_range(owner: str, name: str, x: Tensor, limit: int) -> None:
    if len(x) == 0:
        return
    least, most = (int(v) for v in torch.aminmax(x))
    if least < 0 or most >= limit:
        i = int(((x < 0) | (x >= limit)).nonzero()[0])
        raise ValueError(f"{owner}: {name} must be in [0, {limit}), got {int(x[i])} at position {i}")


def narrow(owner: str, relation: Tensor, num_relations: int) -> Tensor:
    if num_relations > MOST_RELATIONS:
        raise ValueError(f"{owner}: there must be at most {MOST_RELATIONS} relations, got {num_relations}")
    return relation.to(torch.int16)


def relations(owner: str, relation: Any, num_relations: int | None, edges: int) -> tuple[Tensor | None, int]:
    if relation is None:
        if num_relations not in (None, 1):
            raise ValueError(f"{owner}: relation must be given for {num_relations} relations, got None")
        return None, 1
    x = _tensor(owner, "relation", writable(relation))
    if x.dtype.is_floating_point and x.numel():
        raise TypeError(f"{owner}: relation must be integers, got {x.dtype}")
    if len(x) != edges:
        raise ValueError(f"{owner}: relation must be [{edges}] like the edges, got [{len(x)}]")
    most = max(int(x.max()), 0) if edges else 0
    R = most + 1 if num_relations is None else num_relations
    if R < 1:
        raise ValueError(f"{owner}: num_relations must be at least 1, got {R}")
    check_range(owner, "relation", x, R)
    return narrow(owner, x, R).contiguous(), R


def weights(owner: str, weight: Any, edges: int) -> Tensor | None:
    if weight is None:
        return None
    x = _tensor(owner, "weight", writable(weight)).detach().to(torch.float32).contiguous()
    if len(x) != edges:
        raise ValueError(f"{owner}: weight must be [{edges}] like the edges, got [{len(x)}]")
    # one pass: a NaN makes both ends NaN
    if edges and not all(0 <= float(v) < float("inf") for v in torch.aminmax(x)):
        i = int((~((x >= 0) & (x < float("inf")))).nonzero()[0])
        raise ValueError(f"{owner}: weight must be finite and at least 0, got {float(x[i])} at position {i}")
    return x


def names(values: Iterable[Any]) -> np.ndarray:
    """Original ids as an array that needs no pickle: int64 where all are integers, else text."""
    values = list(values)
    if all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in values):
        return np.array(values, dtype=np.int64)
    return np.array([str(v) for v in values], dtype=str)
