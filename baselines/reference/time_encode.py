"""Reference for `time_encode`."""

import torch
from torch import Tensor


def time_encode(dt: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """cos(dt * w + b) in float64, `[...] -> [..., T]`."""
    return torch.cos(dt.double()[..., None] * w.double() + b.double())
