"""Exported tables read back by other readers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gnnaccel.models import kge_export
from gnnaccel.models.kge import KGE
from gnnaccel.models.kge_export import export_npy, export_safetensors, export_word2vec

ENTITIES = ["a", "b c", "d\te", "ü", "f"]
RELATIONS = ["r 1", "s"]


def make(model: str = "transr", dtype: torch.dtype = torch.float32, **options: object) -> KGE:
    return KGE(model, 5, 2, 6, dtype=dtype, **options)  # type: ignore[arg-type]


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """The format as it is described: length, JSON, bytes."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    types = {"F32": torch.float32, "F64": torch.float64, "BF16": torch.bfloat16, "F16": torch.float16}
    about, tables, end = header.pop("__metadata__"), {}, 0
    for name, x in header.items():
        assert x["data_offsets"][0] == end
        start, end = x["data_offsets"]
        tables[name] = torch.frombuffer(bytearray(data[start:end]), dtype=types[x["dtype"]]).reshape(x["shape"])
    assert end == len(data) and size % 8 == 0
    return about, tables


@pytest.mark.parametrize("block", [1 << 24, 7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_npy(tmp_path: Path, dtype: torch.dtype, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kge_export, "_BLOCK", block)
    model = make(dtype=dtype, reciprocal=True, relation_dim=3)
    files = export_npy(
        model, tmp_path / "new" / "folder", entities=ENTITIES[:2] + ENTITIES[3:] + ["g"], relations=RELATIONS
    )
    assert sorted(p.name for p in files) == sorted(p.name for p in (tmp_path / "new" / "folder").iterdir())
    for name, table in model.tables.items():
        array = np.load(tmp_path / "new" / "folder" / f"{name}.npy", allow_pickle=False)
        assert array.dtype == (np.float64 if dtype == torch.float64 else np.float32)
        assert torch.equal(torch.from_numpy(array), table.detach().to(torch.from_numpy(array).dtype))
    about = json.loads((tmp_path / "new" / "folder" / "model.json").read_text())
    assert about["model"] == "transr" and about["reciprocal"] is True and about["gamma"] == 12.0
    assert (tmp_path / "new" / "folder" / "entities.tsv").read_text("utf-8") == "0\ta\n1\tb c\n2\tü\n3\tf\n4\tg\n"
    assert (tmp_path / "new" / "folder" / "relations.tsv").read_text() == "0\tr 1\n1\ts\n"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_safetensors(tmp_path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kge_export, "_BLOCK", 7)
    model, path = make(dtype=dtype), tmp_path / "m.safetensors"
    files = export_safetensors(model, path, entities=ENTITIES)
    assert [p.name for p in files] == ["m.safetensors", "m.entities.tsv"]
    about, tables = read_safetensors(path)
    assert about["format"] == "pt" and about["model"] == "transr" and about["num_relations"] == "2"
    assert list(tables) == ["entity", "relation", "projection"]
    for name, table in model.tables.items():
        assert tables[name].dtype == dtype and torch.equal(tables[name], table.detach())


def test_safetensors_by_its_own_package(tmp_path: Path) -> None:
    package = pytest.importorskip("safetensors.torch")
    model = make("rotate", torch.bfloat16)
    export_safetensors(model, tmp_path / "m.safetensors")
    got = package.load_file(tmp_path / "m.safetensors")
    assert got.keys() == model.tables.keys() and torch.equal(got["relation"], model.relation.detach())


@pytest.mark.parametrize(("table", "rows"), [("entity", 5), ("relation", 4)])
@pytest.mark.parametrize("block", [1 << 24, 7])
def test_word2vec(tmp_path: Path, table: str, rows: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kge_export, "_BLOCK", block)
    model = make("distmult", reciprocal=True)
    with torch.no_grad():
        model.entity[0, :3] = torch.tensor([1e-30, -0.1, 3.4e38])
    for named in (True, False):
        names = {"entities": ENTITIES, "relations": RELATIONS} if named else {}
        export_word2vec(model, tmp_path / "x.txt", table=table, **names)
        first, *lines = (tmp_path / "x.txt").read_text("utf-8").splitlines()
        assert first == f"{rows} 6" and len(lines) == rows
        words = [line.split(" ")[0] for line in lines]
        if named:
            assert words == (["a", "b_c", "d_e", "ü", "f"] if rows == 5 else ["r_1", "s", "r_1_inverse", "s_inverse"])
        else:
            assert words == (list("01234") if rows == 5 else ["0", "1", "0_inverse", "1_inverse"])
        numbers = torch.tensor([[float(x) for x in line.split(" ")[1:]] for line in lines], dtype=torch.float64)
        assert torch.equal(numbers.float(), model.tables[table].detach())


def test_a_failed_export_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    export_safetensors(make(), path)
    before = path.read_bytes()

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(kge_export, "_blocks", fail)
    with pytest.raises(OSError, match="disk full"):
        export_safetensors(make("distmult"), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_bad_names(tmp_path: Path) -> None:
    model = make("distmult")
    with pytest.raises(ValueError, match=r"export_npy: names must be 5, .* got 2"):
        export_npy(model, tmp_path, entities=["a", "b"])
    with pytest.raises(ValueError, match=r"must be distinct .*, got 'b_c' 2 times"):
        export_word2vec(model, tmp_path / "x", entities=["a", "b c", "b_c", "d", "e"])
    with pytest.raises(ValueError, match="must not be empty"):
        export_word2vec(model, tmp_path / "x", entities=["a", "", "c", "d", "e"])
    with pytest.raises(ValueError, match="table must be entity or relation, got 'x'"):
        export_word2vec(model, tmp_path / "x", table="x")
    assert not list(tmp_path.iterdir())
