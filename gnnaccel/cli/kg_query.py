"""`gnnaccel kg predict` and `gnnaccel kg similar`: questions to trained embeddings of a knowledge graph."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch
import typer
from rich.table import Table
from torch import Tensor
from tqdm import tqdm

from gnnaccel.cli._common import out, pick_device, say
from gnnaccel.cli.link import Device, Quiet, Threads, set_threads

pc: Any = pyarrow.compute
_SHOWN = 1000  # lines of a table on the screen
_ROWS = 4096  # queries of a file that are read at a time

Run = Annotated[Path, typer.Argument(help="Folder of a run, or its best.pt.")]
Top = Annotated[int, typer.Option("--top", "-k", min=1, help="Answers of each query.")]
Ids = Annotated[bool, typer.Option("--ids", help="Names given and written are ids.")]
To = Annotated[Path | None, typer.Option("--out", "-o", help="TSV to write instead of a table.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def predict(
    run: Run,
    head: Annotated[
        list[str] | None, typer.Option("--head", help="A name, or @FILE of names; repeatable. Left out, or ?: open.")
    ] = None,
    relation: Annotated[list[str] | None, typer.Option("--relation", help="The same for relations.")] = None,
    tail: Annotated[list[str] | None, typer.Option("--tail", help="The same for tails.")] = None,
    input: Annotated[
        Path | None,
        typer.Option("--input", "-i", help="TSV of head, relation and tail instead, ? for what is open; - is stdin."),
    ] = None,
    top: Top = 10,
    best_of: Annotated[
        str,
        typer.Option(
            "--best-of", help="The best of each query (all combinations given), head, relation, tail; or all."
        ),
    ] = "query",
    filter_known: Annotated[
        bool, typer.Option("--filter-known", help="Leave out triples of train, valid and test.")
    ] = False,
    data: Annotated[str | None, typer.Option("--data", help="Same data at another place, to filter by.")] = None,
    ids: Ids = False,
    to: To = None,
    as_json: AsJson = False,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Complete triples: any of head, relation and tail may be open. Exact, by score; a row without ? gets its score.

    With both entities open the model is asked for every entity: that takes a while on a large graph.

    Examples:

        gnnaccel kg predict runs/complex-umls-0 --head virus --relation causes

        gnnaccel kg predict runs/complex-umls-0 --head virus --tail disease_or_syndrome

        gnnaccel kg predict runs/complex-umls-0 --relation causes --best-of all --top 20 --filter-known

        gnnaccel kg predict runs/complex-umls-0 --head @heads.txt --relation causes --top 100 --out answers.tsv

        gnnaccel kg predict runs/complex-umls-0 --input queries.tsv --json
    """
    from gnnaccel.train.kg.predict import BEST_OF, Search, answer

    if best_of not in BEST_OF:
        raise ValueError(f"--best-of must be one of {', '.join(BEST_OF)}, got {best_of!r}")
    if input is not None and (head or relation or tail or best_of != "query"):
        raise ValueError("--input has the queries; leave out --head, --relation, --tail and --best-of")
    set_threads(threads)
    model, names, state = _load(run, device, ids)
    known = _known(state, data, run) if filter_known else None
    columns = ("query", "rank", "head", "relation", "tail", "score")

    def rows(found: Any, first: int) -> Iterator[tuple[Any, ...]]:
        for i, row in enumerate(zip(*found, strict=True)):
            h, r, t, score = (x[row[3] > -torch.inf] for x in row)
            spelt = names.spell("entity", h), names.spell("relation", r), names.spell("entity", t)
            yield from ((first + i, j + 1, *x) for j, x in enumerate(zip(*spelt, score.tolist(), strict=True)))

    with _bar("asking", quiet) as bar:
        if input is None:
            given = [names.ids(kind, x) for kind, x in (("entity", head), ("relation", relation), ("entity", tail))]
            search = Search(model, *given, k=top, best_of=best_of, known=known, progress=bar)
            bar.total = search.total
            blocks = (part for part in search)
        else:
            queries = names.queries(input)
            blocks = (answer(model, part, top, known=known, progress=bar) for part in queries)
        _emit(_counted(blocks, rows), columns, to, as_json, "predictions")


def similar(
    run: Run,
    entity: Annotated[list[str] | None, typer.Option("--entity", help="A name, or @FILE of names; repeatable.")] = None,
    relation: Annotated[list[str] | None, typer.Option("--relation", help="The same for relations.")] = None,
    every: Annotated[str | None, typer.Option("--all", help="entity or relation: ask for every one.")] = None,
    among: Annotated[
        list[str] | None, typer.Option("--among", help="Names, or @FILE of names, to choose from; all by default.")
    ] = None,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Compare each name with the one at its place in --among.")
    ] = False,
    metric: Annotated[str, typer.Option("--metric", help="cosine, l2, l1, dot or jaccard.")] = "cosine",
    top: Top = 10,
    ids: Ids = False,
    to: To = None,
    as_json: AsJson = False,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Name the entities or relations whose embeddings are most alike. Exact.

    Values of l2 and l1 are distances: the least come first. RotatE's relations are compared as turns.

    Examples:

        gnnaccel kg similar runs/complex-umls-0 --entity virus

        gnnaccel kg similar runs/complex-umls-0 --relation causes --relation affects --metric jaccard --top 5

        gnnaccel kg similar runs/complex-umls-0 --all entity --metric l2 --out neighbours.tsv

        gnnaccel kg similar runs/complex-umls-0 --entity @left.txt --among @right.txt --pairs
    """
    from gnnaccel.train.kg import neighbors

    if metric not in neighbors.METRICS:
        raise ValueError(f"--metric must be one of {', '.join(neighbors.METRICS)}, got {metric!r}")
    if every not in (None, "entity", "relation"):
        raise ValueError(f"--all must be entity or relation, got {every!r}")
    if sum(map(bool, (entity, relation, every))) != 1:
        raise ValueError("give one of --entity, --relation and --all")
    if pairs and (every or not among):
        raise ValueError("--pairs compares --entity or --relation with --among, one by one: give both")
    kind = every or ("entity" if entity else "relation")
    set_threads(threads)
    model, names, _ = _load(run, device, ids)
    table = neighbors.table_of(model, kind)
    asked, pool = names.ids(kind, entity or relation), names.ids(kind, among)
    if asked is None:
        asked = torch.arange(len(table))
    if pairs:
        assert pool is not None
        if len(asked) != len(pool):
            raise ValueError(f"--pairs must have as many names in --among as before it ({len(asked)}), got {len(pool)}")
        value = neighbors.pair_similarity(table, asked, pool, metric)
        lines = zip(range(len(asked)), names.spell(kind, asked), names.spell(kind, pool), value.tolist(), strict=True)
        _emit(lines, ("query", kind, "other", metric), to, as_json, "similarities")
        return

    def rows(found: Any, first: int) -> Iterator[tuple[Any, ...]]:
        own = names.spell(kind, asked[first : first + len(found.ids)])
        for i, (mine, row, value) in enumerate(zip(own, found.ids, found.value, strict=True)):
            spelt = names.spell(kind, row[row >= 0])
            yield from (
                (first + i, j + 1, mine, x, v) for j, (x, v) in enumerate(zip(spelt, value.tolist(), strict=False))
            )

    with _bar("comparing", quiet) as bar:
        bar.total = len(asked)
        blocks = neighbors.similar(table, asked, top, metric=metric, candidates=pool, progress=bar)
        _emit(_counted(blocks, rows), ("query", "rank", kind, "other", metric), to, as_json, "most similar")


def _load(run: Path, device: str, ids: bool) -> tuple[Any, Names, dict[str, Any]]:
    from gnnaccel.train.kg import load_kg_run

    model, _, state = load_kg_run(run, pick_device(device))
    folder = run if run.is_dir() else run.parent
    return model, Names(None if ids else folder, model.num_entities, model.num_relations), state


def _known(state: dict[str, Any], data: str | None, run: Path) -> Any:
    from gnnaccel.cli.kg import graph_of

    return graph_of(state, data, run).known()


class Names:
    """Names of a run's entities and relations, by its `entities.tsv` and `relations.tsv`; without them, ids."""

    def __init__(self, folder: Path | None, num_entities: int, num_relations: int) -> None:
        from gnnaccel.data.kg._dictionaries import read_names

        self.counts = {"entity": num_entities, "relation": num_relations}
        self.tables: dict[str, Any] = {"entity": None, "relation": None}
        for kind, file in (("entity", "entities.tsv"), ("relation", "relations.tsv")):
            if folder is not None and (folder / file).is_file():
                table = read_names(folder / file, id_first=True)
                if len(table) != self.counts[kind]:
                    raise ValueError(f"{folder / file} must name {self.counts[kind]} rows, got {len(table)}")
                self.tables[kind] = table

    def ids(self, kind: str, given: list[str] | None) -> Tensor | None:
        """Ids of names and of files of names; None, as ?, is open."""
        if not given or given == ["?"]:
            return None
        words: list[str] = []
        for word in given:
            words += _lines(Path(word[1:])) if word.startswith("@") and Path(word[1:]).is_file() else [word]
        return self.find(kind, words)

    def find(self, kind: str, words: list[str], where: str = "") -> Tensor:
        table, count = self.tables[kind], self.counts[kind]
        if table is None:
            found = [int(w) if w.isascii() and w.isdigit() and int(w) < count else None for w in words]
        else:
            found = pc.index_in(pa.array(words, pa.string()), value_set=table).to_pylist()
        if None not in found:
            return torch.tensor(found, dtype=torch.int64)
        word = words[found.index(None)]
        if table is None:
            raise ValueError(f"{where}{kind} ids must be in [0, {count}), got {word!r}")
        near = difflib.get_close_matches(word, table.slice(0, 100_000).to_pylist(), 1, 0.6)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"{where}no {kind} is named {word!r}{hint}")

    def spell(self, kind: str, ids: Tensor) -> list[Any]:
        table = self.tables[kind]
        return ids.tolist() if table is None else table.take(pa.array(ids.numpy())).to_pylist()

    def queries(self, path: Path) -> Iterator[Tensor]:
        """Rows of ids, -1 for `?`, int64 [n, 3], a few thousand at a time."""
        part: list[list[str]] = []
        name = "stdin" if str(path) == "-" else str(path)
        for number, line in enumerate(_lines(path), 1):
            fields = line.split("\t")
            if len(fields) != 3:
                raise ValueError(f"{name}, line {number}: expected head, relation and tail between tabs, got {line!r}")
            part.append(fields)
            if len(part) == _ROWS:
                yield self._numbers(part, name, number - len(part))
                part = []
        if part:
            yield self._numbers(part, name, number - len(part))

    def _numbers(self, part: list[list[str]], name: str, before: int) -> Tensor:
        rows = np.full((len(part), 3), -1, np.int64)
        for column, kind in enumerate(("entity", "relation", "entity")):
            at = [i for i, fields in enumerate(part) if fields[column] != "?"]
            words = [part[i][column] for i in at]
            try:
                rows[at, column] = self.find(kind, words).numpy()
            except ValueError:
                for i, word in zip(at, words, strict=True):  # which line it is
                    self.find(kind, [word], f"{name}, line {before + i + 1}: ")
                raise
        return torch.from_numpy(rows)


def _lines(path: Path) -> Iterator[str]:
    if str(path) == "-":
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    with open(path, encoding="utf-8", newline="\n") as file:
        yield from (line.rstrip("\r\n") for line in file)


def _counted(blocks: Iterable[Any], rows: Any) -> Iterator[tuple[Any, ...]]:
    """Lines of all blocks, with queries numbered from 0."""
    first = 0
    for block in blocks:
        yield from rows(block, first)
        first += len(block[0])


def _bar(label: str, quiet: bool) -> tqdm:
    return tqdm(desc=label, unit=" queries", unit_scale=True, leave=False, dynamic_ncols=True, disable=quiet)


def _emit(
    lines: Iterable[tuple[Any, ...]], columns: tuple[str, ...], to: Path | None, as_json: bool, title: str
) -> None:
    """Write lines as they come: to a file as TSV, or to the screen as JSON or a table."""
    if to is not None and as_json:
        raise ValueError("--out writes TSV and --json prints: give only one of them")
    if to is not None:
        from gnnaccel.train.checkpoint import whole_file

        count = 0
        with whole_file(to) as file:
            file.write(("\t".join(columns) + "\n").encode())
            for count, line in enumerate(lines, 1):  # noqa: B007
                words = (f"{x:.6g}" if isinstance(x, float) else str(x) for x in line)
                file.write(("\t".join(words) + "\n").encode())
        say(f"{count:,} lines in {to}")
        return
    if as_json:
        print("[", end="")
        for i, line in enumerate(lines):
            print("," * (i > 0), json.dumps(dict(zip(columns, line, strict=True))), sep="\n", end="")
        print("\n]")
        return
    table = Table(title=title, title_justify="left", caption_justify="left")
    for name in columns:
        table.add_column(name, justify="right" if name in ("query", "rank", columns[-1]) else "left")
    for i, line in enumerate(lines):
        if i == _SHOWN:
            table.caption = f"the first {_SHOWN:,} lines; --out FILE has all"
            break
        table.add_row(*(f"{x:.4f}" if isinstance(x, float) else _escaped(x) for x in line))
    out.print(table)


def _escaped(x: Any) -> str:
    from rich.markup import escape

    return escape(str(x))
