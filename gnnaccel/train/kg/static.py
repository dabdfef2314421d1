"""A training step of fixed shapes that never waits for the GPU: drawn, computed and learnt from on the device, replayed.

Which triples a step has is read from the epoch's order, and its negatives are drawn, by a counter on the device; both are those
of `Schedule`, to the bit. Positives among candidates are bits. Losses are kept on the device and looked at together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gnnaccel.data.kg.negatives import _NEGATIVES, _SIDES, NegativeBatch, chunk_size
from gnnaccel.nn.kg import MATRICES
from gnnaccel.ops._kg_draw import kg_draw
from gnnaccel.ops._kg_loss import pack_bits
from gnnaccel.train.capture import CapturedStep, settings_allow
from gnnaccel.train.kg.config import KGConfig
from gnnaccel.train.kg.step import Batch, TrainStep, Update

if TYPE_CHECKING:
    from gnnaccel.train.kg.trainer import Schedule

CAPACITY = 32  # steps between looks at the losses


def wanted(mode: str, device: torch.device) -> bool:
    """Whether `train.capture` asks for the step; on CPU it is called without being recorded."""
    return mode == "on" or (mode == "auto" and device.type == "cuda")


def obstacle(config: KGConfig) -> str | None:
    """Why there is no step of fixed shapes; None if there is."""
    if config.model.name in MATRICES:
        return f"{config.model.name} reads the matrix of each relation once, and how many a batch has differs"
    if config.negatives.mode == "all":
        return "negatives.mode 'all' compares with the whole table"
    if config.train.staleness:
        return "train.staleness overlaps the steps"
    return None


def static_step(step: TrainStep, schedule: Schedule) -> StaticStep | None:
    """The step that a GPU replays, as `train.capture` wants it; None for the ordinary one.

    Raises:
        ConfigError: `train.capture` is "on" and there is an obstacle.
    """
    mode = step.config.train.capture
    if not wanted(mode, step.model.entity.device):
        return None
    return StaticStep(step, schedule) if settings_allow(mode, obstacle(step.config)) else None


class StaticStep:
    """Trains steps by their numbers; the short last batch of an epoch goes the ordinary way.

    The update is part of the graph where its numbers stay the same from step to step (Adagrad without a schedule of the
    learning rate, tables that are not rounded at random), else it is launched after it. A step whose loss is not finite
    teaches nothing.

    Args:
        step: Of the tables.
        schedule: What each step has.

    Attributes:
        capacity: Most steps of a call.
        device_draws: Whether triples and negatives are picked on the device; else (`negatives.mask` 'known') they are drawn on
            the host and copied.
        inside: Whether the update is part of the graph.
    """

    def __init__(self, step: TrainStep, schedule: Schedule) -> None:
        self.step, self.schedule, self.capacity = step, schedule, CAPACITY
        c, table = step.config, step.model.entity
        device = self.device = table.device
        self.size = c.train.batch_size
        self.device_draws = c.negatives.mask != "known"
        constant = c.train.schedule == "constant" and not c.train.warmup
        self.inside = c.train.optimizer != "adam" and constant and table.dtype.itemsize > 2
        self.at = torch.zeros(2, dtype=torch.int64, device=device)  # epoch, number of the batch
        self.slot = torch.zeros(1, dtype=torch.int64, device=device)
        self.losses = torch.zeros(CAPACITY, dtype=step.acc, device=device)
        self.given: dict[tuple[str, ...], Batch] = {}  # drawn on the host
        self._steps: dict[tuple[str, ...], CapturedStep] = {}
        self._where, self._epoch, self._warming = (0, 0), -1, False
        negatives = schedule.negatives
        assert negatives is not None
        if self.device_draws:
            triples = schedule.triples
            self.columns = [x.to(device) for x in (triples.head, triples.relation, triples.tail)]
            self.weight = None if schedule.weight is None else schedule.weight.to(device)
            self.order = torch.zeros(len(triples), dtype=torch.int64, device=device)
            self.total = [None if x is None else torch.from_numpy(x).to(device) for x in negatives._total]

    def __call__(self, steps: Iterable[int]) -> list[float]:
        """Train these steps, at most `capacity`; their losses. Waits for the device at the end."""
        self.slot.zero_()
        trained = 0
        for number in steps:
            size = self.schedule.sizes[number % self.schedule.per_epoch]
            if size == self.size:
                self._replay(number)
            else:
                self._ordinary(number)
            trained += 1
        return self.losses[:trained].tolist()

    def prepare(self, first: int, last: int) -> None:
        """Record the graphs of steps from `first` to `last` now; `CaptureError` where that fails. Nothing is learnt."""
        self.slot.zero_()  # recording notes losses
        graphs = 2 if self.step.config.negatives.sides == "alternate" else 1
        for number in range(first, min(first + graphs * self.schedule.per_epoch, last)):
            whole = self.schedule.sizes[number % self.schedule.per_epoch] == self.size
            if not whole or self.schedule.sides(number) in self._steps:
                continue
            try:
                self._captured(number).record()
            finally:
                self._where = -1, -1  # recording does not count
                self._warming = False
            if len(self._steps) == graphs:
                break

    def _ordinary(self, number: int) -> None:
        batch = self.schedule(number).to(self.device)
        loss, update = self.step.grads(batch, self.step.gather(batch))
        self._learn(loss, update)
        self.step.apply(update)

    def _replay(self, number: int) -> None:
        update = self._captured(number)()
        self._warming = False
        if not self.inside:
            update.step = number
            self.step.apply(update)

    def _captured(self, number: int) -> CapturedStep:
        """What trains a step, its inputs in their places."""
        sides = self.schedule.sides(number)
        if self.device_draws:
            self._seek(number)
        else:
            self._take(self.schedule(number))
        captured = self._steps.get(sides)
        if captured is None:
            # recording runs a step that changes these; tables are left alone, since nothing is learnt while warming up
            state = [self.at, self.slot, self.losses]
            captured = self._steps[sides] = CapturedStep(lambda: self.body(sides), device=self.device, state=state)
        self._warming = captured.capture and captured.graph is None
        return captured

    def _seek(self, number: int) -> None:
        """Let the counter on the device be at a step."""
        epoch, index = divmod(number, self.schedule.per_epoch)
        if epoch != self._epoch:
            self.order.copy_(self.schedule.batches.permutation(epoch))
            self._epoch = epoch
        if self._where != (epoch, index):
            self.at.copy_(torch.tensor([epoch, index]))
        self._where = epoch, index + 1

    def _take(self, batch: Batch) -> None:
        """Copy a batch, with bits for what is excluded, to where the graph of its sides reads it."""
        negatives: dict[str, NegativeBatch | None] = {}
        for side, drawn in batch.negatives.items():
            assert drawn is not None and drawn.exclude is not None
            indptr, position = drawn.exclude
            mask = torch.zeros(len(batch.h), drawn.ids.shape[1], dtype=torch.bool)
            mask[torch.repeat_interleave(torch.arange(len(batch.h)), indptr.diff()), position] = True
            negatives[side] = with_bits(drawn.ids, pack_bits(mask), drawn.chunk)
        batch, sides = Batch(batch.step, batch.h, batch.r, batch.t, batch.weight, negatives), tuple(negatives)
        if sides not in self.given:
            self.given[sides] = copied(batch, self.device)
        for mine, theirs in zip(_tensors(self.given[sides]), _tensors(batch), strict=True):
            mine.copy_(theirs)

    # --- what is recorded -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def body(self, sides: tuple[str, ...]) -> Update:
        """One step, on tensors that stay where they are."""
        batch = self._drawn(sides) if self.device_draws else self.given[sides]
        loss, update = self.step.grads(batch, self.step.gather(batch))
        self._learn(loss, update)
        if self.inside:
            self.step.apply(update)
        self.at[1:].add_(1)
        return update

    def _drawn(self, sides: tuple[str, ...]) -> Batch:
        """`Schedule`'s batch at the counter."""
        place = self.at[1] * self.size + torch.arange(self.size, device=self.device)
        rows = self.order.index_select(0, place)
        h, r, t = (x.index_select(0, rows) for x in self.columns)
        weight = None if self.weight is None else self.weight.index_select(0, rows)
        return Batch(0, h, r, t, weight, {side: self._negatives(side, h, t) for side in sides})

    def _negatives(self, side: str, h: Tensor, t: Tensor) -> NegativeBatch:
        """As `ChunkedNegatives.draw`."""
        n = self.schedule.negatives
        assert n is not None
        part, S = _SIDES.index(side), chunk_size(self.size, n.chunk)
        C, total = self.size // S, self.total[part]
        bound = n.num_entities if total is None else int(n._total[part][-1])  # type: ignore[index]
        ids = kg_draw(self.at, C * n.negatives, bound, seed=n.seed, stream=_NEGATIVES, part=part)
        if total is not None:
            ids = torch.searchsorted(total, ids, right=True)
        ids = ids.view(C, n.negatives)
        if not n.mask_own:
            return NegativeBatch(ids, None, S)
        true = (t if side == "tail" else h).view(C, S)
        if n.in_batch:
            ids = torch.cat([true[:, : n.in_batch], ids], 1)
        own = (true.unsqueeze(2) == ids.unsqueeze(1)).view(self.size, -1)
        return with_bits(ids, pack_bits(own), S)

    def _learn(self, loss: Tensor, update: Update) -> None:
        """Note the loss; of a step that has become NaN or infinite nothing is learnt: no row has the id -1."""
        self.losses.index_copy_(0, self.slot, loss.view(1).to(self.losses.dtype))
        self.slot.add_(1)
        if self.device.type == "cpu":  # where the op refuses -1
            return
        warming = self._warming and not torch.cuda.is_current_stream_capturing()
        good = loss.isfinite() & (not warming)
        for table, parts in update.ids.items():
            update.ids[table] = [torch.where(good, ids, -1) for ids in parts]


def with_bits(ids: Tensor, bits: Any, chunk: int) -> NegativeBatch:
    """Candidates of which bits say what is excluded, as `kg_loss_grads` takes them too."""
    return NegativeBatch(ids, bits, chunk)


def copied(batch: Batch, device: torch.device) -> Batch:
    """A batch of bits in memory of its own."""
    negatives: dict[str, NegativeBatch | None] = {}
    for side, drawn in batch.negatives.items():
        assert drawn is not None
        ids, bits = (x.to(device, copy=True) for x in (drawn.ids, drawn.exclude))  # type: ignore[union-attr]
        negatives[side] = with_bits(ids, bits, drawn.chunk)
    h, r, t = (x.to(device, copy=True) for x in (batch.h, batch.r, batch.t))
    weight = None if batch.weight is None else batch.weight.to(device, copy=True)
    return Batch(batch.step, h, r, t, weight, negatives)


def _tensors(batch: Batch) -> list[Tensor]:
    found = [batch.h, batch.r, batch.t, *([] if batch.weight is None else [batch.weight])]
    for side in sorted(batch.negatives):
        drawn = batch.negatives[side]
        assert drawn is not None
        found += [drawn.ids, drawn.exclude]  # type: ignore[list-item]
    return found
