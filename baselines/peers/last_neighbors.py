"""torch_geometric's own call on the same tables."""

import torch
from torch import Tensor

PROVIDERS = {}
MISSING: dict[str, str] = {}


def pyg(neighbors: Tensor, e_id: Tensor, n_id: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    loader = _loader(len(neighbors), neighbors.shape[1], neighbors.device)
    loader.neighbors, loader.e_id = neighbors, e_id
    return loader(n_id)


def eager(neighbors: Tensor, e_id: Tensor, n_id: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    kept = e_id[n_id] >= 0
    nodes, row = torch.unique(torch.cat([n_id, neighbors[n_id][kept]]), return_inverse=True)
    own = row[: len(n_id)].unsqueeze(1).expand_as(kept)[kept]
    return nodes, torch.stack([row[len(n_id) :], own]), e_id[n_id][kept]


PROVIDERS["torch"] = eager
try:
    from torch_geometric.nn.models.tgn import LastNeighborLoader as _Loader

    _made: dict[tuple, _Loader] = {}

    def _loader(num_nodes: int, size: int, device: torch.device) -> _Loader:
        key = (num_nodes, size, device)
        if key not in _made:
            _made[key] = _Loader(num_nodes, size, device=device)
        return _made[key]

    PROVIDERS["pyg"] = pyg
except ImportError as error:
    MISSING["pyg"] = str(error)
