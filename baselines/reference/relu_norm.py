"""Reference for `relu_norm`: dropout one column at a time, then ReLU and normalisation in float64."""

import torch
from torch import Tensor


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Ten rounds of Philox4x32 (Salmon et al., SC 2011) in Python integers."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 % 2**32, (p0 >> 32) ^ c3 ^ k1, p0 % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def dropout_mask(R: int, D: int, dropout: float, seed: int) -> Tensor:
    """0 or 1 / (1 - dropout) for each (row, column), `[R, D]`."""
    mask = torch.empty(R, D, dtype=torch.float64)
    key = (seed % 2**32, seed // 2**32 % 2**32)
    for r in range(R):
        for j in range(D):
            if j % 4 == 0:
                words = philox4x32((r % 2**32, j // 4, r // 2**32, 0xEE6F726D), key)
            mask[r, j] = 0.0 if words[j % 4] // 2**8 < int(dropout * 2**24) else 1.0 / (1.0 - dropout)
    return mask


def relu_norm(
    x: Tensor, weight: Tensor, bias: Tensor, *, dropout: float = 0.0, seed: int = 0, eps: float = 1e-5
) -> Tensor:
    """LayerNorm(ReLU(dropout(x))) * weight + bias in float64."""
    R, D = x.shape
    h = x.double()
    if dropout > 0:
        h = h * dropout_mask(R, D, dropout, seed)
    h = torch.where(h > 0, h, torch.zeros_like(h))
    mean = h.sum(dim=1, keepdim=True) / max(D, 1)
    variance = ((h - mean) ** 2).sum(dim=1, keepdim=True) / max(D, 1)
    return (h - mean) / torch.sqrt(variance + eps) * weight.double() + bias.double()
