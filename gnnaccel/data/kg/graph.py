"""`Triples` and `KnowledgeGraph`: facts in memory, with their splits and names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch
from torch import Tensor

from gnnaccel.data.kg._keys import repeated
from gnnaccel.data.kg.known import KnownTriples

__all__ = ["INVERSE", "SPLITS", "KnowledgeGraph", "Triples"]

pc: Any = pyarrow.compute
SPLITS: tuple[str, ...] = ("train", "valid", "test")
INVERSE = "_inverse"  # ends the name of a reciprocal relation, as in PyKEEN


def _given(x: Any) -> str:
    return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__


@dataclass(frozen=True, eq=False, repr=False)
class Triples:
    """T facts (head, relation, tail). Position i of every field is triple i. On one device; not to be written to.

    Attributes:
        head, relation, tail: int64 [T], ids >= 0.
        weight: Importance of each triple in a loss, float32 [T], finite and >= 0; or None.

    Raises:
        ValueError: A field is not so; names it.
    """

    head: Tensor
    relation: Tensor
    tail: Tensor
    weight: Tensor | None = None

    def __post_init__(self) -> None:
        for arg in ("head", "relation", "tail"):
            x = getattr(self, arg)
            if not isinstance(x, Tensor) or x.dtype != torch.int64 or x.dim() != 1:
                raise ValueError(f"Triples: {arg} must be an int64 tensor [T], got {_given(x)}")
            if len(x) != len(self.head):
                raise ValueError(f"Triples: {arg} must be as long as head ({len(self.head)}), got {len(x)}")
            if len(x) and int(x.min()) < 0:
                raise ValueError(f"Triples: {arg} must be ids >= 0, got {int(x.min())}")
        w = self.weight
        if w is not None:
            if not isinstance(w, Tensor) or w.dtype != torch.float32 or w.shape != self.head.shape:
                raise ValueError(f"Triples: weight must be a float32 tensor [{len(self)}], got {_given(w)}")
            if not bool((torch.isfinite(w) & (w >= 0)).all()):
                raise ValueError("Triples: weight must be finite and >= 0, got another value")

    @classmethod
    def of(cls, rows: Any, weight: Any = None) -> Triples:
        """From rows `(head, relation, tail)`: a tensor, array or list, integers [T, 3]. Copies."""
        x = torch.as_tensor(np.array(rows) if not isinstance(rows, Tensor) else rows)
        if x.numel() == 0:
            x = torch.empty(0, 3, dtype=torch.int64)
        if x.dim() != 2 or x.shape[1] != 3 or x.is_floating_point() or x.dtype in (torch.bool, torch.complex64):
            raise ValueError(f"Triples: rows must be integers [T, 3], got {_given(x)}")
        head, relation, tail = (x[:, i].to(torch.int64, copy=True).contiguous() for i in range(3))
        return cls(head, relation, tail, None if weight is None else torch.as_tensor(weight, dtype=torch.float32))

    @classmethod
    def cat(cls, parts: Iterable[Triples]) -> Triples:
        """One after the other. Weights are kept if all parts have them."""
        parts = list(parts)
        if not parts:
            return cls.of([])
        weights = [p.weight for p in parts if p.weight is not None]
        h, r, t = (torch.cat([getattr(p, x) for p in parts]) for x in ("head", "relation", "tail"))
        return cls(h, r, t, torch.cat(weights) if len(weights) == len(parts) else None)

    def __len__(self) -> int:
        return len(self.head)

    def __getitem__(self, index: slice | Tensor) -> Triples:
        """A slice (views), or positions int64 [n] or a mask bool [T] (copies)."""
        w = None if self.weight is None else self.weight[index]
        return Triples(self.head[index], self.relation[index], self.tail[index], w)

    def __repr__(self) -> str:
        return f"Triples({len(self)}{'' if self.weight is None else ', weighted'})"

    def tensor(self) -> Tensor:
        """Rows `(head, relation, tail)`, int64 [T, 3], a copy."""
        return torch.stack([self.head, self.relation, self.tail], 1)

    def numpy(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`(head, relation, tail)` as arrays that share the memory. On the CPU only."""
        return self.head.numpy(), self.relation.numpy(), self.tail.numpy()

    def reciprocal(self, num_relations: int) -> Triples:
        """`(tail, relation + num_relations, head)` for each triple, in the same order."""
        return Triples(self.tail, self.relation + num_relations, self.head, self.weight)

    def repeats(self) -> np.ndarray:
        """Which triples occurred earlier in the same order, bool [T]. Weights are not looked at."""
        return repeated(*self.numpy())


def _names(x: Any, count: int, arg: str) -> Any:
    if x is None:
        return None
    try:
        x = x.combine_chunks() if isinstance(x, pa.ChunkedArray) else pa.array(x, pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError):
        raise ValueError(f"KnowledgeGraph: {arg} must be strings, got {type(x).__name__}") from None
    if len(x) != count:
        raise ValueError(f"KnowledgeGraph: {arg} must be {count} names, got {len(x)}")
    if x.null_count:
        raise ValueError(f"KnowledgeGraph: {arg} must be strings, got None")
    if pc.count_distinct(x).as_py() != count:
        raise ValueError(f"KnowledgeGraph: {arg} must be distinct, got a name twice")
    return x


@dataclass(frozen=True, eq=False, repr=False)
class KnowledgeGraph:
    """A knowledge graph with splits. Checked on construction; nothing in it is to be written to.

    Attributes:
        name: What to call it in tables and logs.
        train, valid, test: Its triples on the CPU; valid and test may have none.
        num_entities, num_relations: Ids are below these.
        entities, relations: Names by id, Arrow string arrays (lists are taken too), distinct; None: the ids are the names.
        reciprocal: The upper half of the relations are inverses of the lower, and train holds every triple both ways.
        dropped: What a reader left out: reason -> split -> number of triples.

    Raises:
        ValueError: A field is not so; names it.
    """

    name: str
    train: Triples
    valid: Triples
    test: Triples
    num_entities: int
    num_relations: int
    entities: Any = None
    relations: Any = None
    reciprocal: bool = False
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for split in SPLITS:
            x = getattr(self, split)
            if not isinstance(x, Triples) or x.head.device.type != "cpu":
                raise ValueError(f"KnowledgeGraph: {split} must be Triples on the CPU, got {type(x).__name__}")
            for arg, bound in (("head", "num_entities"), ("tail", "num_entities"), ("relation", "num_relations")):
                n, ids = getattr(self, bound), getattr(x, arg)
                if len(ids) and int(ids.max()) >= n:
                    raise ValueError(f"KnowledgeGraph: {split}.{arg} must be in [0, {n}), got {int(ids.max())}")
        if self.reciprocal and self.num_relations % 2:
            raise ValueError(f"KnowledgeGraph: num_relations must be even with inverses, got {self.num_relations}")
        object.__setattr__(self, "entities", _names(self.entities, self.num_entities, "entities"))
        object.__setattr__(self, "relations", _names(self.relations, self.num_relations, "relations"))
        self._freeze()

    def _freeze(self) -> None:
        frozen = {k: MappingProxyType(dict(v)) for k, v in self.dropped.items() if v}
        object.__setattr__(self, "dropped", MappingProxyType(frozen))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "dropped": {k: dict(v) for k, v in self.dropped.items()}}  # a view cannot be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._freeze()

    def __repr__(self) -> str:
        sizes = " / ".join(f"{len(getattr(self, s)):,}" for s in SPLITS)
        kind = ", reciprocal" if self.reciprocal else ""
        return f"KnowledgeGraph({self.name!r}: {self.num_entities:,} entities, {self.num_relations:,} relations{kind}, {sizes})"

    def split(self, name: str) -> Triples:
        """The triples of "train", "valid" or "test". Raises ValueError if there is none: nothing can be trained or ranked."""
        if name not in SPLITS:
            raise ValueError(f"split: name must be one of {', '.join(SPLITS)}, got {name!r}")
        if not len(getattr(self, name)):
            raise ValueError(f"{self.name}: {name} must hold triples, got an empty split")
        return getattr(self, name)

    def entity_names(self, ids: Any) -> list[str]:
        """Names of entity ids, int [n]."""
        return _spell(self.entities, ids, self.num_entities, "entity")

    def relation_names(self, ids: Any) -> list[str]:
        """Names of relation ids, int [n]."""
        return _spell(self.relations, ids, self.num_relations, "relation")

    def entity_ids(self, names: Iterable[str]) -> Tensor:
        """Ids of entity names, int64 [n]. Raises KeyError naming the first unknown one."""
        return _find(self.entities, names, self.num_entities, f"{self.name}: no entity")

    def relation_ids(self, names: Iterable[str]) -> Tensor:
        """Ids of relation names, int64 [n]. Raises KeyError naming the first unknown one."""
        return _find(self.relations, names, self.num_relations, f"{self.name}: no relation")

    def with_reciprocals(self) -> KnowledgeGraph:
        """With an inverse for each relation: id + R, name + "_inverse", and the exchanged triples after those of train.

        Valid and test stay as they are: a question for the head, (?, r, t), is the question (t, r + R, ?) for the tail.
        """
        if self.reciprocal:
            raise ValueError(f"with_reciprocals: {self.name} must be without inverses, got a graph that has them")
        names = None if self.relations is None else self.relations.to_pylist()
        return replace(
            self,
            train=Triples.cat([self.train, self.train.reciprocal(self.num_relations)]),
            num_relations=2 * self.num_relations,
            relations=None if names is None else [*names, *(n + INVERSE for n in names)],
            reciprocal=True,
        )

    def known(self, splits: Iterable[str] = SPLITS) -> KnownTriples:
        """Index of the triples that are true: all splits to filter a ranking, ("train",) to filter negatives.

        With inverses it knows them for every split.
        """
        parts = [getattr(self, s) for s in splits]
        if self.reciprocal:
            half = self.num_relations // 2
            parts += [p[p.relation < half].reciprocal(half) for p in parts]
        return KnownTriples.build(parts, self.num_entities, self.num_relations)

    def unseen(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids, ascending, of the entities and of the relations that no triple of train has."""
        h, r, t = self.train.numpy()
        entity, relation = np.ones(self.num_entities, bool), np.ones(self.num_relations, bool)
        entity[h] = entity[t] = relation[r] = False
        return np.flatnonzero(entity), np.flatnonzero(relation)

    def summary(self) -> dict[str, Any]:
        """Counts that describe the graph and what is odd about it. O(T log T) time, O(T) memory."""
        entity, relation = self.unseen()
        e, r = np.zeros(self.num_entities, bool), np.zeros(self.num_relations, bool)
        e[entity], r[relation] = True, True
        train = self.known(("train",))
        parts = {s: getattr(self, s) for s in SPLITS}
        rest = {s: p for s, p in parts.items() if s != "train"}
        return {
            "name": self.name,
            "entities": self.num_entities,
            "relations": self.num_relations,
            **{s: len(p) for s, p in parts.items()},
            "duplicates": {s: int(p.repeats().sum()) for s, p in parts.items()},
            "loops": {s: int((p.head == p.tail).sum()) for s, p in parts.items()},
            "in_train": {s: int(train.contains(p.head, p.relation, p.tail).sum()) for s, p in rest.items()},
            "pairs_exchanged_in_train": {s: _exchanged(self.train, p, self.num_entities) for s, p in rest.items()},
            "entities_not_in_train": len(entity),
            "relations_not_in_train": len(relation),
            "triples_not_in_train": {s: int((e[p.head] | e[p.tail] | r[p.relation]).sum()) for s, p in rest.items()},
            "dropped": {k: dict(v) for k, v in self.dropped.items()},
        }

    def save_names(self, folder: str | Path) -> tuple[Path, Path]:
        """Write `entities.tsv` and `relations.tsv`, lines `id<TAB>name`, as DGL-KE does; each by a temporary name."""
        folder, done = Path(folder), []
        folder.mkdir(parents=True, exist_ok=True)
        for file, count, names in (
            ("entities.tsv", self.num_entities, self.entity_names),
            ("relations.tsv", self.num_relations, self.relation_names),
        ):
            scratch = folder / f"{file}.tmp"
            with open(scratch, "w", encoding="utf-8", newline="\n") as out:
                for start in range(0, count, 1 << 16):
                    ids = range(start, min(start + (1 << 16), count))
                    out.writelines(f"{i}\t{name}\n" for i, name in zip(ids, names(ids), strict=True))
            os.replace(scratch, folder / file)
            done.append(folder / file)
        return done[0], done[1]


def _exchanged(train: Triples, part: Triples, num_entities: int) -> int:
    """How many triples of `part` join two entities that a triple of train joins the other way round, by any relation."""
    h, _, t = train.numpy()
    head, _, tail = part.numpy()
    return int(np.isin(tail * num_entities + head, h * num_entities + t).sum())


def _array(x: Any) -> np.ndarray:
    return np.asarray(x.cpu() if isinstance(x, Tensor) else x, dtype=np.int64).reshape(-1)


def _spell(names: Any, ids: Any, count: int, what: str) -> list[str]:
    ids = _array(ids)
    if len(ids) and not (0 <= ids.min() and ids.max() < count):
        bad = ids[(ids < 0) | (ids >= count)][0]
        raise ValueError(f"{what}_names: ids must be in [0, {count}), got {bad}")
    return [str(i) for i in ids.tolist()] if names is None else names.take(pa.array(ids)).to_pylist()


def _find(names: Any, wanted: Iterable[str], count: int, unknown: str) -> Tensor:
    wanted = [str(x) for x in ([wanted] if isinstance(wanted, str) else wanted)]
    if names is None:
        ids = [int(x) if x.isascii() and x.isdigit() and int(x) < count else None for x in wanted]
    else:
        ids = pc.index_in(pa.array(wanted, pa.string()), value_set=names).to_pylist()
    if None in ids:
        raise KeyError(f"{unknown} {wanted[ids.index(None)]!r}")
    return torch.tensor(ids, dtype=torch.int64)
