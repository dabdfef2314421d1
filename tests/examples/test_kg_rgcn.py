"""The RGCN encoder with a DistMult decoder: what it computes, what it may see, and that it learns."""

from dataclasses import replace

import pytest
import torch

from gnnaccel.data.kg import Triples, synthetic_kg


@pytest.fixture(scope="module")
def kg():
    return synthetic_kg(entities=64, relations=8, triples=400)


def silent(line):
    pass


def test_layer_is_the_papers(rgcn):
    """Against dense matrices: one mean over neighbours for each relation, then that relation's own product."""
    E, R, D = 7, 3, 4
    torch.manual_seed(0)
    layer = rgcn.RGCNLayer(R, D, bases=2).double()
    head, relation, tail = torch.tensor([[0, 1, 0], [2, 1, 0], [3, 0, 0], [1, 2, 4], [4, 2, 4], [5, 0, 6]]).unbind(1)
    x = torch.randn(E, D, dtype=torch.float64, requires_grad=True)
    got = layer(x, head, relation, tail)
    basis = layer.basis.weight.view(D, 2, D)  # [out, basis, in]
    want = layer.loop(x)
    for r in range(R):
        matrix = torch.einsum("b,obi->oi", layer.mixture[r], basis)
        near = torch.zeros(E, E, dtype=torch.float64)
        for h, s, t in zip(head.tolist(), relation.tolist(), tail.tolist(), strict=True):
            near[t, h] += s == r
        want = want + near / near.sum(1, keepdim=True).clamp(min=1) @ x @ matrix.T
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)  # shares of neighbours are float32
    leaves = (x, *layer.parameters())
    grad = torch.randn_like(got)
    for a, b in zip(torch.autograd.grad(got, leaves, grad), torch.autograd.grad(want, leaves, grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_step_does_not_see_what_it_predicts(rgcn, kg):
    """Left out in a step, or not there at all: the same bits. And left out it does make a difference."""
    torch.manual_seed(0)
    whole = rgcn.Model(kg, dim=8).eval()
    at = torch.arange(5, 60, 3)
    kept = torch.ones(len(kg.train), dtype=torch.bool)
    kept[at] = False
    part = rgcn.Model(replace(kg, train=kg.train[kept]), dim=8).eval()
    part.load_state_dict(whole.state_dict())
    assert torch.equal(whole.encode(without=at), part.encode())
    assert not torch.equal(whole.encode(without=at), whole.encode())


def test_training_sees_neither_valid_nor_test(rgcn, kg):
    other = replace(kg, valid=Triples.of([[0, 0, 1]]), test=Triples.of([[1, 1, 0]]))
    a, b = (rgcn.fit(graph, epochs=1, report=silent, dim=8) for graph in (kg, other))
    assert torch.equal(a.eval().encode(), b.eval().encode())


def test_repeated_facts_are_left_out(rgcn, kg):
    twice = replace(kg, train=Triples.cat([kg.train, kg.train[:50]]))
    a, b = (rgcn.fit(graph, epochs=1, report=silent, dim=8) for graph in (kg, twice))
    assert torch.equal(a.eval().encode(), b.eval().encode())


def popularity(kg):
    """Filtered MRR of those entities first that train has most often on that side of the relation."""
    ranks = []
    facts = {tuple(row) for split in (kg.train, kg.valid, kg.test) for row in split.tensor().tolist()}
    for answer in (2, 0):
        count = torch.zeros(kg.num_relations, kg.num_entities)
        for row in kg.train.tensor().tolist():
            count[row[1], row[answer]] += 1
        for row in kg.test.tensor().tolist():
            others = [e for e in range(kg.num_entities) if (*row[:answer], e, *row[answer + 1 :]) not in facts]
            mine, theirs = count[row[1], row[answer]], count[row[1], others]
            ranks.append(1 + float((theirs > mine).sum()) + float((theirs == mine).sum()) / 2)
    return sum(1 / r for r in ranks) / len(ranks)


def test_it_learns(rgcn, kg):
    """Better by far than popularity and than chance."""
    model = rgcn.fit(kg, epochs=6, batch_size=64, report=silent, dim=32)
    chance = sum(1 / rank for rank in range(1, kg.num_entities + 1)) / kg.num_entities
    assert rgcn.evaluate(model, kg, "test")["MRR"] > 2 * max(chance, popularity(kg))


def test_bits_do_not_depend_on_threads(rgcn, kg):
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(list(rgcn.fit(kg, epochs=1, batch_size=128, report=silent).parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_evaluation_is_filtered(rgcn, kg):
    """Against a matrix of scores, triple by triple."""
    model = rgcn.fit(kg, epochs=1, report=silent, dim=8).eval()
    x, relation = model.encode().detach().double(), model.decoder.relation.detach().double()
    facts = {tuple(row) for split in (kg.train, kg.valid, kg.test) for row in split.tensor().tolist()}
    ranks = []
    for h, r, t in kg.test.tensor().tolist():
        tails, heads = x @ (x[h] * relation[r]), x @ (x[t] * relation[r])
        ranks.append(1 + sum(bool(tails[e] > tails[t]) for e in range(len(x)) if (h, r, e) not in facts))
        ranks.append(1 + sum(bool(heads[e] > heads[h]) for e in range(len(x)) if (e, r, t) not in facts))
    found = rgcn.evaluate(model, kg, "test")
    assert found["MRR"] == pytest.approx(sum(1 / r for r in ranks) / len(ranks), rel=1e-3)
    assert found["Hits@10"] == pytest.approx(sum(r <= 10 for r in ranks) / len(ranks), abs=0.03)
