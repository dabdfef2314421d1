"""KGE: tables, scores, inverse relations, errors."""

import math

import pytest
import torch

from gnnaccel.models import KGE
from gnnaccel.ops.kg_score import MODELS


@pytest.mark.parametrize("model", MODELS)
def test_scores_rank_and_topk_agree(model):
    kge = KGE(model, 9, 2, 6, dtype=torch.float64, seed=1)
    every = torch.arange(9)
    for side in ("tail", "head"):
        fixed, relation = torch.full((9,), 4), torch.full((9,), 1)
        scores = kge.score(*((fixed, relation, every) if side == "tail" else (every, relation, fixed)))
        order = scores.argsort(descending=True, stable=True)
        ids, best = kge.topk(torch.tensor([[4, 1]]), 9, side)
        assert ids[0].tolist() == order.tolist()
        torch.testing.assert_close(best[0], scores[order])
        triples = [[4, 1, e] if side == "tail" else [e, 1, 4] for e in order.tolist()]
        assert kge.rank(torch.tensor(triples), side).realistic.tolist() == list(range(1, 10))


def test_heads_are_asked_by_the_inverse():
    kge = KGE("complex", 9, 2, 6, reciprocal=True, seed=1)
    assert kge.relation.shape == (4, 6)
    a, b = kge.topk(torch.tensor([[4, 1]]), 9, "head"), kge.topk(torch.tensor([[4, 3]]), 9, "tail")
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_gradients_reach_the_tables():
    kge = KGE("transr", 5, 3, 4, relation_dim=2)
    kge(torch.tensor([0]), torch.tensor([1]), torch.tensor([2])).sum().backward()
    assert kge.entity.grad[[0, 2]].abs().sum() > 0 and kge.entity.grad[[1, 3, 4]].abs().sum() == 0
    assert kge.projection.grad[1].abs().sum() > 0 and kge.projection.grad[[0, 2]].abs().sum() == 0


def test_first_values():
    kge = KGE("rotate", 500, 50, 8, gamma=2.0)
    assert kge.relation.shape == (50, 4) and kge.relation.abs().max() <= math.pi
    assert 0.95 < kge.entity.abs().max() <= 1.0  # (2 + 2) / 4 complex values
    assert torch.equal(KGE("rotate", 500, 50, 8, gamma=2.0).entity, kge.entity)
    assert not torch.equal(KGE("rotate", 500, 50, 8, gamma=2.0, seed=1).entity, kge.entity)
    assert KGE("distmult", 4, 1, 2, dtype=torch.bfloat16).entity.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("transe", 2, 1, 4), "model must be one of transe_l1"),
        (("rotate", 2, 1, 3), "dim must be even and at least 1 for rotate, got 3"),
        (("distmult", 0, 1, 4), "num_entities must be at least 1, got 0"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        KGE(*arguments)


def test_more_errors():
    with pytest.raises(ValueError, match="relation_dim must be None"):
        KGE("distmult", 2, 1, 4, relation_dim=3)
    with pytest.raises(ValueError, match="init must be uniform or normal"):
        KGE("distmult", 2, 1, 4, init="ones")
    with pytest.raises(ValueError, match="h, r and t must be equally long"):
        KGE("distmult", 2, 1, 4).score(torch.tensor([0]), torch.tensor([0, 0]), torch.tensor([1]))
