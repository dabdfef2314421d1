"""Test accuracy of TGN, ours and PyG's composition, under one protocol: `python -m gnnaccel.bench.accuracy DATA ...`.

The same split, negatives, node features, sizes, batch, learning rate, number of epochs and choice of the best epoch for both,
and several seeds. Neighbour semantics stay each library's own: ours `strict`, PyG's the events before the batch.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from gnnaccel.bench._stream import write_json
from gnnaccel.bench.device import environment

if TYPE_CHECKING:
    from gnnaccel.data.events import TemporalEvents
    from gnnaccel.train.config import Config

METRICS = ("ap", "auc", "mrr")


def train_ours(
    config: Config, events: TemporalEvents, device: torch.device, say: Callable[[str], None]
) -> dict[str, Any]:
    from gnnaccel.train.link import LinkTask
    from gnnaccel.train.trainer import Trainer

    with tempfile.TemporaryDirectory() as folder:
        task = LinkTask.create(config, events, device)
        found = Trainer(task, folder, progress=False, notify=lambda line: say(f"gnnaccel {line}")).fit()
    figures = {key: found[f"test_{key}"] for key in METRICS}
    return figures | {
        "epoch_seconds": found["seconds_per_epoch"],
        "best_epoch": found["best_epoch"],
        "epochs": found["epochs"],
    }


def train_pyg(
    config: Config, events: TemporalEvents, device: torch.device, say: Callable[[str], None]
) -> dict[str, Any]:
    from gnnaccel.baselines.peers.tgn_pyg import train_pyg_tgn
    from gnnaccel.data.negatives import NegativeSampler
    from gnnaccel.data.splits import chronological_split
    from gnnaccel.train.build import node_features

    m, a, t = config.memory, config.aggregator, config.train
    split = chronological_split(events.t, val=config.data.val_fraction, test=config.data.test_fraction)
    sampler = NegativeSampler(events, strategy="random", seed=t.seed)
    found = train_pyg_tgn(
        SimpleNamespace(src=events.src, dst=events.dst, t=events.t, msg=events.edge_feat),
        (split.train.stop, split.val.stop),
        epochs=t.epochs,
        batch_size=t.batch_size,
        lr=t.learning_rate,
        dim_memory=m.dim,
        dim_time=m.dim_time,
        dim_embed=a.dim,
        neighbors=config.sampler.neighbors[0],
        heads=a.heads,
        dropout=a.dropout,
        seed=t.seed,
        negatives=lambda ids, n, epoch: sampler.sample(ids, n=n, epoch=epoch),
        node_feat=node_features(config, events),
        eval_negatives=config.eval.negatives,
        num_nodes=events.num_nodes,
        patience=t.patience,
        device=device,
        progress=lambda row: say(
            f"pyg epoch {row['epoch']}: loss {row['loss']:.4f}, validation AP {row['val_ap']:.4f}, {row['seconds']:.1f} s"
        ),
    )
    figures = {key: found[key] for key in METRICS}
    return figures | {
        "epoch_seconds": found["epoch_seconds"],
        "best_epoch": found["epoch"],
        "epochs": len(found["history"]),
    }


LIBRARIES = {"gnnaccel": train_ours, "pyg": train_pyg}


def summary(runs: list[dict[str, Any]]) -> dict[str, dict[str, tuple[float, float]]]:
    """Library -> figure -> (mean, sample standard deviation) over seeds."""
    out: dict[str, dict[str, tuple[float, float]]] = {}
    for name in dict.fromkeys(r["library"] for r in runs):
        mine = [r for r in runs if r["library"] == name]
        out[name] = {}
        for key in (*METRICS, "epoch_seconds"):
            values = [r[key] for r in mine]
            out[name][key] = (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
    return out


def accuracy(
    data: Annotated[str, typer.Argument(help="Anything `gnnaccel train --data` takes.")],
    seeds: Annotated[int, typer.Option(help="Number of seeds, 0, 1, ...", min=1)] = 3,
    epochs: Annotated[int, typer.Option(help="Passes over the training events, at most.", min=1)] = 10,
    batch: Annotated[int, typer.Option(help="Events a batch.", min=1)] = 200,
    lr: Annotated[float, typer.Option(help="Adam's step size.")] = 1e-4,
    edge_features: Annotated[int, typer.Option(help="Random edge features to add, 0 = those of the data.")] = 0,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Further settings, key=value, for both.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all runs here, after each.")] = None,
) -> None:
    """Train both libraries with the same protocol and print test AP, AUC and MRR, mean and deviation over seeds."""
    from dataclasses import replace

    from gnnaccel.data import load
    from gnnaccel.train.config import load_config

    console, where = Console(), torch.device(device)
    events = load(data)
    if edge_features:
        gen = torch.Generator().manual_seed(0)
        events = replace(events, edge_feat=torch.randn(len(events), edge_features, generator=gen))
    runs: list[dict[str, Any]] = []
    for seed in range(seeds):
        overrides = [f"train.epochs={epochs}", f"train.batch_size={batch}", f"eval.batch_size={batch}"]
        overrides += [f"train.learning_rate={lr}", f"train.patience={epochs}", f"train.seed={seed}", *(settings or [])]
        config = load_config("tgn", overrides=overrides)
        for name, train in LIBRARIES.items():
            found = train(config, events, where, lambda line: console.print(line, style="dim", highlight=False))
            runs.append({"library": name, "seed": seed, **found})
            about = {"data": events.name, "config": config.model_dump(), "environment": environment(where)}
            write_json(json_file, {**about, "runs": runs})
    table = Table(
        title=f"TGN on {events.name}: test, {epochs} epochs at batch {batch}, {seeds} seeds", title_justify="left"
    )
    for head in ("library", "AP", "AUC", "MRR", "s/epoch"):
        table.add_column(head, justify="left" if head == "library" else "right")
    for name, figures in summary(runs).items():
        cells = [f"{mean:.4f} ± {spread:.4f}" for mean, spread in (figures[key] for key in METRICS)]
        table.add_row(name, *cells, f"{figures['epoch_seconds'][0]:.1f}")
    console.print(table)


if __name__ == "__main__":
    typer.run(accuracy)
