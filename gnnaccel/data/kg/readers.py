"""Knowledge graphs from files: TSV and CSV in any order of columns, DGL-KE's and OpenKE's layouts, gzip."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch

from gnnaccel.data.kg._dictionaries import read_names
from gnnaccel.data.kg._files import BLANKS, Coded, Columns, TripleError, TripleFile
from gnnaccel.data.kg._keys import repeated
from gnnaccel.data.kg.graph import SPLITS, KnowledgeGraph, Triples

__all__ = ["DUPLICATES", "FORMATS", "UNKNOWN", "read_kg"]

pc: Any = pyarrow.compute
FORMATS = ("auto", "raw", "names", "ids", "openke")
UNKNOWN = ("rank", "report", "error")
DUPLICATES = ("keep", "drop", "error")

_STEMS = {"train": ("train",), "valid": ("valid", "val", "validation", "dev"), "test": ("test",)}
_ENDS = ("", ".txt", ".tsv", ".csv", ".del")
_NAME_ENDS = (".dict", ".tsv", ".txt", ".csv", ".del")


@dataclass
class _Layout:
    """Which files hold what."""

    format: str
    splits: dict[str, Path]
    entities: Path | None = None
    relations: Path | None = None


@dataclass
class _Part:
    """A split being read: `ids` is int64 [3, T] in the order head, relation, tail; `row` the file's row of each triple."""

    file: TripleFile
    columns: Columns
    ids: np.ndarray = field(default_factory=lambda: np.empty((3, 0), np.int64))
    row: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    weight: np.ndarray | None = None

    def keep(self, mask: np.ndarray) -> None:
        self.ids, self.row = self.ids[:, mask], self.row[mask]
        self.weight = None if self.weight is None else self.weight[mask]


def read_kg(
    path: str | Path,
    *,
    format: str = "auto",
    order: str | None = None,
    files: Sequence[str] | None = None,
    delimiter: str | None = None,
    header: bool | None = None,
    unknown: str = "rank",
    duplicates: str = "keep",
    allow_empty: bool = False,
    weight: bool = False,
    name: str | None = None,
) -> KnowledgeGraph:
    """A knowledge graph from a folder or a file; everything may be gzipped.

    Names are kept literally, quotes too; blanks around them are not part of them. Blank lines, CRLF and a byte order mark
    are passed over.

    Formats:
        - raw: names, numbered by their first line, head before tail, train before valid before test (DGL-KE's raw_udd)
        - names: names, numbered by `entities.dict` and `relations.dict` (.tsv too), lines `id name`
        - ids: the triples are ids, named by these files if they are there (DGL-KE's udd)
        - openke: `entity2id.txt`, `relation2id.txt`, `train2id.txt` ..., a first line of the count, columns h t r
        - auto: openke or raw by the files; with dictionaries, names or ids by the first triple, an error if it could be both
        - `raw_udd_hrt`, `udd_hrt`: DGL-KE's words, with any order of the letters

    What to do with triples of valid and test whose entity or relation no triple of train has (`unknown`):
        - rank: keep them; the entity has an id, and a model must rank it untrained
        - report: leave them out, and count them in `dropped`
        - error: refuse the first

    Args:
        path: A file of triples (then valid and test are empty), or a folder with `train`, and perhaps `valid` and `test`,
            ending in .txt, .tsv, .csv or nothing, each perhaps with .gz.
        format: See above.
        order: The columns, a permutation of "hrt"; default "hrt", for OpenKE "htr".
        files: Names of the files in the folder, as DGL-KE's --data_files: train [valid [test]] for raw; entities, relations,
            train [valid [test]] for names, ids, openke.
        delimiter: One character, " " for runs of blanks and tabs; None finds out by the first line.
        header: Whether there is a line of names of columns; None finds out (head relation tail, subject predicate object).
        unknown: See above.
        duplicates: Triples that a split holds again: keep, drop (counted in `dropped`), or error.
        allow_empty: A file of valid or test may hold nothing.
        weight: A fourth column holds an importance for each triple (DGL-KE's --has_edge_importance); valid and test may be
            without.
        name: Default: the name of the folder or file.

    Returns:
        The graph. The same files give the same ids on any machine.

    Raises:
        TripleError: (a ValueError) In one line: file, line, expected, given.
        ValueError: An argument is not one of those above.
    """
    for arg, value, choices in (("unknown", unknown, UNKNOWN), ("duplicates", duplicates, DUPLICATES)):
        if value not in choices:
            raise ValueError(f"read_kg: {arg} must be one of {', '.join(choices)}, got {value!r}")
    if delimiter is not None and (len(delimiter) != 1 or not delimiter.isascii() or delimiter in "\r\n\x01"):
        raise ValueError(f"read_kg: delimiter must be one ASCII character, got {delimiter!r}")
    format, order = _format(format, order)
    path = Path(path)
    layout = _layout(path, format, files)
    openke = layout.format == "openke"
    options: dict[str, Any] = {"delimiter": delimiter, "header": header, "weight": weight}
    if openke:
        options |= {"count_line": True, "header": False}
        options["delimiter"] = delimiter or BLANKS  # its files mix blanks and tabs
        order = order or "htr"
    unweighted: dict[str, Any] = {**options, "weight": False}
    parts = {}
    for split, file in layout.splits.items():
        opened = TripleFile(file, order, **options)
        if weight and split != "train" and (plain := TripleFile(file, order, **unweighted)).columns == 3:
            opened = plain  # a ranking needs no weights
        parts[split] = _Part(opened, opened.read())
        if not len(parts[split].columns) and not (allow_empty and split != "train"):
            remedy = "pass allow_empty=True (--allow-empty), or leave the file out" if split != "train" else None
            raise TripleError(file, f"expected triples of {split}, got an empty split", remedy)
    names = [None if f is None else read_names(f, not openke) for f in (layout.entities, layout.relations)]
    sizes, names = _number(layout, parts, names)
    for part in parts.values():
        part.row, part.weight = np.arange(len(part.columns)), part.columns.weight
    dropped = {"duplicates": _duplicates(parts, duplicates), "unknown": _unknown(parts, sizes, names, unknown)}
    train, valid, test = (_triples(parts[s]) if s in parts else Triples.of([]) for s in SPLITS)
    title = name or re.sub(r"(\.(txt|tsv|csv|gz))+$", "", path.resolve().name)
    return KnowledgeGraph(title, train, valid, test, sizes[0], sizes[1], names[0], names[1], dropped=dropped)


def _format(format: str, order: str | None) -> tuple[str, str | None]:
    if told := re.fullmatch(r"(raw_)?udd_([hrt]{3})", format):
        if order is not None and order != told[2]:
            raise ValueError(f"read_kg: order must be {told[2]!r} with format {format!r}, got {order!r}")
        format, order = "raw" if told[1] else "ids", told[2]
    if format not in FORMATS:
        raise ValueError(f"read_kg: format must be one of {', '.join(FORMATS)}, raw_udd_hrt, udd_hrt, got {format!r}")
    if order is not None and sorted(order) != ["h", "r", "t"]:
        raise ValueError(f"read_kg: order must be a permutation of 'hrt', got {order!r}")
    return format, order


def _one(folder: Path, stems: Sequence[str], ends: Sequence[str], wanted: bool, what: str) -> Path | None:
    found = [folder / f"{s}{e}{z}" for s in stems for e in ends for z in ("", ".gz")]
    found = [f for f in found if f.is_file()]
    if len(found) > 1:
        both = " and ".join(f.name for f in found)
        raise TripleError(folder, f"expected one file of {what}, got {both}", "name the files")
    if not found and wanted:
        given = ", ".join(sorted(f.name for f in folder.iterdir())[:6]) or "an empty folder"
        raise TripleError(folder, f"expected a file of {what} ({stems[0]}{ends[1]}), got {given}")
    return found[0] if found else None


def _layout(path: Path, format: str, files: Sequence[str] | None) -> _Layout:
    if not path.exists():
        raise TripleError(path, "expected a file or folder of triples, got none", "check the path")
    if not path.is_dir():
        if files:
            raise TripleError(path, f"expected a folder with {', '.join(files)}, got a file")
        if format in ("names", "openke"):
            raise TripleError(path, f"expected a folder for format {format}, got a file")
        return _Layout("raw" if format == "auto" else format, {"train": path})
    if files is not None:
        fixed = 0 if format == "raw" or (format == "auto" and len(files) in (1, 2)) else 2
        if format == "auto" and len(files) == 3:
            raise ValueError(
                "read_kg: files must come with format='raw', 'names' or 'ids' where there are 3, got 'auto'"
            )
        if len(files) - fixed not in (1, 2, 3):
            expected = "train [valid [test]]" if not fixed else "entities relations train [valid [test]]"
            raise ValueError(f"read_kg: files must be {expected}, got {len(files)} files")
        paths = [path / f for f in files]
        for p in paths:
            if not p.is_file():
                raise TripleError(p, "expected a file, got none", "check --data_files and the folder")
        splits = dict(zip(SPLITS, paths[fixed:], strict=False))
        format = "raw" if not fixed else format
        return _Layout(format, splits, *(paths[:2] if fixed else ()))
    if format == "openke" or (format == "auto" and (path / "entity2id.txt").is_file()):
        ends = ("", ".txt")
        splits = {s: _one(path, [f"{x}2id" for x in _STEMS[s]], ends, s == "train", s) for s in SPLITS}
        maps = [
            _one(path, [f"{x}2id"], ends, True, what) for x, what in (("entity", "entities"), ("relation", "relations"))
        ]
        return _Layout("openke", {s: f for s, f in splits.items() if f}, *maps)
    splits = {s: _one(path, _STEMS[s], _ENDS, s == "train", s) for s in SPLITS}
    maps: list[Path | None] = [None, None]
    if format != "raw":
        maps = [_one(path, [x], _NAME_ENDS, format == "names", x) for x in ("entities", "relations")]
        if (maps[0] is None) != (maps[1] is None):
            raise TripleError(path, "expected both entities.dict and relations.dict, got one of them")
        if format == "auto" and maps[0] is None:
            format = "raw"
    return _Layout(format, {s: f for s, f in splits.items() if f}, *maps)


def _number(layout: _Layout, parts: dict[str, _Part], names: list[Any]) -> tuple[list[int], list[Any]]:
    """Fill `ids` of the parts; the numbers of entities and relations, and their names."""
    format = layout.format
    if format == "auto":
        format = _names_or_ids(parts["train"], names)
    if format == "raw":
        entities, e = _first_seen([c for p in parts.values() for c in (p.columns.head, p.columns.tail)], 2)
        relations, r = _first_seen([p.columns.relation for p in parts.values()], 1)
        for i, part in enumerate(parts.values()):
            c = part.columns
            part.ids = np.empty((3, len(c)), np.int64)
            for out, table, column in zip(
                part.ids, (e[2 * i], r[i], e[2 * i + 1]), (c.head, c.relation, c.tail), strict=True
            ):
                np.take(table, column.codes, out=out)
        return [len(entities), len(relations)], [entities, relations]
    for part in parts.values():
        rows = []
        for what, column, known in (
            ("entity", part.columns.head, names[0]),
            ("relation", part.columns.relation, names[1]),
            ("entity", part.columns.tail, names[0]),
        ):
            rows.append(_by_name(part, what, column, known) if format == "names" else _by_id(part, what, column, known))
        part.ids = np.stack(rows)
    if names[0] is not None:
        return [len(names[0]), len(names[1])], names
    tops = np.stack([p.ids.max(1, initial=-1) for p in parts.values()]).max(0)
    return [int(max(tops[0], tops[2])) + 1, int(tops[1]) + 1], [None, None]


def _names_or_ids(part: _Part, names: list[Any]) -> str:
    c = part.columns
    cells = [x.values[int(x.codes[0])].as_py() for x in (c.head, c.relation, c.tail)]
    known = [names[0], names[1], names[0]]
    place = [pc.index(n, pa.scalar(x, pa.string())).as_py() for x, n in zip(cells, known, strict=True)]
    by_name = min(place) >= 0
    by_id = all(re.fullmatch("[0-9]{1,18}", x) and int(x) < len(n) for x, n in zip(cells, known, strict=True))
    if by_name and by_id and place != [int(x) for x in cells]:
        problem = f"expected names or ids, got {' '.join(cells)}, which are both"
        raise part.file.fail(0, problem, "pass format='names' or format='ids' (--format)")
    return "names" if by_name or not by_id else "ids"


def _first_seen(columns: list[Coded], width: int) -> tuple[Any, list[np.ndarray]]:
    """Names in the order of the lines, and for each column the number of each of its values, int64.

    Column `width * i + j` is column j of file i: within a line, j counts.
    """
    merged = pa.chunked_array([c.values for c in columns], pa.string()).dictionary_encode().unify_dictionaries()
    merged = merged.combine_chunks()
    merged = merged.chunk(0) if isinstance(merged, pa.ChunkedArray) else merged
    table, n = merged.indices.to_numpy(), len(merged.dictionary)
    first = np.full(n, np.iinfo(np.int64).max)
    places, start, line = [], 0, 0
    for i, c in enumerate(columns):
        place = table[start : start + len(c.values)]
        row = np.empty(len(place), np.int64)
        row[c.codes[::-1]] = np.arange(len(c.codes))[::-1]  # of an index that repeats the last stays: the first line
        first[place] = np.minimum(first[place], (line + row) * width + i % width)
        places.append(place)
        start += len(place)
        line += len(c.codes) if i % width == width - 1 else 0
    order = np.argsort(first, kind="stable")
    rank = np.empty(n, np.int64)
    rank[order] = np.arange(n)
    return merged.dictionary.take(pa.array(order)), [rank[x] for x in places]


def _by_name(part: _Part, what: str, column: Coded, names: Any) -> np.ndarray:
    place = pc.index_in(column.values, value_set=names)
    if place.null_count:
        row = int(np.argmax(place.is_null().to_numpy(zero_copy_only=False)[column.codes]))
        given = column.values[int(column.codes[row])].as_py()
        plural = {"entity": "entities", "relation": "relations"}[what]
        raise part.file.fail(row, f"expected one of the {len(names)} {plural} of the dictionary, got {given!r}")
    return place.to_numpy().astype(np.int64)[column.codes]


def _by_id(part: _Part, what: str, column: Coded, names: Any) -> np.ndarray:
    good = pc.match_substring_regex(column.values, "^[0-9]{1,18}$")
    ids = pc.if_else(good, column.values, "-1").cast(pa.int64()).to_numpy()
    bad = (ids < 0) | (ids >= len(names)) if names is not None else ids < 0
    if bad.any():
        row = int(np.argmax(bad[column.codes]))
        given = column.values[int(column.codes[row])].as_py()
        span = f"[0, {len(names)})" if names is not None else ">= 0"
        raise part.file.fail(row, f"expected {'an' if what == 'entity' else 'a'} {what} id {span}, got {given!r}")
    return ids[column.codes]


def _duplicates(parts: dict[str, _Part], policy: str) -> dict[str, int]:
    dropped = {}
    for split, part in parts.items() if policy != "keep" else ():
        again = repeated(*part.ids)
        if not again.any():
            continue
        if policy == "error":
            at = int(np.argmax(again))
            earlier = int(np.argmax((part.ids[:, :at] == part.ids[:, at : at + 1]).all(0)))
            problem = f"expected each triple of {split} once, got the one of line {part.file.line_of(earlier)} again"
            raise part.file.fail(at, problem, "pass duplicates='drop' or 'keep' (--duplicates)")
        dropped[split] = int(again.sum())
        part.keep(~again)
    return dropped


def _unknown(parts: dict[str, _Part], sizes: list[int], names: list[Any], policy: str) -> dict[str, int]:
    dropped = {}
    if policy == "rank":
        return dropped
    entity, relation = np.zeros(sizes[0], bool), np.zeros(sizes[1], bool)
    h, r, t = parts["train"].ids
    entity[h] = entity[t] = relation[r] = True
    for split, part in parts.items():
        h, r, t = part.ids
        bad = ~(entity[h] & relation[r] & entity[t])
        if not bad.any():
            continue
        if policy == "error":
            at = int(np.argmax(bad))
            what, id, named = next(
                (w, int(x[at]), n)
                for w, x, seen, n in (
                    ("entity", h, entity, names[0]), ("relation", r, relation, names[1]), ("entity", t, entity, names[0]),
                )
                if not seen[x[at]]
            )  # fmt: skip
            given = id if named is None else repr(named[id].as_py())
            article = "an" if what == "entity" else "a"
            problem = f"expected {article} {what} of train, got {given}"
            raise part.file.fail(int(part.row[at]), problem, "pass unknown='rank' or 'report'")
        dropped[split] = int(bad.sum())
        part.keep(~bad)
    return dropped


def _triples(part: _Part) -> Triples:
    head, relation, tail = (torch.from_numpy(np.ascontiguousarray(x)) for x in part.ids)
    return Triples(head, relation, tail, None if part.weight is None else torch.from_numpy(part.weight.copy()))
