"""`sample_hops`: the neighbours of seeds, theirs, and so on, each node numbered once: sampling and compaction in one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gnnaccel.ops._library import define, fake, impl
from gnnaccel.ops.neighbor_sample import check_draws, check_exclude, check_fanout, check_graph, check_nodes, explain

# `widths` has for each hop the number of its fanouts, one a relation, or 0: one of the whole row
define(
    "sample_hops(Tensor indptr, Tensor nbr, Tensor? eid, Tensor? relation, Tensor? weight, Tensor? exclude, Tensor seeds, "
    "int[] fanouts, int[] widths, bool weighted, bool replace, bool edge_ids, int seed, int epoch, int batch) "
    "-> (Tensor, Tensor[], Tensor[], Tensor[], Tensor[], Tensor[])"
)

#: nodes, and for each hop from the seeds outwards: row, count; and where there are such: eid, relation, weight.
Sampled = tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], list[Tensor], list[Tensor]]


@impl("sample_hops", "CUDA")  # composed of ops that have kernels there
@impl("sample_hops", "CompositeExplicitAutograd")
def _composite(
    indptr: Tensor,
    nbr: Tensor,
    eid: Tensor | None,
    relation: Tensor | None,
    weight: Tensor | None,
    exclude: Tensor | None,
    seeds: Tensor,
    fanouts: Sequence[int],
    widths: Sequence[int],
    weighted: bool,
    replace: bool,
    edge_ids: bool,
    seed: int,
    epoch: int,
    batch: int,
) -> Sampled:
    size = indptr.shape[0] - 1
    if bool(((seeds < 0) | (seeds >= size)).any()):
        raise RuntimeError("sample_hops: bad root")
    nodes, out = seeds.to(nbr.dtype), ([], [], [], [], [])
    if len(seeds.unique()) != len(seeds):
        raise RuntimeError("sample_hops: repeated seed")
    at = 0
    for hop, width in enumerate(widths):
        fanout = list(fanouts[at : at + max(width, 1)])
        at += max(width, 1)
        every = fanout[0] < 0
        if every:
            rows = nodes.long()
            degree = indptr[rows + 1] - indptr[rows] if len(rows) else rows
            fanout = [max(1, int(degree.max()) if len(degree) else 1)]
        try:
            sample = torch.ops.gnnaccel.neighbor_sample.default(
                *(indptr, nbr, eid, relation, weight, exclude, nodes, fanout, width > 0),
                *(weighted and not every, replace and not every, edge_ids, seed, epoch, batch, hop),
            )
        except RuntimeError as error:
            raise RuntimeError(str(error).replace("neighbor_sample", "sample_hops")) from None
        found, *rest = sample
        # a GPU would have to wait to know
        wrong = found.device.type == "cpu" and int(((found >= 0) & (found < size)).sum()) != int(rest[1].sum())
        if wrong:
            raise RuntimeError("sample_hops: bad neighbour")
        # seeds and earlier hops come first, so they keep their numbers
        roots = len(nodes)
        nodes, number = torch.ops.gnnaccel.unique_nodes(torch.cat([nodes, found.reshape(-1)]), size)
        out[0].append(number[roots:].reshape(found.shape).to(torch.int32))
        for kept, tensor, wanted in zip(
            (out[2], out[1], out[3], out[4]),
            rest,
            (edge_ids, True, relation is not None, weight is not None),
            strict=True,
        ):
            if wanted:
                kept.append(tensor)
    return (nodes, *out)


@fake("sample_hops")
def _fake(
    indptr: Tensor,
    nbr: Tensor,
    eid: Tensor | None,
    relation: Tensor | None,
    weight: Tensor | None,
    exclude: Tensor | None,
    seeds: Tensor,
    fanouts: Sequence[int],
    widths: Sequence[int],
    weighted: bool,
    replace: bool,
    edge_ids: bool,
    *args: int,
) -> Sampled:
    ctx = torch.library.get_ctx()
    rows, counts, eids, relations, weights = [], [], [], [], []
    roots, at = seeds.shape[0], 0
    for width in widths:
        slots: Any = sum(fanouts[at : at + max(width, 1)])
        at += max(width, 1)
        if slots < 0:
            slots = ctx.new_dynamic_size()
        rows.append(nbr.new_empty((roots, slots), dtype=torch.int32))
        counts.append(nbr.new_empty((roots,), dtype=torch.int32))
        if edge_ids:
            eids.append(nbr.new_empty((roots, slots)))
        if relation is not None:
            relations.append(nbr.new_empty((roots, slots), dtype=torch.int16))
        if weight is not None:
            weights.append(nbr.new_empty((roots, slots), dtype=torch.float32))
        roots = ctx.new_dynamic_size()
    return nbr.new_empty((roots,)), rows, counts, eids, relations, weights


def sample_hops(
    indptr: Tensor,
    nbr: Tensor,
    seeds: Tensor,
    fanouts: Sequence[int | Sequence[int]],
    *,
    eid: Tensor | None = None,
    relation: Tensor | None = None,
    weight: Tensor | None = None,
    num_relations: int | None = None,
    strategy: str = "uniform",
    replace: bool = False,
    seed: int = 0,
    epoch: int = 0,
    batch: int = 0,
    edge_ids: bool = False,
    exclude: Tensor | None = None,
) -> Sampled:
    """Sample hop by hop for all nodes found so far, and number the nodes. `gnnaccel.sample_hops` takes a graph.

    Args:
        indptr, nbr, eid, relation, weight, num_relations: As `neighbor_sample` has them; N below 2**31.
        seeds: Distinct nodes, `[B]`, int64 or int32.
        fanouts: Slots a root for each hop from the seeds outwards; -1: as many as the largest degree among the roots; or one
            number for each relation.
        edge_ids: Whether edge ids are returned.

    The other arguments are `neighbor_sample`'s. Hop h is the very sample of `neighbor_sample(..., nodes, fanouts[h], hop=h)`
    for the nodes found before it. With `strategy="all"` every entry of `fanouts` must be -1.

    Returns:
        `(nodes, row, count, eid, relation, weight)`: the distinct nodes in order of first appearance, seeds first, dtype of
        `nbr`; then lists by hop: int32 `[R, K]`, positions in `nodes`, -1 past `count`; int32 `[R]`; and where asked for or
        there, as `row`: edge ids, relations, weights (else empty lists). R is the number of nodes found before the hop.

    Determinism: the same bits for any number of threads and on every device; see `neighbor_sample`.

    Raises:
        TypeError: A dtype is wrong.
        ValueError: A shape, name or value is wrong; seeds repeat or are out of range; or as `neighbor_sample`. On CPU also: a
            neighbour is out of range.
    """
    name = "sample_hops"
    check_graph(name, indptr, nbr, eid, relation, weight)
    check_nodes(name, "seeds", seeds, nbr)
    check_draws(name, strategy, weight)
    if indptr.shape[0] > 2**31:
        raise ValueError(f"{name}: indptr must be of fewer than 2**31 nodes, got {indptr.shape[0] - 1}")
    if edge_ids and eid is None:
        raise ValueError(f"{name}: eid must be given with edge_ids=True, got None")
    exclude = check_exclude(name, exclude, eid, nbr)
    if not isinstance(fanouts, (list, tuple)):
        raise TypeError(f"{name}: fanouts must be a sequence, one entry a hop, got {fanouts!r}")
    if not 1 <= len(fanouts) <= 256:
        raise ValueError(f"{name}: fanouts must have 1 to 256 entries, one a hop, got {len(fanouts)}")
    relations = None if relation is None else num_relations
    by_hop = [check_fanout(name, f"fanouts[{h}]", f, relations, least=-1) for h, f in enumerate(fanouts)]
    if strategy == "all" and any(f != [-1] for f in by_hop):
        raise ValueError(f"{name}: fanouts must be -1 with strategy='all', got {list(fanouts)}")
    widths = [0 if isinstance(f, int) else len(f) for f in fanouts]
    args = (indptr, nbr, eid if edge_ids or exclude is not None else None, relation, weight, exclude)
    try:
        return torch.ops.gnnaccel.sample_hops.default(
            *(None if x is None else x.contiguous() for x in args),
            seeds.to(nbr.dtype).contiguous(),
            [f for hop in by_hop for f in hop],
            widths,
            strategy == "weighted",
            replace,
            edge_ids,
            seed,
            epoch,
            batch,
        )
    except RuntimeError as error:
        if "sample_hops: " in str(error):
            explain(name, "seeds", str(error), indptr, nbr, seeds)
        raise
