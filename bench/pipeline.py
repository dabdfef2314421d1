"""What look-ahead wins: `python -m gnnaccel.bench.pipeline --data wikipedia --json ...`.

TGN (one hop, recent) and TGAT (two hops, uniform) are trained over one window of the stream with several look-aheads in turns.
The report says, for each stage, how long it worked and how long it waited: `wait.compute` is the training loop waiting for a
sampled batch, `wait.sample` the sampler waiting for room.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from gnnaccel.bench._stream import Turns, open_task, window_of, write_json
from gnnaccel.bench.device import environment

STAGES = ("sample", "wait.sample", "wait.compute", "forward", "backward", "optimizer", "state")


def measure(
    preset: str, data: str, depths: list[int], events: int, batch: int, repeats: int, edge_features: int
) -> tuple[str, list[dict[str, Any]]]:
    """The name of the data, and a row for each look-ahead."""
    from gnnaccel.train.pipeline import Pipeline, Stage
    from gnnaccel.train.trainer import StageTimer, learn, make_optimizer

    task = open_task(preset, data, [f"train.batch_size={batch}"], edge_features)
    part = window_of(task, events)
    bounds = task.bounds(part, batch)
    steps = [(i, slice(a, b)) for i, (a, b) in enumerate(pairwise(bounds))]
    optimizer, turns = make_optimizer(task), Turns(task)
    timers = {depth: StageTimer() for depth in depths}
    task.model.train()

    def train(depth: int) -> None:
        timer = timers[depth]
        stage = Stage("sample", lambda step: task.training_step(step[1], 0, step[0]))
        with Pipeline([stage], depth, timer)(steps) as prepared:
            for step in prepared:
                learn(task, optimizer, step, timer, task.commit)

    turns.run(1, {str(depth): lambda depth=depth: train(depth) for depth in depths})
    turns.seconds.clear()
    for timer in timers.values():
        timer.seconds.clear()
    turns.run(repeats, {str(depth): lambda depth=depth: train(depth) for depth in depths})
    rows = [
        {
            "model": preset,
            "lookahead": depth,
            "batch_ms": turns.median(str(depth)) / len(steps) * 1e3,
            # stages are timed in the warming turn too
            "stage_ms": {s: timers[depth].seconds.get(s, 0.0) / (len(steps) * (repeats + 1)) * 1e3 for s in STAGES},
        }
        for depth in depths
    ]
    return task.events.name, rows


def pipeline(
    data: Annotated[str, typer.Option(help="Anything `gnnaccel train --data` takes.")] = "wikipedia",
    models: Annotated[str, typer.Option(help="Presets, with commas.")] = "tgn,tgat",
    lookahead: Annotated[str, typer.Option(help="Depths, with commas.")] = "0,1,2,4",
    batch: Annotated[int, typer.Option(help="Events a batch.", min=1)] = 200,
    events: Annotated[int, typer.Option(help="Training events in the window.", min=1)] = 6000,
    repeats: Annotated[int, typer.Option(help="Turns.", min=1)] = 3,
    edge_features: Annotated[
        int, typer.Option(help="Random edge features to add, 0 = those of the data.", min=0)
    ] = 172,
    threads: Annotated[
        int, typer.Option(help="CPU threads of each thread that computes; 0: torch's default.", min=0)
    ] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Measure training with batches sampled ahead, and who waits for whom."""
    if threads:
        torch.set_num_threads(threads)
    depths, rows, name = [int(d) for d in lookahead.split(",")], [], data
    for preset in models.split(","):
        name, found = measure(preset.strip(), data, depths, events, batch, repeats, edge_features)
        rows += found
    write_json(
        json_file,
        {
            "data": name,
            "batch": batch,
            "events": events,
            "edge_features": edge_features,
            "repeats": repeats,
            "environment": environment(torch.device("cpu")),
            "rows": rows,
        },
    )
    table = Table(title=f"ms a batch of {batch} on {name}, {torch.get_num_threads()} threads", title_justify="left")
    for head in ("model", "look-ahead", "batch", *STAGES):
        table.add_column(head, justify="left" if head == "model" else "right")
    for r in rows:
        stages = [f"{r['stage_ms'][s]:.2f}" for s in STAGES]
        table.add_row(r["model"], str(r["lookahead"]), f"{r['batch_ms']:.2f}", *stages)
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(pipeline)
