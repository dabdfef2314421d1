"""Time encodings that are formed only where somebody looks at them; attention forms them, and their gradients, in cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from gnnaccel.ops import time_encode

# answered without the values
_ABOUT = {Tensor.dim, Tensor.size, Tensor.__len__}
_ABOUT |= {getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "is_cuda", "layout")}


class EncodedTimes(Tensor):
    """`[cos(t w + b) | features]`, `[n, T + F]`, as a promise.

    Whatever is done with it goes to its values, which are then made, once, with their gradients; except that `torch.cat` with
    features makes another promise, and `TransformerConv` takes the parts. Values made after a part was changed in place would
    be other ones, so that raises a `RuntimeError`, as autograd does for tensors that it has saved.
    """

    parts: tuple[Tensor | None, Tensor, Tensor, Tensor]
    versions: list[int]
    values: Tensor | None
    with_grad: bool

    @staticmethod
    def __new__(cls, features: Tensor | None, t: Tensor, w: Tensor, b: Tensor) -> EncodedTimes:
        columns = len(w) + (0 if features is None else features.shape[1])
        self = Tensor._make_wrapper_subclass(cls, (len(t), columns), dtype=w.dtype, device=w.device)
        with torch._C.DisableTorchFunctionSubclass():
            self.parts, self.values, self.with_grad = (features, t, w, b), None, torch.is_grad_enabled()
            self.versions = _versions(self.parts)
        return self

    def unchanged_parts(self) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
        """Features, times, frequencies and phases."""
        if _versions(self.parts) != self.versions:
            raise RuntimeError(
                "TimeEncoder: times, weights or features were changed in place before their encoding was used; "
                "use it before, or clone it"
            )
        return self.parts

    def dense(self) -> Tensor:
        """The values, an ordinary tensor."""
        if self.values is None:
            features, t, w, b = self.unchanged_parts()
            with torch.set_grad_enabled(self.with_grad):
                times = time_encode(t, w, b)
                self.values = times if features is None else torch.cat([times, features], dim=1)
        return self.values

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func in _ABOUT:
                return func(*args, **kwargs)
            if func is torch.cat:
                promise = _cat(*args, **kwargs)
                if promise is not None:
                    return promise
            args, kwargs = tree_map(lambda x: x.dense() if isinstance(x, EncodedTimes) else x, (args, kwargs))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func}: got a time encoding that was not formed yet; pass encoding.clone()")


def _versions(parts: tuple[Tensor | None, ...]) -> list[int]:
    return [x._version for x in parts if x is not None]


def _cat(tensors: Any, dim: int = 0, **others: Any) -> EncodedTimes | None:
    """A time encoding with features behind it, or None for any other concatenation."""
    if dim not in (-1, 1) or others or len(tensors) != 2 or type(tensors[0]) is not EncodedTimes:
        return None
    first, features = tensors
    alone = first.parts[0] is None and first.values is None and first.with_grad == torch.is_grad_enabled()
    fits = type(features) is Tensor and features.dim() == 2 and features.dtype == first.dtype
    if not (alone and fits and len(features) == len(first.parts[1]) and features.device == first.device):
        return None
    return EncodedTimes(features, *first.unchanged_parts()[1:])


def encoded_parts(edge_attr: Tensor | None) -> tuple[Tensor | None, Tensor | None, Any, Any]:
    """Features, times, frequencies and phases such that `edge_attr` is `[cos(t w + b) | features]`; or all as features."""
    if not isinstance(edge_attr, EncodedTimes):
        return edge_attr, None, None, None
    return (edge_attr.values, None, None, None) if edge_attr.values is not None else edge_attr.unchanged_parts()
