"""What `Trainer` needs for learning on a graph: classes of nodes, or which edges there are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gnnaccel.data.nodes import NodeData
from gnnaccel.data.philox import below, words
from gnnaccel.data.splits import Split
from gnnaccel.graph.sparsify import sparsify
from gnnaccel.graph.static import Graph
from gnnaccel.graph.whole import GraphRows, graph_rows
from gnnaccel.nn.conv import TableRows
from gnnaccel.ops import gather_rows, unique_nodes
from gnnaccel.train.features import place_features
from gnnaccel.train.gnn.config import GNNConfig
from gnnaccel.train.gnn.model import GraphModel, degree_features, feature_kind, infer_all, make_graph_model
from gnnaccel.train.gnn.steps import MiniBatch, Seeds, make_stages
from gnnaccel.train.gnn.store import TableStore
from gnnaccel.train.labels import Labels, label_metrics
from gnnaccel.train.metrics import pair_metrics, reciprocal_ranks
from gnnaccel.train.pipeline import Pipeline, Stage
from gnnaccel.train.settings import ConfigError

if TYPE_CHECKING:
    from gnnaccel.train.gnn.static import StaticStep
    from gnnaccel.train.optimizer import FusedAdam

_ORDER, _LINKS, _NEGATIVES = 0x6F72, 0x6C6B, 0x6E  # streams of draws
_EVAL = (1 << 24) - 1  # epoch of the draws of evaluation


def fingerprint(data: NodeData) -> str:
    """Hash of edges, labels, split and some feature rows: tells a checkpoint whether it meets the data it was trained on."""
    digest = hashlib.sha256()
    g = data.graph
    for array in (g.indptr, g.nbr, g.relation, g.weight, data.y, data.train_mask, data.val_mask, data.test_mask):
        if array is not None:
            digest.update(array.cpu().contiguous().numpy().tobytes())
    if data.x is not None:
        some = data.x[:: max(len(data.x) // 4096, 1)].float()
        digest.update(f"{list(data.x.shape)} {data.x.dtype}".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]


def step_seed(seed: int, epoch: int, batch: int) -> int:
    """Of the dropouts of a batch, by the seed of the run; below 2^57, since `GNN` makes 64 of it."""
    return (seed * 0x9E3779B97F4A7C15 + (epoch << 24) + batch) % (1 << 57)


class WholeGraph(NamedTuple):
    """A batch of a whole graph: `blocks` and `x` are those of all nodes."""

    seeds: Seeds
    epoch: int
    index: int
    x: Any
    blocks: tuple[GraphRows, ...]


@dataclass
class GraphTask:
    """What node and edge tasks have in common; make them with `graph_task`.

    Attributes:
        graph: What messages pass along.
        x: Rows of the features, on the device or in pinned host memory (`train.features`), or None if they are learned.
        scale: Of int8 rows.
        split: Numbers of training, validation and test items, as slices from 0 on.
    """

    config: GNNConfig
    data: NodeData
    graph: Graph
    x: Tensor | None
    scale: Tensor | None
    split: Split
    model: GraphModel
    device: torch.device
    main_metric: str = "accuracy"
    unit: str = "nodes"
    _fingerprint: str = field(default="", repr=False)
    _order: tuple[int, Tensor] | None = field(default=None, repr=False)
    _nodes: dict[str, Tensor] = field(default_factory=dict, repr=False)

    # --- what Trainer asks ------------------------------------------------------------------------------------------

    def about(self) -> dict[str, Any]:
        self._fingerprint = self._fingerprint or fingerprint(self.data)
        g = self.data.graph
        return {
            "kind": "graph",
            "title": self.data.name,
            "num_nodes": g.num_nodes,
            "num_edges": g.num_edges,
            "fingerprint": self._fingerprint,
        }

    def batch_bounds(self, epoch: int) -> list[int]:
        n = self.split.train.stop
        size = max(n, 1) if self.config.whole_graph else self.config.train.batch_size
        return [*range(0, n, size), n]

    def reset(self) -> None:
        """There is no state between batches."""

    def commit(self, step: Any, rows: None) -> None:
        """There is no state between batches."""

    def replay(self, part: slice) -> None:
        """There is no state between batches."""

    def stages(self, epoch: int) -> list[Stage]:
        return self._stages(lambda index, items: self.seeds(items, epoch, index), epoch)

    def protocol(self) -> dict[str, Any]:
        return {"task": self.config.data.task, "inference": self._inference}

    # --- batches ----------------------------------------------------------------------------------------------------

    def seeds(self, items: slice, epoch: int, batch: int) -> Seeds:
        raise TypeError(f"{type(self).__name__}: seeds must be defined")

    def order(self, epoch: int) -> Tensor:
        """A permutation of the training items, of the seed and the epoch alone."""
        if self._order is None or self._order[0] != epoch:
            n = self.split.train.stop
            draw = words(n, seed=self.config.train.seed, stream=_ORDER, epoch=epoch)
            self._order = epoch, torch.from_numpy(np.argsort(draw, kind="stable"))
        return self._order[1]

    @property
    def store(self) -> TableStore | None:
        """Where feature rows lie; None if they are learned."""
        return None if self.x is None else TableStore(self.x, self.scale)

    @property
    def fused(self) -> bool:
        """Whether the first layer reads rows in place."""
        m, fetch = self.config.model, self.config.train.fetch
        if self.x is None or m.dropout_in or m.name == "gat":
            return False
        return fetch == "fused" or (fetch == "auto" and self.device.type == "cpu")

    def _stages(self, schedule: Any, epoch: int) -> list[Stage]:
        if self.config.model.name == "mlp":
            return self._row_stages(schedule, epoch)
        if not self.config.whole_graph:
            first: Any = self.model.gnn.convs[0]  # type: ignore[index]
            direct = self.fused and not first.projects
            options = {"epoch": epoch, "fused": self.fused, "direct": direct, "device": self.device}
            return make_stages(self.config, self.graph, self.store, schedule, **options)
        blocks = (graph_rows(self.graph),) * self.config.model.layers
        x = None if self.x is None else TableRows(self.x, None, self.scale, device=self.device)

        def begin(item: tuple[int, Any]) -> WholeGraph:
            return WholeGraph(schedule(*item), epoch, item[0], x, blocks)

        return [Stage("schedule", begin)]

    def _row_stages(self, schedule: Any, epoch: int) -> list[Stage]:
        """Of a model that sees the seeds' own rows alone."""
        store, layers = self.store, self.config.model.layers
        assert store is not None

        def begin(item: tuple[int, Any]) -> MiniBatch:
            return MiniBatch(item[0], epoch, schedule(*item), blocks=(None,) * layers)

        def fetch(batch: MiniBatch) -> MiniBatch:
            return batch._replace(x=store.in_place(batch.seeds.nodes))

        return [Stage("schedule", begin), Stage("fetch features", fetch)]

    def forward(self, step: MiniBatch | WholeGraph) -> Tensor:
        """Results of the seeds of a batch."""
        seed = step_seed(self.config.train.seed, step.epoch, step.index)
        gnn = self.model.gnn
        if isinstance(step, WholeGraph):
            x = self.model.source(step.x, None)
            out = gnn.whole(x, self.graph, seed) if hasattr(gnn, "whole") else gnn(x, step.blocks, seed)  # type: ignore[operator]
            return gather_rows(out, step.seeds.nodes)
        nodes = step.seeds.nodes if step.hops is None else step.hops.nodes
        return gnn(self.model.source(step.x, nodes), step.blocks, seed)

    # --- evaluation -------------------------------------------------------------------------------------------------

    @property
    def _inference(self) -> str:
        whole = self.config.whole_graph or self.config.model.name == "mlp"
        return "layerwise" if whole else self.config.eval.inference

    def results(self, nodes: Tensor, progress: Any = None) -> Tensor:
        """Results of `nodes`, each once, as evaluation sees them: `[n, .]`, without gradients."""
        if self._inference == "layerwise":
            x = None if self.x is None else TableRows(self.x, None, self.scale, device=self.device)
            out = infer_all(self.model, x, self.graph, progress)
            return out[nodes]
        if not len(nodes):
            width = self.config.model.hidden if self.config.data.task == "link" else self.data.num_classes
            return torch.empty(0, width, device=self.device)
        return torch.cat([*self._sampled(nodes, progress)])

    def _sampled(self, nodes: Tensor, progress: Any) -> Iterator[Tensor]:
        bounds = [*range(0, len(nodes), self.config.eval.batch_size), len(nodes)]
        stages = self._stages(lambda index, part: Seeds(nodes[part], None), _EVAL)
        batches = [(i, slice(a, b)) for i, (a, b) in enumerate(pairwise(bounds))]
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), Pipeline(stages, self.config.eval.lookahead)(batches) as steps:
                for step in steps:
                    yield self.forward(step)
                    if progress is not None:
                        progress.update(len(step.seeds.nodes))
        finally:
            self.model.train(was_training)


@dataclass
class NodeTask(GraphTask):
    """Classes of nodes, by cross-entropy."""

    def nodes(self, part: str) -> Tensor:
        if part not in self._nodes:
            self._nodes[part] = self.data.nodes(part).to(self.device)
        return self._nodes[part]

    def seeds(self, items: slice, epoch: int, batch: int) -> Seeds:
        nodes = self.nodes("train")[self.order(epoch)[items]]
        return Seeds(nodes, self.data.y[nodes.cpu()].to(self.device))

    def loss(self, step: Any) -> tuple[Tensor, None]:
        """Mean cross-entropy of the seeds."""
        return F.cross_entropy(self.forward(step), step.seeds.target), None

    def static_step(self, optimizer: FusedAdam) -> StaticStep | None:
        """The step that a GPU replays, if `train.capture` wants one and there is one."""
        from gnnaccel.train.gnn.static import static_step

        return static_step(self, optimizer)

    def logits(self, nodes: Tensor, progress: Any = None) -> Tensor:
        """Logits `[n, C]` of nodes."""
        return self.results(nodes, progress)

    def metrics(self, part: str, progress: Any = None) -> dict[str, Any]:
        nodes = self.nodes(part)
        logits = self.logits(nodes, progress)
        y = self.data.y[nodes.cpu()]
        counts = torch.bincount(self.data.y[self.data.train_mask], minlength=self.data.num_classes)
        names = self.data.class_names
        labels = Labels(y, tuple(range(self.data.num_classes)) if names is None else tuple(names.tolist()), counts)
        found = label_metrics(labels, slice(0, len(y)), logits.cpu().numpy())
        return {"nodes" if k == "events" else k: v for k, v in found.items()}

    def validate(self, progress: Any = None) -> dict[str, float]:
        found = self.metrics("val", progress)
        return {k: found[k] for k in ("accuracy", "macro_f1")}

    def test(self, progress: Any = None) -> dict[str, Any]:
        return self.metrics("test", progress)


@dataclass
class LinkTask(GraphTask):
    """Which edges there are: told from random ones by binary cross-entropy.

    Edges are undirected: u-v and v-u are one; their relations and weights are not used. Messages pass along training edges
    alone, and a batch does not sample the edges that it is about.

    Attributes:
        pairs: Ends `[E', 2]` of the edges: training first, then validation, then test.
    """

    pairs: Tensor = field(default_factory=lambda: torch.empty(0, 2, dtype=torch.int64))

    def _negatives(self, items: Tensor, n: int, epoch: int) -> Tensor:
        """`n` random nodes for each item."""
        draw = below(
            self.graph.num_nodes, items.numpy(), n, seed=self.config.train.seed, epoch=epoch, stream=_NEGATIVES
        )
        return torch.from_numpy(draw)

    def seeds(self, items: slice, epoch: int, batch: int) -> Seeds:
        edges = self.order(epoch)[items]
        negative = self._negatives(edges, self.config.train.negatives, epoch)
        ends = torch.cat([self.pairs[edges], negative], 1)
        nodes, at = unique_nodes(ends, self.graph.num_nodes)
        own = torch.cat([edges, edges + self.split.train.stop]).sort().values  # and their reverses
        return Seeds(nodes.to(self.device), at.to(self.device), own.to(self.device))

    def loss(self, step: Any) -> tuple[Tensor, None]:
        """Binary cross-entropy of the edges and of the random ones, each averaged."""
        h, at = self.forward(step), step.seeds.target
        rows = gather_rows(h, at)
        assert self.model.link is not None
        score = self.model.link(rows[:, :1], rows[:, 1:])
        return F.softplus(-score[:, 0]).mean() + F.softplus(score[:, 1:]).mean(), None

    @torch.no_grad()
    def metrics(self, part: str, n: int, progress: Any = None) -> dict[str, Any]:
        was_training = self.model.training
        self.model.eval()
        h = self.results(torch.arange(self.graph.num_nodes, device=self.device), progress)
        bounds: slice = {"val": self.split.val, "test": self.split.test}[part]
        first = self.split.train.stop + (self.split.val.stop if part == "test" else 0)
        items = torch.arange(first, first + bounds.stop)
        pairs, score = self.pairs[items], self.model.link
        assert score is not None
        positive, negative = [], []
        for at in torch.arange(len(items)).split(1 << 12):
            a = h[pairs[at, 0]]
            others = self._negatives(items[at], n, 0)
            positive.append(score(a, h[pairs[at, 1]]).cpu())
            negative.append(score(a.unsqueeze(1), h[others]).cpu())
        self.model.train(was_training)
        pos = torch.cat(positive).double().numpy()
        neg = torch.cat(negative).double().numpy()
        found = pair_metrics(pos, neg[:, 0])
        if n > 1:
            found["mrr"] = float(reciprocal_ranks(pos, neg).mean())
        return {**found, "edges": len(pos)}

    def validate(self, progress: Any = None) -> dict[str, float]:
        found = self.metrics("val", 1, progress)
        return {k: found[k] for k in ("auc", "ap")}

    def test(self, progress: Any = None) -> dict[str, Any]:
        return self.metrics("test", self.config.eval.negatives, progress)

    def protocol(self) -> dict[str, Any]:
        return {**super().protocol(), "negatives": self.config.eval.negatives}


def graph_task(config: GNNConfig, data: NodeData, device: torch.device | str = "cpu") -> NodeTask | LinkTask:
    """The task of a configuration on `data`.

    Raises:
        ConfigError: The data lacks what the configuration needs.
    """
    device = torch.device(device)
    node = config.data.task == "node"
    if node:
        if data.num_classes < 2:
            raise ConfigError(
                f"{data.name}: at least two classes are needed to tell nodes apart, got {data.num_classes}"
            )
        sizes = [len(data.nodes(part)) for part in ("train", "val", "test")]
        if not sizes[0]:
            raise ConfigError(f"{data.name}: the train mask must cover nodes with a class, got none")
        graph, pairs = data.graph, None
    else:
        graph, pairs, sizes = _split_edges(data, config)
    s = config.sampler
    _check_sampler(config, data, graph)
    if s.keep is not None:
        graph = sparsify(graph, s.keep, by=s.keep_by, x=data.x, seed=config.train.seed)
    kind = feature_kind(config, data)
    x = data.x if kind == "given" else degree_features(graph) if kind == "degree" else None
    scale = data.scale if kind == "given" else None
    if x is not None and x.dtype == torch.int8 and scale is None:
        scale = torch.ones(len(x))
    model = make_graph_model(config, data, graph, None if x is None else x.shape[1])
    x, scale = place_features(x, scale, device, config.train.features)
    common: dict[str, Any] = {
        "config": config,
        "data": data,
        "graph": graph.to(device),
        "x": x,
        "scale": scale,
        "split": Split(*(slice(0, n) for n in sizes)),
        "model": model.to(device),
        "device": device,
    }
    if pairs is None:
        return NodeTask(**common)
    return LinkTask(**common, main_metric="auc", unit="edges", pairs=pairs)


def _check_sampler(config: GNNConfig, data: NodeData, graph: Graph) -> None:
    """`ConfigError` unless there are the weights and features that edges are chosen by."""
    s, sampled = config.sampler, config.model.name != "mlp" and not config.whole_graph
    of = f"of {data.name}" if config.data.task == "node" else "of data.task 'link'"
    if s.strategy == "weighted" and sampled and graph.weight is None:
        raise ConfigError(f"setting sampler.strategy: must be 'uniform', edges {of} have no weights")
    if s.keep is None:
        return
    if s.keep_by == "weight" and graph.weight is None:
        raise ConfigError(f"setting sampler.keep_by: must be 'similarity' or 'random', edges {of} have no weights")
    if s.keep_by == "similarity" and data.x is None:
        raise ConfigError(f"setting sampler.keep_by: must be 'weight' or 'random', {data.name} has no features")


def _split_edges(data: NodeData, config: GNNConfig) -> tuple[Graph, Tensor, list[int]]:
    """The graph of training edges, all pairs in the order train, validation, test, and how many there are of each."""
    src, dst = data.graph.edges()
    low, high = torch.minimum(src, dst).long(), torch.maximum(src, dst).long()
    keys = (low * data.num_nodes + high)[low != high].unique()
    pairs = torch.stack([keys // data.num_nodes, keys % data.num_nodes], 1)
    draw = words(len(pairs), seed=config.train.seed, stream=_LINKS)
    pairs = pairs[torch.from_numpy(np.argsort(draw, kind="stable"))]
    n, d = len(pairs), config.data
    val, test = round(d.val_fraction * n), round(d.test_fraction * n)
    train = n - val - test
    if min(train, val, test) < 1:
        raise ConfigError(f"{data.name}: edges must be enough for three parts, got {n}")
    ends = pairs[:train]
    graph = Graph.from_edges(ends[:, 0], ends[:, 1], data.num_nodes, add_reverse=True)
    return graph, pairs, [train, val, test]
