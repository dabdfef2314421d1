"""Parts of a graph, levelled: METIS (by way of pymetis) balances one weight a node, and two may matter."""

from __future__ import annotations

import torch
from torch import Tensor

from gnnaccel.graph.temporal import _positions

__all__ = ["level_parts"]


def level_parts(indptr: Tensor, nbr: Tensor, part: Tensor, weight: Tensor, num_parts: int, imbalance: float) -> Tensor:
    """Move nodes between parts until each part has about as much of every weight, at little cost in edges cut.

    Greedy: the part that is furthest over the mean of some weight gives nodes to another part, those first that cost the fewest
    edges for their weight, as long as the other comes to be nowhere over as far. It ends when all are within `imbalance`, when
    nothing can be moved, or after 20 rounds a part.

    Args:
        indptr, nbr: Rows of neighbours of the undirected graph, int64 `[N + 1]`, `[M]`.
        part: Part of each node, int64 `[N]`.
        weight: int64 `[N, C]`, at least 0.
        imbalance: How much more than the mean a part may have.

    Returns:
        The new parts, int64 `[N]`. A function of its arguments, whatever the number of threads.
    """
    part = part.clone()
    num_weights = weight.shape[1]
    load = torch.zeros(num_parts, num_weights, dtype=torch.int64).index_add_(0, part, weight)
    mean = load.sum(0).double().clamp(min=1) / num_parts
    stuck = torch.zeros(num_parts, num_weights, dtype=torch.bool)  # over, but nothing of it can be moved
    for _ in range(20 * num_parts):
        over = load / mean - 1
        p, c = divmod(int(over.masked_fill(stuck, -1).argmax()), num_weights)
        far = float(over[p, c])
        if far <= imbalance or bool(stuck[p, c]):
            break
        stuck[p, c] = True
        for q in over.amax(1).argsort(stable=True).tolist():
            if q == p or float(over[q, c]) >= far / 2:
                continue
            # half of what would level the two, so that the next round sees what this one did
            amount = float(min(load[p, c] - mean[c], (load[p, c] - load[q, c]) / 2)) / 2 + 1
            room = (1 + max(imbalance, 0.9 * far)) * mean - load[q]
            nodes = _cheapest(indptr, nbr, part, weight, (p, q, c), amount, room)
            if len(nodes):
                gone = weight[nodes].sum(0)
                part[nodes] = q
                load[p] -= gone
                load[q] += gone
                stuck.zero_()
                break
    return part


def _cheapest(
    indptr: Tensor, nbr: Tensor, part: Tensor, weight: Tensor, move: tuple[int, int, int], amount: float, room: Tensor
) -> Tensor:
    """Nodes to move from part p to q, with up to `amount` of weight c and no more of any weight than there is `room` for."""
    p, q, c = move
    small = (weight[:, c] > 0) & (weight[:, c] <= amount) & (weight <= room).all(1)
    nodes = ((part == p) & small).nonzero().squeeze(1)
    degree = indptr[nodes + 1] - indptr[nodes]
    owner = part[nbr[_positions(indptr[nodes], degree)]]
    row = torch.repeat_interleave(torch.arange(len(nodes)), degree, output_size=len(owner))
    kept, won = (torch.bincount(row[owner == which], minlength=len(nodes)) for which in (p, q))
    w = weight[nodes]
    # among equals, who brings the least of the other weights
    order = (w / weight.sum(0).clamp(min=1)).sum(1).div(w[:, c]).argsort(stable=True)
    order = order[((kept - won) / w[:, c])[order].argsort(stable=True)]
    total = w[order].cumsum(0)
    fits = (total[:, c] <= amount) & (total <= room).all(1)
    return nodes[order[: len(nodes) if bool(fits.all()) else int((~fits).nonzero()[0])]]
