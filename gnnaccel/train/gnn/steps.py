"""The stages that prepare a batch, as DistDGLv2 cuts them (Zheng et al., KDD 2022): schedule, sample, fetch remote ids, fetch
features, compact, to device; the seventh, compute, is the trainer's.

Each stage reads what the one before it made and touches nothing else, so results do not depend on how far ahead they run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gnnaccel.graph.hops import HopBlock, Hops, neighbor_sample, sample_hops
from gnnaccel.graph.static import Graph
from gnnaccel.nn.conv import TableRows
from gnnaccel.train.gnn.config import GNNConfig
from gnnaccel.train.gnn.store import Plan, TableStore
from gnnaccel.train.pipeline import Stage

STAGES = ("schedule", "sample", "fetch remote ids", "fetch features", "compact", "to device", "compute")
#: how the trainer times the parts of "compute"
COMPUTE = ("forward", "backward", "optimizer", "state")


class Seeds(NamedTuple):
    """What a batch is about.

    Attributes:
        nodes: Whose results are wanted, int64 `[R]`, each once.
        target: What the loss compares them with: classes `[R]`, or the positions among `nodes` of the ends of edges.
        exclude: Ids of edges that must not be sampled, sorted int64, or None.
    """

    nodes: Tensor
    target: Any
    exclude: Tensor | None = None


class MiniBatch(NamedTuple):
    """A batch on its way.

    Attributes:
        index: Number of the batch in its epoch.
        epoch: Of training; evaluation has its own.
        seeds: What it is about.
        hops: Its nodes and neighbours.
        plan: Who serves which row.
        x: Rows of the nodes, or where they lie.
        blocks: What the layers take.
    """

    index: int
    epoch: int
    seeds: Seeds
    hops: Hops | None = None
    plan: Plan | None = None
    x: Tensor | TableRows | None = None
    blocks: tuple[HopBlock | None, ...] = ()


def make_stages(
    config: GNNConfig,
    graph: Graph,
    store: Any,
    schedule: Callable[[int, Any], Seeds],
    *,
    epoch: int,
    fused: bool,
    direct: bool = False,
    device: torch.device,
) -> list[Stage]:
    """The six stages of an epoch.

    Args:
        config: `sampler` and `train.seed` are read.
        graph: What is sampled.
        store: Where feature rows lie (`TableStore`, `PartitionStore`), or None if the model has its own.
        schedule: Seeds of (number of the batch, its items).
        epoch: Of the draws.
        fused: Whether the first layer reads rows where they lie, so that none are fetched.
        direct: Whether it finds them by the graph's ids, so that the outermost hop is not numbered; only if `fused`.
        device: Where the batch goes.
    """
    s = config.sampler

    def begin(item: tuple[int, Any]) -> MiniBatch:
        return MiniBatch(item[0], epoch, schedule(*item))

    def sample(batch: MiniBatch) -> MiniBatch:
        draws: dict[str, Any] = {"replace": s.replace, "seed": config.train.seed, "epoch": epoch, "batch": batch.index}
        draws |= {"strategy": s.strategy, "exclude": batch.seeds.exclude, "edge_ids": False}
        numbered = s.neighbors[:-1] if direct else s.neighbors
        nodes = batch.seeds.nodes.to(graph.nbr.dtype)
        hops = sample_hops(graph, nodes, numbered, **draws) if numbered else Hops(nodes, [])
        if direct:  # the same draws as of `sample_hops`, by the graph's ids
            last, outer = len(numbered), s.neighbors[-1]
            if outer == -1:
                draws |= {"strategy": "all", "replace": False}
            b = neighbor_sample(graph, hops.nodes, None if outer == -1 else outer, hop=last, **draws)
            block = HopBlock(b.nbr, b.count, len(hops.nodes), None, b.relation, b.weight)
            hops = Hops(hops.nodes, [block, *hops.layers])
        return batch._replace(hops=hops)

    def fetch_ids(batch: MiniBatch) -> MiniBatch:
        assert batch.hops is not None
        return batch if store is None else batch._replace(plan=store.plan(batch.hops.nodes))

    def fetch_features(batch: MiniBatch) -> MiniBatch:
        if batch.plan is None:
            return batch
        if fused and isinstance(store, TableStore):
            return batch._replace(x=store.in_place(batch.plan.ids, direct))
        return batch._replace(x=store.rows(batch.plan))

    def compact(batch: MiniBatch) -> MiniBatch:
        assert batch.hops is not None
        return batch._replace(blocks=tuple(trimmed(block) for block in batch.hops.layers), plan=None)

    def to_device(batch: MiniBatch) -> MiniBatch:
        return batch if device.type == "cpu" else moved(batch, device)

    return [
        Stage("schedule", begin),
        Stage("sample", sample),
        Stage("fetch remote ids", fetch_ids),
        Stage("fetch features", fetch_features),
        Stage("compact", compact),
        Stage("to device", to_device),
    ]


def trimmed(block: HopBlock) -> HopBlock:
    """The block without columns that are padding in every row."""
    K = block.row.shape[1]
    most = int(block.count.max()) if len(block.count) else 0
    if most == K:
        return block
    wide = ("row", "eid", "relation", "weight")
    cut = {name: value[:, :most].contiguous() for name in wide if (value := getattr(block, name)) is not None}
    return replace(block, **cut)


def moved(value: Any, device: torch.device) -> Any:
    """`value` with all tensors in it on `device`."""
    if isinstance(value, tuple):
        parts = [moved(part, device) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value.to(device, non_blocking=True) if hasattr(value, "to") else value
