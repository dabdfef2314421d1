"""What users write or call for the newest past neighbours. All return event ids `[R, K]`, newest first, -1 past the count, or
what `view` turns into that.

`STRICT` see every event before the root's own time, from a finished graph. `BEFORE_BATCH` keep a state of recent neighbours and
see the events of earlier batches: between batches they insert the events that have passed.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

try:
    from torch_geometric.nn.models.tgn import LastNeighborLoader
except ImportError:  # the peer is optional
    LastNeighborLoader = None

try:
    from tgm.hooks import RecencyNeighborHook
except ImportError:  # likewise
    RecencyNeighborHook = None

Batches = list[tuple[Tensor, Tensor]]


# --- strict, stateless ----------------------------------------------------------------------------------------------------


class NumpyFinder:
    """The neighbour finder that came with TGAT and TGN: a Python loop over roots, a binary search for each."""

    def __init__(self, src: Tensor, dst: Tensor, t: Tensor, num_nodes: int) -> None:
        node, other = torch.cat([src, dst]), torch.cat([dst, src])
        event = torch.arange(len(src)).repeat(2)
        order = event.argsort(stable=True)
        order = order[node[order].argsort(stable=True)]
        cuts = torch.bincount(node, minlength=num_nodes).cumsum(0)[:-1].numpy()
        columns = (other[order].numpy(), event[order].numpy(), t[event[order]].numpy())
        self.nbr, self.eid, self.t = (np.split(c, cuts) for c in columns)

    def sample(self, nodes: Tensor, times: Tensor, fanout: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = len(nodes)
        nbr, eid = np.full((rows, fanout), -1), np.full((rows, fanout), -1)
        dt = np.zeros((rows, fanout), np.int64)
        for r, (node, time) in enumerate(zip(nodes.numpy(), times.numpy(), strict=True)):
            end = np.searchsorted(self.t[node], time)
            begin = max(0, end - fanout)
            n = end - begin
            nbr[r, :n] = self.nbr[node][begin:end][::-1]
            eid[r, :n] = self.eid[node][begin:end][::-1]
            dt[r, :n] = time - self.t[node][begin:end][::-1]
        return nbr, eid, dt


class TorchSearch:
    """Vectorised: one `torch.searchsorted` over (node, time) packed into an integer, then gathers."""

    def __init__(self, src: Tensor, dst: Tensor, t: Tensor, num_nodes: int) -> None:
        node, other = torch.cat([src, dst]), torch.cat([dst, src])
        event = torch.arange(len(src), device=src.device).repeat(2)
        order = event.argsort(stable=True)
        order = order[node[order].argsort(stable=True)]
        self.nbr, self.eid = other[order], event[order]
        self.t = t[self.eid]
        self.first, self.span = t.min(), t.max() - t.min() + 2
        self.key = node[order] * self.span + (self.t - self.first)
        self.start = torch.cat([node.new_zeros(1), torch.bincount(node, minlength=num_nodes).cumsum(0)])

    def sample(self, nodes: Tensor, times: Tensor, fanout: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        end = torch.searchsorted(self.key, nodes * self.span + (times - self.first))
        at = end[:, None] - 1 - torch.arange(fanout, device=nodes.device)
        valid = at >= self.start[nodes][:, None]
        at = at.clamp(min=0)
        nbr, eid = torch.where(valid, self.nbr[at], -1), torch.where(valid, self.eid[at], -1)
        dt = torch.where(valid, times[:, None] - self.t[at], 0)
        return nbr, eid, dt, valid.sum(1)


def strict(finder: NumpyFinder | TorchSearch, batches: Batches, fanout: int, out: list[Any]) -> list[Any]:
    for nodes, times in batches:
        out.append(finder.sample(nodes, times, fanout))
    return out


# --- before the batch, with a state ---------------------------------------------------------------------------------------


class RingBuffer:
    """A ring of the K newest neighbours of every node, updated with vectorised torch: TGM's way, cut to the bone."""

    def __init__(self, num_nodes: int, fanout: int, device: torch.device) -> None:
        self.nbr = torch.full((num_nodes, fanout), -1, device=device)
        self.eid, self.t = self.nbr.clone(), torch.zeros_like(self.nbr)
        self.written = torch.zeros(num_nodes, dtype=torch.int64, device=device)
        self.slot = torch.arange(fanout, device=device)

    def sample(self, nodes: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        fanout = len(self.slot)
        written = self.written[nodes]
        at = (written[:, None] - 1 - self.slot) % fanout
        rows = nodes[:, None]
        count = written.clamp(max=fanout)
        valid = self.slot < count[:, None]
        nbr, eid = self.nbr[rows, at], self.eid[rows, at]
        dt = torch.where(valid, times[:, None] - self.t[rows, at], 0)
        return torch.where(valid, nbr, -1), torch.where(valid, eid, -1), dt, count

    def insert(self, src: Tensor, dst: Tensor, t: Tensor, first: int) -> None:
        fanout = len(self.slot)
        event = torch.arange(first, first + len(src), device=src.device)
        node, other = torch.stack([src, dst], 1).flatten(), torch.stack([dst, src], 1).flatten()
        event, t = event.repeat_interleave(2), t.repeat_interleave(2)
        node, order = node.sort(stable=True)
        rows, count = node.unique_consecutive(return_counts=True)
        end = count.cumsum(0).repeat_interleave(count)
        place = torch.arange(len(node), device=node.device)
        rank = place - (end - count.repeat_interleave(count))
        newest = end - place <= fanout
        at = (self.written[node] + rank)[newest] % fanout
        row, order = node[newest], order[newest]
        self.nbr[row, at], self.eid[row, at], self.t[row, at] = other[order], event[order], t[order]
        self.written[rows] += count


def ring_buffer(
    src: Tensor, dst: Tensor, t: Tensor, num_nodes: int, batches: Batches, size: int, fanout: int, out: list[Any]
) -> list[Any]:
    ring = RingBuffer(num_nodes, fanout, src.device)
    for i, (nodes, times) in enumerate(batches):
        out.append(ring.sample(nodes, times))
        part = slice(i * size, (i + 1) * size)
        ring.insert(src[part], dst[part], t[part], part.start)
    return out


def pyg(
    src: Tensor, dst: Tensor, t: Tensor, num_nodes: int, batches: Batches, size: int, fanout: int, out: list[Any]
) -> list[Any]:
    """torch_geometric's LastNeighborLoader, used as in its examples/tgn.py: unique nodes in, edges among them out."""
    loader = LastNeighborLoader(num_nodes, size=fanout, device=src.device)
    loader.reset_state()
    for i, (nodes, _) in enumerate(batches):
        n_id, edge_index, e_id = loader(nodes.unique())
        out.append((nodes, n_id, edge_index[1], e_id))
        part = slice(i * size, (i + 1) * size)
        loader.insert(src[part], dst[part])
    return out


def pyg_view(result: list[tuple[Tensor, ...]], fanout: int) -> list[Tensor]:
    """Event ids by root."""
    out = []
    for nodes, n_id, center, e_id in result:
        order = e_id.argsort(descending=True, stable=True)
        order = order[center[order].argsort(stable=True)]
        row = center[order]
        count = torch.bincount(row, minlength=len(n_id))
        slot = torch.arange(len(row)) - (count.cumsum(0) - count)[row]
        by_node = torch.full((len(n_id), fanout), -1)
        by_node[row, slot] = e_id[order]
        out.append(by_node[torch.searchsorted(n_id, nodes)])
    return out


def tgm(
    src: Tensor, dst: Tensor, t: Tensor, num_nodes: int, batches: Batches, size: int, fanout: int, out: list[Any]
) -> list[Any]:
    """tgm-lib's RecencyNeighborHook. It returns edge features, not event ids, so the ids travel as a feature."""
    hook = RecencyNeighborHook(
        num_nodes, [fanout], ["edge_src", "edge_dst", "neg"], ["edge_time", "edge_time", "edge_time"]
    )
    src, dst = src.int(), dst.int()  # the only dtype it takes
    graph = SimpleNamespace(edge_x_dim=1, device=src.device)
    event = torch.arange(len(src), device=src.device, dtype=torch.float32)[:, None]
    for i, (nodes, _) in enumerate(batches):
        part = slice(i * size, (i + 1) * size)
        batch = SimpleNamespace(
            edge_src=src[part], edge_dst=dst[part], edge_time=t[part], neg=nodes[2 * size :], edge_x=event[part]
        )
        hook(graph, batch)
        out.append((batch.nbr_nids[0], batch.nbr_edge_x[0]))
    return out


def tgm_view(result: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Event ids by root."""
    return [torch.where(nbr >= 0, eid[..., 0].long(), -1).flip(1) for nbr, eid in result]


STRICT = {"numpy_loop": NumpyFinder, "torch_searchsorted": TorchSearch}
BEFORE_BATCH = {"ring_buffer": ring_buffer}
MISSING: dict[str, str] = {}
if LastNeighborLoader is None:
    MISSING["pyg"] = "torch_geometric is not installed"
else:
    BEFORE_BATCH["pyg"] = pyg
if RecencyNeighborHook is None:
    MISSING["tgm"] = "tgm-lib is not installed"
else:
    BEFORE_BATCH["tgm"] = tgm
PROVIDERS = {**STRICT, **BEFORE_BATCH}
