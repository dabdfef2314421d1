"""One training step: rows of a batch, its loss and their gradients, and what the tables learn from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gnnaccel.data.kg.negatives import NegativeBatch
from gnnaccel.models.kge import KGE
from gnnaccel.nn.kg import MATRICES
from gnnaccel.ops import gather_rows, unique_nodes
from gnnaccel.ops.kg_loss import kg_loss_grads, kg_loss_grads_by_id
from gnnaccel.train.kg.config import KGConfig
from gnnaccel.train.kg.optimizer import SparseOptimizer


@dataclass
class Batch:
    """Triples of a step and what they are compared with.

    Attributes:
        step: Its number, from 0.
        h, r, t: int64 `[B]`.
        weight: Of each triple in the loss, `[B]`, or None.
        negatives: For each side that is replaced, its candidates; None: all entities.
    """

    step: int
    h: Tensor
    r: Tensor
    t: Tensor
    weight: Tensor | None
    negatives: dict[str, NegativeBatch | None]

    def to(self, device: torch.device) -> Batch:
        """On another device."""
        if device == self.h.device:
            return self

        def move(x: Any) -> Any:
            if isinstance(x, tuple):
                return type(x)(*map(move, x)) if hasattr(x, "_fields") else tuple(map(move, x))
            return x.to(device, non_blocking=True) if isinstance(x, Tensor) else x

        negatives = {side: move(drawn) for side, drawn in self.negatives.items()}
        return Batch(self.step, move(self.h), move(self.r), move(self.t), move(self.weight), negatives)


@dataclass
class Rows:
    """What a batch reads of the tables, in the type that is computed in.

    Attributes:
        h, t: `[B, D]`.
        r: A row a triple, or with `relation` one a distinct relation.
        neg: For each side, `[C, N, D]`, or the whole table `[E, D]`.
        relation: Which row of `r` and `projection` each triple takes, and the ids of those rows; None: its own.
    """

    h: Tensor
    r: Tensor
    t: Tensor
    neg: dict[str, Tensor]
    projection: Tensor | None = None
    relation: tuple[Tensor, Tensor] | None = None


@dataclass
class Update:
    """What to learn from: for each table ids and gradients, in parts.

    `ahead`: later steps have been learnt from already, so the tables are not those after this step.
    """

    step: int
    loss: float = 0.0
    ids: dict[str, list[Tensor]] = field(default_factory=dict)
    grads: dict[str, list[Tensor]] = field(default_factory=dict)
    ahead: bool = False

    def add(self, table: str, ids: Tensor, grad: Tensor) -> None:
        self.ids.setdefault(table, []).append(ids)
        self.grads.setdefault(table, []).append(grad)


class TrainStep:
    """Gather, compute, apply: the three parts of a step, so that they can overlap.

    Args:
        model: The embeddings.
        optimizer: Of its tables.
        config: `loss` and `negatives` are read.
    """

    def __init__(self, model: KGE, optimizer: SparseOptimizer, config: KGConfig) -> None:
        self.model, self.optimizer, self.config = model, optimizer, config
        self.tables = optimizer.tables
        self.acc = torch.promote_types(model.entity.dtype, torch.float32)
        self.all = torch.arange(model.num_entities, device=model.entity.device)

    def __call__(self, batch: Batch) -> float:
        """The whole step; returns the loss."""
        update = self.compute(batch, self.read(batch))
        self.apply(update)
        return update.loss

    def read(self, batch: Batch) -> Rows | None:
        """What `compute` needs of tables that stay as they are until it is done: None where it reads them itself."""
        in_place = (
            self.model.entity.device.type == "cpu"
            and self.model.entity.dtype == self.acc
            and self.model.model not in MATRICES
            and (self.config.loss.regularizer != "n3" or not self.config.loss.regularization)
            and None not in batch.negatives.values()
        )
        return None if in_place else self.gather(batch)

    @torch.no_grad()
    def gather(self, batch: Batch) -> Rows:
        """Rows of the tables as they are now."""
        entity = self.tables["entity"]
        h, t = (gather_rows(entity, ids, dtype=self.acc) for ids in (batch.h, batch.t))
        neg = {
            side: entity.to(self.acc)
            if drawn is None
            else gather_rows(entity, drawn.ids.flatten(), dtype=self.acc).view(*drawn.ids.shape, -1)
            for side, drawn in batch.negatives.items()
        }
        if self.model.model not in MATRICES:  # matrices are large: each is read once
            return Rows(h, gather_rows(self.tables["relation"], batch.r, dtype=self.acc), t, neg)
        ids, inverse = unique_nodes(batch.r)
        ids = ids.long()
        projection = self.tables["projection"][ids].to(self.acc) if "projection" in self.tables else None
        r = gather_rows(self.tables["relation"], ids, dtype=self.acc)
        return Rows(h, r, t, neg, projection, (ids, inverse))

    def compute(self, batch: Batch, rows: Rows | None) -> Update:
        """Loss of the batch, mean over sides, and the gradients of their sum; of rows that were gathered, or `read`."""
        loss, update = self.grads(batch, rows)
        update.loss = float(loss)  # waits for a GPU: nothing is learnt before it was looked at
        return update

    @torch.no_grad()
    def grads(self, batch: Batch, rows: Rows | None) -> tuple[Tensor, Update]:
        """As `compute`; the loss stays on the device, and nothing waits (but for models of matrices and 1-vs-all)."""
        loss, m = self.config.loss, self.model
        update, losses = Update(batch.step), []
        relation = None if rows is None else rows.relation
        which, r_ids = (None, batch.r) if relation is None else (relation[1], relation[0])
        for side, drawn in batch.negatives.items():
            options: dict[str, Any] = {
                "loss": loss.kind,
                "adversarial_temperature": loss.adversarial_temperature,
                "gamma": m.gamma,
                "margin": loss.margin,
                "weight": batch.weight,
                "exclude": self._own(batch, side) if drawn is None else drawn.exclude,
            }
            if rows is None:
                assert drawn is not None
                ids = (batch.h, batch.r, batch.t, drawn.ids)
                made = kg_loss_grads_by_id(
                    m.model, self.tables["entity"], self.tables["relation"], *ids, side, **options
                )
            else:
                options |= {"relation": which, "projection": rows.projection}
                made = kg_loss_grads(m.model, rows.h, rows.r, rows.t, rows.neg[side], side, **options)
            value, dh, dr, dt, dneg, *d_projection = made
            losses.append(value)
            update.add("entity", batch.h, dh)
            update.add("entity", batch.t, dt)
            update.add("entity", self.all if drawn is None else drawn.ids.flatten(), dneg.view(-1, m.dim))
            update.add("relation", r_ids, dr)
            for grad in d_projection:  # TransR's
                update.add("projection", r_ids, grad)
        if rows is not None and loss.regularizer == "n3" and loss.regularization:
            self._n3(batch, rows, update)
        return torch.stack(losses).mean(), update

    @torch.no_grad()
    def apply(self, update: Update) -> None:
        """Let the tables learn."""
        for table, ids in update.ids.items():
            self.optimizer.update(table, ids, update.grads[table], update.step)

    def _own(self, batch: Batch, side: str) -> tuple[Tensor, Tensor]:
        """Of all entities, a triple's own answer is no negative."""
        return torch.arange(len(batch.h) + 1, device=batch.h.device), batch.t if side == "tail" else batch.h

    def _n3(self, batch: Batch, rows: Rows, update: Update) -> None:
        """Lacroix et al. (ICML 2018): the mean over triples of the cubed moduli of h, r and t."""
        scale = 3 * self.config.loss.regularization / max(len(batch.h), 1)
        for table, ids, x in (("entity", batch.h, rows.h), ("entity", batch.t, rows.t), ("relation", batch.r, rows.r)):
            if table == "relation" and self.model.model in (*MATRICES, "rotate"):
                continue  # a matrix, or phases
            if self.model.model in ("complex", "rotate"):
                re, im = x.chunk(2, 1)
                modulus = torch.hypot(re, im).repeat(1, 2)
            else:
                modulus = x.abs()
            update.add(table, ids, modulus.mul_(x).mul_(scale))
