"""The latest neighbours of each node."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._last_neighbors import last_neighbors, last_neighbors_insert_


class LastNeighborLoader:
    """The last `size` neighbours of each node among the events inserted so far, as torch_geometric's.

    Always the latest events: torch_geometric may keep older ones when one call of `insert` brings a node more than `size`
    (its slots wrap around, in the order of a sort that is not stable).

    Args:
        num_nodes: Number of nodes N.
        size: Neighbours kept for a node.
        device: Where the tables are.

    Attributes:
        neighbors, e_id: Other end and number of each kept event, int64 `[N, size]`, newest first; `e_id` is -1 where there is
            none.
        cur_e_id: Number that the next event gets.
    """

    def __init__(self, num_nodes: int, size: int, device: Any = None) -> None:
        self.size = size
        self.neighbors = torch.zeros((num_nodes, size), dtype=torch.int64, device=device)
        self.e_id = torch.empty((num_nodes, size), dtype=torch.int64, device=device)
        self.reset_state()

    def __call__(self, n_id: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Neighbours of the nodes `n_id`, int64 `[n]`, distinct.

        Returns:
            The distinct nodes among `n_id` and their neighbours, ascending, `[u]`; edges as positions in that, neighbour over
            node, `[2, m]`; the number of each edge's event, `[m]`.
        """
        return last_neighbors(self.neighbors, self.e_id, n_id)

    def insert(self, src: Tensor, dst: Tensor) -> None:
        """Append events, int64 `[B]` each, as neighbours of both ends."""
        last_neighbors_insert_(self.neighbors, self.e_id, src, dst, self.cur_e_id)
        self.cur_e_id += src.numel()

    def reset_state(self) -> None:
        """Forget all events."""
        self.cur_e_id = 0
        self.e_id.fill_(-1)
