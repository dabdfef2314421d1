"""`Triples` and `KnowledgeGraph`: what they refuse, names, inverses, counts."""

import dataclasses
import pickle
from pathlib import Path

import pytest
import torch

from gnnaccel.data.kg import KnowledgeGraph, Triples

ROWS = [[0, 0, 1], [1, 0, 2], [2, 1, 0], [0, 1, 0]]


def graph(**changes) -> KnowledgeGraph:
    fields = {
        "name": "toy",
        "train": Triples.of(ROWS),
        "valid": Triples.of([[1, 0, 0]]),
        "test": Triples.of([[3, 0, 1], [2, 1, 0]]),
        "num_entities": 4,
        "num_relations": 2,
        "entities": ["a", "b", "c", "d"],
        "relations": ["r", "s"],
    }
    return KnowledgeGraph(**{**fields, **changes})


def test_triples() -> None:
    x = Triples.of(ROWS, weight=[1, 2, 3, 4])
    assert len(x) == 4 and x.tensor().tolist() == ROWS and repr(x) == "Triples(4, weighted)"
    part = x[torch.tensor([2, 0])]
    assert part.tensor().tolist() == [ROWS[2], ROWS[0]] and part.weight is not None and part.weight.tolist() == [3, 1]
    assert x[1:3].head.data_ptr() == x.head[1:].data_ptr()
    assert x[x.relation == 1].tensor().tolist() == ROWS[2:]
    assert Triples.cat([x, part]).tensor().tolist() == [*ROWS, ROWS[2], ROWS[0]]
    assert Triples.cat([x, Triples.of(ROWS)]).weight is None and len(Triples.cat([])) == 0
    assert x.reciprocal(2).tensor().tolist() == [[t, r + 2, h] for h, r, t in ROWS]
    rows = torch.tensor(ROWS)
    made = Triples.of(rows)
    rows.zero_()
    assert made.tensor().tolist() == ROWS
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.head = x.tail  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: Triples(x.int(), x, x), r"head must be an int64 tensor \[T\], got int32\[2\]"),
        (lambda x: Triples(x, x[:1], x), r"relation must be as long as head \(2\), got 1"),
        (lambda x: Triples(x, x, x - 1), "tail must be ids >= 0, got -1"),
        (lambda x: Triples(x, x, x, x), r"weight must be a float32 tensor \[2\], got int64\[2\]"),
        (lambda x: Triples(x, x, x, x / 0), "weight must be finite and >= 0"),
        (lambda x: Triples.of([[0, 1]]), r"rows must be integers \[T, 3\], got int64\[1, 2\]"),
        (lambda x: Triples.of([[0.5, 1, 2]]), r"rows must be integers \[T, 3\], got float64\[1, 3\]"),
    ],
)
def test_bad_triples(make, message: str) -> None:
    with pytest.raises(ValueError, match=f"Triples: {message}"):
        make(torch.arange(2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_entities": 3}, r"test.head must be in \[0, 3\), got 3"),
        ({"num_relations": 1}, r"train.relation must be in \[0, 1\), got 1"),
        ({"train": ROWS}, "train must be Triples on the CPU, got list"),
        ({"entities": ["a", "b"]}, "entities must be 4 names, got 2"),
        ({"entities": ["a", "b", "a", "c"]}, "entities must be distinct"),
        ({"relations": [1, 2]}, "relations must be strings, got list"),
        ({"relations": ["r", None]}, "relations must be strings, got None"),
        ({"reciprocal": True, "num_relations": 3, "relations": None}, "num_relations must be even"),
    ],
)
def test_bad_graphs(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"KnowledgeGraph: {message}"):
        graph(**changes)


def test_names() -> None:
    kg = graph()
    assert kg.entity_names(torch.tensor([3, 0])) == ["d", "a"] and kg.relation_names([1]) == ["s"]
    assert kg.entity_ids(["c", "a", "c"]).tolist() == [2, 0, 2] and kg.relation_ids("s").tolist() == [1]
    with pytest.raises(KeyError, match="toy: no entity 'x'"):
        kg.entity_ids(["a", "x"])
    with pytest.raises(ValueError, match=r"entity_names: ids must be in \[0, 4\), got -1"):
        kg.entity_names([0, -1])
    plain = graph(entities=None, relations=None)
    assert plain.entity_names([2]) == ["2"] and plain.entity_ids(["3"]).tolist() == [3]
    with pytest.raises(KeyError, match="no entity '4'"):
        plain.entity_ids(["4"])


def test_reciprocals() -> None:
    kg = graph().with_reciprocals()
    assert kg.train.tensor().tolist() == [*ROWS, *[[t, r + 2, h] for h, r, t in ROWS]]
    assert kg.num_relations == 4 and kg.relations.to_pylist() == ["r", "s", "r_inverse", "s_inverse"]
    assert kg.test.tensor().equal(graph().test.tensor()) and kg.reciprocal
    with pytest.raises(ValueError, match="with_reciprocals: toy must be without inverses"):
        kg.with_reciprocals()


def test_summary_and_views() -> None:
    kg = graph(train=Triples.of([*ROWS, ROWS[0]]), num_relations=3, relations=["r", "s", "unused"])
    s = kg.summary()
    assert (s["entities"], s["relations"], s["train"], s["valid"], s["test"]) == (4, 3, 5, 1, 2)
    assert s["duplicates"] == {"train": 1, "valid": 0, "test": 0}
    assert s["loops"] == {"train": 1, "valid": 0, "test": 0}
    assert s["in_train"] == {"valid": 0, "test": 1}
    assert s["pairs_exchanged_in_train"] == {"valid": 1, "test": 0}
    assert (s["entities_not_in_train"], s["relations_not_in_train"]) == (1, 1)
    assert s["triples_not_in_train"] == {"valid": 0, "test": 1}
    assert [x.tolist() for x in kg.unseen()] == [[3], [2]]
    assert repr(kg) == "KnowledgeGraph('toy': 4 entities, 3 relations, 5 / 1 / 2)"
    with pytest.raises(ValueError, match="name must be one of train, valid, test, got 'dev'"):
        kg.split("dev")
    with pytest.raises(TypeError):
        kg.dropped["x"] = {}  # type: ignore[index]


def test_pickle() -> None:
    kg = graph(dropped={"unknown": {"test": 3}, "duplicates": {}})
    again = pickle.loads(pickle.dumps(kg))
    assert again.train.tensor().equal(kg.train.tensor()) and again.entities.equals(kg.entities)
    assert again.dropped == kg.dropped == {"unknown": {"test": 3}}
    assert dataclasses.replace(kg, name="new").dropped == kg.dropped


def test_save_names_without_names(tmp_path: Path) -> None:
    e, r = graph(entities=None).save_names(tmp_path / "new")
    assert e.read_text() == "0\t0\n1\t1\n2\t2\n3\t3\n" and r.read_text() == "0\tr\n1\ts\n"
