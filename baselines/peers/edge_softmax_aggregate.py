"""What users write today for GAT: a scattered softmax over edges and gathered rows; and torch_geometric's own parts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

PROVIDERS: dict[str, Callable[..., Tensor]] = {}
MISSING: dict[str, str] = {}


def scatter(x: Tensor, src_logit: Tensor, dst_logit: Tensor, ids: Tensor, root: Tensor, indptr: Tensor) -> Tensor:
    logit = leaky_relu(src_logit.index_select(0, ids) + dst_logit.index_select(0, root), 0.2)
    index = root.unsqueeze(1).expand_as(logit)
    top = torch.full_like(dst_logit, -torch.inf).scatter_reduce(0, index, logit.detach(), "amax")
    weight = (logit - top.index_select(0, root)).exp()
    total = torch.zeros_like(dst_logit).index_add(0, root, weight)
    p = weight / total.index_select(0, root)
    out = x.new_zeros(len(dst_logit), *x.shape[1:])
    return out.index_add(0, root, p.unsqueeze(-1) * x.index_select(0, ids))


PROVIDERS["scattered softmax"] = scatter

try:
    from torch_geometric.nn import MessagePassing
    from torch_geometric.utils import softmax
except ImportError as error:
    MISSING["torch_geometric"] = str(error)
else:

    class _Propagate(MessagePassing):
        """The edge part of `torch_geometric.nn.GATConv`, whose projections are no part of the op."""

        def __init__(self) -> None:
            super().__init__(aggr="add", node_dim=0)

        def forward(self, x: Tensor, alpha: tuple[Tensor, Tensor], edge_index: Tensor) -> Tensor:
            size = (len(x), len(alpha[1]))
            weight = self.edge_updater(edge_index, alpha=alpha, size=size)
            return self.propagate(edge_index, x=(x, None), weight=weight, size=size)

        def edge_update(self, alpha_j: Tensor, alpha_i: Tensor, index: Tensor, size_i: int) -> Tensor:
            return softmax(leaky_relu(alpha_j + alpha_i, 0.2), index, num_nodes=size_i)

        def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
            return weight.unsqueeze(-1) * x_j

    def pyg(x: Tensor, src_logit: Tensor, dst_logit: Tensor, ids: Tensor, root: Tensor, indptr: Tensor) -> Tensor:
        return _Propagate()(x, (src_logit, dst_logit), torch.stack([ids, root]))

    PROVIDERS["torch_geometric"] = pyg
