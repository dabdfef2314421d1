"""`load`, the synthetic graph, PyKEEN's sets, and the shared data by its published counts."""

import hashlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from gnnaccel.data.kg import KnowledgeGraph, TripleError, Triples, from_pykeen, load, read_kg, synthetic_kg

# entities, relations, train, valid, test, entities not in train, repeated triples: ../shared/data/README.md
SHARED = {
    "fb15k-237": (14_541, 237, 272_115, 17_535, 20_466, 36, 0),
    "wn18rr": (40_943, 11, 86_835, 3_034, 3_134, 384, 0),
    "wn18": (40_943, 18, 141_442, 5_000, 5_000, 0, 0),
    "nell-995": (75_492, 200, 149_678, 543, 3_992, 1_060, 0),
    "fb13": (75_043, 13, 316_232, 5_908, 23_733, 0, 0),
    "umls": (135, 46, 5_216, 652, 661, 0, 0),
    "kinships": (104, 25, 8_544, 1_068, 1_074, 0, 0),
    "nations": (14, 55, 1_592, 199, 201, 0, 0),
    "countries-s1": (271, 2, 1_111, 24, 24, 0, 1),
    "countries-s2": (271, 2, 1_063, 24, 24, 0, 1),
    "countries-s3": (271, 2, 985, 24, 24, 0, 1),
}


@pytest.mark.parametrize("name", SHARED)
def test_shared_sets(name: str, shared_data: Path) -> None:
    kg = load(name, root=shared_data)
    s = kg.summary()
    assert kg.name == name
    sizes = (s["entities"], s["relations"], s["train"], s["valid"], s["test"])
    assert (*sizes, s["entities_not_in_train"], sum(s["duplicates"].values())) == SHARED[name]
    assert s["in_train"] == {"valid": 0, "test": 0} and s["relations_not_in_train"] == 0
    if name == "wn18":
        assert s["pairs_exchanged_in_train"]["test"] == 4_698
    known = kg.known()
    assert len(known) == sum(sizes[2:]) - SHARED[name][-1]
    offsets, ids = known.lookup(kg.test.head, kg.test.relation)
    inside = torch.zeros(len(kg.test), dtype=torch.bool)
    rows = torch.repeat_interleave(torch.arange(len(kg.test)), offsets.diff())
    inside[rows[ids == kg.test.tail[rows]]] = True
    assert inside.all() and known.contains(kg.test.head, kg.test.relation, kg.test.tail).all()


def test_shared_sets_as_pykeen_counts_them(shared_data: Path) -> None:
    fb = read_kg(shared_data / "kg" / "fb15k-237", unknown="report")
    assert (len(fb.valid), len(fb.test)) == (17_526, 20_438)
    assert fb.dropped["unknown"] == {"valid": 9, "test": 28}
    assert len(read_kg(shared_data / "kg" / "countries-s1", duplicates="drop").train) == 1_110
    with pytest.raises(TripleError, match=r"valid.txt: line \d+: expected an entity of train, got '/m/"):
        read_kg(shared_data / "kg" / "fb15k-237", unknown="error")


# synthetic


def test_synthetic() -> None:
    kg = load("synthetic-kg")
    s = kg.summary()
    assert (s["entities"], s["relations"], s["train"], s["valid"], s["test"]) == (200, 8, 1080, 60, 60)
    assert not any([*s["duplicates"].values(), *s["in_train"].values(), *s["triples_not_in_train"].values()])
    assert s["entities_not_in_train"] == s["relations_not_in_train"] == 0
    assert kg.relation_names(range(8)) == [f"{x}{i}" for i in (0, 1) for x in ("shift", "inverse", "mirror", "group")]
    same = load("synthetic-kg:entities=200,relations=8,triples=1200,seed=0")
    for split in ("train", "valid", "test"):
        assert getattr(same, split).tensor().equal(getattr(kg, split).tensor())
    assert not load("synthetic-kg:seed=1").train.tensor().equal(kg.train.tensor())
    assert load(kg) is kg


def test_synthetic_has_its_bits() -> None:
    kg = synthetic_kg(entities=64, relations=5, triples=200, seed=7)
    digest = hashlib.sha256()
    for split in (kg.train, kg.valid, kg.test):
        digest.update(split.tensor().numpy().tobytes())
    assert digest.hexdigest()[:16] == "83f1afe2dedef4f0"


@pytest.mark.parametrize(
    ("entities", "relations", "triples"), [(32, 2, 43), (32, 2, 51), (50, 30, 1200), (500, 4, 1600)]
)
def test_synthetic_at_its_limits(entities: int, relations: int, triples: int) -> None:
    s = synthetic_kg(entities, relations, triples, seed=1).summary()
    assert s["train"] + s["valid"] + s["test"] == triples and s["valid"] == s["test"] == max(1, triples // 20)
    assert not any([s["entities_not_in_train"], s["relations_not_in_train"], *s["duplicates"].values()])


def test_synthetic_rules_hold() -> None:
    n = 101
    kg = synthetic_kg(entities=n, relations=4, triples=320, seed=2)
    rows = Triples.cat([kg.train, kg.valid, kg.test]).tensor().tolist()
    shift, inverse, mirror, group = ([(h, t) for h, r, t in rows if r == rule] for rule in range(4))
    ways = {(t - h) % n for h, t in shift}
    assert len(ways) == 2 and {(h - t) % n for h, t in inverse} == ways
    assert len({(h + t) % n for h, t in mirror}) == 1
    assert len({t for _, t in group}) <= 17 and len({h for h, _ in group}) == len(group)


def test_synthetic_can_be_learnt() -> None:
    kg = synthetic_kg(entities=64, relations=4, triples=200, seed=0).with_reciprocals()
    known, d = kg.known(), 32
    torch.manual_seed(0)
    e = torch.randn(64, 2 * d).mul_(0.1).requires_grad_()
    r = torch.randn(8, 2 * d).mul_(0.1).requires_grad_()

    def scores(part: Triples) -> torch.Tensor:
        (a, b), (c, s) = e[part.head].chunk(2, 1), r[part.relation].chunk(2, 1)
        return torch.cat([a * c - b * s, a * s + b * c], 1) @ e.T

    optimizer = torch.optim.Adam([e, r], 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(scores(kg.train), kg.train.tail) + 0.003 * (e**2).sum() / 64
        loss.backward()
        optimizer.step()
    test = Triples.cat([kg.valid, kg.test])
    with torch.no_grad():
        x = scores(test)
    true = x.gather(1, test.tail[:, None])
    offsets, ids = known.lookup(test.head, test.relation)
    x[torch.repeat_interleave(torch.arange(len(test)), offsets.diff()), ids] = -torch.inf
    mrr = (1 / (1.0 + (x >= true).sum(1))).mean().item()
    assert mrr > 0.4  # guessing gives 0.07


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("synthetic-kg:entites=3", "synthetic-kg has no option 'entites=3' (did you mean 'entities'?)"),
        ("synthetic-kg:seed=x", "synthetic-kg: seed must be an int, got 'x'"),
        ("synthetic-kg:entities=5", "synthetic_kg: entities must be an int >= 32, got 5"),
        ("synthetic-kg:triples=9", "synthetic_kg: triples must be in [260, 1280] for 200 entities, 8 relations, got 9"),
        ("umsl", "no file, folder or knowledge graph 'umsl' (did you mean 'umls'?)"),
        ("absent/train.txt", "absent/train.txt: expected a file or folder of triples, got none"),
    ],
)
def test_unknown_sources(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TripleError) as caught:
        load(source, root=tmp_path)
    assert message in str(caught.value)


# PyKEEN


def pykeen_set(inverse: bool = False) -> SimpleNamespace:
    def factory(rows: list) -> SimpleNamespace:
        return SimpleNamespace(
            mapped_triples=torch.tensor(rows),
            entity_to_id={"b": 1, "a": 0, "c": 2},
            relation_to_id={"r": 0},
            create_inverse_triples=inverse,
        )

    return SimpleNamespace(training=factory([[0, 0, 1], [1, 0, 2]]), validation=None, testing=factory([[2, 0, 0]]))


def test_pykeen_sets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kg = load(pykeen_set(), name="toy")
    assert kg.entities.to_pylist() == ["a", "b", "c"] and kg.train.tensor().tolist() == [[0, 0, 1], [1, 0, 2]]
    assert len(kg.valid) == 0 and kg.test.tensor().tolist() == [[2, 0, 0]]
    with pytest.raises(ValueError, match="without inverse triples"):
        from_pykeen(pykeen_set(inverse=True))
    module = ModuleType("pykeen.datasets")
    module.get_dataset = lambda dataset: {"umls": pykeen_set()}[dataset]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pykeen", ModuleType("pykeen"))
    monkeypatch.setitem(sys.modules, "pykeen.datasets", module)
    named = load("umls", root=tmp_path)
    assert isinstance(named, KnowledgeGraph) and named.name == "umls"
    monkeypatch.setitem(sys.modules, "pykeen.datasets", None)
    with pytest.raises(TripleError, match="umls comes with PyKEEN, which cannot be imported"):
        load("umls", root=tmp_path)


@pytest.mark.filterwarnings("ignore")  # its dependencies warn about each other on import
def test_pykeen_itself(tmp_path: Path) -> None:
    pytest.importorskip("pykeen")
    kg = load("nations", root=tmp_path)
    assert (kg.num_entities, kg.num_relations, len(kg.train), len(kg.valid), len(kg.test)) == (14, 55, 1_592, 199, 201)
