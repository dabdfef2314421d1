"""Imported embeddings as a run, for `eval`, `predict` and `similar`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from gnnaccel.data.kg import KnowledgeGraph
from gnnaccel.models.kge import KGE
from gnnaccel.models.kge_import import ImportedKGE, from_tables
from gnnaccel.train.checkpoint import save_checkpoint, write_text
from gnnaccel.train.kg.config import KGConfig, validate_kg
from gnnaccel.train.kg.trainer import DTYPES, KIND, fingerprint

__all__ = ["fit_to", "save_imported"]


def fit_to(found: ImportedKGE, kg: KnowledgeGraph) -> KGE:
    """The model with its rows in the order of the graph's ids: by name, or, where the checkpoint has no names, as they are.

    Rows of entities that the graph does not have are left out.

    Raises:
        ValueError: An entity or relation of the graph has no row, or the sizes differ and there are no names.
    """
    model = found.model
    entity = _order("entity", found.entities, model.num_entities, kg.num_entities, kg.entity_names)
    relation = _order("relation", found.relations, model.num_relations, kg.num_relations, kg.relation_names)
    if model.reciprocal:
        relation = torch.cat([relation, relation + model.num_relations])
    dtype = model.entity.dtype if model.entity.dtype in DTYPES.values() else torch.float32
    tables = [None if x is None else x.detach().to(dtype) for x in (model.entity, model.relation, model.projection)]
    entities, relations, projections = tables
    assert entities is not None and relations is not None
    return from_tables(
        model.model,
        entities[entity],
        relations[relation],
        None if projections is None else projections[relation],
        gamma=model.gamma,
        reciprocal=model.reciprocal,
    )


def _order(what: str, names: list[str] | None, rows: int, count: int, spell: Any) -> Tensor:
    if names is None:
        if rows != count:
            raise ValueError(f"the checkpoint has {rows} {what} rows and no names, the graph has {count}")
        return torch.arange(count)
    place, wanted = {name: i for i, name in enumerate(names)}, spell(torch.arange(count))
    missing = [name for name in wanted if name not in place]
    if missing:
        more = f" (and {len(missing) - 1:,} more of {count:,})" if len(missing) > 1 else ""
        raise ValueError(f"the checkpoint has no {what} {missing[0]!r}{more}, which the graph has")
    return torch.tensor([place[name] for name in wanted], dtype=torch.int64)


def save_imported(
    model: KGE,
    kg: KnowledgeGraph,
    folder: str | Path,
    *,
    data: str = "",
    reading: Mapping[str, Any] | None = None,
) -> KGConfig:
    """Write `best.pt`, `config.yaml` and names into a folder that `load_kg_run` reads.

    Args:
        model: The tables, with the graph's ids.
        kg: The graph that they are of, without inverses.
        folder: Made if absent.
        data, reading: How the graph was named and read; see `KGTrainer`.

    Returns:
        The configuration: what is known of the model; the rest are defaults and say nothing of its training.
    """
    given: dict[str, Any] = {
        "name": model.model,
        "dim": model.dim,
        "relation_dim": model.relation_dim,
        "gamma": model.gamma,
        "reciprocal": model.reciprocal,
        "dtype": next(name for name, dtype in DTYPES.items() if dtype == model.entity.dtype),
    }
    config = validate_kg({"model": given, "negatives": {"sides": "tail" if model.reciprocal else "both"}})
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kg.save_names(folder)
    write_text(folder / "config.yaml", yaml.safe_dump(config.model_dump(), sort_keys=False))
    state = {
        "kind": KIND,
        "config": config.model_dump(),
        "data": {
            "name": data,
            "reading": dict(reading or {}),
            "num_entities": kg.num_entities,
            "num_relations": kg.num_relations,
            "fingerprint": fingerprint(kg),
        },
        "model": model.state_dict(),
        "step": 0,
    }
    save_checkpoint(folder / "best.pt", state)
    return config
