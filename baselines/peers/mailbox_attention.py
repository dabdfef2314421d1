"""What users write today (TGL's transformer updater): gather all mails of each row, project keys and values, softmax."""

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from gnnaccel.baselines.peers.temporal_attention import attend


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
) -> tuple[Tensor, Tensor]:
    """Keys and values of every slot, `[P, S, d]` each; `wk`, `wv` are `[d, F]`."""
    dt = (times.unsqueeze(1) - mail_time[nodes]).to(time_w.dtype)
    rows = torch.cat([mail[nodes], torch.cos(dt.unsqueeze(-1) * time_w + time_b)], dim=-1)
    return linear(rows, wk, bk), linear(rows, wv, bv)


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
    out = attend(q, keys, values, has_mail[nodes]).reshape(-1, D)
    return linear(layer_norm(out + rows, (D,), norm_weight, norm_bias), wo, bo).relu()


PROVIDERS = {"torch": updater}
