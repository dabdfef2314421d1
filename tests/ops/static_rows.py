"""Rows of a small random graph, for the tests of samplers."""

import torch


def graph(gen, edges=300, nodes=12, relations=0, weighted=False, hub=False, ids=torch.int32):
    """Rows with repeated neighbours; the last node has none."""
    row = torch.randint(0, nodes - 1, (edges,), generator=gen) if edges else torch.zeros(0, dtype=torch.int64)
    if hub:
        row[: edges // 2] = 0
    relation = torch.randint(0, max(relations, 1), (edges,), generator=gen)
    relation[relation == 1] = 0  # one without edges
    nbr = torch.randint(0, nodes, (edges,), generator=gen)
    order = torch.argsort((row * 100 + relation) * nodes + nbr, stable=True)
    indptr = torch.zeros(nodes + 1, dtype=torch.int64)
    indptr[1:] = torch.bincount(row, minlength=nodes).cumsum(0)
    out = {"indptr": indptr, "nbr": nbr[order].to(ids), "eid": torch.randperm(edges, generator=gen).to(ids)}
    if relations:
        out |= {"relation": relation[order].to(torch.int16), "num_relations": relations}
    if weighted:
        # eighths: their sums are exact in any order
        out["weight"] = torch.randint(0, 40, (edges,), generator=gen).clamp(min=8).sub(8).float() / 8
    return out
