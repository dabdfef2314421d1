"""What the end-to-end runs on knowledge graphs share: graph, embedding tables, the command of each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from rich.console import Console

from gnnaccel.baselines.peers.kg_train import Tables
from gnnaccel.bench import harness, results
from gnnaccel.bench.device import no_gc, percentiles
from gnnaccel.bench.harness import Row, Runner, Settings

if TYPE_CHECKING:
    from gnnaccel.data.kg import KnowledgeGraph

MODELS = ("transe_l1", "transe_l2", "distmult", "complex", "rotate")
MORE = ("rescal", "transr", "simple")
DIM, GAMMA = 400, 12.0
EPOCH = 10  # budgets of an op: a whole step or evaluation takes longer
FB15K237 = "synthetic-kg:entities=14541,relations=237,triples=310116"  # its size, where the set itself is not there
SMALL = "synthetic-kg:entities=120,relations=8,triples=700"
QUICK = "synthetic-kg:entities=4000,relations=60,triples=40000"
QUICK_MODELS, QUICK_DIM = ("transe_l2", "complex"), 128


def load_graph(settings: Settings) -> KnowledgeGraph:
    """The graph of `--data`, or a synthetic one of the size of FB15k-237."""
    from gnnaccel.data.kg import load

    return load(settings.data or (SMALL if settings.correctness_only else QUICK if settings.quick else FB15K237))


def case_name(kg: KnowledgeGraph, model: str, settings: Settings) -> str:
    """With the size of what a quick run makes smaller."""
    size = f"_{kg.num_entities}_entities_{len(kg.train)}_triples_d{QUICK_DIM}" if settings.quick else ""
    return f"{kg.name}{size}_{model}"


def make_tables(model: str, entities: int, relations: int, dim: int, seed: int) -> Tables:
    """Uniform in +-(gamma + 2) / dim, as DGL-KE begins; phases over the circle."""
    gen = torch.Generator().manual_seed(seed)

    def uniform(bound: float, *shape: int) -> torch.Tensor:
        return torch.empty(shape).uniform_(-bound, bound, generator=gen)

    bound, width = (GAMMA + 2) / dim, {"rotate": dim // 2, "rescal": dim * dim}.get(model, dim)
    return Tables(
        uniform(bound, entities, dim),
        uniform(math.pi if model == "rotate" else bound, relations, width),
        uniform(bound, relations, dim, dim) if model == "transr" else None,
    )


def chosen(text: str, option: str, known: Sequence[str], default: tuple[str, ...]) -> tuple[str, ...]:
    """The names of an option with commas in it; `none` for no peers."""
    if text.strip() == "none":
        return ()
    names = tuple(dict.fromkeys(n.strip() for n in text.split(",") if n.strip())) or default
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"{option} must be among {', '.join(known)}, got {name!r}")
    return names


@dataclass
class Lap:
    """What one contender did in its turns: seconds for each unit of work, by turn, and seconds in all."""

    seconds: dict[int, float] = field(default_factory=dict)
    spent: float = 0.0
    done: int = 0

    def fill(self, row: Row, mine: Lap, scale: float = 1.0) -> None:
        """Times of `scale` units, and the ratio to ours turn by turn."""
        row.p20_ms, row.p50_ms, row.p80_ms = (1e3 * scale * s for s in percentiles(list(self.seconds.values())))
        row.rounds = len(self.seconds)
        if not row.ours:
            ratios = [s / mine.seconds[turn] for turn, s in self.seconds.items() if turn in mine.seconds]
            row.ratio_p20, row.ratio, row.ratio_p80 = percentiles(ratios)


def take_turns(
    work: Mapping[str, Callable[[], int]],
    budget: float,
    *,
    min_turns: int = 3,
    max_turns: int = 200,
    now: Callable[[], float] = time.perf_counter,
) -> dict[str, Lap]:
    """Let all work in turns until each has spent its budget; "gnnaccel" takes part in every turn.

    `work` does a contender's next turn and returns how many units it did; 0 when nothing is left.
    """
    laps, resting = {name: Lap() for name in work}, set[str]()
    with no_gc():
        for turn in range(max_turns):
            for name, lap in laps.items():
                if len(lap.seconds) >= min_turns and lap.spent >= budget:
                    resting.add(name)
            if resting >= set(work) - {"gnnaccel"} and (len(work) > 1 or resting):
                break
            order = [n for n in work if n not in resting or n == "gnnaccel"]
            shift = turn % len(order)
            for name in order[shift:] + order[:shift]:
                start = now()
                units = work[name]()
                seconds = now() - start
                if not units:
                    resting.add(name)
                    continue
                laps[name].seconds[turn] = seconds / units
                laps[name].spent += seconds
                laps[name].done += units
    return laps


Data = Annotated[str, typer.Option(help="A knowledge graph, path or name; by default synthetic, of FB15k-237's size.")]
Models = Annotated[str, typer.Option(help=f"With commas: {', '.join(MODELS + MORE)}; by default the first five.")]
Peers = Annotated[str, typer.Option(help="Peers to run, with commas, or none; by default all.")]
Dim = Annotated[int, typer.Option(help="Width of an entity's row, even.", min=2)]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 leaves torch's default.", min=0)]
Json = Annotated[Path | None, typer.Option("--json", help="Write the rows here, and as CSV beside it.")]


def report(
    measure: Callable[[Runner], Iterator[Row]], settings: Settings, threads: int, json_file: Path | None
) -> None:
    """Run `measure`, say each row as it comes, show and write them; exit code 1 if one is wrong."""
    from gnnaccel.data.kg import TripleError

    console, progress, rows = Console(), Console(stderr=True), []
    if not console.is_terminal:
        console = Console(width=120)
    with harness.cpu_threads(threads or None):
        runner = Runner(settings)
        runner.rates_now()
        try:
            for row in measure(runner):
                time = "" if row.p50_ms is None else f"{row.p50_ms:.1f} ms"
                progress.print(row.case, row.provider, row.gate, time, row.detail, highlight=False, markup=False)
                rows.append(row)
        except TripleError as error:
            raise typer.BadParameter(str(error)) from None
        document = runner.document(rows)
    results.show(rows, console)
    if json_file is not None:
        table = results.write(document, json_file)
        console.print(f"wrote {json_file} and {table}", highlight=False)
    if any(row.gate in ("red", "error") for row in rows):
        raise typer.Exit(1)
