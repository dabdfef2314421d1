"""Embeddings as DGL-KE saves them."""

from __future__ import annotations

import math
from pathlib import Path

from gnnaccel.models.kge import KGE
from gnnaccel.models.kge_export import _write_npy
from gnnaccel.models.kge_import import DGLKE

__all__ = ["export_dglke"]


def export_dglke(model: KGE, to: str | Path, *, dataset: str, name: str | None = None) -> list[Path]:
    """Write `{dataset}_{name}_entity.npy`, `_relation.npy` and, for TransR, `{dataset}_{name}projection.npy`.

    What `import_dglke` reads, but for `config.json`, which the caller has the flags for. RotatE's phases become
    r = phase (gamma + 2) / (hidden_dim pi), each in [-pi, pi] before; scores stay the same but for rounding.

    Args:
        model: Without inverse relations, which DGL-KE has not.
        to: Folder, made if absent.
        dataset: DGL-KE's name of the data.
        name: DGL-KE's name of the model, by default `TransE_l2`, `RotatE` and so on.

    Returns:
        The files.

    Raises:
        ValueError: The model has inverses, or `name` is another model's.
    """
    if model.reciprocal:
        raise ValueError("export_dglke: model must be without inverse relations, got a reciprocal one")
    name = name or next(k for k, v in DGLKE.items() if v == model.model and k != "TransE")
    if DGLKE.get(name) != model.model:
        raise ValueError(f"export_dglke: name must be DGL-KE's of {model.model}, got {name!r}")
    prefix, scale = Path(to) / f"{dataset}_{name}", 1.0
    if model.model == "rotate":
        scale = (model.gamma + 2.0) / (model.dim // 2 * math.pi)
    done = [_write_npy(prefix.with_name(f"{prefix.name}_entity.npy"), model.entity)]
    done.append(_write_npy(prefix.with_name(f"{prefix.name}_relation.npy"), model.relation, scale))
    if model.projection is not None:
        done.append(_write_npy(prefix.with_name(f"{prefix.name}projection.npy"), model.projection.flatten(1)))
    return done
