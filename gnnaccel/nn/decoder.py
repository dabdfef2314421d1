"""Decoders: from node embeddings to scores."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from gnnaccel.nn.linear import Linear
from gnnaccel.ops._link_loss import link_loss


class LinkDecoder(nn.Module):
    """Score of an edge from the embeddings of its ends: `w . relu(W_s h_src + W_d h_dst + b) + c` (as in TGN and TGL).

    The two projections are kept apart, so a source is projected once however many candidates it is scored against.

    Args:
        dim: Size of an embedding.
        dim_hidden: Size of the hidden layer; `dim` by default.

    Shape: `h_src [..., dim]`, `h_dst [..., dim]`, broadcast against each other, to logits `[...]`.
    """

    def __init__(self, dim: int, dim_hidden: int | None = None) -> None:
        super().__init__()
        hidden = dim if dim_hidden is None else dim_hidden
        self.src = Linear(dim, hidden)
        self.dst = Linear(dim, hidden, bias=False)
        self.out = nn.Linear(hidden, 1)

    def forward(self, h_src: Tensor, h_dst: Tensor) -> Tensor:
        return self.score(self.src(h_src), self.dst(h_dst))

    def score(self, src: Tensor, dst: Tensor) -> Tensor:
        """Logits `[...]` of ends that went through `src` and `dst` before, `[..., dim_hidden]`."""
        # a product with one column, as a sum: BLAS would split its gradient among threads
        return ((src + dst).relu() * self.out.weight[0]).sum(-1) + self.out.bias

    def loss(self, h: Tensor, events: int) -> Tensor:
        """Binary cross-entropy of `events` links against their candidates, each side averaged; a scalar.

        The same number as from the scores, in one pass from the embeddings to their gradients.

        Args:
            h: `[events * (2 + C), dim]`: sources, destinations, then C candidates of the first source, of the second and so on.
            events: Number of links.
        """
        return link_loss(
            h, self.src.weight, self.src.bias, self.dst.weight, self.out.weight[0], self.out.bias, events=events
        )


class DotDecoder(nn.Module):
    """Score of an edge as the product of its projected ends: `(W_s h_src + b) . (W_d h_dst) / sqrt(dim_hidden) + c`.

    Args:
        dim: Size of an embedding.
        dim_hidden: Size of the projections; `dim` by default.

    Shape: as `LinkDecoder`.
    """

    def __init__(self, dim: int, dim_hidden: int | None = None) -> None:
        super().__init__()
        hidden = dim if dim_hidden is None else dim_hidden
        self.src = Linear(dim, hidden)
        self.dst = Linear(dim, hidden, bias=False)
        self.bias = nn.Parameter(self.src.bias.new_zeros(1))

    def forward(self, h_src: Tensor, h_dst: Tensor) -> Tensor:
        return self.score(self.src(h_src), self.dst(h_dst))

    def score(self, src: Tensor, dst: Tensor) -> Tensor:
        """Logits `[...]` of ends that went through `src` and `dst` before, `[..., dim_hidden]`."""
        return (src * dst).sum(-1) * src.shape[-1] ** -0.5 + self.bias

    def loss(self, h: Tensor, events: int) -> Tensor:
        """As `LinkDecoder.loss`."""
        return pair_loss(self, h, events)


def pair_loss(decoder: Any, h: Tensor, events: int) -> Tensor:
    """`LinkDecoder.loss` for any decoder with `src`, `dst` and `score`."""
    src, other = decoder.src(h[:events]), decoder.dst(h[events:])
    positive = decoder.score(src, other[:events])
    negative = decoder.score(src.unsqueeze(1), other[events:].view(events, -1, other.shape[-1]))
    loss = F.softplus(-positive).mean()
    return loss + F.softplus(negative).mean() if negative.numel() else loss
