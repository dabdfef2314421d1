"""KGScorer: the decoder of a knowledge-graph model whose entities are embedded by something else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gnnaccel.ops import gather_rows, kg_loss, kg_score, kg_score_negatives
from gnnaccel.ops.kg_score import HALVES, MODELS, relation_width

MATRICES = ("rescal", "transr")  # models with a matrix a relation


class KGScorer(nn.Module):
    """Relations of a knowledge graph and a score of `kg_score`, for entity rows that an encoder makes (an RGCN, say).

    Args:
        model: A name of `kg_score`.
        num_relations: R.
        dim: D, the width of an entity's row; even for complex, rotate and simple.
        relation_dim: M, what TransR projects to; D by default, None for the others.
        gamma: Added to the distances.

    Attributes:
        relation: `[R, relation_width(model, D)]`: Xavier's normal values, for RotatE phases uniform in [-pi, pi].
        projection: TransR's `[R, D, M]`, at first the identity; else None.

    Raises:
        ValueError: An argument is out of range, or of another model.
    """

    def __init__(
        self, model: str, num_relations: int, dim: int, *, relation_dim: int | None = None, gamma: float = 12.0
    ) -> None:
        super().__init__()
        check_kg_model("KGScorer", model, dim, relation_dim)
        if num_relations < 1:
            raise ValueError(f"KGScorer: num_relations must be at least 1, got {num_relations}")
        self.model, self.gamma = model, float(gamma)
        width = relation_width(model, dim, relation_dim)
        self.relation = nn.Parameter(torch.empty(num_relations, width))
        self.projection: nn.Parameter | None = None
        if model == "transr":
            self.projection = nn.Parameter(torch.empty(num_relations, dim, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.model == "rotate":
            nn.init.uniform_(self.relation, -torch.pi, torch.pi)
        else:
            nn.init.xavier_normal_(self.relation)
        if self.projection is not None:
            with torch.no_grad():
                self.projection.copy_(torch.eye(*self.projection.shape[1:]))

    def extra_repr(self) -> str:
        return f"{self.model}, relations={self.relation.shape[0]}, gamma={self.gamma:g}"

    def forward(self, h: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """Scores `[B]` of triples: rows of heads and tails, `[B, D]`, and ids of relations, int64 `[B]`."""
        rows, options = self._relations(r)
        return kg_score(self.model, h, rows, t, **options)

    def negatives(self, h: Tensor | None, r: Tensor, t: Tensor | None, neg: Tensor, side: str = "tail") -> Tensor:
        """Scores `[C, S, N]` of candidates `[C, N, D]` (or `[N, D]`) in place of tails or heads: `kg_score_negatives`."""
        rows, options = self._relations(r)
        return kg_score_negatives(self.model, h, rows, t, neg, side, **options)

    def loss(self, h: Tensor, r: Tensor, t: Tensor, neg: Tensor, side: str = "tail", **options: Any) -> Tensor:
        """`kg_loss` of triples against candidates; `options` are its `loss`, `weight`, `exclude` and so on."""
        rows, more = self._relations(r)
        return kg_loss(self.model, h, rows, t, neg, side, **more, **options)

    def _relations(self, r: Tensor) -> tuple[Tensor, dict[str, Any]]:
        if self.model in MATRICES:
            return self.relation, {"gamma": self.gamma, "relation": r, "projection": self.projection}
        return gather_rows(self.relation, r), {"gamma": self.gamma}


def check_kg_model(owner: str, model: str, dim: int, relation_dim: int | None) -> None:
    """Raise `ValueError` for a model that is not there, or widths that are not its."""
    if model not in MODELS:
        raise ValueError(f"{owner}: model must be one of {', '.join(MODELS)}, got {model!r}")
    if dim < 1 or (model in HALVES and dim % 2):
        raise ValueError(f"{owner}: dim must be {'even and ' * (model in HALVES)}at least 1 for {model}, got {dim}")
    if relation_dim is not None and (model != "transr" or relation_dim < 1):
        raise ValueError(
            f"{owner}: relation_dim must be None, or for transr at least 1, got {relation_dim} for {model}"
        )
