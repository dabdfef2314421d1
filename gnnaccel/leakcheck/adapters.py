"""Samplers and models in the two shapes that the checks ask for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gnnaccel.data.events import TemporalEvents
from gnnaccel.graph.block import Block, temporal_sample
from gnnaccel.graph.temporal import TemporalGraph
from gnnaccel.ops.temporal_sample import MODES, STRATEGIES
from gnnaccel.train.config import Config


class GnnaccelSampler:
    """`gnnaccel.temporal_sample` under one of its semantics."""

    def __init__(self, events: TemporalEvents, mode: str = "strict", strategy: str = "recent", seed: int = 0) -> None:
        self.graph = TemporalGraph.from_events(events.src, events.dst, events.t, num_nodes=events.num_nodes)
        self.events, self.mode, self.strategy, self.seed = events, mode, strategy, seed
        self.random = strategy == "uniform"
        self.position = 0

    def sample(self, nodes: Tensor, times: Tensor, k: int) -> Block:
        start = None
        if self.mode == "before_batch":
            at = min(self.position, len(self.events) - 1)
            start = (self.events.t[at].item(), self.position)
        return temporal_sample(
            self.graph, nodes, times, k, self.strategy, semantics=self.mode, seed=self.seed, batch_start=start
        )


class GnnaccelBatchSampler(GnnaccelSampler):
    """... which has to be told where a batch begins."""

    def insert(self, part: slice) -> None:
        self.position = part.stop


def gnnaccel_sampler(mode: str = "strict", strategy: str = "recent") -> Callable[[TemporalEvents], GnnaccelSampler]:
    """Factory of our sampler under `mode`, for `check_sampler`. `by_event_id` needs the event of a root and is left out."""
    modes = [m for m in MODES if m != "by_event_id"]
    if mode not in modes:
        raise ValueError(f"leakcheck: a gnnaccel sampler must be one of {modes}, got {mode!r}")
    if strategy not in STRATEGIES:
        raise ValueError(f"leakcheck: strategy must be one of {list(STRATEGIES)}, got {strategy!r}")
    kind = GnnaccelBatchSampler if mode == "before_batch" else GnnaccelSampler
    return lambda events: kind(events, mode, strategy)


class PygSampler:
    """PyG's `LastNeighborLoader`, which knows the events that were inserted, whatever the time of a root."""

    def __init__(self, events: TemporalEvents, size: int) -> None:
        from torch_geometric.nn.models.tgn import LastNeighborLoader

        self.events = events
        self.loader: Any = LastNeighborLoader(events.num_nodes, size)

    def insert(self, part: slice) -> None:
        self.loader.insert(self.events.src[part], self.events.dst[part])

    def sample(self, nodes: Tensor, times: Tensor, k: int) -> list[list[int]]:
        distinct, row = nodes.unique(return_inverse=True)
        ids, edges, events = self.loader(distinct)
        own: dict[int, list[int]] = {}
        for node, event in zip(ids[edges[1]].tolist(), events.tolist(), strict=True):
            own.setdefault(node, []).append(event)
        found = [own.get(node, []) for node in distinct.tolist()]
        return [found[i] for i in row.tolist()]


def pyg_sampler(size: int) -> Callable[[TemporalEvents], PygSampler]:
    """Factory of PyG's `LastNeighborLoader` with `size` neighbours a node, for `check_sampler`."""
    try:
        import torch_geometric  # noqa: F401
    except ImportError:
        raise ValueError("leakcheck: the sampler 'pyg' needs torch_geometric, which is not installed") from None
    return lambda events: PygSampler(events, size)


class TaskModel:
    """A model of ours as it is evaluated: a batch is scored, then it happens.

    Args:
        config: Its settings, which also give the seed of its weights.
        events: The stream.
        weights: A state dict to load, e.g. of a checkpoint; None: the initial ones.
    """

    def __init__(self, config: Config, events: TemporalEvents, weights: dict[str, Tensor] | None = None) -> None:
        from gnnaccel.train.link import LinkTask

        self.task = LinkTask.create(config, events)
        if weights is not None:
            try:
                self.task.model.load_state_dict(weights)
            except RuntimeError:
                wanted = "as many nodes, and features as wide, as those that the weights were trained on"
                raise ValueError(f"leakcheck: events must have {wanted}, got others ({events.name})") from None
        self.task.reset()
        self.task.model.eval()
        self.semantics = config.data.semantics
        self.random = config.sampler.strategy == "uniform" and bool(config.sampler.neighbors)
        self._scored: Any = None

    @torch.no_grad()
    def scores(self, part: slice, candidates: Tensor) -> tuple[Tensor, Tensor]:
        step = self.task.sample(part, candidates, batch=part.start)
        positive, negative, rows = self.task.scores(step)
        self._scored = step, rows
        return positive, negative

    @torch.no_grad()
    def insert(self, part: slice) -> None:
        scored = self._scored
        if scored is None or scored[0].events != part:
            step = self.task.sample(part, self.task.src.new_empty((part.stop - part.start, 0)), batch=part.start)
            scored = step, self.task.scores(step)[2]
        step, rows = scored
        self.task.commit(step, rows)
        self._scored = None


def model_of_task(config: Config, weights: dict[str, Tensor] | None = None) -> Callable[[TemporalEvents], TaskModel]:
    """Factory of a model of ours, for `check_model`.

    Settings that follow from the data, such as a window given as a share of the training part, are those of the first stream
    that the factory is called with: they are chosen before training, and no part of a prediction.
    """
    fixed: list[Config] = []

    def make(events: TemporalEvents) -> TaskModel:
        if not fixed:
            fixed.append(_fixed(config, events))
        return TaskModel(fixed[0], events, weights)

    return make


def _fixed(config: Config, events: TemporalEvents) -> Config:
    from gnnaccel.train.build import sampling_of
    from gnnaccel.train.edgebank import build_edgebank

    config = config.model_copy(deep=True)
    if config.model.name == "edgebank":
        window = build_edgebank(config, events).window
        config.edgebank.window = "none" if window is None else window
    elif isinstance(config.sampler.window, str):
        config.sampler.window = sampling_of(config, events).window
    return config


def model_of_run(run: str | Path) -> tuple[Callable[[TemporalEvents], TaskModel], Config, str]:
    """Factory of the best epoch of a training run, its settings, and the name of its data."""
    from gnnaccel.train.checkpoint import load_best
    from gnnaccel.train.trainer import config_of

    state = load_best(run)[1]
    config = config_of(state)
    return model_of_task(config, state["model"]), config, state["data"]["name"]
