"""Reference for `dropout`: one element at a time."""

import torch
from torch import Tensor

from gnnaccel.baselines.reference.relu_norm import philox4x32


def dropout(x: Tensor, rate: float, seed: int) -> Tensor:
    """x times 0 or 1 / (1 - rate), in float64."""
    R, D = x.shape
    mask = torch.empty(R, D, dtype=torch.float64)
    for r in range(R):
        for j in range(D):
            counter = (r % 2**32, j // 4, r // 2**32, 0x64726F70)
            word = philox4x32(counter, (seed % 2**32, seed // 2**32 % 2**32))[j % 4]
            mask[r, j] = 0.0 if word // 2**8 < int(rate * 2**24) else 1.0 / (1.0 - rate)
    return x.double() * mask
