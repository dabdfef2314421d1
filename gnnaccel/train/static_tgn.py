"""A training step of link prediction on tensors of fixed size, so that a GPU replays it as one CUDA graph.

The step is `LinkTask`'s, operation for operation, on room for `B` events, of which the first `count` are there:

    plan, negatives     static inputs, written before each step: which events, how many, seeds
    _roots              sources | destinations | negatives of the `count` events, in this order and without gaps, then -1
    _hops               their sampled neighbours, `[R, K]` blocks, and theirs; a root -1 has none
    _batch              distinct nodes in order of first appearance, room for as many as there may be
    model.embed         memory of these rows, attention, embeddings of the roots
    decoder.loss        of `count` events
    optimizer.step      from `torch.autograd.grad`
    commit_events       memory and mail of the ends of `count` events, last event wins

No gaps: so roots, nodes and their numbers are those of the step without padding, draws (keyed by these numbers) too, and what
is padded comes last, is read by nobody and has zero gradients. On CPU a batch that fills its room has the same bits as without;
otherwise sums over roots are cut in other places, which shows in the last bits (on CUDA, in products of any batch).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gnnaccel.graph.batch import Hop, TemporalBatch, _neighbours, _Points, _window, dropout_seed
from gnnaccel.graph.block import Block, temporal_sample
from gnnaccel.models import ComposedModel
from gnnaccel.nn import AttentionAggregator, IdentityAggregator, LinkDecoder, MeanAggregator, MemoryUpdater
from gnnaccel.ops._commit_events import commit_events
from gnnaccel.ops.unique_nodes import unique_nodes_padded
from gnnaccel.train.capture import CapturedStep, settings_allow
from gnnaccel.train.optimizer import FusedAdam
from gnnaccel.train.schedule import batch_bounds

PLACES = 1 << 22  # ids that are numbered at once, roots, neighbours and theirs
LONGEST = 4  # times train.batch_size; a longer batch (many events of one time) would pad all others to its size


class StaticStep:
    """Calls are training steps; see the module.

    Args:
        task: A `LinkTask` that `why_not` has nothing against.
        optimizer: Of its model.
        capture: As of `CapturedStep`.
    """

    def __init__(self, task: Any, optimizer: FusedAdam, capture: bool | None = None) -> None:
        self.task, self.optimizer, self.model = task, optimizer, task.model
        self.params = [p for p in optimizer.param_groups[0]["params"] if p.requires_grad]
        dtype, device = self.params[0].dtype, task.device
        self.edge_feat = None if task.edge_feat is None else task.edge_feat.to(dtype)
        B = self.room = longest_batch(task)
        self.event, self.root = torch.arange(B, device=device), torch.arange(3 * B, device=device)
        self.negatives = torch.zeros(B, dtype=torch.int64, device=device)
        self.plan = torch.zeros(7, dtype=torch.int64, device=device)
        self.start, self.count, self.seed = self.plan[0], self.plan[1:2], self.plan[2:3]
        self.counters = self.plan[3:7]  # epoch, batch, time and id of the first event: see `temporal_sample`
        self.first_time = first_time(task)
        # what a step changes: not the table of node features, of which a copy would be kept while recording
        state = [*self.model.parameters(), *self._committed(), *optimizer.prepare()]
        self.run = CapturedStep(self._step, device=device, state=state, capture=capture)

    def load(self, events: slice, epoch: int, batch: int) -> None:
        """Make `events` the batch of the next step."""
        count = events.stop - events.start
        if not 1 <= count <= self.room:
            raise ValueError(f"StaticStep: events must be 1 to {self.room}, got {count}")
        self.negatives[:count] = self.task.training_negatives(events, epoch + 1).squeeze(1)
        time = self.task.events.t[events.start : events.start + 1].view(torch.int64).item()
        seed = dropout_seed(self.task.config.train.seed, epoch, batch)
        plan = torch.tensor([events.start, count, seed, epoch, batch, time, events.start])
        self.plan.copy_(plan, non_blocking=True)  # from memory that is not pinned: it is read before this returns

    def prepare(self, events: slice, epoch: int, batch: int) -> None:
        """Record the graph now, with `events` for an example; `CaptureError` where that fails. No step is done."""
        self.load(events, epoch, batch)
        self.run.record()

    def __call__(self, events: slice, epoch: int, batch: int) -> Tensor:
        """Learn from `events` and let them happen; returns the loss, overwritten by the next step."""
        self.load(events, epoch, batch)
        return self.run()

    def _step(self) -> Tensor:
        batch = self._batch()
        h, rows = self.model.embed(batch, self.edge_feat)
        loss = self.model.decoder.loss(h, self.room, count=self.count)
        grads = torch.autograd.grad(loss, self.params, allow_unused=True)
        for p, grad in zip(self.params, grads, strict=True):
            p.grad = grad
        self.optimizer.step()
        self.optimizer.zero_grad()
        if rows is not None:
            self._commit(batch, rows)
        return loss.detach()

    def _roots(self) -> _Points:
        part, event = self.root // self.count, self.root % self.count
        there = self.root < 3 * self.count
        at = torch.where(there, self.start + event, self.start)
        nodes = torch.where(
            part == 0, self.task.src[at], torch.where(part == 1, self.task.dst[at], self.negatives[event])
        )
        by_event = self.task.config.data.semantics == "by_event_id"
        return _Points(torch.where(there, nodes, -1), self.task.t[at], at if by_event else None)

    def _sample(self, points: _Points, depth: int) -> Block:
        sampling, config = self.model.sampling, self.task.config
        return temporal_sample(
            self.task.graph,
            points.nodes,
            points.times,
            sampling.fanouts[depth],
            sampling.strategy,
            sampling.replace,
            _window(sampling.window, points.times.dtype),
            config.data.semantics,
            config.train.seed,
            hop=depth,
            event_ids=points.event_ids,
            draw_keys=points.draw_keys() if depth and sampling.strategy == "uniform" else None,
            counters=self.counters,
        )

    def _hops(self, roots: _Points) -> tuple[list[Hop], list[_Points]]:
        """The hops, innermost first, and what that one reads: its roots and their neighbours, still to be numbered."""
        sampling, hops, points = self.model.sampling, [], roots
        for depth in range(len(sampling.fanouts)):
            block = self._sample(points, depth)
            neighbours = _neighbours(block, points, sampling.hop_time)
            if depth + 1 == len(sampling.fanouts):
                return [Hop(block, points.nodes, block.nbr), *hops], [points, neighbours]
            points, row = self._distinct(points, neighbours)
            at, count = len(block.count), block.nbr.shape
            hops.insert(0, Hop(block, row[:at].clamp(min=0), row[at:].view(count)))
        return [], []

    def _distinct(self, points: _Points, neighbours: _Points) -> tuple[_Points, Tensor]:
        """Distinct (node, time[, event]) of both in order of first appearance, then -1; and the row of each."""
        row = torch.cat([points.nodes.to(neighbours.nodes.dtype), neighbours.nodes]).long()
        n, codes = len(row), []
        for own, others in zip(points.keys(), neighbours.keys(), strict=True):
            column = torch.cat([own, others])
            if column.dtype == torch.float64:
                at_least_0 = (column + 0.0).view(torch.int64)  # -0.0 is 0.0
            else:
                at_least_0 = column - self.first_time if own is points.times else column
            values, rank, _ = unique_nodes_padded(at_least_0)
            code, row, _ = unique_nodes_padded(torch.where(row < 0, -1, row * n + rank))
            codes.append((code, values))
        there, at, keys = codes[-1][0] >= 0, torch.arange(n, device=row.device), []
        for code, values in reversed(codes):
            code = code[at].clamp(min=0)
            keys.insert(0, values[code % n])
            at = code // n
        times = keys[0] + self.first_time if points.times.dtype == torch.int64 else keys[0].view(torch.float64)
        return _Points(torch.where(there, at, -1), times, keys[1] if len(keys) > 1 else None), row

    def _batch(self) -> TemporalBatch:
        roots, R = self._roots(), len(self.root)
        hops, read = self._hops(roots)
        read = [p for p in read if p is not roots]
        dtype = self.task.graph.nbr.dtype
        nodes, row, _ = unique_nodes_padded(torch.cat([p.nodes.to(dtype) for p in (roots, *read)]))
        root_row, *rows = row.split([R, *(len(p.nodes) for p in read)])
        root_row = root_row.clamp(min=0)
        if hops:
            inner = rows[0].clamp(min=0) if len(rows) > 1 else root_row
            hops[0] = Hop(hops[0].block, inner, rows[-1].view(hops[0].block.nbr.shape))
        return TemporalBatch(
            roots=roots.nodes,
            times=roots.times,
            nodes=nodes[: self.task.graph.num_nodes].long().clamp(min=0),
            root_row=root_row,
            chains=(tuple(hops),),
            seed=self.seed,  # type: ignore[arg-type]
        )

    def _committed(self) -> list[Tensor]:
        """What `_commit` writes."""
        if not self.model.has_memory:
            return []
        memory, mailbox = self.model.memory, self.model.mailbox
        return [memory.memory, memory.last_update, mailbox.mail, mailbox.mail_time, mailbox.has_mail]

    @torch.no_grad()
    def _commit(self, batch: TemporalBatch, rows: Any) -> None:
        memory, mailbox, ends = self.model.memory, self.model.mailbox, slice(0, 2 * self.room)
        commit_events(
            memory.memory,
            memory.last_update,
            mailbox.mail,
            mailbox.mail_time,
            mailbox.has_mail,
            ends=batch.roots[ends],
            times=batch.times[ends],
            row=batch.root_row[ends],
            rows_memory=rows.memory,
            rows_time=rows.last_update,
            event_ids=self.start + self.event,
            edge_feat=self.edge_feat,
            count=self.count,
        )


def first_time(task: Any) -> int | float:
    return task.events.t[0].item()


def longest_batch(task: Any) -> int:
    """Events of the longest batch of any epoch."""
    config, part = task.config.train, task.split.train
    step = config.batch_size // config.chunks
    whole = task.config.data.semantics == "strict"
    grids = (
        batch_bounds(task.events.t, part, config.batch_size, shift=i * step, whole_times=whole)
        for i in range(config.chunks)
    )
    return max((b - a for grid in grids for a, b in pairwise(grid)), default=0)


def why_not(task: Any) -> str | None:
    """Why there is no static step for this task, in words for the user; None if there is one."""
    config, model = task.config, task.model
    own = [getattr(type(model), name, None) is not getattr(ComposedModel, name) for name in ("embed", "read", "commit")]
    if any(own) or not task.plain_links:
        return f"{config.model.name} has a step of its own here"
    sampling = model.sampling
    longest, size = longest_batch(task), config.train.batch_size
    if not longest:
        return "there are no events to train on"
    places = 3 * longest * math.prod(1 + k for k in sampling.fanouts)
    below_0 = task.events.t.dtype == torch.float64 and first_time(task) < 0
    mail = (model.mailbox.slots, model.deliver, model.combine) if model.has_memory else (1, "self", "last")
    unlike = {
        "memory.updater must be none, gru or rnn": not model.has_memory or type(model.updater) is MemoryUpdater,
        "mailbox.slots must be 1, mailbox.deliver self and mailbox.combine last": mail == (1, "self", "last"),
        "aggregator.kind must be attention, mean or identity": type(model.aggregator)
        in (AttentionAggregator, MeanAggregator, IdentityAggregator),
        "decoder.kind must be mlp": type(model.decoder) is LinkDecoder,
        "with two hops times must not be below 0": len(sampling.fanouts) < 2 or not below_0,
        f"sampler.neighbors must not ask for more than {PLACES} nodes a batch": places <= PLACES,
        "sampler.snapshots must be 1": sampling.snapshots == 1,
        "the sampler must number nodes": not (sampling.per_time or sampling.ends_only),
        "train.exact must be false": not config.train.exact,
        "train.staleness must be 0": not config.train.staleness,
        "edge features must be on the device": task.edge_feat is None or task.edge_feat.device == task.src.device,
    }
    for what, holds in unlike.items():
        if not holds:
            return what
    if longest > LONGEST * size:
        return f"a batch of {longest} events of one time would pad all others of {size} to its size"
    return None


def static_step(task: Any, optimizer: FusedAdam) -> StaticStep | None:
    """The static step that `train.capture` asks for, or None for the ordinary one.

    "auto" is for CUDA alone, and says why where it cannot be.

    Raises:
        ConfigError: `train.capture` is "on" and the settings do not allow it.
    """
    mode = task.config.train.capture
    if mode == "off" or (mode == "auto" and task.device.type != "cuda"):
        return None
    return StaticStep(task, optimizer) if settings_allow(mode, why_not(task)) else None
