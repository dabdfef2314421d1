"""What large batches cost in accuracy, and what wins it back: `python -m gnnaccel.bench.staleness --data wikipedia --json ...`.

A memory model is trained at several batch sizes on three schedules: `plain`; `chunks`, the grid shifted by a random multiple of
a chunk each epoch; and `exact`, the memory of batch 1. All are tested twice on the same negatives, after a pass over all
earlier events in the same manner: in batches of 200, and with the memory of batch 1 (`exact_ap`, `exact_mrr`).

Staleness is the number of updates that a prediction misses: earlier events of its own node in the same batch, averaged over
both ends of the training events.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from gnnaccel.bench._stream import write_json
from gnnaccel.bench.device import environment

if TYPE_CHECKING:
    from gnnaccel.data.events import TemporalEvents
    from gnnaccel.train.link import LinkTask

BASE_BATCH = 200  # of evaluation, and where the learning rate is as given
SCHEDULES = ("plain", "chunks", "exact")
FIGURES = ("ap", "auc", "mrr", "ap_historical", "inductive_ap", "exact_ap", "exact_mrr")


def missed_updates(src: Tensor, dst: Tensor, bounds: list[int]) -> float:
    """Mean over both ends of all events of the earlier events of that node in the same batch."""
    total, events = 0, max(bounds[-1] - bounds[0], 1)
    for start, stop in pairwise(bounds):
        ends = torch.stack([src[start:stop], dst[start:stop]], dim=1)
        ends[ends[:, 0] == ends[:, 1], 1] = -1  # a self-loop is one event of its node
        counts = torch.unique(ends[ends >= 0], return_counts=True)[1]
        total += int((counts * (counts - 1) // 2).sum())
    return total / (2 * events)


def train(
    data: str, events: TemporalEvents, batch: int, schedule: str, chunk: int, settings: list[str], device: torch.device
) -> dict[str, Any]:
    """One run of the trainer; its test figures and those of the schedule."""
    from gnnaccel.train.config import load_config
    from gnnaccel.train.link import LinkTask
    from gnnaccel.train.trainer import Trainer

    settings = [*settings, f"train.batch_size={batch}", f"train.exact={str(schedule == 'exact').lower()}"]
    settings.append(f"train.chunks={batch // chunk if schedule == 'chunks' else 1}")
    config = load_config("tgn", overrides=settings)
    with tempfile.TemporaryDirectory() as folder:
        task = LinkTask.create(config, events, device)
        found = Trainer(task, folder, data=data, progress=False).fit()
        tested_exactly = _exact_test(task, Path(folder) / "best.pt")
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    bounds = task.bounds(task.split.train, batch)
    return {
        **{key: found[f"test_{key}"] for key in FIGURES[:5]},
        **tested_exactly,
        "staleness": 0.0 if schedule == "exact" else missed_updates(events.src, events.dst, bounds),
        "epoch_seconds": found["seconds_per_epoch"],
        "best_epoch": found["best_epoch"],
        "val_ap": [line["val_ap"] for line in lines if line["kind"] == "epoch"],
        "learning_rate": config.train.learning_rate,
    }


def _exact_test(task: LinkTask, best: Path) -> dict[str, float]:
    """AP and MRR of the best epoch's weights when every event sees all before it."""
    from gnnaccel.train.checkpoint import load_checkpoint

    task.model.load_state_dict(load_checkpoint(best, task.device)["model"])
    task.config.eval.exact, task.config.eval.batch_size = True, 1000
    task.reset()
    for part in (task.split.train, task.split.val):
        task.replay(part)
    found = task.evaluate(task.split.test, negatives=task.config.eval.negatives, historical=False)
    return {"exact_ap": found["ap"], "exact_mrr": found["mrr"]}


def summary(runs: list[dict[str, Any]]) -> dict[tuple[int, str], dict[str, tuple[float, float]]]:
    """(batch, schedule) -> figure -> (mean, sample standard deviation) over seeds."""
    out: dict[tuple[int, str], dict[str, tuple[float, float]]] = {}
    for key in dict.fromkeys((r["batch"], r["schedule"]) for r in runs):
        mine = [r for r in runs if (r["batch"], r["schedule"]) == key]
        out[key] = {}
        for name in (*FIGURES, "staleness", "epoch_seconds"):
            values = [r[name] for r in mine]
            out[key][name] = (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
    return out


def staleness(
    data: Annotated[str, typer.Option(help="Anything `gnnaccel train --data` takes.")] = "wikipedia",
    epochs: Annotated[int, typer.Option(help="Passes over the training events.", min=1)] = 5,
    batches: Annotated[str, typer.Option(help="Batch sizes, with commas.")] = "200,1000,4000",
    schedules: Annotated[str, typer.Option(help="Some of plain, chunks, exact, with commas.")] = "plain,chunks,exact",
    chunk: Annotated[int, typer.Option(help="Events a chunk; must divide the batch sizes.", min=1)] = 200,
    seeds: Annotated[int, typer.Option(help="Number of seeds, 0, 1, ...", min=1)] = 1,
    lr: Annotated[float, typer.Option(help="Adam's step size at batch 200.", min=0)] = 1e-4,
    lr_power: Annotated[
        float, typer.Option(help="It grows with this power of the batch size: 0 = not, 1 = as it.")
    ] = 0.5,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves torch's default.", min=0)] = 0,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Further settings, key=value.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all runs here, after each; those in it stay.")
    ] = None,
) -> None:
    """Train TGN at several batch sizes on several schedules, and test all in the same way.

    Example: python -m gnnaccel.bench.staleness --data wikipedia --epochs 5 --seeds 2 --json staleness-wikipedia.json
    """
    from gnnaccel.data import load

    sizes = [_size(b, chunk) for b in batches.split(",")]
    names = [s.strip() for s in schedules.split(",")]
    if unknown := [s for s in names if s not in SCHEDULES]:
        raise typer.BadParameter(f"--schedules: there is {', '.join(SCHEDULES)}, got {unknown[0]!r}")
    if threads:
        torch.set_num_threads(threads)
    console, where = Console(), torch.device(device)
    try:
        events = load(data)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    header = {
        "data": events.name,
        "epochs": epochs,
        "chunk": chunk,
        "lr": lr,
        "lr_batch": BASE_BATCH,
        "lr_power": lr_power,
        "eval_batch": BASE_BATCH,
        "settings": settings or [],
    }
    runs = _earlier(json_file, header)
    done = {(r["batch"], r["schedule"], r["seed"]) for r in runs}
    for seed in range(seeds):
        for batch in sizes:
            for schedule in names:
                if (schedule == "chunks" and batch == chunk) or (batch, schedule, seed) in done:
                    continue  # one chunk is the plain grid
                rate = lr * (batch / BASE_BATCH) ** lr_power
                base = [f"train.epochs={epochs}", f"train.patience={epochs}", f"train.seed={seed}"]
                base += [f"train.learning_rate={rate}", f"eval.batch_size={BASE_BATCH}", "eval.negatives=20"]
                found = train(data, events, batch, schedule, chunk, [*base, *(settings or [])], where)
                runs.append({"batch": batch, "schedule": schedule, "seed": seed, **found})
                console.print(
                    f"batch {batch}, {schedule}, seed {seed}: staleness {found['staleness']:.2f}, test AP {found['ap']:.4f}, "
                    f"MRR {found['mrr']:.4f}, exact {found['exact_ap']:.4f} and {found['exact_mrr']:.4f}, "
                    f"{found['epoch_seconds']:.1f} s an epoch",
                    highlight=False,
                )
                write_json(json_file, {**header, "environment": environment(where), "runs": runs})
    table = Table(title=f"TGN on {events.name}, {epochs} epochs, {seeds} seed(s)", title_justify="left")
    for head in ("batch", "schedule", "staleness", "AP", "MRR", "exact AP", "exact MRR", "s/epoch"):
        table.add_column(head, justify="left" if head == "schedule" else "right")
    for (batch, schedule), f in summary(runs).items():
        cells = [f"{f[k][0]:.4f} ± {f[k][1]:.4f}" for k in ("ap", "mrr", "exact_ap", "exact_mrr")]
        table.add_row(str(batch), schedule, f"{f['staleness'][0]:.2f}", *cells, f"{f['epoch_seconds'][0]:.1f}")
    console.print(table)


def _size(text: str, chunk: int) -> int:
    if not text.strip().isdigit() or int(text) < chunk or int(text) % chunk:
        raise typer.BadParameter(f"--batches: each must be a multiple of --chunk ({chunk}), got {text.strip()!r}")
    return int(text)


def _earlier(path: Path | None, header: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs in `path`, so that a stopped experiment goes on."""
    if path is None or not path.exists():
        return []
    document = json.loads(path.read_text())
    if differing := [k for k, v in header.items() if document.get(k) != v]:
        raise typer.BadParameter(f"--json: {path} holds runs with another {differing[0]}; name another file")
    return document["runs"]


if __name__ == "__main__":
    typer.run(staleness)
