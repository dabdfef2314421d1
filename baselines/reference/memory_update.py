"""Reference for `memory_update`."""

import torch
from torch import Tensor


def memory_update(
    mail: Tensor,
    dt: Tensor,
    memory: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
    cell: str = "gru",
    *,
    rows: Tensor | None = None,
) -> Tensor:
    """One node at a time, in float64: `-> [U, D]`."""
    out = []
    for u in range(dt.shape[0]):
        row = u if rows is None else int(rows[u])
        h = memory[row].double()
        x = torch.cat([mail[row].double(), torch.cos(dt[u].double() * time_w.double() + time_b.double())])
        gi = w_ih.double() @ x + b_ih.double()
        gh = w_hh.double() @ h + b_hh.double()
        if cell == "rnn":
            out.append(torch.tanh(gi + gh))
            continue
        D = h.shape[0]
        r = torch.sigmoid(gi[:D] + gh[:D])
        z = torch.sigmoid(gi[D : 2 * D] + gh[D : 2 * D])
        n = torch.tanh(gi[2 * D :] + r * gh[2 * D :])
        out.append((1 - z) * n + z * h)
    # the products keep an empty result attached to the graph
    empty = (memory[:0].double() + w_hh.double().sum() * 0) + mail[:0].double().sum() * 0
    return torch.stack(out) if out else empty
