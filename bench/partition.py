"""A large graph in parts: `python -m gnnaccel.bench.partition --parts 4 --folder DIR`.

Builds a graph of a million nodes and ten million edges, cuts it by METIS, by chance and by a hash, writes the parts and opens
them again. Reports seconds and peak memory of each step beyond what was there before it (the graph itself, too), and how good
the parts are.

Two graphs: one of communities, which METIS can find, and one with power-law degrees and no other structure, where there is
little to find and hubs stand in the way. Peaks are of the whole process, METIS' own memory included, and `resident_bytes`
what it has after the step.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer

from gnnaccel.bench._stream import write_json
from gnnaccel.bench.device import environment
from gnnaccel.bench.kg_eval import peak_of
from gnnaccel.bench.scale import resident

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("communities", "power-law")
COMMUNITY = 1000  # nodes
FEATURES = 16


def edges(kind: str, nodes: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Directed edges; of communities both ways, so that there are about `count`."""
    from gnnaccel.data import power_law_edges, synthetic_nodes

    if kind == "power-law":
        return power_law_edges(nodes, count, seed)
    classes = max(2, nodes // COMMUNITY)
    src, dst = synthetic_nodes(nodes, classes, max(1, count // nodes), features=0, seed=seed).graph.edges()
    return src.long(), dst.long()


class Steps:
    """Runs steps and keeps what they took."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def __call__(self, name: str, call: Callable[[], Any]) -> Any:
        kept: list[Any] = []
        gc.collect()  # what goes meanwhile would hide what comes
        start = time.perf_counter()
        peak = peak_of(lambda: kept.append(call()))
        if not kept:  # the system does not tell, and nothing ran
            kept.append(call())
        seconds = time.perf_counter() - start
        self.rows.append({"step": name, "seconds": seconds, "peak_bytes": peak, "resident_bytes": sum(resident())})
        return kept[0]


def measure(kind: str, nodes: int, count: int, parts: int, balance: str, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Seconds, peaks and quality for one graph."""
    from gnnaccel.graph import Graph, GraphParts, partition_nodes, partition_quality, write_parts
    from gnnaccel.graph._metis import symmetric_rows

    ends = [edges(kind, nodes, count, seed)]
    train = torch.arange(nodes) * 2_654_435_761 % 2**32 < 0.1 * 2**32
    step = Steps()
    graph = step("build", lambda: Graph.from_edges(*ends[0], nodes))
    ends.clear()
    step("symmetrise", lambda: symmetric_rows(graph.nbr.long(), graph._row_of_entries(), nodes)[0])
    options = {"metis": {"balance": balance, "train_mask": train}}
    quality, chosen = {}, None
    for method in ("metis", "random", "hash"):
        part = step(method, lambda m=method: partition_nodes(graph, parts, m, seed=seed, **options.get(m, {})))
        measured = step(f"quality of {method}", lambda p=part: partition_quality(graph, p, parts, train))
        quality[method] = measured.as_dict()
        chosen = part if chosen is None else chosen
    assert chosen is not None
    x, part = torch.zeros(nodes, FEATURES), chosen
    step("write", lambda: write_parts(folder, graph, part, parts, x=x, masks={"train": train}))
    step("open", lambda: [GraphParts.load(folder).part(p) for p in range(parts)])
    return {
        "graph": kind,
        "nodes": nodes,
        "edges": graph.num_edges,
        "parts": parts,
        "balance": balance,
        "edge_list_bytes": 16 * graph.num_edges,
        "steps": step.rows,
        "quality": quality,
    }


def main(
    nodes: Annotated[int, typer.Option(min=2, help="Nodes.")] = 1_000_000,
    edges: Annotated[int, typer.Option(min=1, help="Edges.")] = 10_000_000,
    parts: Annotated[int, typer.Option(min=1, help="Parts.")] = 4,
    balance: Annotated[str, typer.Option(help="nodes, edges, train or both.")] = "both",
    graph: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(KINDS)}; all by default.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where parts are written; a temporary one by default.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves torch's default.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results here.")] = None,
) -> None:
    """Cut a large graph into parts, and tell time, memory and quality.

    Example:

        python -m gnnaccel.bench.partition --parts 4 --threads 2 --json partition.json
    """
    for kind in graph or KINDS:
        if kind not in KINDS:
            raise typer.BadParameter(f"--graph must be one of {', '.join(KINDS)}, got {kind!r}")
    if threads:
        torch.set_num_threads(threads)
    found = []
    for kind in graph or KINDS:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            found.append(measure(kind, nodes, edges, parts, balance, Path(scratch)))
        tell(found[-1])
    write_json(json_file, {"graphs": found, "environment": environment(torch.device("cpu"))})


def tell(found: dict[str, Any]) -> None:
    typer.echo(f"{found['graph']}: {found['nodes']:,} nodes, {found['edges']:,} edges, {found['parts']} parts")
    for row in found["steps"]:
        peak = "unknown" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e9:.2f} GB"
        typer.echo(f"  {row['step']:<18} {row['seconds']:8.2f} s   peak {peak}")
    for method, q in found["quality"].items():
        balances = ", ".join(f"{w} +{q[f'{w}_imbalance']:.1%}" for w in ("nodes", "edges", "train"))
        typer.echo(f"  {method:<8} cuts {q['cut_share']:.1%} of the edges; halo {sum(q['halo']):,}; {balances}")


if __name__ == "__main__":
    typer.run(main)
