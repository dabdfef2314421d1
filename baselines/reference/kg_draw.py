"""Oracle of `kg_draw`: Philox4x64-10 (Salmon et al., SC 2011) in Python's integers."""

from __future__ import annotations

import torch
from torch import Tensor

_WORD = 2**64


def philox4x64(counter: list[int], key: list[int]) -> list[int]:
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (p1 // _WORD) ^ c1 ^ k0, p1 % _WORD, (p0 // _WORD) ^ c3 ^ k1, p0 % _WORD
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) % _WORD, (k1 + 0xBB67AE8584CAA73B) % _WORD
    return [c0, c1, c2, c3]


def kg_draw(at: Tensor, n: int, bound: int, *, seed: int, stream: int, part: int = 0) -> Tensor:
    epoch, batch = at.tolist()
    out: list[int] = []
    for block in range(-(-n // 4)):
        words = philox4x64([block + 1, part, batch, epoch], [seed % _WORD, stream])
        out += [word * bound // _WORD for word in words]
    return torch.tensor(out[:n], dtype=torch.int64)
