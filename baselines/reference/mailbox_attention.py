"""Reference for `mailbox_attention`: one row, one head, one mail at a time."""

import torch
from torch import Tensor

from gnnaccel.baselines.reference.temporal_attention import attend, dropout_mask


def mailbox_attention(
    u: Tensor,
    c: Tensor,
    mail: Tensor,
    mail_time: Tensor,
    has_mail: Tensor,
    nodes: Tensor,
    times: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    scale: float = 1.0,
    activation: str = "none",
    dropout: float = 0.0,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """z `[P, H, F]` and s `[P, H]` in float64."""
    if mail.dim() == 2:
        mail, mail_time, has_mail = mail.unsqueeze(1), mail_time.unsqueeze(1), has_mail.unsqueeze(1)
    P, H, F = u.shape
    S = mail.shape[1]
    mask = dropout_mask(P, H, S, dropout, seed)
    # so that every input is part of the graph even when there is no mail at all
    nothing = sum(t.double().sum() * 0 for t in (u, c, time_w, time_b))
    z = torch.zeros(P, H, F, dtype=torch.float64) + nothing
    s = torch.zeros(P, H, dtype=torch.float64) + nothing
    for p, node in enumerate(nodes.tolist()):
        filled = [slot for slot in range(S) if has_mail[node, slot]]
        x = []
        for slot in filled:
            dt = (times[p] - mail_time[node, slot]).double()
            x.append(torch.cat([mail[node, slot].double(), torch.cos(dt * time_w.double() + time_b.double())]))
        for h in range(H):
            z[p, h], s[p, h] = attend(u[p, h], c[p, h], x, mask[p, h, filled], scale, activation)
    return z, s
