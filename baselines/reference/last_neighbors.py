"""`last_neighbors` and its insertion: events one by one, lists."""

import torch
from torch import Tensor


def last_neighbors(neighbors: Tensor, e_id: Tensor, n_id: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    edges = [
        (int(other), int(node), int(event))
        for node in n_id
        for other, event in zip(neighbors[node], e_id[node], strict=True)
        if event >= 0
    ]
    nodes = sorted({*n_id.tolist(), *(other for other, _, _ in edges)})
    row = {node: i for i, node in enumerate(nodes)}
    edge_index = [[row[other] for other, _, _ in edges], [row[node] for _, node, _ in edges]]
    ids = (nodes, edge_index, [event for _, _, event in edges])
    return tuple(torch.tensor(x, dtype=torch.int64) for x in ids)


def last_neighbors_insert(
    neighbors: Tensor, e_id: Tensor, src: Tensor, dst: Tensor, first: int
) -> tuple[Tensor, Tensor]:
    """New tables."""
    size = neighbors.shape[1]
    tables = [x.tolist() for x in (neighbors, e_id)]
    for i, (u, v) in enumerate(zip(src.tolist(), dst.tolist(), strict=True)):
        for node, other in ((u, v), (v, u)):
            for table, value in zip(tables, (other, first + i), strict=True):
                table[node] = [value, *table[node]][:size]
    return tuple(torch.tensor(x, dtype=torch.int64).reshape(neighbors.shape) for x in tables)
