"""What users write today: gather every neighbour, concatenate, project keys and values, softmax, weighted sum."""

from typing import Any

import torch
from torch import Tensor


def project(
    node_table: Tensor,
    edge_table: Tensor | None,
    nbr_row: Tensor,
    edge_row: Tensor,
    dt: Tensor,
    count: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    wk: Tensor,
    bk: Tensor,
    wv: Tensor,
    bv: Tensor,
) -> tuple[Tensor, Tensor]:
    """Keys and values of every neighbour, `[R, K, d]` each; `wk`, `wv` are `[d, F]`."""
    x = [node_table[nbr_row.clamp(min=0)]]
    if edge_table is not None:
        x.append(edge_table[edge_row.clamp(min=0)])
    x.append(torch.cos(dt.to(time_w.dtype).unsqueeze(-1) * time_w + time_b))
    rows = torch.cat(x, dim=-1)
    return torch.nn.functional.linear(rows, wk, bk), torch.nn.functional.linear(rows, wv, bv)


def attend(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    live: Tensor,
    scale: float = 1.0,
    activation: str = "leaky_relu",
    mask: Tensor | None = None,
) -> Tensor:
    """Attention of q `[R, H, d]` over keys and values in the slots that are `live [R, K]`; where none is it gives 0.

    `mask` is the dropout's.
    """
    (R, H, d), K = q.shape, keys.shape[1]
    logit = scale * torch.einsum("rhd,rkhd->rhk", q, keys.view(R, K, H, d))
    if activation == "leaky_relu":
        logit = torch.nn.functional.leaky_relu(logit, 0.2)
    # a finite fill, so that a row without live slots has no NaN in its gradient
    p = torch.softmax(logit.masked_fill(~live.unsqueeze(1), -1e30), dim=-1) * live.unsqueeze(1)
    if mask is not None:
        p = p * mask
    return torch.einsum("rhk,rkhd->rhd", p, values.view(R, K, H, d))


def projected(q: Tensor, keys: Tensor, values: Tensor, count: Tensor, **options: Any) -> Tensor:
    """`attend` over the first `count` neighbours."""
    return attend(q, keys, values, torch.arange(keys.shape[1], device=q.device) < count.unsqueeze(1), **options)


def layer(
    h_root: Tensor,
    node_table: Tensor,
    edge_table: Tensor | None,
    nbr_row: Tensor,
    edge_row: Tensor,
    dt: Tensor,
    count: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    wq: Tensor,
    bq: Tensor,
    wk: Tensor,
    bk: Tensor,
    wv: Tensor,
    bv: Tensor,
    wo: Tensor,
    bo: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    heads: int = 2,
) -> Tensor:
    """TGL's temporal attention layer, `[R, Dq] -> [R, d]`, without dropout."""
    R, d = h_root.shape[0], wq.shape[0]
    now = torch.cos(time_b).expand(R, -1)
    q = torch.nn.functional.linear(torch.cat([h_root, now], dim=-1), wq, bq).view(R, heads, d // heads)
    keys, values = project(
        node_table, edge_table, nbr_row, edge_row, dt, count, time_w, time_b, wk=wk, bk=bk, wv=wv, bv=bv
    )
    out = projected(q, keys, values, count).reshape(R, d)
    out = torch.nn.functional.linear(torch.cat([out, h_root], dim=-1), wo, bo).relu()
    return torch.nn.functional.layer_norm(out, (d,), norm_weight, norm_bias)


PROVIDERS = {"torch": layer}
