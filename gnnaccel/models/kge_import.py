"""Embeddings from others: checkpoints of DGL-KE and PyKEEN, in our conventions."""

from __future__ import annotations

import gzip
import json
import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gnnaccel.models.kge import KGE
from gnnaccel.ops.kg_score import HALVES, relation_width

__all__ = ["ImportedKGE", "from_tables", "import_dglke", "import_pykeen", "read_array", "read_dglke_config"]

DGLKE = {
    "TransE": "transe_l2",
    "TransE_l1": "transe_l1",
    "TransE_l2": "transe_l2",
    "DistMult": "distmult",
    "ComplEx": "complex",
    "RotatE": "rotate",
    "RESCAL": "rescal",
    "TransR": "transr",
    "SimplE": "simple",
}
PYKEEN = ("TransE", "DistMult", "ComplEx", "RotatE", "RESCAL", "TransR", "SimplE")


class ImportedKGE(NamedTuple):
    """An embedding model with its names.

    Attributes:
        model: The tables under our conventions.
        entities, relations: Names by id, or None where the checkpoint has none.
    """

    model: KGE
    entities: list[str] | None
    relations: list[str] | None


def from_tables(
    model: str,
    entity: Tensor,
    relation: Tensor,
    projection: Tensor | None = None,
    *,
    gamma: float = 12.0,
    reciprocal: bool = False,
) -> KGE:
    """A `KGE` of given tables, which it takes over without a copy.

    Args:
        model: A name of `kg_score`.
        entity: `[E, D]`.
        relation: `[R, width]`, with `reciprocal` `[2 R, width]`, the inverse of r in row R + r.
        projection: TransR's, `[rows of relation, D, M]`.
        gamma: Added to the distances.
        reciprocal: See `KGE`.

    Raises:
        ValueError: A shape does not fit the model.
    """
    owner = "from_tables"
    if entity.dim() != 2 or relation.dim() != 2 or not len(entity) or not len(relation):
        given = f"{list(entity.shape)} and {list(relation.shape)}"
        raise ValueError(f"{owner}: entity and relation must be [E, D] and [R, width] with E, R >= 1, got {given}")
    (E, D), (rows, width) = entity.shape, relation.shape
    if reciprocal and rows % 2:
        raise ValueError(f"{owner}: relation must have an even number of rows with inverses, got {rows}")
    if model in HALVES and D % 2:
        raise ValueError(f"{owner}: entity must have an even number of columns for {model}, got {D}")
    made = KGE(model, 1, 1, D, relation_dim=width if model == "transr" else None, gamma=gamma, dtype=entity.dtype)
    if width != relation_width(model, D, width if model == "transr" else None):
        want = relation_width(model, D)
        raise ValueError(f"{owner}: relation must have {want} columns for {model} of width {D}, got {width}")
    want = [rows, D, width] if model == "transr" else None
    given = None if projection is None else list(projection.shape)
    if want != given:
        raise ValueError(f"{owner}: projection must be {want} for {model}, got {given}")
    made.num_entities, made.num_relations, made.reciprocal = E, rows // 2 if reciprocal else rows, reciprocal
    made.entity, made.relation = nn.Parameter(entity), nn.Parameter(relation)
    if projection is not None:
        made.projection = nn.Parameter(projection)
    return made


def import_dglke(folder: str | Path, config: Mapping[str, Any] | None = None) -> ImportedKGE:
    """A model that DGL-KE saved: `config.json`, `{dataset}_{model}_entity.npy`, `_relation.npy`, TransR's `projection.npy`.

    Rows are DGL-KE's but for RotatE's relations, which it keeps as r = phase (gamma + 2) / (hidden_dim pi). It clamps SimplE's
    scores to +-20; ours are not clamped. Names come from the maps that `config.json` tells of, looked for beside it and in its
    `data_path`; they are None if not there. Pickled arrays are refused.

    Args:
        folder: Where the files are.
        config: Instead of config.json: `model_name`, `dataset`, `gamma`, `hidden_dim`, `double_ent`, ...

    Raises:
        ValueError: A file is missing or its shape does not fit the configuration; names it.
    """
    folder = Path(folder)
    config = read_dglke_config(folder) if config is None else config
    name, dataset = config["model_name"], config["dataset"]
    if name not in DGLKE:
        raise ValueError(f"{folder / 'config.json'}: model_name must be one of {', '.join(DGLKE)}, got {name!r}")
    model, gamma = DGLKE[name], float(config["gamma"])
    prefix = f"{dataset}_{name}"
    entity, relation = (read_array(folder / f"{prefix}_{what}.npy") for what in ("entity", "relation"))
    hidden = int(config["hidden_dim"])
    dim = hidden * (2 if config.get("double_ent") else 1)
    if entity.dim() != 2 or entity.shape[1] != dim:
        raise ValueError(f"{folder / prefix}_entity.npy: must be [entities, {dim}], got {list(entity.shape)}")
    projection = None
    if model == "rotate":
        relation = (relation.double() * (math.pi * hidden / (gamma + 2.0))).to(relation.dtype)
    if model == "transr":
        files = [folder / f"{prefix}{end}.npy" for end in ("projection", "_projection")]
        projection = read_array(next((f for f in files if f.exists()), files[0]))
        if projection.numel() != len(relation) * dim * relation.shape[-1]:
            want = f"[{len(relation)}, {dim * relation.shape[-1]}]"
            raise ValueError(f"{files[0]}: must be {want}, got {list(projection.shape)}")
        projection = projection.reshape(len(relation), dim, relation.shape[-1])
    try:
        made = from_tables(model, entity, relation, projection, gamma=gamma)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    names = []
    for key, usual, count in (("emap_file", "entities", len(entity)), ("rmap_file", "relations", len(relation))):
        given = config.get(key) or (config.get("emp_file") if key == "emap_file" else None)
        names.append(_map(folder, config, [given, f"{usual}.tsv", f"{usual}.dict"], count))
    return ImportedKGE(made, names[0], names[1])


def read_dglke_config(folder: str | Path) -> dict[str, Any]:
    """DGL-KE's config.json, which has at least `model_name`, `dataset`, `gamma` and `hidden_dim`, or is refused."""
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(f"no {path.name} in {path.parent}: expected a folder that DGL-KE saved") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    config = {**config, "model_name": config.get("model_name", config.get("model"))}
    config["hidden_dim"] = config.get("hidden_dim", config.get("emb_size"))
    for key in ("model_name", "dataset", "gamma", "hidden_dim"):
        if config.get(key) is None:
            raise ValueError(f"{path}: must have {key}, got {', '.join(sorted(config))}")
    return config


def read_array(path: Path) -> Tensor:
    """A .npy file of floating numbers, in native byte order; `ValueError` for another file, pickles too."""
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"no {path.name} in {path.parent}") from None
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a plain .npy file: {error}") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise ValueError(f"{path}: must hold floating numbers, got {getattr(array, 'dtype', type(array).__name__)}")
    return torch.from_numpy(array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("=")))


def _map(folder: Path, config: Mapping[str, Any], files: list[str | None], count: int) -> list[str] | None:
    from gnnaccel.data.kg._dictionaries import read_names

    data = Path(str(config.get("data_path") or folder))
    for file in filter(None, files):
        for place in (folder / Path(file).name, data / file, data / str(config["dataset"]) / Path(file).name):
            if place.is_file():
                names = read_names(place, id_first=True).to_pylist()
                if len(names) != count:
                    raise ValueError(f"{place}: must name {count} rows, got {len(names)}")
                return names
    return None


def import_pykeen(
    source: Any,
    model: str | None = None,
    *,
    triples: str | Path | None = None,
    inverse: bool | None = None,
    strict: bool = True,
) -> ImportedKGE:
    """A model of PyKEEN: TransE, DistMult, ComplEx, RotatE, RESCAL, TransR or SimplE, with or without inverse triples.

    Complex rows become [re | im], RotatE's relations the phases of its numbers of modulus 1, SimplE's two embeddings the halves
    of a row. SimplE of PyKEEN 1.11 is not SimplE: it compares the embedding of a head as head with that of a tail as head too,
    which is DistMult on both embeddings, and so it becomes `"distmult"`. PyKEEN's inverse of relation r is row 2 r + 1 and
    becomes row R + r. It has no gamma: ours is 0.

    Scores are PyKEEN's but for two models, which `strict` refuses: its RotatE takes the Euclidean norm of the whole difference,
    where the paper and we sum the moduli; and its TransR shortens projected entities to length 1.

    Args:
        source: A PyKEEN model; or a file of its `state_dict` (`torch.save(model.state_dict(), file)`) or of a training
            checkpoint, if torch can load it without running code. `trained_model.pkl` is a pickle and is refused: load it with
            PyKEEN, if you trust it, and give the model.
        model: Our name of the model (`"transe_l1"`), needed for a file, which does not say; for SimplE `"distmult"` if it was
            trained with PyKEEN 1.11, else `"simple"`.
        triples: Folder of a triples factory (`training_triples` of a pipeline's results), for the names of a file; a model
            in memory has none either.
        inverse: Whether a file has rows of inverse relations; by default so if `triples` names half as many relations as there
            are rows.
        strict: False: import RotatE's and TransR's tables although scores will differ.

    Raises:
        ValueError: Another model, options of it that we have not, or a file that is not so.
    """
    if isinstance(source, (str, Path)):
        tables = _state(Path(source))
        if model is None:
            raise ValueError("import_pykeen: model must be named for a file (e.g. 'complex'), got None")
    else:
        name = _interaction(source, strict)
        if model not in (None, name):
            raise ValueError(f"import_pykeen: model must be {name!r}, as the source is, got {model!r}")
        model, inverse = name, bool(getattr(source, "use_inverse_triples", False))
        tables = {
            kind: [x(indices=None).detach().cpu() for x in getattr(source, f"{kind}_representations")]
            for kind in ("entity", "relation")
        }
    if model not in DGLKE.values():
        raise ValueError(f"import_pykeen: model must be one of {', '.join(sorted(set(DGLKE.values())))}, got {model!r}")
    if strict and model in ("rotate", "transr"):
        why = "sums no moduli" if model == "rotate" else "shortens projected entities"
        raise ValueError(f"import_pykeen: PyKEEN's {model} {why}, so scores would differ; strict=False imports it so")
    names = [_factory_names(triples, what) for what in ("entity", "relation")]
    entity, relation = ([_real(x, model) for x in tables[kind]] for kind in ("entity", "relation"))
    wanted = {"simple": (2, 2), "transr": (1, 2)}.get(model, (1, 1))
    if model == "distmult" and (len(entity), len(relation)) == (2, 2):  # the mean of two
        wanted, relation = (2, 2), [x / 2 for x in relation]
    if (len(entity), len(relation)) != wanted:
        raise ValueError(
            f"import_pykeen: {model} must have {wanted[0]} entity and {wanted[1]} relation tables, got "
            f"{len(entity)} and {len(relation)}"
        )
    E, D = entity[0].shape[0], sum(x.shape[1] for x in entity)
    rows = len(relation[0])
    if inverse is None:
        inverse = names[1] is not None and rows == 2 * len(names[1])
    if model == "rotate":
        relation[0] = torch.atan2(*relation[0].chunk(2, 1)[::-1])
    projection = relation.pop().reshape(rows, D, -1) if model == "transr" else None
    table = torch.cat([x.reshape(rows, -1) for x in relation], 1)
    if inverse:
        order = torch.cat([torch.arange(0, rows, 2), torch.arange(1, rows, 2)])
        table, projection = table[order], None if projection is None else projection[order]
    made = from_tables(model, torch.cat(entity, 1), table, projection, gamma=0.0, reciprocal=inverse)
    for found, count, what in ((names[0], E, "entities"), (names[1], made.num_relations, "relations")):
        if found is not None and len(found) != count:
            raise ValueError(f"import_pykeen: triples must name {count} {what}, got {len(found)}")
    return ImportedKGE(made, names[0], names[1])


def _interaction(source: Any, strict: bool) -> str:
    interaction = getattr(source, "interaction", None)
    if interaction is None or not hasattr(source, "entity_representations"):
        raise ValueError(f"import_pykeen: source must be a file or a PyKEEN model, got {type(source).__name__}")
    kind = type(source).__name__
    if kind not in PYKEEN:
        raise ValueError(f"import_pykeen: source must be one of {', '.join(PYKEEN)}, got {kind}")
    name = DGLKE[kind]
    if name == "transe_l2":
        p, power = interaction.p, getattr(interaction, "power_norm", False)
        if p not in (1, 2) or (power and p != 1):
            raise ValueError(f"import_pykeen: TransE must take the norm 1 or 2, got p={p}, power_norm={power}")
        return f"transe_l{int(p)}"
    if name == "simple":
        if strict and getattr(interaction, "clamp_score", None) is not None:
            raise ValueError("import_pykeen: SimplE must not clamp its scores; strict=False imports it so")
        one, zero = torch.ones(1, 1), torch.zeros(1, 1)
        with torch.no_grad():  # 0 if a head's first embedding meets a tail's second
            return "distmult" if interaction((one, zero), (one, zero), (one, zero)).item() else "simple"
    return name


def _state(path: Path) -> dict[str, list[Tensor]]:
    """Embedding tables of a state dict, by kind and number."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"no file {path}") from None
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile):
        raise ValueError(
            f"{path} cannot be loaded without running code: save model.state_dict(), or load it with PyKEEN and give the model"
        ) from None
    state = state.get("model_state_dict", state) if isinstance(state, dict) else {}
    tables: dict[str, list[tuple[int, Tensor]]] = {"entity": [], "relation": []}
    for key, value in state.items():
        if m := re.fullmatch(r"(entity|relation)_representations\.(\d+)\._embeddings\.weight", str(key)):
            tables[m[1]].append((int(m[2]), value))
    if not tables["entity"] or not tables["relation"]:
        raise ValueError(f"{path}: must hold entity and relation embeddings of a PyKEEN model, got other things")
    return {kind: [x for _, x in sorted(found, key=lambda pair: pair[0])] for kind, found in tables.items()}


def _real(x: Tensor, model: str) -> Tensor:
    """Complex rows as [re | im]; a state dict has them as re, im, re, im ..."""
    if not x.is_complex():
        if model not in ("complex", "rotate"):
            return x
        x = torch.view_as_complex(x.reshape(len(x), -1, 2).contiguous())
    return torch.cat([x.real, x.imag], 1)


def _factory_names(folder: str | Path | None, what: str) -> list[str] | None:
    """Names by id of a triples factory: lines `id<TAB>label` after a header, in `entity_to_id.tsv.gz`."""
    if folder is None:
        return None
    path = Path(folder) / f"{what}_to_id.tsv.gz"
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            rows = [line.rstrip("\r\n").split("\t", 1) for line in file][1:]
        ids = [int(i) for i, _ in rows]
    except FileNotFoundError:
        raise ValueError(f"no {path.name} in {path.parent}: expected a triples factory of PyKEEN") from None
    except (OSError, EOFError, ValueError):
        raise ValueError(f"{path}: must have lines of an id and a name") from None
    if sorted(ids) != list(range(len(ids))):
        raise ValueError(f"{path}: ids must be 0..{len(ids) - 1}, each once")
    names = [""] * len(ids)
    for i, name in rows:
        names[int(i)] = name
    return names
