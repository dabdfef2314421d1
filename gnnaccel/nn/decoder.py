"""Decoders: from node embeddings to scores."""

from __future__ import annotations

from typing import Any

import torch
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

    Attributes:
        history: Recent neighbours of the source that the decoder wants to see; 0 for a decoder that scores embeddings alone.
    """

    history: int = 0

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

    def loss(self, h: Tensor, events: int, *, count: Tensor | None = None) -> Tensor:
        """Binary cross-entropy of `events` links against their candidates, each side averaged; a scalar.

        The same number as from the scores, in one pass from the embeddings to their gradients.

        Args:
            h: `[events * (2 + C), dim]`: sources, destinations, then C candidates of the first source, of the second and so on.
            events: Number of links.
            count: How many there are, int64 `[1]` on the device, when `events` is only the room for them (see `link_loss`).
        """
        weights = (self.src.weight, self.src.bias, self.dst.weight, self.out.weight[0], self.out.bias)
        return link_loss(h, *weights, events=events, count=count)


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


class PairHistoryDecoder(LinkDecoder):
    """A `LinkDecoder` that also sees what the two ends have had with each other.

    The score is `w . relu(W_s h_src + W_d h_dst + W_p p + b) + c`. Embeddings are made for each end alone, and cannot tell a
    pair that has met from one that has not; repeated pairs are most of many streams (EdgeBank, Poursafaei et al., NeurIPS
    2022). `p` looks for the other end among the source's `history` most recent neighbours: one-hot place of the latest meeting
    (or none) and one-hot number of meetings (the co-occurrence encoding of DyGFormer, Yu et al., NeurIPS 2023, for one end).

    Args:
        dim: Size of an embedding.
        history: Recent neighbours of the source that are looked at, K.
        dim_hidden: Size of the hidden layer; `dim` by default.
    """

    def __init__(self, dim: int, history: int = 20, dim_hidden: int | None = None) -> None:
        super().__init__(dim, dim_hidden)
        if not 1 <= history <= 1024:
            raise ValueError(f"PairHistoryDecoder: history must be in [1, 1024], got {history}")
        self.history = history
        self.pair = Linear(2 * (history + 1), self.src.out_features, bias=False)

    def features(self, recent: Tensor, other: Tensor) -> Tensor:
        """One-hot features of pairs.

        Args:
            recent: Recent neighbours of the sources, newest first, -1 past the last, `[..., K]`.
            other: The other ends, `[...]`, broadcast against `recent` without its last dimension.

        Returns:
            float32 `[..., 2 (K + 1)]`.
        """
        met = recent == other.unsqueeze(-1)
        count = met.sum(-1)
        place = torch.where(count > 0, met.to(torch.uint8).argmax(-1), self.history)
        hot = torch.zeros(*place.shape, 2, self.history + 1, device=place.device)
        hot.scatter_(-1, torch.stack([place, count], -1).unsqueeze(-1), 1.0)
        return hot.flatten(-2)

    def score(self, src: Tensor, dst: Tensor, pairs: Tensor | None = None) -> Tensor:
        """Logits `[...]`; `pairs` are the features of the pairs, `[..., 2 (K + 1)]`, zero by default."""
        hidden = src + dst if pairs is None else src + dst + self.pair(pairs.to(src.dtype))
        return (hidden.relu() * self.out.weight[0]).sum(-1) + self.out.bias

    def loss(self, h: Tensor, events: int, pairs: Tensor | None = None) -> Tensor:
        """As `LinkDecoder.loss`; `pairs` are those of each source with its destination and candidates, `[events, 1 + C, .]`."""
        return pair_loss(self, h, events, pairs)


def pair_loss(decoder: Any, h: Tensor, events: int, pairs: Tensor | None = None) -> Tensor:
    """`LinkDecoder.loss` for any decoder with `src`, `dst` and `score`."""
    src, other = decoder.src(h[:events]), decoder.dst(h[events:])
    candidates = other[events:].view(events, -1, other.shape[-1])
    if pairs is None:
        positive = decoder.score(src, other[:events])
        negative = decoder.score(src.unsqueeze(1), candidates)
    else:
        positive = decoder.score(src, other[:events], pairs[:, 0])
        negative = decoder.score(src.unsqueeze(1), candidates, pairs[:, 1:])
    loss = F.softplus(-positive).mean()
    return loss + F.softplus(negative).mean() if negative.numel() else loss
