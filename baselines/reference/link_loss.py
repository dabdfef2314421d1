"""Reference for `link_loss`: one pair at a time in float64."""

import torch
from torch import Tensor


def link_loss(
    h: Tensor, w_src: Tensor, b_src: Tensor, w_dst: Tensor, w_out: Tensor, b_out: Tensor, *, events: int
) -> Tensor:
    """Mean of log(1 + exp(-score)) over links plus mean of log(1 + exp(score)) over candidates."""
    h, w_src, b_src, w_dst, w_out, b_out = (t.double() for t in (h, w_src, b_src, w_dst, w_out, b_out))
    candidates = h.shape[0] // events - 2

    def score(a: Tensor, b: Tensor) -> Tensor:
        hidden = w_src @ a + b_src + w_dst @ b
        return w_out @ torch.where(hidden > 0, hidden, torch.zeros_like(hidden)) + b_out[0]

    loss = torch.zeros((), dtype=torch.float64)
    for i in range(events):
        loss = loss + torch.logaddexp(-score(h[i], h[events + i]), torch.zeros(())) / events
        for c in range(candidates):
            other = h[2 * events + i * candidates + c]
            loss = loss + torch.logaddexp(score(h[i], other), torch.zeros(())) / (events * candidates)
    return loss
