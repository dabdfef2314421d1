"""KGScorer: the ops with relations of its own."""

import pytest
import torch

from gnnaccel.nn import KGScorer
from gnnaccel.ops import kg_score
from gnnaccel.ops.kg_score import MODELS


@pytest.mark.parametrize("model", MODELS)
def test_negatives_agree_with_scores_and_everything_learns(model):
    torch.manual_seed(0)
    scorer = KGScorer(model, 3, 8)
    h, t, neg = (torch.randn(n, 8, requires_grad=True) for n in (4, 4, 5))
    r = torch.tensor([0, 2, 2, 1])
    for side in ("tail", "head"):
        shared = scorer.negatives(h, r, t, neg, side)
        assert shared.shape == (1, 4, 5)
        for j in range(5):
            other = neg[j].expand(4, 8)
            one = scorer(h, r, other) if side == "tail" else scorer(other, r, t)
            torch.testing.assert_close(shared[0, :, j], one, rtol=1e-4, atol=1e-4)
    scorer.loss(h, r, t, neg, adversarial_temperature=1.0).backward()
    assert all(x.grad.abs().sum() > 0 for x in (h, t, neg, *scorer.parameters()))


def test_is_kg_score():
    scorer = KGScorer("rotate", 2, 4, gamma=3.0)
    h, t, r = torch.randn(2, 4), torch.randn(2, 4), torch.tensor([1, 0])
    torch.testing.assert_close(scorer(h, r, t), kg_score("rotate", h, scorer.relation[r], t, gamma=3.0))
    assert "rotate, relations=2, gamma=3" in repr(scorer)


def test_errors():
    with pytest.raises(ValueError, match="num_relations must be at least 1, got 0"):
        KGScorer("distmult", 0, 4)
    with pytest.raises(ValueError, match="KGScorer: dim must be even"):
        KGScorer("simple", 2, 5)
