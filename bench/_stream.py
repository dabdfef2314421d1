"""Shared by the measurements of training schedules: a task in the middle of its stream, interleaved turns over a window."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import typer

if TYPE_CHECKING:
    from gnnaccel.train.link import LinkTask


def open_task(preset: str, data: str, overrides: list[str], edge_features: int) -> LinkTask:
    """The task of `preset` on `data`, with `edge_features` random edge features (0: those of the data)."""
    from dataclasses import replace

    from gnnaccel.data import load
    from gnnaccel.train.config import load_config
    from gnnaccel.train.link import LinkTask

    try:
        events = load(data)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if edge_features:
        generator = torch.Generator().manual_seed(0)
        events = replace(events, edge_feat=torch.randn(len(events), edge_features, generator=generator))
    return LinkTask.create(load_config(preset, overrides=overrides), events)


def window_of(task: LinkTask, events: int) -> slice:
    """The last `events` training events: neighbourhoods and memory are as full as they get. What comes before has happened."""
    train = task.split.train
    if not 0 < events < train.stop - train.start:
        raise typer.BadParameter(f"--events must be in [1, {train.stop - train.start}), got {events}")
    start = train.stop - events
    task.reset()
    task.replay(slice(train.start, start))
    return slice(start, train.stop)


class Turns:
    """Times contenders in turns, each from the same memory; the weights go on learning."""

    def __init__(self, task: LinkTask) -> None:
        self.task = task
        self.memory = {
            k: v.clone() for k, v in task.model.state_dict().items() if k.startswith(("memory.", "mailbox."))
        }
        self.seconds: dict[str, list[float]] = {}

    def run(self, repeats: int, contenders: dict[str, Callable[[], Any]]) -> None:
        for turn in range(repeats + 1):
            for name, contender in contenders.items():
                self.task.model.load_state_dict(self.memory, strict=False)
                start = time.perf_counter()
                contender()
                if turn:  # the first one warms caches and allocators
                    self.seconds.setdefault(name, []).append(time.perf_counter() - start)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])


def write_json(path: Path | None, document: dict[str, Any]) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    temporary.replace(path)
