"""KGE: knowledge-graph embeddings, tables of entities and relations under one of the scores of `kg_score`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from gnnaccel.nn.kg import MATRICES, check_kg_model
from gnnaccel.ops import gather_rows, kg_rank, kg_score, kg_topk
from gnnaccel.ops.kg_score import relation_width

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class KGE(nn.Module):
    """Embeddings of the entities and relations of a knowledge graph.

    Args:
        model: A name of `kg_score`.
        num_entities: E.
        num_relations: R, without inverses.
        dim: D, the width of an entity's row; even for complex, rotate and simple, whose rows have two halves.
        relation_dim: M, what TransR projects to; D by default, None for the others.
        gamma: Added to the distances; also sets the spread of the first embeddings, as in DGL-KE and RotatE.
        reciprocal: Give each relation an inverse, r + R: a question for the head (?, r, t) is then (t, r + R, ?).
        init: `"uniform"` in [-s, s], or `"normal"` with standard deviation s.
        init_scale: s; (gamma + 2) / dim by default, with dim the number of complex values for rotate (RotatE, Sun et al.).
            RotatE's phases are uniform in [-pi, pi], TransR's projections start as the identity, RESCAL's matrices are
            normal with variance 1 / D.
        dtype: float32, bfloat16, float16 or float64, of all tables.
        seed: Of the initial values, which are the same on every device and for any number of threads.

    Attributes:
        entity: `[E, D]`.
        relation: `[R or 2 R, relation_width(model, D)]`; RotatE's are phases in radians, RESCAL's matrices by rows.
        projection: TransR's, `[R or 2 R, D, M]`, else None.
        init_scale: s, given or not.

    Raises:
        ValueError: An argument is out of range, or of another model.
    """

    def __init__(
        self,
        model: str,
        num_entities: int,
        num_relations: int,
        dim: int,
        *,
        relation_dim: int | None = None,
        gamma: float = 12.0,
        reciprocal: bool = False,
        init: str = "uniform",
        init_scale: float | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_kg_model("KGE", model, dim, relation_dim)
        for name, value in (("num_entities", num_entities), ("num_relations", num_relations)):
            if value < 1:
                raise ValueError(f"KGE: {name} must be at least 1, got {value}")
        if init not in ("uniform", "normal"):
            raise ValueError(f"KGE: init must be uniform or normal, got {init!r}")
        if dtype not in DTYPES:
            raise ValueError(f"KGE: dtype must be float32, bfloat16, float16 or float64, got {dtype}")
        if init_scale is not None and not 0 < init_scale < math.inf:
            raise ValueError(f"KGE: init_scale must be > 0 and finite, got {init_scale}")
        self.model, self.gamma, self.reciprocal = model, float(gamma), reciprocal
        self.num_entities, self.num_relations, self.dim = num_entities, num_relations, dim
        rows = num_relations * (2 if reciprocal else 1)
        scale = (gamma + 2.0) / (dim // 2 if model == "rotate" else dim) if init_scale is None else init_scale
        self.init_scale = scale
        draw = _Draw(seed, init, scale, dtype)
        self.entity = nn.Parameter(draw(num_entities, dim))
        width = relation_width(model, dim, relation_dim)
        if model == "rotate":
            relation = draw(rows, width, "uniform", math.pi)
        elif model == "rescal":
            relation = draw(rows, width, "normal", dim**-0.5)
        else:
            relation = draw(rows, width)
        self.relation = nn.Parameter(relation)
        self.projection: nn.Parameter | None = None
        if model == "transr":
            self.projection = nn.Parameter(torch.eye(dim, width, dtype=dtype).repeat(rows, 1, 1))

    @property
    def relation_dim(self) -> int | None:
        """M of TransR, None for the others."""
        return None if self.projection is None else self.projection.shape[2]

    @property
    def tables(self) -> dict[str, nn.Parameter]:
        """Entity, relation and, for TransR, projection."""
        return {name: table for name, table in self.named_parameters()}

    def extra_repr(self) -> str:
        inverse = ", reciprocal" if self.reciprocal else ""
        return f"{self.model}: {self.num_entities} entities, {self.num_relations} relations{inverse}, dim={self.dim}"

    def score(self, h: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """Scores of triples of ids, int64 `[B]` each: `[B]`, float32 (float64 for float64 tables). Differentiable.

        Raises:
            ValueError: An id is out of range, or the lengths differ.
        """
        if not h.shape == r.shape == t.shape or h.dim() != 1:
            given = ", ".join(str(list(x.shape)) for x in (h, r, t))
            raise ValueError(f"KGE.score: h, r and t must be equally long ids [B], got {given}")
        acc = torch.promote_types(self.entity.dtype, torch.float32)
        rows = (gather_rows(self.entity, x, dtype=acc) for x in (h, t))
        projection = None if self.projection is None else self.projection.to(acc)
        head, tail = rows
        if self.model in MATRICES:
            table = self.relation.to(acc)
            return kg_score(self.model, head, table, tail, gamma=self.gamma, relation=r, projection=projection)
        return kg_score(self.model, head, gather_rows(self.relation, r, dtype=acc), tail, gamma=self.gamma)

    def forward(self, h: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """As `score`."""
        return self.score(h, r, t)

    @torch.no_grad()
    def rank(self, triples: Tensor, side: str = "tail", known: Any = None, *, candidates: Tensor | None = None) -> Any:
        """`kg_rank` of triples of ids `[B, 3]`; for heads of a model with inverses, by the inverse relation."""
        if self.reciprocal and side == "head":
            triples, side = torch.stack([triples[:, 2], triples[:, 1] + self.num_relations, triples[:, 0]], 1), "tail"
        return kg_rank(
            self.model,
            self.entity.detach(),
            self.relation.detach(),
            triples,
            side,
            known,
            gamma=self.gamma,
            projection_table=None if self.projection is None else self.projection.detach(),
            candidates=candidates,
        )

    @torch.no_grad()
    def topk(
        self,
        queries: Tensor,
        k: int = 10,
        side: str = "tail",
        *,
        exclude: Any = None,
        candidates: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`kg_topk` of queries of ids `[B, 2]`, (entity, relation): the best tails of a head, or heads of a tail."""
        if self.reciprocal and side == "head":
            queries, side = torch.stack([queries[:, 0], queries[:, 1] + self.num_relations], 1), "tail"
        return kg_topk(
            self.model,
            self.entity.detach(),
            self.relation.detach(),
            queries,
            k,
            side,
            gamma=self.gamma,
            projection_table=None if self.projection is None else self.projection.detach(),
            exclude=exclude,
            candidates=candidates,
        )


class _Draw:
    """Initial values, one stream for all tables."""

    def __init__(self, seed: int, init: str, scale: float, dtype: torch.dtype) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.init, self.scale, self.dtype = init, scale, dtype

    def __call__(self, rows: int, columns: int, init: str | None = None, scale: float | None = None) -> Tensor:
        scale = self.scale if scale is None else scale
        out = torch.empty(rows, columns, dtype=torch.promote_types(self.dtype, torch.float32))
        if (init or self.init) == "uniform":
            out.uniform_(-scale, scale, generator=self.generator)
        else:
            out.normal_(0, scale, generator=self.generator)
        return out.to(self.dtype)
