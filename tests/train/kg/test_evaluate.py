"""Ranking metrics against a loop over all entities in float64."""

import math

import pytest
import torch

from gnnaccel.data.kg import KnowledgeGraph, Triples, load
from gnnaccel.models import KGE
from gnnaccel.ops.kg_score import MODELS
from gnnaccel.train.kg import evaluate
from gnnaccel.train.kg.evaluate import SideRanks, metrics_of, rank_triples


@pytest.fixture(scope="module")
def kg():
    return load("synthetic-kg:entities=40,relations=4,triples=100")


def brute(model, kg, triples, side, filtered):
    """Ranks one by one: (greater, equal) of each triple."""
    facts = {tuple(x) for s in ("train", "valid", "test") for x in getattr(kg, s).tensor().tolist()}
    found = []
    for h, r, t in triples.tensor().tolist():
        every = torch.arange(kg.num_entities)
        fixed = torch.full_like(every, h if side == "tail" else t)
        relation = torch.full_like(every, r)
        if model.reciprocal and side == "head":
            scores = model.score(fixed, relation + kg.num_relations, every)
        else:
            scores = model.score(*((fixed, relation, every) if side == "tail" else (every, relation, fixed)))
        answer = t if side == "tail" else h
        keep = [
            e for e in every.tolist()
            if e != answer and not (filtered and ((h, r, e) if side == "tail" else (e, r, t)) in facts)
        ]  # fmt: skip
        others = scores[keep]
        found.append((int((others > scores[answer]).sum()), int((others == scores[answer]).sum()), len(keep) + 1))
    return torch.tensor(found)


@pytest.mark.parametrize("reciprocal", [False, True])
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_ranks_are_those_of_a_loop(kg, model, filtered, reciprocal):
    embeddings = KGE(model, kg.num_entities, kg.num_relations, 8, reciprocal=reciprocal, dtype=torch.float64, seed=3)
    known = kg.known() if filtered else None
    for side in ("head", "tail"):
        got = rank_triples(embeddings, kg.test, side, known, batch_size=3)
        want = brute(embeddings, kg, kg.test, side, filtered)
        assert torch.equal(got.greater, want[:, 0]) and torch.equal(got.equal, want[:, 1])
        assert torch.equal(got.count, want[:, 2])


def test_metrics_worked_by_hand():
    """Ranks 1 and 3..4 of 5 and 9 candidates."""
    ranks = SideRanks(torch.tensor([0, 2]), torch.tensor([0, 1]), torch.tensor([5, 9]), torch.tensor([0, 0]))
    got = metrics_of(ranks)
    assert got["mrr"] == pytest.approx((1 + 1 / 3.5) / 2)
    assert got["mr"] == pytest.approx((1 + 3.5) / 2)
    assert (got["hits@1"], got["hits@3"], got["hits@10"]) == (0.5, 0.5, 1.0)
    assert got["amri"] == pytest.approx(1 - (2.25 - 1) / ((2 + 4) / 2))
    assert got["mrr_expected"] == pytest.approx((1 + (1 / 3 + 1 / 4) / 2) / 2)
    assert metrics_of(ranks, "optimistic")["mr"] == 2.0
    assert metrics_of(ranks, "pessimistic")["mr"] == 2.5


def test_all_scores_equal_is_chance(kg):
    """A model that knows nothing is not flattered by ties."""
    model = KGE("distmult", kg.num_entities, kg.num_relations, 4)
    model.entity.data.zero_()
    got = evaluate(model, kg, details=True)
    assert got["amri"] == pytest.approx(0, abs=1e-9)
    assert got["ties"]["optimistic"]["mrr"] == 1.0
    assert got["mrr_expected"] < 0.2


def test_details_add_up(kg):
    model = KGE("complex", kg.num_entities, kg.num_relations, 8, seed=1)
    got = evaluate(model, kg, details=True)
    assert got["mrr"] == pytest.approx((got["head"]["mrr"] + got["tail"]["mrr"]) / 2)
    assert sum(c["triples"] for c in got["categories"].values()) == got["triples"] == len(kg.test)
    assert got["ties"]["realistic"]["mrr"] == got["mrr"]


def test_unseen_entities_are_ranked_or_dropped():
    kg = KnowledgeGraph(
        "u", Triples.of([[0, 0, 1], [1, 0, 2]]), Triples.of([]), Triples.of([[0, 0, 2], [0, 0, 3]]), 4, 1
    )
    model = KGE("distmult", 4, 1, 4)
    assert (evaluate(model, kg)["triples"], evaluate(model, kg)["unseen"]) == (2, 1)
    dropped = evaluate(model, kg, unseen="drop")
    assert (dropped["triples"], dropped["unseen"]) == (1, 1)


def test_a_sample_is_of_the_split(kg):
    model = KGE("distmult", kg.num_entities, kg.num_relations, 4)
    assert evaluate(model, kg, "train", sample=7)["triples"] == 7
    assert evaluate(model, kg, "train", sample=7) == evaluate(model, kg, "train", sample=7)
    assert evaluate(model, kg, "train", sample=10**6)["triples"] == len(kg.train)


def test_sampled_candidates(kg):
    """Fewer competitors, a new set for each batch, the same ones again; all entities are not sampled."""
    model = KGE("distmult", kg.num_entities, kg.num_relations, 4)
    everything = evaluate(model, kg, "train")
    for by in ("uniform", "degree"):
        some = evaluate(model, kg, "train", candidates=10, candidates_by=by, batch_size=8)
        assert 1 <= some["mr"] <= 11 and some["mr"] < everything["mr"]
        assert some == evaluate(model, kg, "train", candidates=10, candidates_by=by, batch_size=8)
        assert some != evaluate(model, kg, "train", candidates=10, candidates_by=by, batch_size=8, seed=1)
    assert evaluate(model, kg, "train", candidates=kg.num_entities) == everything
    fixed = rank_triples(
        model, kg.train, "tail", None, candidates=lambda start: torch.tensor([start // 8]), batch_size=8
    )
    assert set(fixed.count.tolist()) <= {1, 2}
    with pytest.raises(ValueError, match="candidates_by must be uniform or degree, got 'even'"):
        evaluate(model, kg, candidates_by="even")


def test_nothing_to_rank_is_said(kg):
    model = KGE("distmult", kg.num_entities, kg.num_relations, 4)
    empty = KnowledgeGraph("x", kg.train, kg.valid, Triples.of([]), kg.num_entities, kg.num_relations)
    with pytest.raises(ValueError, match="x: test must hold triples, got an empty split"):
        evaluate(model, empty)
    with pytest.raises(ValueError, match="ties must be one of realistic"):
        evaluate(model, kg, ties="average")
    with pytest.raises(ValueError, match="40 entities and 4 relations, x has 3 and 1"):
        evaluate(model, KnowledgeGraph("x", Triples.of([]), Triples.of([]), Triples.of([[0, 0, 1]]), 3, 1))
    assert math.isnan(metrics_of(rank_triples(model, Triples.of([]), "tail", None))["mrr"])
