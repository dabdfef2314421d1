"""Raw messages that wait to be applied to their nodes' memory. Buffers that no state dict carries, as torch_geometric's."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LatestMessages(nn.Module):
    """The last event of each node: its other end, time and raw message. For the aggregator that looks at nothing else.

    Args:
        num_nodes: Number of nodes N.
        dim: Size of a raw message.
    """

    other: Tensor  # int64 [N]
    time: Tensor  # int64 [N]
    raw: Tensor  # [N, dim]

    def __init__(self, num_nodes: int, dim: int) -> None:
        super().__init__()
        for name in ("other", "time"):
            self.register_buffer(name, torch.zeros(num_nodes, dtype=torch.int64), persistent=False)
        self.register_buffer("raw", torch.zeros(num_nodes, dim), persistent=False)

    def reset(self) -> None:
        """Nothing to do: which nodes have a message is known outside."""

    def tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """Other ends, times and raw messages."""
        return self.other, self.time, self.raw


class MessageStore(nn.Module):
    """All events of each node's last batch with it, on one side: `src` is the node.

    Batches are appended to a log, ordered by node, and each node knows its range; the log is rewritten without what has been
    replaced when it is full.

    Args:
        num_nodes: Number of nodes.
        dim: Size of a raw message.
    """

    first: Tensor
    count: Tensor
    ids: Tensor
    raw: Tensor

    def __init__(self, num_nodes: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        for name in ("first", "count"):
            self.register_buffer(name, torch.zeros(num_nodes, dtype=torch.int64), persistent=False)
        # src, dst and t of an event in a row
        self.register_buffer("ids", torch.zeros((0, 3), dtype=torch.int64), persistent=False)
        self.register_buffer("raw", torch.zeros((0, dim)), persistent=False)
        self.used = 0

    def reset(self) -> None:
        self.count.zero_()
        self.used = 0

    def clear(self, nodes: Tensor) -> None:
        self.count[nodes] = 0

    def put(self, src: Tensor, dst: Tensor, t: Tensor, raw_msg: Tensor) -> None:
        """Replace the events of the nodes `src` by these."""
        if self.used + len(src) > len(self.ids):
            self._make_room(len(src))
        order = torch.argsort(src, stable=True)
        nodes, count = torch.unique_consecutive(src[order], return_counts=True)
        part = slice(self.used, self.used + len(src))
        self.ids[part] = torch.stack([src, dst, t], dim=1)[order]
        self.raw[part] = raw_msg[order]
        self.first[nodes] = self.used + count.cumsum(0) - count
        self.count[nodes] = count
        self.used += len(src)

    def get(self, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`src`, `dst`, `t` and raw messages of the events of `nodes`, node by node in their order."""
        rows = self._rows(nodes)
        src, dst, t = self.ids[rows].unbind(1)
        return src, dst, t, self.raw[rows]

    def _rows(self, nodes: Tensor) -> Tensor:
        count = self.count[nodes]
        before = count.cumsum(0) - count
        return torch.repeat_interleave(self.first[nodes] - before, count) + torch.arange(
            int(count.sum()), device=nodes.device
        )

    def _make_room(self, more: int) -> None:
        live = self.count.nonzero().squeeze(1)
        rows, count = self._rows(live), self.count[live]
        self.used = len(rows)
        size = 2 * (self.used + more)
        ids, raw = self.ids.new_zeros((size, 3)), self.raw.new_zeros((size, self.dim))
        ids[: self.used], raw[: self.used] = self.ids[rows], self.raw[rows]
        self.ids, self.raw = ids, raw
        self.first[live] = count.cumsum(0) - count
