"""Reference for `edge_softmax_aggregate`."""

import torch
from torch import Tensor


def _philox(counter: list[int], seed: int) -> list[int]:
    low, (a, b, c, d), k = 2**32 - 1, counter, [seed & (2**32 - 1), (seed >> 32) & (2**32 - 1)]
    for _ in range(10):
        p, q = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (q >> 32) ^ b ^ k[0], q & low, (p >> 32) ^ d ^ k[1], p & low
        k = [(k[0] + 0x9E3779B9) & low, (k[1] + 0xBB67AE85) & low]
    return [a, b, c, d]


def edge_softmax_aggregate(
    x: Tensor,
    src_logit: Tensor,
    dst_logit: Tensor,
    nbr: Tensor,
    count: Tensor | None = None,
    *,
    indptr: Tensor | None = None,
    negative_slope: float = 0.2,
    dropout: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """Root after root in float64, `[R, H, D]`."""
    R, H = dst_logit.shape
    x, a, b = x.double(), src_logit.double(), dst_logit.double()
    if indptr is not None:
        begin, end = indptr[:-1].tolist(), indptr[1:].tolist()
    else:
        K = nbr.shape[1]
        begin = [r * K for r in range(R)]
        end = [r * K + (K if count is None else int(count[r])) for r in range(R)]
    ids = nbr.reshape(-1).tolist()
    results = []
    for r, (first, last) in enumerate(zip(begin, end, strict=True)):
        slots = [i for i in range(first, last) if ids[i] >= 0]
        if not slots:
            results.append(torch.zeros((H, x.shape[2]), dtype=torch.float64))
            continue
        u = [ids[i] for i in slots]
        p = torch.softmax(torch.nn.functional.leaky_relu(a[u] + b[r], negative_slope), dim=0)
        if dropout > 0:
            words = [[_philox([r & 0xFFFFFFFF, h, (i - first) // 4, r >> 32], seed) for h in range(H)] for i in slots]
            kept = [[words[j][h][(i - first) % 4] >> 8 >= int(dropout * 2**24) for h in range(H)]
                    for j, i in enumerate(slots)]  # fmt: skip
            p = p * torch.tensor(kept).double() / (1.0 - dropout)
        results.append(torch.einsum("kh,khd->hd", p, x[u]))
    return torch.stack(results) if results else torch.zeros((0, H, x.shape[2]), dtype=torch.float64)
