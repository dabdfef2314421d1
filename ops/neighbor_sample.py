"""`neighbor_sample`: neighbours of nodes of a static graph: drawn uniformly, by weight, so many a relation, or all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from gnnaccel.ops._library import define, fake, impl

STRATEGIES = ("uniform", "weighted", "all")

define(
    "neighbor_sample(Tensor indptr, Tensor nbr, Tensor? eid, Tensor? relation, Tensor? weight, Tensor? exclude, "
    "Tensor nodes, int[] fanout, bool typed, bool weighted, bool replace, bool edge_ids, int seed, int epoch, "
    "int batch, int hop) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)

# with what changes from batch to batch in a tensor, int64 [2]: epoch, batch
define(
    "neighbor_sample.keyed(Tensor indptr, Tensor nbr, Tensor? eid, Tensor? relation, Tensor? weight, Tensor? exclude, "
    "Tensor nodes, int[] fanout, bool typed, bool weighted, bool replace, bool edge_ids, Tensor counters, int seed, "
    "int hop) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)

#: nbr, eid, count, relation, weight; what is not asked for or not there has no rows.
Sample = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@impl("neighbor_sample", "CUDA")
def _cuda(*args: Any) -> Sample:
    from gnnaccel.kernels.cuda.neighbor_sample import neighbor_sample

    return neighbor_sample(*args)


@impl("neighbor_sample.keyed", "CUDA")
def _cuda_keyed(*args: Any) -> Sample:
    from gnnaccel.kernels.cuda.neighbor_sample import neighbor_sample

    *inputs, counters, seed, hop = args
    return neighbor_sample(*inputs, seed, 0, 0, hop, counters)


@impl("neighbor_sample.keyed", "CompositeExplicitAutograd")
def _read(*args: Any) -> Sample:
    *inputs, counters, seed, hop = args
    return torch.ops.gnnaccel.neighbor_sample.default(*inputs, seed, *counters.tolist(), hop)


@impl("neighbor_sample", "CompositeExplicitAutograd")
def _composite(*args: Any) -> Sample:
    from gnnaccel.ops._neighbor_sample_torch import neighbor_sample

    return neighbor_sample(*args)


@fake("neighbor_sample.keyed")
@fake("neighbor_sample")
def _fake(
    indptr: Tensor,
    nbr: Tensor,
    eid: Tensor | None,
    relation: Tensor | None,
    weight: Tensor | None,
    exclude: Tensor | None,
    nodes: Tensor,
    fanout: Sequence[int],
    typed: bool,
    weighted: bool,
    replace: bool,
    edge_ids: bool,
    *args: Any,
) -> Sample:
    roots, slots = nodes.shape[0], sum(fanout)
    return (
        nbr.new_empty((roots, slots)),
        nbr.new_empty((roots if edge_ids else 0, slots)),
        nbr.new_empty((roots,), dtype=torch.int32),
        nbr.new_empty((0 if relation is None else roots, slots), dtype=torch.int16),
        nbr.new_empty((0 if weight is None else roots, slots), dtype=torch.float32),
    )


# --- checks ---------------------------------------------------------------------------------------------------------------


def check_graph(
    name: str, indptr: Tensor, nbr: Tensor, eid: Tensor | None, relation: Tensor | None, weight: Tensor | None
) -> None:
    """Shapes, dtypes and devices of the graph's arrays."""
    if indptr.dtype != torch.int64:
        raise TypeError(f"{name}: indptr must be int64, got {indptr.dtype}")
    if indptr.dim() != 1 or indptr.shape[0] < 1:
        raise ValueError(f"{name}: indptr must be [N + 1], got {list(indptr.shape)}")
    if nbr.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name}: nbr must be int32 or int64, got {nbr.dtype}")
    if nbr.dim() != 1:
        raise ValueError(f"{name}: nbr must be [M], got {list(nbr.shape)}")
    for what, tensor, dtype in (("eid", eid, nbr.dtype), ("relation", relation, torch.int16), ("weight", weight, None)):
        if tensor is None:
            continue
        if tensor.dtype != (dtype or torch.float32):
            raise TypeError(f"{name}: {what} must be {dtype or torch.float32}, got {tensor.dtype}")
        if tensor.shape != nbr.shape:
            raise ValueError(f"{name}: {what} must be {list(nbr.shape)} like nbr, got {list(tensor.shape)}")
    for what, tensor in (("indptr", indptr), ("eid", eid), ("relation", relation), ("weight", weight)):
        if tensor is not None and tensor.device != nbr.device:
            raise ValueError(f"{name}: {what} must be on {nbr.device} like nbr, got {tensor.device}")


def check_nodes(name: str, what: str, nodes: Tensor, nbr: Tensor) -> None:
    if nodes.dtype != torch.int64 and nodes.dtype != torch.int32:
        raise TypeError(f"{name}: {what} must be int64 or int32, got {nodes.dtype}")
    if nodes.dim() != 1:
        raise ValueError(f"{name}: {what} must be [R], got {list(nodes.shape)}")
    if nodes.device != nbr.device:
        raise ValueError(f"{name}: {what} must be on {nbr.device} like the graph, got {nodes.device}")


def check_fanout(name: str, what: str, fanout: Any, num_relations: int | None, least: int = 1) -> list[int]:
    """One number, or one a relation, as a list."""
    if isinstance(fanout, int) and not isinstance(fanout, bool):
        if not least <= fanout < 2**24 or fanout == 0:
            kind = "in [1, 2**24)" if least > 0 else "in [1, 2**24), or -1 for all"
            raise ValueError(f"{name}: {what} must be {kind}, got {fanout}")
        return [fanout]
    if not isinstance(fanout, (list, tuple)) or any(isinstance(f, bool) or not isinstance(f, int) for f in fanout):
        raise TypeError(f"{name}: {what} must be an int or a sequence of ints, got {fanout!r}")
    if num_relations is None:
        raise ValueError(f"{name}: {what} must be an int on a graph without relations, got {fanout!r}")
    if len(fanout) != num_relations:
        raise ValueError(f"{name}: {what} must have one number for each of {num_relations} relations, got {fanout!r}")
    if any(f < 0 for f in fanout) or not 0 < sum(fanout) < 2**24:
        raise ValueError(f"{name}: {what} must be at least 0 and have a sum in [1, 2**24), got {fanout!r}")
    return list(fanout)


def check_draws(name: str, strategy: str, weight: Tensor | None, hop: int = 0) -> None:
    if strategy not in STRATEGIES:
        raise ValueError(f"{name}: strategy must be one of {list(STRATEGIES)}, got {strategy!r}")
    if strategy == "weighted" and weight is None:
        raise ValueError(f"{name}: weight must be given with strategy='weighted', got None")
    if not 0 <= hop < 256:
        raise ValueError(f"{name}: hop must be in [0, 256), got {hop}")


def check_exclude(name: str, exclude: Tensor | None, eid: Tensor | None, nbr: Tensor) -> Tensor | None:
    if exclude is None:
        return None
    if exclude.dtype != torch.int64:
        raise TypeError(f"{name}: exclude must be int64, got {exclude.dtype}")
    if exclude.dim() != 1:
        raise ValueError(f"{name}: exclude must be [X], got {list(exclude.shape)}")
    if exclude.device != nbr.device:
        raise ValueError(f"{name}: exclude must be on {nbr.device} like the graph, got {exclude.device}")
    if eid is None:
        raise ValueError(f"{name}: eid must be given with exclude, got None")
    if bool((exclude[1:] < exclude[:-1]).any()):
        raise ValueError(f"{name}: exclude must ascend, got a smaller id after a larger one")
    return exclude.contiguous() if exclude.shape[0] else None


def explain(name: str, what: str, fault: str, indptr: Tensor, nbr: Tensor, nodes: Tensor) -> NoReturn:
    """Say which of the values that a kernel refused is bad."""
    n = indptr.shape[0] - 1
    if "bad root" in fault:
        low = 0 if what == "seeds" else -1
        at = int(((nodes < low) | (nodes >= n)).nonzero()[0])
        raise ValueError(f"{name}: {what} must be in [{low}, {n}), got {int(nodes[at])} at position {at}") from None
    if "repeated seed" in fault:
        values, count = nodes.unique(return_counts=True)
        raise ValueError(f"{name}: seeds must be distinct, got {int(values[count > 1][0])} more than once") from None
    if "bad neighbour" in fault:
        bad = nbr[(nbr < 0) | (nbr >= n)]
        raise ValueError(f"{name}: nbr must be in [0, {n}), got {int(bad[0])}") from None
    if "bad row" in fault:
        kind = "ascend from 0 to the length of nbr, rows shorter than 2**31 and sorted by relations in range"
        raise ValueError(f"{name}: indptr must {kind}, got other rows") from None
    raise ValueError(f"{name}: weight must be finite and at least 0, got another in a row asked for") from None


# --- public ---------------------------------------------------------------------------------------------------------------


def neighbor_sample(
    indptr: Tensor,
    nbr: Tensor,
    nodes: Tensor,
    fanout: int | Sequence[int] | None = 10,
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
    hop: int = 0,
    edge_ids: bool = True,
    exclude: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None, Tensor | None]:
    """Sample up to `fanout` entries of the rows of `nodes`. `gnnaccel.neighbor_sample` takes a graph.

    Args:
        indptr: Row offsets, int64 `[N + 1]`, not decreasing.
        nbr: Neighbours, `[M]`, int32 or int64.
        nodes: Roots, `[R]`, int64 or int32. -1 is padding and has no neighbours.
        fanout: Slots a root, at least 1; or one number for each relation, of which some may be 0. None with `"all"`.
        eid: Edge ids, `[M]`, dtype of `nbr`.
        relation: int16 `[M]`, ascending within a row, in `[0, num_relations)`.
        weight: float32 `[M]`, finite, not negative.
        strategy: `"uniform"`: every neighbour equally likely. `"weighted"`: in proportion to `weight`; 0 is never drawn.
            `"all"`: every neighbour; as many slots as the largest degree among `nodes`, at least 1.
        replace: Whether a neighbour may be drawn several times. Without, rows of at most `fanout` neighbours (of positive
            weight) come whole, every subset is equally likely, and weighted draws are made one after the other, each in
            proportion to the weights that are left.
        seed: 64 bits; with `epoch`, `batch`, `hop` (0..255) and the position of a root in `nodes` it keys the draws
            (Philox4x32-10).
        edge_ids: Whether `eid` is returned.
        exclude: Edge ids that are never taken, ascending int64 `[X]`. The draws are uniform or weighted among the others.

    Returns:
        `(nbr, eid, count, relation, weight)`: neighbours `[R, K]`, dtype of `nbr`; their edge ids; int32 `[R]`, slots in use;
        relations and weights of the edges, where the graph has such. Slots past `count` hold -1 (weights: 0). The slots of a
        root are in the order of its row, hence by relation.

    Cost: O(fanout) a root for uniform draws, O(degree) for weighted ones; with `exclude` O(degree) where one was drawn.
    Weighted draws without replacement take a random word an entry; those of rows longer than 2**25 reach into the next hop's.

    Determinism: the same draws on every device and for any number of threads. A GPU takes its own logarithm for weighted draws
    without replacement; where that differs in the last bit, a pick differs with a probability of about 1e-15 a neighbour.

    Source: Bentley and Floyd (CACM 1987) for uniform draws, Efraimidis and Spirakis (IPL 2006) for weighted ones.

    Raises:
        TypeError: A dtype is wrong.
        ValueError: A shape, name or value is wrong. On CPU also: a root is out of range; the offsets of its row, or the
            relations in it, are seen to be out of order; a weight in it is negative or not finite, where draws are weighted. A
            GPU gives such roots no neighbours.
    """
    name = "neighbor_sample"
    check_graph(name, indptr, nbr, eid, relation, weight)
    check_nodes(name, "nodes", nodes, nbr)
    check_draws(name, strategy, weight, hop)
    if edge_ids and eid is None:
        raise ValueError(f"{name}: eid must be given with edge_ids=True, got None")
    exclude = check_exclude(name, exclude, eid, nbr)
    if strategy == "all":
        if fanout is not None:
            raise ValueError(f"{name}: fanout must be None with strategy='all', got {fanout!r}")
        real = nodes[(nodes >= 0) & (nodes < indptr.shape[0] - 1)]
        degree = indptr[real + 1] - indptr[real]
        fanouts, replace = [max(1, int(degree.max()) if len(degree) else 1)], False
    else:
        fanouts = check_fanout(name, "fanout", fanout, None if relation is None else num_relations)
    typed = not isinstance(fanout, int) and strategy != "all"
    args = (indptr, nbr, eid if edge_ids or exclude is not None else None, relation, weight, exclude)
    try:
        out = torch.ops.gnnaccel.neighbor_sample.default(
            *(None if x is None else x.contiguous() for x in args),
            nodes.contiguous(),
            fanouts,
            typed,
            strategy == "weighted",
            replace,
            edge_ids,
            seed,
            epoch,
            batch,
            hop,
        )
    except RuntimeError as error:
        if "neighbor_sample: bad" in str(error):
            explain(name, "nodes", str(error), indptr, nbr, nodes)
        raise
    found, out_eid, count, out_relation, out_weight = out
    return (
        found,
        out_eid if edge_ids else None,
        count,
        None if relation is None else out_relation,
        None if weight is None else out_weight,
    )
