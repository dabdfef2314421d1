"""From a table of node rows and sampled neighbours to embeddings of the roots.

An aggregator is a module `(x, batch, edge_feat, state) -> [R, dim_out]`: `x [U, dim_in]` holds a row for each of `batch.nodes`,
`edge_feat [E, dim_edge]` the features of all events or None, `state` what is known of the memory
(`models.composed.MemoryState`) or None without one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gnnaccel.graph.batch import Hop, TemporalBatch
from gnnaccel.nn.attention import TemporalAttention
from gnnaccel.nn.linear import Linear
from gnnaccel.nn.time import TimeEncoder
from gnnaccel.ops import gather_rows, temporal_attention
from gnnaccel.ops._relu_norm import relu_norm

_MASK = 2**63 - 1


def layer_seed(seed: Any, layer: int) -> Any:
    """The dropout seed of a layer of a batch, a number of 63 bits or a tensor of one; layer 0 keeps the batch's."""
    return (seed ^ (layer * 0x9E3779B97F4A7C15 & _MASK)) & _MASK


class Norm(nn.Module):
    """LayerNorm over the last dimension, whose gradients do not depend on the number of threads.

    Args:
        dim: Size D.

    Shape: `[..., D]` to the same.
    """

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), eps=self.eps) * self.weight + self.bias


def neighbor_mean(
    x: Tensor, hop: Hop, edge_feat: Tensor | None = None, time: TimeEncoder | None = None
) -> tuple[Tensor, Tensor]:
    """Mean of `[x | edge feature | phi(dt)]` over each root's neighbours, without forming these rows.

    Returns:
        `[P, F]`, 0 for a root without neighbours, and how much weight each root's neighbours have, `[P]`: 1, or 0 without any.
    """
    block = hop.block
    none = x.new_zeros(0)
    w, b = (none, none) if time is None else (time.w, time.b)
    size = x.shape[1] + (0 if edge_feat is None else edge_feat.shape[1]) + len(w)
    # attention whose logits are all 0
    u, c = x.new_zeros(len(block.count), 1, size), x.new_zeros(len(block.count), 1)
    z, s = temporal_attention(u, c, x, edge_feat, hop.nbr_row, block.eid, block.dt, block.count, w, b)
    return z[:, 0], s[:, 0]


class AttentionAggregator(nn.Module):
    """Layers of temporal attention, one a hop (TGAT, TGN); with snapshots one stack each, and an RNN over them (DySAT).

    The RNN is `h_j = tanh(W x_j + U h_{j-1} + b)`, oldest snapshot first; the last state is the embedding (as in TGL).

    Args:
        dim_in: Size of a row of `x`.
        dim_edge: Size of an edge feature.
        dim: Size of the result.
        dim_time: Size of a time encoding, 0 for none.
        hops: Layers.
        snapshots: Snapshots of the batch.
        heads, dropout: As `TemporalAttention`.
    """

    def __init__(
        self,
        dim_in: int,
        dim_edge: int,
        dim: int,
        *,
        dim_time: int = 100,
        hops: int = 1,
        snapshots: int = 1,
        heads: int = 2,
        dropout: float = 0.1,
        **_: Any,
    ) -> None:
        super().__init__()
        if hops < 1:
            raise ValueError(f"AttentionAggregator: hops must be at least 1, got {hops}: give the sampler neighbors")
        self.dim_in, self.dim_out, self.hops, self.snapshots = dim_in, dim, hops, snapshots
        self.layers = nn.ModuleList(
            TemporalAttention(d, d, dim_edge, dim_time, dim, heads=heads, dropout=dropout)
            for _ in range(snapshots)
            for d in (dim_in, *[dim] * (hops - 1))
        )
        self.input = Linear(dim, dim) if snapshots > 1 else None
        self.state = Linear(dim, dim, bias=False) if snapshots > 1 else None

    def forward(self, x: Tensor, batch: TemporalBatch, edge_feat: Tensor | None, state: Any = None) -> Tensor:
        found = []
        for j, chain in enumerate(batch.chains):
            h = x
            for k, hop in enumerate(chain):
                at, block = j * self.hops + k, hop.block
                seed = layer_seed(batch.seed, at)
                h = self.layers[at](
                    h, h, edge_feat, hop.nbr_row, block.eid, block.dt, block.count, seed=seed, root_row=hop.root_row
                )
            found.append(h)
        if self.input is None or self.state is None:
            return found[-1]
        h = self.input(found[0]).tanh()
        for x in found[1:]:
            h = (self.input(x) + self.state(h)).tanh()
        return h


class IdentityAggregator(nn.Module):
    """The root's own row, normalised: no neighbours (JODIE, APAN).

    With `time_projection="jodie"` the row drifts with the time since its memory was updated (Kumar et al., KDD 2019):
    `h * (1 + age * w + b)`. Here age = (t - last update) / (t - start of the stream + 1), in [0, 1], so that neither the
    unit nor the origin of time matters (TGL divides by t + 1).

    Args:
        dim_in: Size of a row of `x`.
        dim: Size of the result; other than `dim_in` puts a linear layer before the norm.
        time_projection: "none" or "jodie".
    """

    def __init__(
        self, dim_in: int, dim_edge: int = 0, dim: int | None = None, *, time_projection: str = "none", **_: Any
    ) -> None:
        super().__init__()
        self.dim_in, self.dim_out = dim_in, dim_in if dim is None else dim
        if time_projection not in ("none", "jodie"):
            raise ValueError(f"IdentityAggregator: time_projection must be 'none' or 'jodie', got {time_projection!r}")
        self.map = None if self.dim_out == dim_in else Linear(dim_in, self.dim_out)
        self.norm = Norm(self.dim_out)
        self.drift = None
        if time_projection == "jodie":
            self.drift = nn.Parameter(torch.empty(2, self.dim_out).normal_())

    def forward(self, x: Tensor, batch: TemporalBatch, edge_feat: Tensor | None, state: Any = None) -> Tensor:
        h = x if self.map is None else self.map(x)
        h = gather_rows(self.norm(h), batch.root_row)
        if self.drift is None:
            return h
        if state is None:
            raise ValueError(
                "IdentityAggregator: time_projection must be 'none' for a model without memory, got 'jodie'"
            )
        since = (batch.times - state.last_update[batch.root_row]).to(torch.float64)
        whole = (batch.times - state.start_time).to(torch.float64) + 1
        age = (since / whole).to(h.dtype).unsqueeze(1)
        return h * (1 + (age * self.drift[0] + self.drift[1]))


class MeanAggregator(nn.Module):
    """Mean of the neighbours and the root's own row, a layer a hop (GraphSAGE, Hamilton et al., 2017, in time):
    `LayerNorm(ReLU(dropout(W_s x_root + W_n mean[x | edge | phi(dt)] + b)))`.

    Args: as `AttentionAggregator`.
    """

    def __init__(
        self,
        dim_in: int,
        dim_edge: int,
        dim: int,
        *,
        dim_time: int = 100,
        hops: int = 1,
        dropout: float = 0.1,
        **_: Any,
    ) -> None:
        super().__init__()
        if hops < 1:
            raise ValueError(f"MeanAggregator: hops must be at least 1, got {hops}: give the sampler neighbors")
        self.dim_in, self.dim_out, self.rate = dim_in, dim, dropout
        sizes = (dim_in, *[dim] * (hops - 1))
        self.times = nn.ModuleList(TimeEncoder(dim_time) for _ in sizes)
        self.own = nn.ModuleList(Linear(d, dim) for d in sizes)
        self.neighbors = nn.ModuleList(Linear(d + dim_edge + dim_time, dim, bias=False) for d in sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in sizes)

    def forward(self, x: Tensor, batch: TemporalBatch, edge_feat: Tensor | None, state: Any = None) -> Tensor:
        h = x
        for k, (hop, time, own, other, norm) in enumerate(
            zip(batch.hops, self.times, self.own, self.neighbors, self.norms, strict=True)
        ):
            mean, _ = neighbor_mean(h, hop, edge_feat, time)  # type: ignore[arg-type]
            h = gather_rows(own(h), hop.root_row) + other(mean)
            rate, seed = self.rate if self.training else 0.0, layer_seed(batch.seed, k)
            h = relu_norm(h, norm.weight, norm.bias, dropout=rate, seed=seed, eps=norm.eps)  # type: ignore[arg-type]
        return h


class MixerAggregator(nn.Module):
    """GraphMixer (Cong et al., ICLR 2023): an MLP-Mixer over a root's recent links beside the mean of its neighbours' rows.

    Link encoder: tokens `W [phi(dt_k) | edge_k]` of the K recent events, newest first, zeros past the last; then
    `T = T + mlp_K(norm(T))` across tokens, `T = T + mlp_C(norm(T))` across channels, and the mean of `norm(T)` over all K. The
    frequencies of phi are fixed. Node encoder: `x_root + mean_k x_k`. Result: `W_o [links | node] + b`.

    Args:
        dim_in: Size of a row of `x`.
        dim_edge: Size of an edge feature.
        dim: Size of the result and of a token.
        fanout: Tokens K.
        dim_time: Size of the time encoding.
    """

    def __init__(
        self,
        dim_in: int,
        dim_edge: int,
        dim: int,
        *,
        fanout: int,
        dim_time: int = 100,
        hops: int = 1,
        **_: Any,
    ) -> None:
        super().__init__()
        if hops != 1:
            raise ValueError(f"MixerAggregator: hops must be 1, got {hops}")
        self.dim_in, self.dim_out, self.fanout = dim_in, dim, fanout
        self.time = TimeEncoder(dim_time, learnable=False)
        self.token = Linear(dim_time + dim_edge, dim)
        hidden = max(fanout // 2, 1)
        self.token_norm, self.channel_norm, self.norm = Norm(dim), Norm(dim), Norm(dim)
        self.across_tokens = nn.Sequential(Linear(fanout, hidden), nn.GELU(), Linear(hidden, fanout))
        self.across_channels = nn.Sequential(Linear(dim, 4 * dim), nn.GELU(), Linear(4 * dim, dim))
        self.output = Linear(dim + dim_in, dim)

    def forward(self, x: Tensor, batch: TemporalBatch, edge_feat: Tensor | None, state: Any = None) -> Tensor:
        hop, block = batch.hops[-1], batch.block
        live = (torch.arange(self.fanout, device=x.device) < block.count.unsqueeze(1)).unsqueeze(2)
        parts = [self.time(block.dt).to(x.dtype)]
        if edge_feat is not None:
            feat = gather_rows(edge_feat, block.eid.clamp(min=0).reshape(-1), dtype=x.dtype)
            parts.append(feat.view(*block.eid.shape, -1))
        t = self.token(torch.cat(parts, dim=2)) * live
        t = t + self.across_tokens(self.token_norm(t).transpose(1, 2).contiguous()).transpose(1, 2)
        t = t + self.across_channels(self.channel_norm(t))
        links = self.norm(t).mean(1)
        if not self.dim_in:
            return self.output(links)
        own = gather_rows(x, hop.root_row)
        return self.output(torch.cat([links, own + neighbor_mean(x, hop)[0]], dim=1))
