"""Reference for `sample_hops`: hop after hop by the reference of `neighbor_sample`, nodes numbered by a dictionary."""

import torch
from torch import Tensor

from gnnaccel.baselines.reference.neighbor_sample import neighbor_sample


def sample_hops(
    indptr: Tensor,
    nbr: Tensor,
    seeds: Tensor,
    fanouts: list,
    *,
    strategy: str = "uniform",
    replace: bool = False,
    edge_ids: bool = False,
    eid: Tensor | None = None,
    **options,
):
    """(nodes, row, count, eid, relation, weight), the arguments being the op's."""
    number = {node: i for i, node in enumerate(seeds.tolist())}
    rows, counts, eids, relations, weights = [], [], [], [], []
    for hop, fanout in enumerate(fanouts):
        every = fanout == -1
        found, edges, count, relation, weight = neighbor_sample(
            indptr,
            nbr,
            torch.tensor(list(number), dtype=torch.int64),
            None if every else fanout,
            eid=torch.arange(len(nbr)) if eid is None else eid,
            strategy="all" if every else strategy,
            replace=replace,
            hop=hop,
            **options,
        )
        row = [[-1 if v < 0 else number.setdefault(v, len(number)) for v in line] for line in found.tolist()]
        rows.append(torch.tensor(row, dtype=torch.int32).reshape(found.shape))
        counts.append(count)
        eids += [edges] if edge_ids else []
        relations += [] if relation is None else [relation]
        weights += [] if weight is None else [weight]
    return torch.tensor(list(number), dtype=nbr.dtype), rows, counts, eids, relations, weights
