"""Searches against the scores of every triple."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from gnnaccel.data.kg import KnownTriples, Triples
from gnnaccel.models.kge import KGE
from gnnaccel.train.kg import predict as module
from gnnaccel.train.kg.predict import Predictions, Search, answer

E, R = 9, 4
MODELS = ["distmult", "complex", "transe_l1", "transe_l2", "rotate", "rescal", "transr", "simple"]


def make(model: str = "complex", **options: Any) -> KGE:
    return KGE(model, E, R, 6, seed=1, init="normal", init_scale=0.5, **options)


def every(model: KGE) -> Tensor:
    """Scores [E, R, E]."""
    h, r, t = torch.tensor(list(itertools.product(range(E), range(R), range(E)))).T
    with torch.no_grad():
        return model.score(h, r, t).view(E, R, E)


def known_triples() -> tuple[KnownTriples, set[tuple[int, int, int]]]:
    rows = torch.randint(0, 4, (150, 3), generator=torch.Generator().manual_seed(2))
    rows[:, ::2] = rows[:, ::2] * 2 + 1
    return KnownTriples.build([Triples.of(rows)], E, R), {(h, r, t) for h, r, t in rows.tolist()}


def check(got: Predictions, row: int, scores: Tensor, sets: list[list[int]], facts: Any = ()) -> None:
    """The best of the triples that the sets span; scores that only rounding tells apart may change places."""
    allowed = {x: float(scores[x]) for x in itertools.product(*sets) if x not in facts}
    k = got.score.shape[1]
    best = sorted(allowed.values(), reverse=True)[:k]
    named = [tuple(x) for x in torch.stack([x[row] for x in got[:3]], 1).tolist()]
    n = len(best)
    assert len(set(named[:n])) == n and named[n:] == [(-1, -1, -1)] * (k - n)
    torch.testing.assert_close(got.score[row], torch.tensor(best + [-torch.inf] * (k - n)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.score[row, :n], torch.tensor([allowed[x] for x in named[:n]]), rtol=1e-5, atol=1e-5)


def cat(parts: list[Predictions]) -> Predictions:
    return Predictions(*(torch.cat(x) for x in zip(*parts, strict=True)))  # type: ignore[call-arg]


GIVEN = {"h": [3, 1], "r": [2], "t": [7, 5, 0]}
SHAPES = ["", "h", "r", "t", "hr", "ht", "rt", "hrt"]


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("best_of", ["query", "head", "relation", "tail", "all"])
@pytest.mark.parametrize("shape", SHAPES)
def test_searches(shape: str, best_of: str, filtered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FOUND", 40)  # blocks of a few
    monkeypatch.setattr(module, "_NUMBERS", 60)
    model, k = make(), 7
    scores, (known, facts) = every(model), known_triples()
    given = [torch.tensor(GIVEN[x]) if x in shape else None for x in "hrt"]
    search = Search(model, *given, k=k, best_of=best_of, known=known if filtered else None)
    got = cat(list(search))
    sets = [list(range(n)) if ids is None else ids.tolist() for ids, n in zip(given, (E, R, E), strict=True)]
    groups = {"query": [i for i in range(3) if given[i] is not None], "all": []}
    group = groups.get(best_of, [("head", "relation", "tail").index(best_of)] if best_of not in groups else [])
    combinations = list(itertools.product(*(sets[i] for i in group)))
    assert len(got.score) == len(combinations)
    for row, values in enumerate(combinations):
        own = [[values[group.index(i)]] if i in group else s for i, s in enumerate(sets)]
        check(got, row, scores, own, facts if filtered else set())


@pytest.mark.parametrize("name", MODELS)
def test_rows_with_open_places(name: str) -> None:
    model = make(name)
    scores, (known, facts) = every(model), known_triples()
    queries = torch.tensor(
        [[3, -1, 5], [1, 2, -1], [-1, 0, 4], [2, 1, 3], [-1, -1, 8], [5, -1, -1], [-1, 3, -1], [-1, -1, -1], [1, 1, -1]]
    )
    for hide in (False, True):
        got = answer(model, queries, 5, known=known if hide else None)
        for row, query in enumerate(queries.tolist()):
            sets = [list(range(n)) if x == -1 else [x] for x, n in zip(query, (E, R, E), strict=True)]
            hidden = facts if hide and -1 in query else set()
            check(got, row, scores, sets, hidden)


def test_inverse_relations_answer_for_heads() -> None:
    model = make(reciprocal=True)
    got = answer(model, torch.tensor([[-1, 2, 4]]), E)
    with torch.no_grad():
        scores = model.score(torch.full((E,), 4), torch.full((E,), 2 + R), torch.arange(E))
    best, order = scores.sort(descending=True)
    assert got.head[0].tolist() == order.tolist()
    torch.testing.assert_close(got.score[0], best)
    found = answer(model, torch.tensor([[3, -1, 4]]), 10)  # inverses are no relations of their own
    assert sorted(found.relation[0].tolist()) == [-1] * 6 + [0, 1, 2, 3]


def test_ties_by_head_then_relation_then_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FOUND", 16)
    model = make("distmult")
    with torch.no_grad():
        model.entity.fill_(1)
        model.relation.fill_(1)
        model.relation[3] = 2
    all_of = next(iter(Search(model, k=12)))
    expected = [(h, 3, t) for h in range(E) for t in range(E)][:12]
    assert [tuple(x) for x in torch.stack(all_of[:3], 2)[0].tolist()] == expected
    rows = answer(model, torch.tensor([[-1, -1, 4], [2, -1, 3]]), 11)
    assert [tuple(x) for x in torch.stack(rows[:3], 2)[0].tolist()] == [
        *((h, 3, 4) for h in range(E)), (0, 0, 4), (0, 1, 4)]  # fmt: skip
    assert rows.relation[1].tolist() == [3, 0, 1, 2] + [-1] * 7


def test_half_tables_are_merged_by_unrounded_scores() -> None:
    model = make(dtype=torch.bfloat16)
    got = next(iter(Search(model, k=40)))
    check(got, 0, every(model), [list(range(n)) for n in (E, R, E)])


def test_threads_change_no_bit() -> None:
    before, got = torch.get_num_threads(), []
    queries = torch.tensor([[3, -1, 5], [1, 2, -1], [-1, 0, 4], [2, 1, 3], [-1, -1, 8], [-1, -1, -1]])
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            got.append([x for name in MODELS for x in answer(make(name), queries)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*got, strict=True))


def test_progress_counts_to_the_total() -> None:
    class Bar:
        n = 0

        def update(self, n: int) -> None:
            self.n += n

    for given in ((None, None, None), (torch.tensor([1, 2]), None, None), (torch.tensor([1]), None, torch.tensor([2]))):
        bar = Bar()
        search = Search(make(), *given, k=3, progress=bar)
        list(search)
        assert bar.n == search.total > 0


def test_empty_sets() -> None:
    none = torch.empty(0, dtype=torch.int64)
    assert list(Search(make(), none, None, None)) == []
    (got,) = Search(make(), none, None, None, k=2, best_of="all")
    assert got.head.tolist() == [[-1, -1]]
    assert answer(make(), torch.empty(0, 3, dtype=torch.int64)).head.shape == (0, 10)


def test_bad_arguments() -> None:
    for text, call in {
        r"best_of must be one of query, head, .*, got 'x'": lambda: Search(make(), best_of="x"),
        r"Search: k must be at least 1, got 0": lambda: Search(make(), k=0),
        r"Search: relations must be in \[0, 4\), got 4": lambda: Search(make(), relations=torch.tensor([1, 4])),
        r"answer: heads must be in \[0, 9\), got -2": lambda: answer(make(), torch.tensor([[-2, 0, 0]])),
        r"answer: tails must be in \[0, 9\), got 9": lambda: answer(make(), torch.tensor([[-1, 0, 9]])),
        r"answer: queries must be int64 \[n, 3\]": lambda: answer(make(), torch.tensor([0, 1, 2])),
        r"answer: k must be at least 1, got 0": lambda: answer(make(), torch.tensor([[0, 0, 0]]), 0),
    }.items():
        with pytest.raises(ValueError, match=text):
            call()
