"""Attention of nodes over their neighbours and over the nodes most similar to them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnnaccel.graph.static import Graph
from gnnaccel.nn.linear import Linear
from gnnaccel.ops import gather_rows, topk_similar
from gnnaccel.ops._dropout import dropout
from gnnaccel.ops._edge_attention import edge_attention

LOCAL, GLOBAL, BOTH = range(3)  # kinds of entries: a neighbour, a similar node, one that is both


class _Bucket(NamedTuple):
    """Nodes of like degree, and their neighbours: `nbr [R, W]`, -1 past `degree [R]`."""

    nodes: Tensor
    nbr: Tensor
    degree: Tensor


class AttentionRows(NamedTuple):
    """Each node's distinct neighbours, made once for all layers and steps.

    Attributes:
        num_nodes: N.
        keys: destination N + source of the edges, ascending, int64.
        buckets: The nodes by degree, so that rows are padded to twice their length at most.
        place: Where each node stands among those of all buckets, int64 `[N]`.
    """

    num_nodes: int
    keys: Tensor
    buckets: list[_Bucket]
    place: Tensor

    @classmethod
    def of(cls, graph: Graph) -> AttentionRows:
        """The rows of a graph; loops are kept, repeated edges count once."""
        N, device = graph.num_nodes, graph.device
        row = torch.repeat_interleave(torch.arange(N, device=device), graph.indptr.diff())
        keys = torch.unique(row * N + graph.nbr)
        row, nbr = keys // max(N, 1), keys % max(N, 1)
        degree = torch.bincount(row, minlength=N)
        first = degree.cumsum(0) - degree
        # number of bits of the degree: 0, 1, 2-3, 4-7, ...
        kind = torch.searchsorted(2 ** torch.arange(62, device=device), degree, right=True)
        buckets = []
        for b in torch.unique(kind).tolist():
            nodes = (kind == b).nonzero().squeeze(1)
            own = degree[nodes]
            slot = torch.arange(int(own.max()), device=device)
            at = first[nodes][:, None] + slot
            if len(keys):
                padded = torch.where(slot < own[:, None], nbr[at.clamp(max=len(keys) - 1)], -1)
            else:
                padded = at.new_empty((len(nodes), 0))
            buckets.append(_Bucket(nodes, padded, own))
        place = torch.empty(N, dtype=torch.int64, device=device)
        if N:
            place[torch.cat([b.nodes for b in buckets])] = torch.arange(N, device=device)
        return cls(N, keys, buckets, place)

    def with_similar(self, bucket: _Bucket, similar: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Entries of a bucket's nodes, neighbours first, then those of `similar [N, k]` that are none: `nbr [R, W + k]`, -1
        past the count; their kinds; counts."""
        nbr, degree = bucket.nbr, bucket.degree
        if similar is None:
            return nbr, torch.zeros_like(nbr), degree
        (R, W), chosen = nbr.shape, similar[bucket.nodes]
        row = torch.arange(R, device=nbr.device)[:, None]
        begin = torch.searchsorted(self.keys, bucket.nodes * self.num_nodes)[:, None]
        there = chosen >= 0
        key = torch.where(there, bucket.nodes[:, None] * self.num_nodes + chosen, -1)
        at = torch.searchsorted(self.keys, key)
        known = there & (at - begin < degree[:, None]) & (at >= begin)
        if len(self.keys):
            known &= self.keys[at.clamp(max=len(self.keys) - 1)] == key
        new = there & ~known
        spare = W + chosen.shape[1]  # a column for what has no place
        slot = torch.where(new, degree[:, None] + new.cumsum(1) - 1, spare)
        out = torch.full((R, spare + 1), -1, dtype=nbr.dtype, device=nbr.device)
        out[:, :W] = nbr
        out[row, slot] = chosen
        kind = torch.full((R, spare + 1), LOCAL, dtype=nbr.dtype, device=nbr.device)
        kind[row, slot] = GLOBAL
        kind[row, torch.where(known, at - begin, spare)] = BOTH
        return out[:, :spare], kind[:, :spare], degree + new.sum(1)


def step_seed(seed: int, what: int) -> int:
    """A seed for each of the draws of a step."""
    return (seed * 0x9E3779B97F4A7C15 + what * 0xD1B54A32D192ED03) % 2**63


class GraphTransformerLayer(nn.Module):
    """Attention over neighbours and the most similar nodes, then a perceptron, each behind a norm and with a way around it.

        h    = norm(x)
        S_v  = the `global_k` nodes u of the largest q_v . k_u, all heads in one product
        a_vu = dropout(softmax_u(q_v . k_u / sqrt(D / heads) + b_kind(v, u))),   u in N(v) + S_v, each once
        x    = x + dropout(sum_u a_vu v_u + W_s h_v + b_s)
        x    = x + dropout(W_2 dropout(relu(W_1 norm'(x))))

    with q, k, v linear in h and b learnt for each head and kind of entry: a neighbour, a similar node, or both. The similar
    nodes are found exactly, without gradient and without a matrix [N, N]; attention over the entries is exact, and a node has
    at most its degree plus `global_k` of them. With `global_k` = N it is dense attention. Keys start as queries do, so that at
    first those nodes are similar whose rows are alike: what is not selected has no gradient to be selected by.

    Sources: attention of Shi et al., IJCAI 2021 (TransformerConv); selection of keys by the query as in Gupta et al.,
    Memory-efficient Transformers via Top-k Attention, 2021.

    Args:
        dim: D, a multiple of `heads`.
        heads: Attention heads; they share the similar nodes.
        global_k: Similar nodes, 0 for neighbours alone. Those that are neighbours too do not count twice.
        dropout: Rate in [0, 1) of both ways, in training.
        attention_dropout: Rate of the attention weights, in training.
        expand: Width of the perceptron, in dims; 0 for none.
        global_bias: What b of similar nodes that are no neighbours starts from; the other b start from 0. Below 0, neighbours
            count for more at first: similar nodes have the largest products, and would drown them out.

    Determinism: bitwise reproducible on CPU, for any number of threads.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 4,
        global_k: int = 8,
        *,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        expand: int = 2,
        global_bias: float = -3.0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if heads < 1 or dim < 1 or dim % heads:
            raise ValueError(f"{name}: dim must be a multiple of heads ({heads}), got {dim}")
        if global_k < 0:
            raise ValueError(f"{name}: global_k must be at least 0, got {global_k}")
        if expand < 0:
            raise ValueError(f"{name}: expand must be at least 0, got {expand}")
        for what, rate in (("dropout", dropout), ("attention_dropout", attention_dropout)):
            if not 0 <= rate < 1:
                raise ValueError(f"{name}: {what} must be in [0, 1), got {rate}")
        self.dim, self.heads, self.global_k = dim, heads, global_k
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self.query, self.key, self.value, self.own = (Linear(dim, dim) for _ in range(4))
        self.key.load_state_dict(self.query.state_dict())
        self.kind = nn.Parameter(torch.tensor([0.0, global_bias, 0.0]).repeat(heads, 1))
        self.norm = nn.LayerNorm(dim)
        self.expand = expand
        if expand:
            self.norm2 = nn.LayerNorm(dim)
            self.wide, self.narrow = Linear(dim, expand * dim), Linear(expand * dim, dim)

    def forward(self, x: Tensor, rows: AttentionRows, seed: int = 0) -> Tensor:
        """Rows of all nodes, `[N, D]`, from those before, `[N, D]`. `seed` is of the dropout; give a new one each step."""
        if x.shape != (rows.num_nodes, self.dim):
            raise ValueError(f"{type(self).__name__}: x must be {[rows.num_nodes, self.dim]}, got {list(x.shape)}")
        rate = self.dropout if self.training else 0.0
        x = x + dropout(self.attend(row_norm(self.norm, x), rows, seed), rate, step_seed(seed, 0))
        if not self.expand:
            return x
        wide = dropout(self.wide(row_norm(self.norm2, x)).relu(), rate, step_seed(seed, 1))
        return x + dropout(self.narrow(wide), rate, step_seed(seed, 2))

    @torch.no_grad()
    def similar(self, h: Tensor) -> Tensor | None:
        """S_v of each node, int64 `[N, min(global_k, N)]`; None without."""
        k = min(self.global_k, len(h))
        return topk_similar(self.query(h), self.key(h), k)[0] if k else None

    def attend(self, h: Tensor, rows: AttentionRows, seed: int = 0) -> Tensor:
        """The attention's result, `[N, D]`."""
        similar = self.similar(h)
        kinds = torch.eye(3, dtype=h.dtype, device=h.device)
        no_time = h.new_empty(0)
        rate = self.attention_dropout if self.training else 0.0
        weights = self._with_bias()
        out = []
        for i, bucket in enumerate(rows.buckets):
            nbr, kind, count = rows.with_similar(bucket, similar)
            no_dt = h.new_zeros(1, dtype=torch.float32).expand(nbr.shape)
            block = (kinds, nbr, kind, no_dt, count.int(), no_time, no_time)
            own = gather_rows(h, bucket.nodes)
            out.append(edge_attention(h, own, *weights, *block, self.heads, rate, step_seed(seed, 3 + i)))
        if not out:
            return h
        return gather_rows(torch.cat(out), rows.place).view(len(h), self.heads, -1)[..., :-1].reshape(h.shape)

    def _with_bias(self) -> list[Tensor]:
        """Weights of `edge_attention` with a column more a head: there queries are constant, keys the bias of their kind."""
        H, C = self.heads, self.dim // self.heads
        weights = []
        for linear in (self.query, self.key, self.value, self.own):
            scale, one = (math.sqrt((C + 1) / C), math.sqrt(C + 1)) if linear is self.query else (1.0, 0.0)
            weights.append(F.pad(scale * linear.weight.view(H, C, -1), (0, 0, 0, 1)).flatten(0, 1))
            weights.append(F.pad(scale * linear.bias.view(H, C), (0, 1), value=one).flatten())
        return [*weights, F.pad(self.kind.unsqueeze(1), (0, 0, C, 0)).flatten(0, 1)]


def row_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Layer norm, not in one call: there the gradients of weight and bias depend on the number of threads."""
    return F.layer_norm(x, norm.normalized_shape, eps=norm.eps) * norm.weight + norm.bias
