"""Checkpoints of DGL-KE by its formulas, and of PyKEEN against PyKEEN itself."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gnnaccel.models.kge_import import DGLKE, PYKEEN, from_tables, import_dglke, import_pykeen

E, R, HIDDEN, GAMMA = 7, 3, 4, 9.5
TRIPLES = torch.tensor(list(itertools.product(range(E), range(R), range(E))))


def dglke_score(name: str, h: Tensor, r: Tensor, t: Tensor, p: Tensor | None) -> Tensor:
    """Scores of one triple as DGL-KE's score functions define them."""
    if name.startswith("TransE"):
        return GAMMA - torch.linalg.vector_norm(h + r - t, ord=1 if name.endswith("l1") else 2)
    if name == "DistMult":
        return (h * r * t).sum()
    if name == "ComplEx":
        return (torch.complex(*h.chunk(2)) * torch.complex(*r.chunk(2)) * torch.complex(*t.chunk(2)).conj()).sum().real
    if name == "RotatE":
        turn = torch.polar(torch.ones_like(r), r / ((GAMMA + 2) / HIDDEN / math.pi))
        return GAMMA - (torch.complex(*h.chunk(2)) * turn - torch.complex(*t.chunk(2))).abs().sum()
    if name == "RESCAL":
        return h @ r.view(len(h), len(h)) @ t
    if name == "TransR":
        assert p is not None
        m = p.view(len(h), len(r))
        return GAMMA - (h @ m + r - t @ m).abs().sum()
    (hi, hj), (ti, tj), (forth, back) = h.chunk(2), t.chunk(2), r.chunk(2)
    return (hi * forth * tj + ti * back * hj).sum() / 2


def write_dglke(folder: Path, name: str) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    de, dr = name in ("RotatE", "SimplE"), name in ("SimplE", "TransR")
    dim, width = HIDDEN * (1 + de), HIDDEN * (1 + dr)
    shapes = {"_entity": (E, dim), "_relation": (R, dim * dim if name == "RESCAL" else width)}
    if name == "TransR":
        shapes["projection"] = (R, dim * width)
    for what, shape in shapes.items():
        np.save(folder / f"umls_{name}{what}.npy", rng.uniform(-2, 2, shape).astype(np.float32))
    config = {
        "model_name": name,
        "dataset": "umls",
        "gamma": GAMMA,
        "hidden_dim": HIDDEN,
        "double_ent": de,
        "double_rel": dr,
        "data_path": str(folder / "data"),
        "emap_file": "entities.tsv",
        "rmap_file": "relations.tsv",
        "lr": 0.1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return config


@pytest.mark.parametrize("name", DGLKE)
def test_scores_of_dglke(tmp_path: Path, name: str) -> None:
    write_dglke(tmp_path, name)
    got = import_dglke(tmp_path)
    assert got.model.model == DGLKE[name] and got.entities is None and got.relations is None
    assert (got.model.num_entities, got.model.num_relations) == (E, R)
    entity, relation = (
        torch.from_numpy(np.load(tmp_path / f"umls_{name}_{x}.npy")).double() for x in ("entity", "relation")
    )
    p = torch.from_numpy(np.load(tmp_path / "umls_TransRprojection.npy")).double() if name == "TransR" else [None] * R
    want = torch.stack([dglke_score(name, entity[h], relation[r], entity[t], p[r]) for h, r, t in TRIPLES.tolist()])
    torch.testing.assert_close(got.model.score(*TRIPLES.T).double(), want, rtol=2e-5, atol=2e-5)


def test_names_of_dglke(tmp_path: Path) -> None:
    write_dglke(tmp_path, "TransE")
    (tmp_path / "data" / "umls").mkdir(parents=True)
    (tmp_path / "data" / "entities.tsv").write_text("".join(f"{i}\te {i}\n" for i in range(E)))
    (tmp_path / "data" / "umls" / "relations.tsv").write_text("2\tz\n0\tx\n1\ty\n")
    got = import_dglke(tmp_path)
    assert got.entities == [f"e {i}" for i in range(E)] and got.relations == ["x", "y", "z"]
    (tmp_path / "relations.tsv").write_text("0\ta\n1\tb\n2\tc\n3\td\n")  # beside it comes first
    with pytest.raises(ValueError, match=r"relations.tsv: must name 3 rows, got 4"):
        import_dglke(tmp_path)


def test_bad_dglke_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config.json in .*: expected a folder that DGL-KE saved"):
        import_dglke(tmp_path)
    config = write_dglke(tmp_path, "RotatE")
    table = tmp_path / "umls_RotatE_entity.npy"

    def fails(match: str, **changes: Any) -> None:
        (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(ValueError, match=match):
            import_dglke(tmp_path)

    fails(r"model_name must be one of TransE, .*, got 'ConvE'", model_name="ConvE")
    fails(r"config.json: must have gamma", gamma=None)
    fails(r"RotatE_entity.npy: must be \[entities, 10\], got \[7, 8\]", hidden_dim=5)
    fails(r"no wn_RotatE_entity.npy", dataset="wn")
    np.save(tmp_path / "umls_RotatE_relation.npy", np.zeros((R, 3), np.float32))
    fails(r"relation must have 4 columns for rotate of width 8, got 3")
    np.save(table, np.array([{}], object), allow_pickle=True)
    fails(r"not a plain .npy file")
    np.save(table, np.zeros((E, 8), np.int64))
    fails(r"must hold floating numbers, got int64")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        import_dglke(tmp_path)


def test_tables_that_do_not_fit() -> None:
    x = torch.zeros
    for text, call in {
        "with E, R >= 1, got": lambda: from_tables("distmult", x(0, 4), x(2, 4)),
        "even number of rows": lambda: from_tables("distmult", x(5, 4), x(3, 4), reciprocal=True),
        "even number of columns for complex, got 3": lambda: from_tables("complex", x(5, 3), x(2, 3)),
        "must have 16 columns for rescal": lambda: from_tables("rescal", x(5, 4), x(2, 4)),
        r"projection must be \[2, 4, 3\] for transr, got None": lambda: from_tables("transr", x(5, 4), x(2, 3)),
        "projection must be None for distmult": lambda: from_tables("distmult", x(5, 4), x(2, 4), x(2, 4, 4)),
    }.items():
        with pytest.raises(ValueError, match=text):
            call()


@pytest.fixture(scope="module")
def pykeen() -> Any:
    pytest.importorskip("pykeen")
    import pykeen.models
    from pykeen.triples import CoreTriplesFactory

    def make(name: str, inverse: bool, **options: Any) -> Any:
        factory = CoreTriplesFactory(TRIPLES, E, R, create_inverse_triples=inverse)
        model = getattr(pykeen.models, name)(triples_factory=factory, embedding_dim=6, random_seed=3, **options)
        with torch.no_grad():
            for x in model.parameters():
                x += torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        model.post_parameter_update()
        return model.eval()

    return make


its_warnings = pytest.mark.filterwarnings("ignore")


def test_state_dicts_by_hand(tmp_path: Path) -> None:
    """Without PyKEEN: complex numbers lie as re, im, re, im; matrices and inverse relations as PyKEEN has them."""
    path, key = tmp_path / "state.pt", "{}_representations.{}._embeddings.weight"
    entity = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    relation = torch.tensor([[0.0, 1.0, -1.0, 0.0], [1.0, 0.0, 0.0, -1.0]])
    torch.save({key.format("relation", 0): relation, key.format("entity", 0): entity, "x.regularizer": relation}, path)
    got = import_pykeen(path, "complex").model
    assert got.entity.tolist() == [[1, 3, 2, 4], [5, 7, 6, 8]] and got.relation.tolist() == [
        [0, -1, 1, 0],
        [1, 0, 0, -1],
    ]
    got = import_pykeen(path, "rotate", strict=False, inverse=True).model
    torch.testing.assert_close(got.relation.detach(), torch.tensor([[0.5, 1.0], [0.0, -0.5]]) * math.pi)
    assert got.reciprocal and got.num_relations == 1
    rows, matrices = torch.arange(12.0).view(4, 3), torch.arange(48.0).view(4, 12)
    torch.save({"model_state_dict": {key.format("entity", 0): entity, key.format("relation", 0): rows,
                                     key.format("relation", 1): matrices}}, path)  # fmt: skip
    got = import_pykeen(path, "transr", strict=False, inverse=True).model
    assert got.projection is not None and torch.equal(got.relation, rows[[0, 2, 1, 3]])
    assert torch.equal(got.projection, matrices[[0, 2, 1, 3]].view(4, 4, 3))


@its_warnings
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("name", [x for x in PYKEEN if x not in ("RotatE", "TransR")])
def test_scores_of_pykeen(pykeen: Any, tmp_path: Path, name: str, inverse: bool) -> None:
    for options in [{"scoring_fct_norm": p} for p in (1, 2)] if name == "TransE" else [{}]:
        theirs = pykeen(name, inverse, **options)
        ours = import_pykeen(theirs).model
        assert (ours.num_entities, ours.num_relations, ours.reciprocal, ours.gamma) == (E, R, inverse, 0.0)
        h, r, t = TRIPLES.T
        with torch.no_grad():
            torch.testing.assert_close(ours.score(h, r, t), theirs.predict_hrt(TRIPLES)[:, 0], rtol=2e-5, atol=2e-5)
            if inverse:
                heads = theirs.predict_h(TRIPLES[:, 1:])[torch.arange(len(h)), h]
                torch.testing.assert_close(ours.score(t, r + R, h), heads, rtol=2e-5, atol=2e-5)
        torch.save(theirs.state_dict(), tmp_path / "state.pt")
        read = import_pykeen(tmp_path / "state.pt", ours.model, inverse=inverse).model
        assert all(torch.equal(read.tables[k], x) for k, x in ours.tables.items())


@its_warnings
def test_simple_as_published(pykeen: Any, tmp_path: Path) -> None:
    """PyKEEN before 1.11: a head's first embedding met a tail's second."""
    theirs = pykeen("SimplE", False)
    one, two = (x(indices=None).detach() for x in theirs.entity_representations)
    forth, back = (x(indices=None).detach() for x in theirs.relation_representations)

    class Published(torch.nn.Module):
        def forward(self, h: Any, r: Any, t: Any) -> Tensor:
            return ((h[0] * r[0] * t[1]).sum(-1) + (t[0] * r[1] * h[1]).sum(-1)) / 2

    torch.save(theirs.state_dict(), tmp_path / "state.pt")
    theirs.interaction = Published()
    h, r, t = TRIPLES.T
    want = theirs.interaction((one[h], two[h]), (forth[r], back[r]), (one[t], two[t]))
    for got in (import_pykeen(theirs), import_pykeen(tmp_path / "state.pt", "simple")):
        assert got.model.model == "simple"
        torch.testing.assert_close(got.model.score(h, r, t), want, rtol=2e-5, atol=2e-5)


@its_warnings
def test_pykeen_models_of_other_scores(pykeen: Any) -> None:
    for name in ("RotatE", "TransR"):
        with pytest.raises(ValueError, match=rf"PyKEEN's {DGLKE[name]} .*, so scores would differ; strict=False"):
            import_pykeen(pykeen(name, False))
    theirs = pykeen("RotatE", True)
    ours = import_pykeen(theirs, strict=False).model
    # the same turn of the same head, under another norm
    h, r, t = TRIPLES.T
    with torch.no_grad():
        head, tail = (torch.complex(*ours.entity[x].chunk(2, 1)) for x in (h, t))
        turned = head * torch.polar(torch.ones(len(r), 6), ours.relation[r])
        distance = torch.linalg.vector_norm(turned - tail, dim=1)
        torch.testing.assert_close(-distance, theirs.predict_hrt(TRIPLES)[:, 0], rtol=2e-5, atol=2e-5)
        torch.testing.assert_close(-(turned - tail).abs().sum(1), ours.score(h, r, t), rtol=2e-5, atol=2e-5)
    theirs = pykeen("TransR", False, relation_dim=3)
    ours = import_pykeen(theirs, strict=False).model
    theirs.interaction.max_projection_norm = 1e9  # nothing is shortened
    with torch.no_grad():
        torch.testing.assert_close(ours.score(h, r, t), theirs.predict_hrt(TRIPLES)[:, 0], rtol=2e-5, atol=2e-5)


@its_warnings
def test_names_of_pykeen(pykeen: Any, tmp_path: Path) -> None:
    from pykeen.triples import TriplesFactory

    entities, relations = [f"e {i}" for i in range(E)], ["x", "y", "z"]
    ids = [{name: i for i, name in enumerate(names)} for names in (entities, relations)]
    TriplesFactory(TRIPLES, *ids).to_path_binary(tmp_path / "triples")
    torch.save(pykeen("DistMult", True).state_dict(), tmp_path / "state.pt")
    got = import_pykeen(tmp_path / "state.pt", "distmult", triples=tmp_path / "triples")
    assert got.entities == entities and got.relations == relations and got.model.reciprocal
    torch.save(pykeen("DistMult", False).state_dict(), tmp_path / "state.pt")
    assert not import_pykeen(tmp_path / "state.pt", "distmult", triples=tmp_path / "triples").model.reciprocal
    with pytest.raises(ValueError, match=r"no entity_to_id\.tsv\.gz"):
        import_pykeen(tmp_path / "state.pt", "distmult", triples=tmp_path)


@its_warnings
def test_bad_pykeen_sources(pykeen: Any, tmp_path: Path) -> None:
    model = pykeen("DistMult", False)
    torch.save(model, tmp_path / "trained_model.pkl")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    torch.save(model.state_dict(), tmp_path / "state.pt")
    for text, call in {
        "trained_model.pkl cannot be loaded without running code": lambda: import_pykeen(
            tmp_path / "trained_model.pkl", "distmult"
        ),
        "other.pt: must hold entity and relation embeddings": lambda: import_pykeen(tmp_path / "other.pt", "distmult"),
        "no file": lambda: import_pykeen(tmp_path / "none.pt", "distmult"),
        "model must be named for a file": lambda: import_pykeen(tmp_path / "state.pt"),
        "model must be one of complex, .*, got 'x'": lambda: import_pykeen(tmp_path / "state.pt", "x"),
        "simple must have 2 entity and 2 relation tables, got 1 and 1": lambda: import_pykeen(
            tmp_path / "state.pt", "simple"
        ),
        "model must be 'distmult', as the source is, got 'complex'": lambda: import_pykeen(model, "complex"),
        "source must be a file or a PyKEEN model, got int": lambda: import_pykeen(3),
        "source must be one of TransE, .*, got HolE": lambda: import_pykeen(pykeen("HolE", False)),
        "TransE must take the norm 1 or 2, got p=3": lambda: import_pykeen(pykeen("TransE", False, scoring_fct_norm=3)),
    }.items():
        with pytest.raises(ValueError, match=text):
            call()
