"""What users call today to compact node ids."""

import numpy as np
import torch
from torch import Tensor


def torch_unique(ids: Tensor, num_nodes: int | None = None) -> tuple[Tensor, Tensor]:
    """`torch.unique`: sorted order; padding is one more id."""
    unique, inverse = torch.unique(ids, return_inverse=True)
    return unique, inverse


def numpy_unique(ids: Tensor, num_nodes: int | None = None) -> tuple[Tensor, Tensor]:
    """`numpy.unique`, as TGL's and TGN's loaders do."""
    unique, inverse = np.unique(ids.cpu().numpy(), return_inverse=True)
    return torch.from_numpy(unique), torch.from_numpy(inverse.reshape(ids.shape))


def stamp_table(ids: Tensor, num_nodes: int | None = None) -> tuple[Tensor, Tensor]:
    """PyG's TGN form (`LastNeighborLoader`): `unique`, then a table over all nodes maps ids to rows."""
    unique = ids[ids >= 0].unique()
    size = int(num_nodes if num_nodes is not None else ids.max() + 1)
    assoc = torch.empty(size, dtype=torch.int64, device=ids.device)
    assoc[unique.long()] = torch.arange(len(unique), device=ids.device)
    return unique, torch.where(ids >= 0, assoc[ids.clamp(min=0).long()], -1)


PROVIDERS = {"torch.unique": torch_unique, "numpy.unique": numpy_unique, "pyg form": stamp_table}
