"""Time encoding as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gnnaccel.ops import time_encode


class TimeEncoder(nn.Module):
    """Learnable functional time encoding `cos(dt * w + b)` (Xu et al., TGAT, ICLR 2020; initialised as in TGL).

    Frequencies start at `w_i = 10 ** (-9 i / (dim - 1))`, so periods span 2 pi to 2 pi 1e9 units of time; phases at 0.

    Args:
        dim: Number of frequencies.
        learnable: Whether `w` and `b` are parameters (TGN, TGAT) or constants (GraphMixer).

    Shape: `dt [...]` (int64, float64 or float32) to `[..., dim]` in the dtype of the parameters.
    """

    def __init__(self, dim: int, learnable: bool = True) -> None:
        super().__init__()
        if dim < 0:
            raise ValueError(f"TimeEncoder: dim must not be negative, got {dim}")
        self.dim = dim
        w = (10.0 ** -torch.linspace(0, 9, dim, dtype=torch.float64)).to(torch.get_default_dtype())
        self.w = nn.Parameter(w, requires_grad=learnable)
        self.b = nn.Parameter(torch.zeros(dim), requires_grad=learnable)

    def forward(self, dt: Tensor) -> Tensor:
        return time_encode(dt, self.w, self.b)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
