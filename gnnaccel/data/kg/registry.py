"""`load`: a knowledge graph by path or by name."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gnnaccel.data.kg._files import TripleError
from gnnaccel.data.kg.graph import KnowledgeGraph, Triples
from gnnaccel.data.kg.readers import read_kg
from gnnaccel.data.kg.synthetic import synthetic_kg
from gnnaccel.data.registry import cache_dir

__all__ = ["PYKEEN", "from_pykeen", "load"]

PYKEEN = ("umls", "nations", "kinships")  # the sets that lie in PyKEEN's own package
_SYNTHETIC = ("entities", "relations", "triples", "seed")


def load(source: Any, *, root: str | Path | None = None, **options: Any) -> KnowledgeGraph:
    """A knowledge graph from a path, by name, or from a data set of PyKEEN.

    A path that exists wins. Then `synthetic-kg`, also with options as in
    `synthetic-kg:entities=200,relations=8,triples=1200,seed=0`; then a folder of that name in `root/kg` or `root`; then umls,
    nations and kinships from PyKEEN where it is installed. Nothing is fetched.

    Args:
        source: Path, name, `KnowledgeGraph` (given back), or a `pykeen.datasets.Dataset`.
        root: Default `gnnaccel.data.cache_dir()`.
        **options: To `read_kg`.

    Raises:
        TripleError: (a ValueError) Nothing of that name, or unreadable data.
    """
    if isinstance(source, KnowledgeGraph):
        return source
    if hasattr(source, "training") and hasattr(source, "testing"):
        return from_pykeen(source, **options)
    text = str(source)
    if Path(text).exists():
        return read_kg(text, **options)
    head, _, spec = text.partition(":")
    if head == "synthetic-kg":
        return _synthetic(spec)
    if "/" in text or Path(text).suffix:
        raise TripleError(text, "expected a file or folder of triples, got none", "check the path")
    root = cache_dir() if root is None else Path(root)
    for folder in (root / "kg" / text, root / text):
        if text and folder.is_dir():
            return read_kg(folder, **options)
    if text in PYKEEN:
        return _by_pykeen(text)
    folders = [root / "kg"] if (root / "kg").is_dir() else []
    names = ["synthetic-kg", *PYKEEN, *sorted({p.name for f in folders for p in f.iterdir() if p.is_dir()} - {*PYKEEN})]
    near = difflib.get_close_matches(text, names, 1, 0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise TripleError(None, f"no file, folder or knowledge graph {text!r}{hint}", "there are " + ", ".join(names))


def _synthetic(spec: str) -> KnowledgeGraph:
    kwargs: dict[str, int] = {}
    for item in filter(None, spec.split(",")):
        key, eq, value = (x.strip() for x in item.partition("="))
        if key not in _SYNTHETIC or not eq:
            near = difflib.get_close_matches(key, _SYNTHETIC, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise TripleError(None, f"synthetic-kg has no option {item!r}{hint}", f"there are {', '.join(_SYNTHETIC)}")
        try:
            kwargs[key] = int(value)
        except ValueError:
            raise TripleError(None, f"synthetic-kg: {key} must be an int, got {value!r}") from None
    try:
        return synthetic_kg(**kwargs)
    except ValueError as error:
        raise TripleError(None, str(error)) from None


def _by_pykeen(name: str) -> KnowledgeGraph:
    try:
        datasets = importlib.import_module("pykeen.datasets")
    except ImportError as error:
        raise TripleError(
            None,
            f"{name} comes with PyKEEN, which cannot be imported ({error})",
            "pip install pykeen, or give the folder of its files",
        ) from None
    return replace(from_pykeen(datasets.get_dataset(dataset=name)), name=name)


def from_pykeen(dataset: Any, name: str | None = None) -> KnowledgeGraph:
    """From a `pykeen.datasets.Dataset`, with PyKEEN's own ids, so that its checkpoints fit. PyKEEN leaves out triples whose
    entity train lacks, unless it was told otherwise.

    Raises:
        ValueError: It was made with `create_inverse_triples=True`; use `with_reciprocals`.
    """
    train = dataset.training
    if getattr(train, "create_inverse_triples", False):
        raise ValueError("from_pykeen: dataset must be without inverse triples, got create_inverse_triples=True")
    factories = (train, dataset.validation, dataset.testing)
    parts = [Triples.of([] if f is None else f.mapped_triples.cpu()) for f in factories]
    names = []
    for ids in (train.entity_to_id, train.relation_to_id):
        table = np.empty(len(ids), object)
        table[list(ids.values())] = list(ids)
        names.append(table.tolist())
    title = name or type(dataset).__name__.lower()
    sizes = len(names[0]), len(names[1])
    return KnowledgeGraph(title, parts[0], parts[1], parts[2], *sizes, entities=names[0], relations=names[1])
