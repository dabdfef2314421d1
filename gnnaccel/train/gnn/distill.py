"""A trained GNN's knowledge in a perceptron: predictions without neighbours (Zhang et al., GLNN, ICLR 2022)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gnnaccel.data.splits import Split
from gnnaccel.train.gnn.steps import Seeds
from gnnaccel.train.gnn.task import NodeTask, graph_task
from gnnaccel.train.pipeline import Pipeline
from gnnaccel.train.settings import ConfigError


@dataclass
class DistillTask(NodeTask):
    """A student that learns from the probabilities a teacher gives all nodes, and from the labels of the training nodes.

    `soft_weight * KL(teacher || student) + (1 - soft_weight) * cross-entropy`, the first averaged over all nodes of a batch,
    the second over those of them that are training nodes.

    Attributes:
        soft: Log-probabilities of the teacher at the temperature, `[N, C]`.
    """

    soft: Tensor = field(default_factory=lambda: torch.empty(0, 0), repr=False)

    def seeds(self, items: slice, epoch: int, batch: int) -> Seeds:
        nodes = self.order(epoch)[items]
        labelled = self.data.train_mask[nodes]
        y = torch.where(labelled, self.data.y[nodes], -1)
        return Seeds(nodes.to(self.device), (self.soft[nodes.to(self.device)], y.to(self.device)))

    def loss(self, step: Any) -> tuple[Tensor, None]:
        soft, y = step.seeds.target
        logits, c = self.forward(step), self.config.distill
        student = F.log_softmax(logits / c.temperature, 1)
        far = (soft.exp() * (soft - student)).sum(1).mean() * c.temperature**2
        known = (y >= 0).nonzero().squeeze(1)
        if not len(known):
            return c.soft_weight * far, None
        hard = F.cross_entropy(logits[known], y[known])
        return c.soft_weight * far + (1 - c.soft_weight) * hard, None

    def protocol(self) -> dict[str, Any]:
        return {**super().protocol(), "soft_weight": self.config.distill.soft_weight}


def check_teacher(teacher: Any) -> None:
    """`ConfigError` if the task tells no classes of nodes."""
    if not isinstance(teacher, NodeTask):
        raise ConfigError("distill: the teacher must tell classes of nodes (data.task 'node'), got a run of links")


def distill_task(config: Any, teacher: NodeTask, progress: Any = None) -> DistillTask:
    """The task of teaching the model of `config` (an mlp) what `teacher` knows of its own data.

    Raises:
        ConfigError: The teacher tells no classes.
    """
    check_teacher(teacher)
    student = graph_task(config, teacher.data, teacher.device)
    nodes = torch.arange(teacher.data.num_nodes, device=teacher.device)
    logits = teacher.results(nodes, progress)
    soft = F.log_softmax(logits / config.distill.temperature, 1)
    values = {name: getattr(student, name) for name in student.__dataclass_fields__ if not name.startswith("_")}
    values["split"] = Split(slice(0, teacher.data.num_nodes), student.split.val, student.split.test)
    return DistillTask(**values, soft=soft)


def latency(task: NodeTask, batch: int, *, neighbors: list[int] | None = None, repeats: int = 50) -> float:
    """Median seconds to tell the classes of `batch` nodes, from ids to logits: sampling, fetching, computing.

    Args:
        batch: Nodes at a time, of the test nodes if there are as many, else of all nodes; at most all.
        neighbors: A sampled model's fanouts for this; its own by default. A model of whole graphs needs them.
        repeats: Batches timed, after three that are not.
    """
    config = task.config
    if neighbors is not None:
        sampler = config.sampler.model_copy(update={"neighbors": neighbors})
        config = config.model_copy(update={"sampler": sampler})
    values = {name: getattr(task, name) for name in task.__dataclass_fields__ if not name.startswith("_")}
    made = type(task)(**{**values, "config": config})
    nodes = task.nodes("test")
    if len(nodes) < batch:
        nodes = torch.arange(task.data.num_nodes, device=task.device)
    batch = min(batch, len(nodes))
    starts = [i * batch % (len(nodes) - batch + 1) for i in range(repeats + 3)]
    parts = [nodes[i : i + batch] for i in starts]
    pipeline = Pipeline(made._stages(lambda index, part: Seeds(part, None), 0), 0)
    was_training = made.model.training
    made.model.eval()
    times = []
    try:
        for part in parts:
            start = time.perf_counter()
            with torch.no_grad(), pipeline([(0, part)]) as steps:
                for step in steps:
                    made.forward(step)
            times.append(time.perf_counter() - start)
    finally:
        made.model.train(was_training)
    return float(torch.tensor(times[3:]).median())
