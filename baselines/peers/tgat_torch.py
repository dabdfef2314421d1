"""TGAT as users write it in PyTorch: every neighbour of every neighbour in a tensor of its own, layer by layer.

The recursion, the form of the layer and the uniform draws (with replacement, in order of time) are those of TGAT's published
code and of TGL's; its Python loop over roots is replaced by one `torch.searchsorted`, which is much faster.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gnnaccel.baselines.peers.link_loss import eager as link_loss
from gnnaccel.baselines.peers.temporal_attention import layer
from gnnaccel.baselines.peers.temporal_sample import TorchSearch


class UniformSearch(TorchSearch):
    """`fanout` draws from all past events of each root, newest first."""

    def sample(self, nodes: Tensor, times: Tensor, fanout: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        end = torch.searchsorted(self.key, nodes * self.span + (times - self.first))
        past = (end - self.start[nodes])[:, None]
        drawn = (torch.rand(len(nodes), fanout, device=nodes.device) * past).long()
        at = end[:, None] - 1 - drawn.sort(1).values
        valid = past.expand(-1, fanout) > 0
        at = at.clamp(min=0)
        nbr, eid = torch.where(valid, self.nbr[at], -1), torch.where(valid, self.eid[at], -1)
        return nbr, eid, torch.where(valid, times[:, None] - self.t[at], 0), valid.sum(1)


class TorchTGAT(nn.Module):
    """Model, sampler and optimiser of one run; `train_step` is one batch.

    Args:
        src, dst, t: Events in order of time, int64 `[E]`.
        edge_feat: `[E, F]`.
        dim: Width of a layer's result and of its time encoding.
        uniform: Draw neighbours uniformly; otherwise take the newest.
    """

    def __init__(
        self,
        src: Tensor,
        dst: Tensor,
        t: Tensor,
        edge_feat: Tensor,
        *,
        num_nodes: int,
        dim: int = 100,
        neighbors: int = 10,
        heads: int = 2,
        lr: float = 1e-4,
        uniform: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.src, self.dst, self.t, self.edge_feat, self.heads, self.fanout = src, dst, t, edge_feat, heads, neighbors
        self.search = (UniformSearch if uniform else TorchSearch)(src, dst, t, num_nodes)
        F = edge_feat.shape[1]
        # no node features: the first layer sees events alone
        self.layers = nn.ModuleList(_Layer(width, F, dim) for width in (0, dim))
        self.decoder = nn.ModuleDict(
            {"src": nn.Linear(dim, dim), "dst": nn.Linear(dim, dim, bias=False), "out": nn.Linear(dim, 1)}
        )
        self.to(edge_feat.device)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr, fused=True)

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Weights of gnnaccel's TGAT, by their names there."""
        own = {(name if name.startswith("decoder") else f"aggregator.{name}"): p for name, p in self.named_parameters()}
        if set(own) != set(state):
            raise ValueError(f"TorchTGAT.load: names must be {sorted(own)}, got {sorted(state)}")
        for name, p in own.items():
            p.copy_(state[name])

    def embed(self, roots: Tensor, times: Tensor) -> Tensor:
        """`[R, dim]`."""
        R, K = len(roots), self.fanout
        nbr, eid, dt, count = self.search.sample(roots, times, K)
        nodes = torch.cat([roots, nbr.clamp(min=0).flatten()])
        when = torch.cat([times, self.t[eid.clamp(min=0)].flatten()])
        nbr2, eid2, dt2, count2 = self.search.sample(nodes, when, K)
        none = self.edge_feat.new_empty(len(nodes), 0)
        # rows of nodes without features: any row will do
        h = self.layers[0](none, none, self.edge_feat, nbr2.clamp(max=len(nodes) - 1), eid2, dt2, count2, self.heads)
        row = torch.arange(R * K, device=roots.device).view(R, K)
        return self.layers[1](h[:R], h[R:], self.edge_feat, row, eid, dt, count, self.heads)

    def loss(self, lo: int, hi: int, negatives: Tensor) -> Tensor:
        roots = torch.cat([self.src[lo:hi], self.dst[lo:hi], negatives.reshape(-1)])
        h, d = self.embed(roots, self.t[lo:hi].repeat(3)), self.decoder
        weights = (d["src"].weight, d["src"].bias, d["dst"].weight, d["out"].weight[0], d["out"].bias)
        return link_loss(h, *weights, events=hi - lo)

    def train_step(self, lo: int, hi: int, negatives: Tensor) -> float:
        """One step on events [lo, hi) with one negative destination each; returns the loss."""
        self.optimizer.zero_grad()
        loss = self.loss(lo, hi, negatives)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


class _Time(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.w = nn.Parameter(1.0 / 10 ** torch.linspace(0, 9, dim))
        self.b = nn.Parameter(torch.zeros(dim))


class _Layer(nn.Module):
    """TGL's layer, see `peers.temporal_attention.layer`."""

    def __init__(self, dim_in: int, dim_edge: int, dim: int) -> None:
        super().__init__()
        self.time = _Time(dim)
        self.query = nn.Linear(dim_in + dim, dim)
        self.key, self.value = (nn.Linear(dim_in + dim_edge + dim, dim) for _ in range(2))
        self.output = nn.Linear(dim + dim_in, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        h_root: Tensor,
        node_table: Tensor,
        edge_table: Tensor,
        nbr_row: Tensor,
        edge_row: Tensor,
        dt: Tensor,
        count: Tensor,
        heads: int,
    ) -> Tensor:
        linear = [p for m in (self.query, self.key, self.value, self.output) for p in (m.weight, m.bias)]
        return layer(
            h_root,
            node_table,
            edge_table,
            nbr_row,
            edge_row,
            dt,
            count,
            self.time.w,
            self.time.b,
            *linear,
            self.norm.weight,
            self.norm.bias,
            heads=heads,
        )
