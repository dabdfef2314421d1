"""Reference for `temporal_attention`: one root, one head, one neighbour at a time."""

import torch
from torch import Tensor


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Ten rounds of Philox4x32 (Salmon et al., 2011) in Python integers."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 % 2**32, (p0 >> 32) ^ c3 ^ k1, p0 % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def dropout_mask(R: int, H: int, K: int, dropout: float, seed: int) -> Tensor:
    """0 or 1 / (1 - dropout) for each (root, head, slot), `[R, H, K]`."""
    mask = torch.empty(R, H, K, dtype=torch.float64)
    for r in range(R):
        for h in range(H):
            for k in range(K):
                word = philox4x32((r % 2**32, h, k // 4, r // 2**32), (seed % 2**32, seed // 2**32 % 2**32))[k % 4]
                mask[r, h, k] = 0.0 if word // 2**8 < int(dropout * 2**24) else 1.0 / (1.0 - dropout)
    return mask


def attend(u: Tensor, c: Tensor, x: list[Tensor], mask: Tensor, scale: float, activation: str) -> tuple[Tensor, Tensor]:
    """z `[F]` and s of one root and head from its neighbours' rows, each with its dropout factor."""
    if not x:
        return torch.zeros(len(u), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    logit = torch.stack([scale * (torch.dot(u.double(), xk) + c.double()) for xk in x])
    if activation == "leaky_relu":
        logit = torch.where(logit > 0, logit, 0.2 * logit)
    weight = torch.exp(logit - logit.max().detach())
    p = weight / weight.sum() * mask
    return (p.unsqueeze(1) * torch.stack(x)).sum(0), p.sum()


def temporal_attention(
    u: Tensor,
    c: Tensor,
    node_table: Tensor,
    edge_table: Tensor | None,
    nbr_row: Tensor,
    edge_row: Tensor,
    dt: Tensor,
    count: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    scale: float = 1.0,
    activation: str = "none",
    dropout: float = 0.0,
    seed: int = 0,
    deterministic: bool = True,
) -> tuple[Tensor, Tensor]:
    """z `[R, H, F]` and s `[R, H]` in float64."""
    R, H, F = u.shape
    K = nbr_row.shape[1]
    mask = dropout_mask(R, H, K, dropout, seed)
    # so that every input is part of the graph even when there is no neighbour at all
    nothing = sum(t.double().sum() * 0 for t in (u, c, node_table, edge_table, time_w, time_b) if t is not None)
    z, s = [], []
    for r in range(R):
        n = int(count[r])
        x = []
        for k in range(n):
            parts = [node_table[nbr_row[r, k]].double()]
            if edge_table is not None:
                parts.append(edge_table[edge_row[r, k]].double())
            parts.append(torch.cos(dt[r, k].double() * time_w.double() + time_b.double()))
            x.append(torch.cat(parts))
        for h in range(H):
            z_rh, s_rh = attend(u[r, h], c[r, h], x, mask[r, h, :n], scale, activation)
            z.append(z_rh)
            s.append(s_rh)
    empty = torch.zeros(0, dtype=torch.float64)
    return (torch.stack(z) if z else empty).reshape(R, H, F) + nothing, (torch.stack(s) if s else empty).reshape(
        R, H
    ) + nothing
