"""PyKEEN's models on given tables: its training step (sLCWA loop, basic sampler, NSSA loss, Adagrad) and its evaluator.

The interactions are put into an `ERModel` without the constraints of the named models, which would change the tables. PyKEEN's
RotatE takes the Euclidean norm of the difference whatever `p` it is given, not the sum of moduli that its authors have.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from gnnaccel.baselines.peers import LackingError
from gnnaccel.baselines.peers.kg_train import Batch, Tables, TorchStep, query

INTERACTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "transe_l1": ("transe", {"p": 1}),
    "transe_l2": ("transe", {"p": 2}),
    "distmult": ("distmult", {}),
    "complex": ("complex", {}),
    "rotate": ("rotate", {}),
    "rescal": ("rescal", {}),
}


def _interleaved(re: Tensor, im: Tensor) -> Tensor:
    return torch.stack([re, im], -1).flatten(1)


class PyKEEN:
    """A model with the values of `tables`, and a loop that trains it.

    Args:
        model: A key of `INTERACTIONS`; another one raises ValueError.
        triples: `(head, relation, tail)`, int64 `[T, 3]`.

    Raises:
        ImportError: PyKEEN is not installed.
        LackingError: Its model of this name is another function.
    """

    def __init__(
        self, model: str, tables: Tables, triples: Tensor, *, gamma: float, lr: float, batch_size: int, negatives: int
    ) -> None:
        if model not in INTERACTIONS:
            raise LackingError(f"PyKEEN's {model} is another function than ours")
        from pykeen.losses import NSSALoss
        from pykeen.models import ERModel
        from pykeen.training import SLCWATrainingLoop
        from pykeen.triples import CoreTriplesFactory

        self.name = model
        E, D = tables.entity.shape
        name, kwargs = INTERACTIONS[model]
        halves = model in ("complex", "rotate")
        shape: dict[str, Any] = {"shape": D // 2, "dtype": torch.cfloat} if halves else {"shape": D}
        factory = CoreTriplesFactory(triples, num_entities=E, num_relations=len(tables.relation))
        # without a temperature the weights of the negatives are all the same; products have no gamma
        loss = NSSALoss(margin=gamma if model[:6] in ("transe", "rotate") else 0.0, adversarial_temperature=0.0)
        self.model = ERModel(
            triples_factory=factory,
            interaction=name,
            interaction_kwargs=kwargs,
            entity_representations_kwargs=shape,
            relation_representations_kwargs={"shape": (D, D)} if model == "rescal" else shape,
            loss=loss,
            random_seed=0,
        )
        entity, relation = tables.entity, tables.relation
        if halves:
            entity = _interleaved(*entity.chunk(2, 1))
            relation = (
                _interleaved(relation.cos(), relation.sin())
                if model == "rotate"
                else _interleaved(*relation.chunk(2, 1))
            )
        with torch.no_grad():
            for owned, values in (
                (self.model.entity_representations, entity),
                (self.model.relation_representations, relation),
            ):
                weight: Any = next(owned[0].parameters())
                weight.copy_(values.reshape(weight.shape))
        self.optimizer = torch.optim.Adagrad(self.model.parameters(), lr=lr)
        self.batch_size = batch_size
        self.loop = SLCWATrainingLoop(
            model=self.model,
            triples_factory=factory,
            optimizer=self.optimizer,
            negative_sampler="basic",
            negative_sampler_kwargs={"num_negs_per_pos": negatives},
        )
        self.loader: Any = self.loop._create_training_data_loader(
            factory, sampler=None, batch_size=batch_size, drop_last=True
        )
        self.batches: Iterator[Any] = iter(())

    def _loss(self, batch: Any, backward: bool) -> float:
        size = len(batch["positives"])
        return self.loop._forward_pass(batch, 0, size, size, 0.0, None, backward=backward)

    def loss(self, batch: Batch) -> float:
        """Loss of the shared negatives, each written out as a triple."""
        positive = torch.stack([batch.head, batch.relation, batch.tail], 1)
        C, N = batch.negative.shape
        negative = positive.unsqueeze(1).repeat(1, N, 1)
        side = 2 if batch.side == "tail" else 0
        negative[:, :, side] = batch.negative.repeat_interleave(len(positive) // C, 0)
        with torch.no_grad():
            return self._loss({"positives": positive, "negatives": negative}, False)

    def expected(self, tables: Tables, batch: Batch, gamma: float) -> float:
        """The same by its formula, with other code."""
        if self.name != "rotate":
            return TorchStep(self.name, tables, gamma=gamma, lr=0.0, by_chunk=True).step(batch)
        tail = batch.side == "tail"
        kept, other = (batch.head, batch.tail) if tail else (batch.tail, batch.head)
        q = query("rotate", tables.entity[kept], tables.relation[batch.relation], tail)
        C = len(batch.negative)
        positive = gamma - (q - tables.entity[other]).norm(dim=-1)
        negative = gamma - torch.cdist(q.view(C, -1, q.shape[1]), tables.entity[batch.negative])
        return float(softplus(-positive).mean() + softplus(negative).mean()) / 2

    def step(self) -> float:
        """One step on the next batch of PyKEEN's own loader, as its training loop takes it."""
        batch = next(self.batches, None)
        if batch is None:
            self.batches = iter(self.loader)
            batch = next(self.batches)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(batch, True)
        self.optimizer.step()
        self.model.post_parameter_update()
        return loss

    def ranker(self, known: list[Tensor], batch_size: int = 32) -> Callable[[Tensor], Tensor]:
        """A function of triples int64 `[T, 3]` that gives their filtered ranks by `RankBasedEvaluator`, ties at their middle,
        float64 `[2, T]`: of tails, then of heads.

        Args:
            known: All triples that are true. PyKEEN makes them distinct, which is done here, once; which of them answer a
                question it looks for in each batch.
            batch_size: 32 is what PyKEEN chooses itself on a CPU.
        """
        from pykeen.evaluation import RankBasedEvaluator
        from pykeen.evaluation.evaluator import prepare_filter_triples

        logging.getLogger("torch_max_mem").setLevel(logging.ERROR)  # each call warns that this is a CPU
        evaluator: Any = RankBasedEvaluator(filtered=True, clear_on_finalize=False)
        positive = prepare_filter_triples(known[0], known[1:])

        def ranks(triples: Tensor) -> Tensor:
            evaluator._evaluate_on_device(
                model=self.model,
                mapped_triples=triples,
                batch_size=batch_size,
                slice_size=None,
                device=self.model.device,
                all_pos_triples=positive,
                targets=("tail", "head"),
                tqdm_kwargs={"disable": True},
                restrict_entities_to=None,
            )
            found = [evaluator.ranks[side, "realistic"] for side in ("tail", "head")]
            return torch.stack([torch.cat([torch.as_tensor(part) for part in parts]).double() for parts in found])

        return ranks
