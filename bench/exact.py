"""What exact batches cost: `python -m gnnaccel.bench.exact --data wikipedia --json ...`.

TGN is trained over one window of the stream at several batch sizes, plain and exact in turns, and with real batches of one
event over a part of the window.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from gnnaccel.bench._stream import Turns, open_task, window_of, write_json
from gnnaccel.bench.device import environment

if TYPE_CHECKING:
    from gnnaccel.train.link import LinkTask


def levels_of(task: LinkTask, part: slice, batch: int) -> list[int]:
    """Levels of each exact batch of `part`."""
    from gnnaccel.ops._event_levels import event_levels
    from gnnaccel.train.exact import event_groups

    out = []
    for _, events in task.steps(part, batch):
        ends = torch.cat([task.src[events], task.dst[events]])
        group = event_groups(task.t[events], task.config.data.semantics)
        out.append(len(event_levels(ends, ends.new_empty(len(ends), 0), group, task.events.num_nodes).offset) - 1)
    return out


def exact(
    data: Annotated[str, typer.Option(help="Anything `gnnaccel train --data` takes.")] = "wikipedia",
    batches: Annotated[str, typer.Option(help="Batch sizes, with commas.")] = "200,1000,4000",
    events: Annotated[int, typer.Option(help="Training events in the window.", min=1)] = 8000,
    single: Annotated[int, typer.Option(help="Events of it for real batches of one.", min=1)] = 400,
    repeats: Annotated[int, typer.Option(help="Turns.", min=1)] = 3,
    edge_features: Annotated[
        int, typer.Option(help="Random edge features to add, 0 = those of the data.", min=0)
    ] = 172,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves torch's default.", min=0)] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Measure training with exact batches against plain ones and against batch 1."""
    from gnnaccel.train.trainer import StageTimer, make_optimizer, train_step

    if threads:
        torch.set_num_threads(threads)
    task = open_task("tgn", data, [], edge_features)
    part = window_of(task, events)
    optimizer, turns = make_optimizer(task), Turns(task)
    task.model.train()

    def train(part: slice, batch: int, exact: bool) -> None:
        task.config.train.exact = exact
        for i, own in task.steps(part, batch):
            train_step(task, optimizer, own, 0, i, StageTimer(False))

    sizes = [int(b) for b in batches.split(",")]
    contenders: dict[str, Any] = {}
    for batch in sizes:
        for mode in (False, True):
            contenders[f"{batch} {mode}"] = lambda batch=batch, mode=mode: train(part, batch, mode)
    contenders["1 False"] = lambda: train(slice(part.start, min(part.start + single, part.stop)), 1, False)
    turns.run(repeats, contenders)
    whole, rows = task.split.train.stop - task.split.train.start, []
    for batch in [1, *sizes]:
        levels = levels_of(task, part, batch)
        per_event = {
            mode: turns.median(f"{batch} {mode}") / (min(single, events) if batch == 1 else events)
            for mode in (False, True)
            if f"{batch} {mode}" in contenders
        }
        rows.append(
            {
                "batch": batch,
                "batches": len(levels),
                "levels_mean": sum(levels) / len(levels),
                "levels_max": max(levels),
                **{f"{'exact' if mode else 'plain'}_batch_ms": s * batch * 1e3 for mode, s in per_event.items()},
                **{f"{'exact' if mode else 'plain'}_epoch_seconds": s * whole for mode, s in per_event.items()},
            }
        )
    write_json(
        json_file,
        {
            "data": task.events.name,
            "events": events,
            "edge_features": edge_features,
            "repeats": repeats,
            "environment": environment(torch.device("cpu")),
            "rows": rows,
        },
    )
    table = Table(title=f"TGN on {task.events.name}, {torch.get_num_threads()} threads", title_justify="left")
    for head in ("batch", "levels", "most", "plain ms", "exact ms", "plain s/epoch", "exact s/epoch"):
        table.add_column(head, justify="right")
    for r in rows:
        figures = [r.get(k) for k in ("plain_batch_ms", "exact_batch_ms", "plain_epoch_seconds", "exact_epoch_seconds")]
        cells = ["" if f is None else f"{f:.1f}" for f in figures]
        table.add_row(str(r["batch"]), f"{r['levels_mean']:.1f}", str(r["levels_max"]), *cells)
    Console().print(table)


if __name__ == "__main__":
    typer.run(exact)
