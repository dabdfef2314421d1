"""What users write today to keep each node's last event."""

import torch
from torch import Tensor


def python_dict(nodes: Tensor, t: Tensor, eid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """TGN's published code: events in order, a dict keeps the last. Right for sorted events only."""
    last = {node: i for i, node in enumerate(nodes.tolist())}
    return torch.tensor(list(last), dtype=nodes.dtype), torch.tensor(list(last.values()))


def scatter_argmax(nodes: Tensor, t: Tensor, eid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Maximum of the time, then of the position, by `scatter_reduce_`."""
    distinct, row = torch.unique(nodes, return_inverse=True)
    size = (len(distinct),)
    latest = t.new_zeros(size).scatter_reduce_(0, row, t, "amax", include_self=False)
    position = torch.where(t == latest[row], torch.arange(len(t), device=t.device), -1)
    return distinct, position.new_full(size, -1).scatter_reduce_(0, row, position, "amax")


def sort_unique(nodes: Tensor, t: Tensor, eid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """TGL's form: stable sort by time, then `unique` and the last position of each node."""
    order = t.argsort(stable=True)
    distinct, row = torch.unique(nodes[order], return_inverse=True)
    last = row.new_empty(len(distinct)).scatter_reduce_(
        0, row, torch.arange(len(row), device=row.device), "amax", include_self=False
    )
    return distinct, order[last]


def pyg_aggregator(nodes: Tensor, t: Tensor, eid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """PyG's TGN: `unique`, then what its `LastAggregator` calls."""
    distinct, row = torch.unique(nodes, return_inverse=True)
    return distinct, pyg_argmax(t, row, dim=0, dim_size=len(distinct))


PROVIDERS = {"python dict": python_dict, "torch scatter": scatter_argmax, "torch sort": sort_unique}
MISSING: dict[str, str] = {}
try:
    from torch_geometric.utils._scatter import scatter_argmax as pyg_argmax

    PROVIDERS["pyg"] = pyg_aggregator
except ImportError as error:
    MISSING["pyg"] = str(error)
