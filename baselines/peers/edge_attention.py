"""What users write today: keys and values of every edge and a scattered softmax; and torch_geometric's own layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

PROVIDERS: dict[str, Callable[..., Tensor]] = {}
MISSING: dict[str, str] = {}

Weights = dict[str, tuple[Tensor, Tensor | None]]


def edge_list(
    edge_table: Tensor | None,
    nbr_row: Tensor,
    edge_row: Tensor,
    dt: Tensor,
    count: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    time_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Source, root and features of each edge."""
    live = torch.arange(nbr_row.shape[1], device=count.device) < count.unsqueeze(1)
    root = torch.arange(len(count), device=count.device).repeat_interleave(count)
    features = [torch.cos(dt[live].to(time_w.dtype).unsqueeze(1) * time_w + time_b)]
    if edge_table is not None:
        features.insert(1 if time_first else 0, edge_table[edge_row[live]])
    return nbr_row[live], root, torch.cat(features, dim=1)


def scatter(x_source: Tensor, x_root: Tensor, edges: tuple[Tensor, Tensor, Tensor], w: Weights, heads: int) -> Tensor:
    """Plain torch: projections by node, gathered by edge, a softmax of scattered sums."""
    (source, root, features), R = edges, len(x_root)
    q = linear(x_root, *w["query"]).view(R, heads, -1)
    edge = linear(features, *w["edge"]).view(-1, *q.shape[1:])
    key = linear(x_source, *w["key"]).view(-1, *q.shape[1:])[source] + edge
    value = linear(x_source, *w["value"]).view(-1, *q.shape[1:])[source] + edge
    logit = (q[root] * key).sum(-1) / math.sqrt(q.shape[2])
    index = root.unsqueeze(1).expand_as(logit)
    top = logit.new_full((R, heads), -torch.inf).scatter_reduce(0, index, logit.detach(), "amax")
    weight = (logit - top[root]).exp()
    p = weight / weight.new_zeros(R, heads).index_add(0, root, weight)[root]
    attended = torch.zeros_like(q).index_add(0, root, p.unsqueeze(-1) * value)
    return attended.flatten(1) + linear(x_root, *w["skip"])


def _provider(layer: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`layer` with the arguments of `edge_attention`, without dropout."""

    def call(
        node_table: Tensor,
        root_table: Tensor | None,
        wq: Tensor,
        bq: Tensor,
        wk: Tensor,
        bk: Tensor,
        wv: Tensor,
        bv: Tensor,
        ws: Tensor,
        bs: Tensor,
        we: Tensor,
        heads: int,
        time_first: bool = False,
        **block: Any,
    ) -> Tensor:
        weights = {"query": (wq, bq), "key": (wk, bk), "value": (wv, bv), "skip": (ws, bs), "edge": (we, None)}
        edges = edge_list(time_first=time_first, **block)
        return layer(node_table, node_table if root_table is None else root_table, edges, weights, heads)

    return call


PROVIDERS["torch"] = _provider(scatter)
try:
    from torch_geometric.nn import TransformerConv as _Conv

    _made: dict[tuple[int, ...], _Conv] = {}

    def _pyg(x_source: Tensor, x_root: Tensor, edges: tuple[Tensor, Tensor, Tensor], w: Weights, heads: int) -> Tensor:
        source, root, features = edges
        D = len(w["query"][0])
        sizes = (x_source.shape[1], x_root.shape[1], D // heads, heads, features.shape[1])
        if sizes not in _made:
            # only its forward is used: the parameters are given in each call
            _made[sizes] = _Conv(sizes[:2], *sizes[2:4], edge_dim=sizes[4]).to("meta")
        parameters = {f"lin_{name}.weight": weight for name, (weight, _) in w.items()}
        parameters |= {f"lin_{name}.bias": bias for name, (_, bias) in w.items() if bias is not None}
        args = ((x_source, x_root), torch.stack([source, root]), features)
        return torch.func.functional_call(_made[sizes], parameters, args)

    PROVIDERS["pyg"] = _provider(_pyg)
except ImportError as error:
    MISSING["pyg"] = str(error)
