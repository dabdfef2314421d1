"""`gnnaccel partition`: a graph for learning about nodes in parts, for training on several machines."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from gnnaccel.cli._common import out, say
from gnnaccel.cli.link import Quiet


def partition(
    data: Annotated[
        str, typer.Option("--data", "-d", help="A name (cora, synthetic-nodes), node data, edges, or a saved Graph.")
    ],
    parts: Annotated[int, typer.Option("--parts", "-k", min=1, help="How many.")],
    to: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the parts; without, only the report.")
    ] = None,
    method: Annotated[str, typer.Option("--method", "-m", help="metis, random or hash.")] = "metis",
    balance: Annotated[
        str | None,
        typer.Option(
            "--balance",
            help="What METIS gives parts as much of: nodes, edges, train (nodes to train on), or both of the last two."
            " By default both, or edges without nodes to train on.",
        ),
    ] = None,
    imbalance: Annotated[
        float, typer.Option("--imbalance", help="How much larger than the mean a part may be.")
    ] = 0.03,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of all draws, also of a split that is made.")] = 0,
    features: Annotated[str, typer.Option("--features", help="raw or row_normalized.")] = "raw",
    dtype: Annotated[str, typer.Option("--dtype", help="Of the features: float32, float16 or int8.")] = "float32",
    add_reverse: Annotated[
        bool, typer.Option("--add-reverse", help="Edges are listed once but have no direction.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the parts in the folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    quiet: Quiet = False,
) -> None:
    """Cut a graph into parts with few edges between them, and report how good they are beside random and hashed ones.

    Each part gets its nodes with all edges into them (neighbours of other parts as halo), their features, classes and masks,
    and as many nodes to train on as any; `gnnaccel.graph.GraphParts.load` opens the folder. METIS needs pymetis.

    Examples:

        gnnaccel partition --data path/to/cora --parts 4

        gnnaccel partition --data synthetic-nodes:nodes=20000 --parts 8 --out parts --balance train

        gnnaccel partition --data my/edges.csv --parts 4 --method hash --out parts --json
    """
    from gnnaccel.graph.node_partition import BALANCES, METHODS

    for name, value, known in (("method", method, METHODS), ("balance", balance or "nodes", BALANCES)):
        if value not in known:
            raise ValueError(f"--{name} must be one of {', '.join(known)}, got {value!r}")
    if balance is not None and method != "metis":
        raise ValueError(f"--balance is of --method metis, got --method {method}")
    if to is not None and (to / "partition.json").exists() and not overwrite:
        raise ValueError(f"{to} already holds parts; give --overwrite or another --out")
    name, graph, nodes = _load(data, features, dtype, add_reverse, seed)
    train = None if nodes is None or not bool(nodes.train_mask.any()) else nodes.train_mask
    if train is None and balance in ("train", "both"):
        raise ValueError(f"--balance must be nodes or edges, {name} has no nodes to train on, got {balance!r}")
    if method == "metis" and balance is None:
        balance = "edges" if train is None else "both"
    if not quiet:
        say(f"{name}: {graph.num_nodes:,} nodes, {graph.num_edges:,} edges")
        for note in () if nodes is None else nodes.notes:
            say(f"note: {note}")
    results, seconds = _compare(graph, parts, method, balance, imbalance, seed, train, quiet)
    part, quality = results[method]
    if to is not None:
        facts = {"name": name, "method": method, "balance": balance, "seed": seed}
        _write(to, graph, part, parts, nodes, facts, overwrite, quiet)
    if as_json:
        figures = {m: q.as_dict() for m, (_, q) in results.items()}
        head = {"data": name, "nodes": graph.num_nodes, "edges": graph.num_edges, "parts": parts, "method": method}
        rest = {"balance": balance, "seed": seed, "seconds": seconds, "out": None if to is None else str(to)}
        print(json.dumps({**head, **rest, "quality": figures}, indent=2))
        return
    out.print(_methods(name, parts, method, balance, {m: q for m, (_, q) in results.items()}))
    out.print(_parts(f"{method} in {seconds:.1f} s" + ("" if to is None else f": {to}"), quality))


def _load(data: str, features: str, dtype: str, add_reverse: bool, seed: int) -> tuple[str, Any, Any]:
    """Name, graph, and node data where there is more than edges."""
    import torch

    from gnnaccel.data import load_nodes
    from gnnaccel.graph import Graph

    kinds = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
    if dtype not in kinds:
        raise ValueError(f"--dtype must be one of {', '.join(kinds)}, got {dtype!r}")
    path = Path(data)
    if (path / "graph.json").is_file():
        return path.name, Graph.load(path), None
    if path.is_file() and not path.name.endswith((".npz", ".pt")):
        return path.name.split(".")[0], Graph.from_csv(path, add_reverse=add_reverse), None
    nodes = load_nodes(data, features=features, dtype=kinds[dtype], add_reverse=add_reverse, seed=seed)
    return nodes.name, nodes.graph, nodes


def _compare(
    graph: Any, parts: int, method: str, balance: str | None, imbalance: float, seed: int, train: Any, quiet: bool
) -> tuple[dict[str, Any], float]:
    """Parts and their quality by the method, by chance and by a hash; and the seconds that the method took."""
    from gnnaccel.graph.node_partition import partition_nodes, partition_quality

    options: dict[str, Any] = {}
    if method == "metis":
        options = {"balance": balance, "imbalance": imbalance, "train_mask": train}
    results, seconds = {}, 0.0
    with tqdm(total=3, desc="cutting", unit=" ways", leave=False, dynamic_ncols=True, disable=quiet) as bar:
        for m in dict.fromkeys((method, "random", "hash")):
            bar.set_description(m)
            started = time.perf_counter()
            try:
                part = partition_nodes(graph, parts, m, seed=seed, **(options if m == method else {}))
            except ImportError as error:
                raise ValueError(str(error)) from None
            seconds = time.perf_counter() - started if m == method else seconds
            results[m] = (part, partition_quality(graph, part, parts, train))
            bar.update()
    return results, seconds


def _write(
    to: Path, graph: Any, part: Any, parts: int, nodes: Any, facts: dict[str, Any], overwrite: bool, quiet: bool
) -> None:
    from gnnaccel.graph.partition_files import write_parts

    tables: dict[str, Any] = {}
    if nodes is not None:
        tables = {"x": nodes.x, "scale": nodes.scale}
        facts |= {"num_classes": nodes.num_classes}
        if nodes.class_names is not None:
            facts["class_names"] = nodes.class_names.tolist()
        if nodes.num_classes:
            tables |= {"y": nodes.y, "masks": {p: nodes.mask(p) for p in ("train", "val", "test")}}
    with tqdm(
        total=graph.num_edges, desc="writing", unit=" edges", unit_scale=True,
        leave=False, dynamic_ncols=True, disable=quiet,
    ) as bar:  # fmt: skip
        write_parts(to, graph, part, parts, **tables, facts=facts, overwrite=overwrite, progress=bar.update)


def _methods(name: str, parts: int, method: str, balance: str | None, results: dict[str, Any]) -> Table:
    table = Table("method", title=Text(f"{name} in {parts} parts"), title_justify="left", caption_justify="left")
    for head in ("edges cut", "share", "halo nodes", "nodes", "edges", "train"):
        table.add_column(head, justify="right")
    for m, q in results.items():
        balances = (f"+{q.imbalance(w):.1%}" for w in ("nodes", "edges"))
        train = "" if q.train is None else f"+{q.imbalance('train'):.1%}"
        label = f"{m} ({balance})" if m == method and balance else m
        table.add_row(label, f"{q.cut:,}", f"{q.cut_share:.1%}", f"{int(q.halo.sum()):,}", *balances, train)
    table.caption = "nodes, edges, train: how much more than the mean the largest part has"
    return table


def _parts(title: str, q: Any) -> Table:
    table = Table("part", title=Text(title), title_justify="left")
    columns = [("nodes", q.nodes), ("edges", q.edges), ("train", q.train), ("halo", q.halo)]
    columns = [(head, x) for head, x in columns if x is not None]
    for head, _ in columns:
        table.add_column(head, justify="right")
    for p in range(len(q.nodes)):
        table.add_row(str(p), *(f"{int(x[p]):,}" for _, x in columns))
    return table
