"""A training step of GraphSAGE on tensors of fixed size, so that a GPU replays it as one CUDA graph, sampling included.

The step is `NodeTask`'s on room for `train.batch_size` seeds, of which the first ones are there and the others -1, and for as
many nodes as each hop may find: B, B (1 + f1), B (1 + f1) (1 + f2), ..., at most all. Nodes are numbered without gaps, so
draws (keyed by these numbers) are those of the step without padding; rows of padding are zeros, nobody reads their results, and
they have no gradient. Sums over rows are cut in other places, which shows in the last bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gnnaccel.graph.hops import HopBlock
from gnnaccel.nn.conv import TableRows
from gnnaccel.ops.unique_nodes import unique_nodes_padded
from gnnaccel.train.capture import CapturedStep, settings_allow
from gnnaccel.train.gnn.task import NodeTask, step_seed
from gnnaccel.train.optimizer import FusedAdam

IGNORED = -100  # target of padding
MOST = 4 << 30  # bytes of the input rows of a step with room for all that may be found


def rooms(batch_size: int, fanouts: list[int], num_nodes: int) -> list[int]:
    """Most nodes after each hop, the seeds first."""
    out = [batch_size]
    for fanout in fanouts:
        out.append(min(out[-1] * (1 + fanout), max(num_nodes, batch_size)))
    return out


def why_not(task: Any) -> str | None:
    """Why a task has no such step; None if it has."""
    config = task.config
    if not isinstance(task, NodeTask):
        return "edges hide themselves from the sampler, and how many nodes they have differs"
    if config.model.name != "sage":
        return f"model.name is {config.model.name}, not sage"
    if -1 in config.sampler.neighbors:
        return "sampler.neighbors takes all neighbours, whose number differs"
    width = config.model.dim_learned if task.x is None else task.x.shape[1]
    size = 4 * width * rooms(config.train.batch_size, config.sampler.neighbors, task.graph.num_nodes)[-1]
    if size > MOST:
        much = f"room for all nodes that a batch may find is {size / 1e9:.1f} GB of rows"
        return f"{much}; lower sampler.neighbors or train.batch_size"
    return None


def static_step(task: Any, optimizer: FusedAdam) -> StaticStep | None:
    """The step that a GPU replays, as `train.capture` wants it; None for the ordinary one.

    Raises:
        ConfigError: `train.capture` is "on" and the task has no such step.
    """
    mode = task.config.train.capture
    if mode == "off" or (mode == "auto" and task.device.type != "cuda"):
        return None
    return StaticStep(task, optimizer) if settings_allow(mode, why_not(task)) else None


class StaticStep:
    """Calls are training steps; see the module.

    Args:
        task: A `NodeTask` that `why_not` has nothing against.
        optimizer: Of its model.
        capture: As of `CapturedStep`.
    """

    def __init__(self, task: NodeTask, optimizer: FusedAdam, capture: bool | None = None) -> None:
        self.task, self.optimizer, self.model = task, optimizer, task.model
        self.params = [p for p in optimizer.param_groups[0]["params"] if p.requires_grad]
        config, device = task.config, task.device
        self.fanouts = list(config.sampler.neighbors)
        self.rooms = rooms(config.train.batch_size, self.fanouts, task.graph.num_nodes)
        self.seeds = torch.full((self.rooms[0],), -1, dtype=torch.int64, device=device)
        self.target = torch.full((self.rooms[0],), IGNORED, dtype=torch.int64, device=device)
        self.plan = torch.zeros(3, dtype=torch.int64, device=device)
        self.counters, self.seed = self.plan[:2], self.plan[2:]  # epoch and batch; of the dropouts
        self.y = task.data.y.to(device)
        # what a step changes; buffers of GraphSAGE, if it has any, would be tables that are only read
        state = [*self.model.parameters(), *optimizer.prepare()]
        self.run = CapturedStep(self._step, device=device, state=state, capture=capture)

    def load(self, items: slice, epoch: int, batch: int) -> None:
        """Make `items` the batch of the next step."""
        task, count = self.task, items.stop - items.start
        if not 1 <= count <= len(self.seeds):
            raise ValueError(f"StaticStep: items must be 1 to {len(self.seeds)}, got {count}")
        nodes = task.nodes("train")[task.order(epoch)[items].to(task.device)]
        self.seeds.fill_(-1)
        self.target.fill_(IGNORED)
        self.seeds[:count] = nodes
        self.target[:count] = self.y[nodes]
        # from memory that is not pinned: it is read before this returns
        plan = torch.tensor([epoch, batch, step_seed(task.config.train.seed, epoch, batch)])
        self.plan.copy_(plan, non_blocking=True)

    def prepare(self, items: slice, epoch: int, batch: int) -> None:
        """Record the graph now, with `items` for an example; `CaptureError` where that fails. No step is done."""
        self.load(items, epoch, batch)
        self.run.record()

    def __call__(self, items: slice, epoch: int, batch: int) -> Tensor:
        """Learn from `items`; returns the loss, overwritten by the next step."""
        self.load(items, epoch, batch)
        return self.run()

    # --- what is recorded -------------------------------------------------------------------------------------------

    def _step(self) -> Tensor:
        nodes, blocks = self._hops()
        x = self.model.source(None if self.task.x is None else self._rows(nodes), nodes)
        out = self.model.gnn(x, blocks, self.seed)
        loss = F.cross_entropy(out, self.target, ignore_index=IGNORED)
        grads = torch.autograd.grad(loss, self.params, allow_unused=True)
        for p, grad in zip(self.params, grads, strict=True):
            p.grad = grad
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def _rows(self, nodes: Tensor) -> Tensor:
        assert self.task.x is not None
        return TableRows(self.task.x, nodes, self.task.scale).gather()

    def _hops(self) -> tuple[Tensor, list[HopBlock]]:
        """As `sample_hops`, with room: -1 after the nodes that were found."""
        g, config = self.task.graph, self.task.config
        weighted, replace = config.sampler.strategy == "weighted", config.sampler.replace
        nodes, layers = self.seeds.to(g.nbr.dtype), []
        for hop, fanout in enumerate(self.fanouts):
            R = len(nodes)
            found, _, count, _, weight = torch.ops.gnnaccel.neighbor_sample.keyed(
                *(g.indptr, g.nbr, None, None, g.weight, None, nodes, [fanout], False, weighted, replace, False),
                *(self.counters, config.train.seed, hop),
            )
            distinct, number, _ = unique_nodes_padded(torch.cat([nodes, found.reshape(-1)]))
            nodes = distinct[: self.rooms[hop + 1]]
            row = number[R:].view(found.shape).to(torch.int32)
            weight = None if g.weight is None else weight
            layers.insert(0, HopBlock(row, count, len(nodes), None, None, weight))
        return nodes, layers
