"""Sparse optimisers of embedding tables: only rows that a step has read are touched."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gnnaccel.models.kge import KGE
from gnnaccel.ops import sparse_adagrad_, sparse_adam_
from gnnaccel.train.kg.config import KGLossConfig, KGTrainConfig

MODES = {"adagrad": "row", "adagrad_row_dup": "row_dup", "adagrad_full": "full"}


class SparseOptimizer:
    """Adagrad or Adam over the tables of a model.

    The learning rate and the penalty are those of embeddings; RotatE's phases, in radians, learn pi / `init_scale` times as
    fast, and are penalised as if they were as much smaller.

    Args:
        model: Its tables are updated in place.
        train: `optimizer`, `learning_rate`, `schedule`, `warmup` and `seed` are read.
        loss: Coefficient and norm of the regularisation of rows that were read.
        total_steps: Length of the schedule.

    Attributes:
        state: For each table one tensor (Adagrad), or two (Adam: first and second moments).
    """

    def __init__(self, model: KGE, train: KGTrainConfig, loss: KGLossConfig, total_steps: int) -> None:
        self.tables = {name: table.detach() for name, table in model.tables.items()}
        self.config, self.total_steps = train, total_steps
        self.norm = int(loss.regularizer[1])
        self.regularization = 0.0 if loss.regularizer == "n3" else loss.regularization
        self.state = {name: self._fresh(table) for name, table in self.tables.items()}
        # RotatE's authors keep phases in the range of the entities; in radians a step must be as much longer
        self.stretch = {"relation": math.pi / model.init_scale} if model.model == "rotate" else {}

    def _fresh(self, table: Tensor) -> list[Tensor]:
        # a matrix counts as a row
        flat = table.flatten(1)
        acc = torch.promote_types(table.dtype, torch.float32)
        wide = self.config.optimizer in ("adagrad_full", "adam")
        count = 2 if self.config.optimizer == "adam" else 1
        return [flat.new_zeros(flat.shape if wide else flat.shape[:1], dtype=acc) for _ in range(count)]

    def learning_rate(self, step: int) -> float:
        """Of step number `step`, from 0."""
        c, total = self.config, max(self.total_steps, 1)
        rate = c.learning_rate * min(1.0, (step + 1) / (c.warmup + 1))
        if c.schedule == "step":
            return rate * (0.1 if step >= total // 2 else 1.0)
        if c.schedule == "linear":
            return rate * max(0.0, 1 - step / total)
        if c.schedule == "cosine":
            return rate * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))
        return rate

    def update(self, name: str, ids: list[Tensor], grads: list[Tensor], step: int) -> None:
        """Learn from gradients of rows `ids` of table `name`, which may repeat: they are summed first."""
        table = self.tables[name].flatten(1)
        grads = [g.flatten(1) for g in grads]
        stretch, state = self.stretch.get(name, 1.0), self.state[name]
        rate, penalty = self.learning_rate(step) * stretch, self.regularization / stretch**self.norm
        # a table of half precision keeps what is lost by rounding only on average
        seed = None if table.dtype.itemsize > 2 else self.config.seed * 2**31 + step
        options: dict[str, Any] = {"regularization": penalty, "norm": self.norm, "seed": seed}
        if self.config.optimizer == "adam":
            sparse_adam_(table, *state, ids, grads, step + 1, rate, **options)
        else:
            sparse_adagrad_(table, *state, ids, grads, rate, MODES[self.config.optimizer], **options)

    def state_dict(self) -> dict[str, list[Tensor]]:
        return self.state

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        for name, tensors in self.state.items():
            for mine, theirs in zip(tensors, state[name], strict=True):
                mine.copy_(theirs)
