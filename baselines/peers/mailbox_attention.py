"""What users write today (TGL's transformer updater): gather all mails of each row, project keys and values, softmax."""

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, leaky_relu, linear


def project(
    mail: Tensor,
    mail_time: Tensor,
    nodes: Tensor,
    times: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    wk: Tensor,
    bk: Tensor,
    wv: Tensor,
    bv: Tensor,
    has_mail: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Keys and values of every slot, `[P, S, d]` each; `wk`, `wv` are `[d, F]`."""
    dt = (times.unsqueeze(1) - mail_time[nodes]).to(time_w.dtype)
    rows = torch.cat([mail[nodes], torch.cos(dt.unsqueeze(-1) * time_w + time_b)], dim=-1)
    return linear(rows, wk, bk), linear(rows, wv, bv)


def projected(q: Tensor, keys: Tensor, values: Tensor, live: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of q `[P, H, d]` over projected mails in the slots that are `live [P, S]`; `mask` is the dropout's."""
    (P, H, d), S = q.shape, keys.shape[1]
    logit = leaky_relu(torch.einsum("phd,pshd->phs", q, keys.view(P, S, H, d)), 0.2)
    # a finite fill, so that a row without mail has no NaN in its gradient
    p = torch.softmax(logit.masked_fill(~live.unsqueeze(1), -1e30), dim=-1) * live.unsqueeze(1)
    if mask is not None:
        p = p * mask
    return torch.einsum("phs,pshd->phd", p, values.view(P, S, H, d))


def updater(
    memory: Tensor,
    mail: Tensor,
    mail_time: Tensor,
    has_mail: Tensor,
    nodes: Tensor,
    times: Tensor,
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
    """APAN's memory update as TGL has it, `[P, D]`, without dropout; empty slots are masked here, as in ours."""
    D, rows = wq.shape[0], memory[nodes]
    q = linear(rows, wq, bq).view(-1, heads, D // heads)
    keys, values = project(mail, mail_time, nodes, times, time_w, time_b, wk, bk, wv, bv)
    out = projected(q, keys, values, has_mail[nodes]).reshape(-1, D)
    return linear(layer_norm(out + rows, (D,), norm_weight, norm_bias), wo, bo).relu()


PROVIDERS = {"torch": updater}
