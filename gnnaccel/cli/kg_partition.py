"""`gnnaccel kg partition`: a knowledge graph in parts, for training on several machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from tqdm import tqdm

from gnnaccel.cli._common import out, say
from gnnaccel.cli.link import Quiet


def partition(
    data: Annotated[str, typer.Argument(help="A name (synthetic-kg), or a file or folder of triples.")],
    parts: Annotated[int, typer.Option("--parts", "-k", min=1, help="How many.")],
    to: Annotated[Path, typer.Option("--out", help="Folder for partition_0, partition_1, ...")],
    balance: Annotated[
        str, typer.Option("--balance", help="What parts have as much of: nodes, or edges (triples).")
    ] = "nodes",
    imbalance: Annotated[
        float, typer.Option("--imbalance", help="How much larger than the mean a part may be.")
    ] = 0.03,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of METIS' own draws.")] = 0,
    columns: Annotated[
        str | None, typer.Option("--columns", help="Order of the columns: hrt (default), htr, ...")
    ] = None,
    format: Annotated[
        str | None, typer.Option("--format", help="raw, names, ids, openke; found out by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    quiet: Quiet = False,
) -> None:
    """Cut a graph into parts of entities with few triples between them, by METIS, in DGL-KE's files.

    Each part has train.txt (local ids), local_to_global.txt, partition_book.txt and relation_count.txt; names go to
    entities.tsv and relations.tsv. Needs pymetis.

    Examples:

        gnnaccel kg partition path/to/fb15k-237 --parts 4 --out parts

        gnnaccel kg partition path/to/fb15k-237 -k 8 --out parts --balance edges --json
    """
    from gnnaccel.cli.kg import describe_graph, load_graph, reading_options

    kg = load_graph(data, reading_options(columns, format, None))
    say(describe_graph(kg))
    book, sizes = cut(kg, parts, to, quiet, balance=balance, imbalance=imbalance, seed=seed)
    kg.save_names(to)
    figures = {"parts": parts, "triples": len(kg.train), "cut": book.cut, "cut_share": book.cut_share}
    figures["imbalance"] = book.imbalance
    if as_json:
        print(json.dumps({**figures, "sizes": [size._asdict() for size in sizes]}, indent=2))
        return
    table = Table("part", title=f"{kg.name} in {parts} parts: {to}", title_justify="left", caption_justify="left")
    for name in ("entities", "of others", "triples", "inside"):
        table.add_column(name, justify="right")
    for p, size in enumerate(sizes):
        table.add_row(str(p), *(f"{n:,}" for n in size))
    table.caption = (
        f"{book.cut:,} of {len(kg.train):,} triples are between parts ({book.cut_share:.1%}); "
        f"the largest part has {book.imbalance:.1%} more entities than the mean"
    )
    out.print(table)


def cut(kg: Any, parts: int, to: Path, quiet: bool, **options: Any) -> tuple[Any, Any]:
    """The book of a graph, and the sizes of its parts, which are written to a folder."""
    from gnnaccel.data.kg.partitions import partition_entities, write_partitions

    try:
        book = partition_entities(kg, parts, **options)
    except ImportError as error:
        raise ValueError(str(error)) from None
    with tqdm(
        total=len(kg.train), desc="writing", unit=" triples", unit_scale=True,
        leave=False, dynamic_ncols=True, disable=quiet,
    ) as bar:  # fmt: skip
        return book, write_partitions(kg, book, to, progress=bar.update)
