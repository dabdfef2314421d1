"""What `gnnaccel leakcheck` finds: `python -m gnnaccel.bench.leakcheck DATA ...` writes the table of docs/leakcheck.md anew."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from tqdm import tqdm

from gnnaccel.leakcheck import Report, check_model, check_sampler, gnnaccel_sampler, model_of_task, pyg_sampler

MARK = "## Measured\n"
SHORT = ("memory.dim=16", "memory.dim_time=16", "aggregator.dim=16", "aggregator.dim_time=16", "model.dim_random=16")


class SharedCursor:
    """TGL's sampler as it runs: a cursor for each node, shared by its roots and never moved back (temporal pointers)."""

    def __init__(self, events: Any) -> None:
        node = np.concatenate([events.src.numpy(), events.dst.numpy()])
        event = np.tile(np.arange(len(events)), 2)
        order = np.lexsort((event, node))
        self.event, self.t = event[order], events.t.numpy()[event[order]]
        self.start = np.concatenate([[0], np.bincount(node, minlength=events.num_nodes).cumsum()])
        self.cursor = self.start[:-1].copy()

    def sample(self, nodes: torch.Tensor, times: torch.Tensor, k: int) -> list[list[int]]:
        out = []
        for node, time in zip(nodes.tolist(), times.tolist(), strict=True):
            start, end, at = self.start[node], self.start[node + 1], self.cursor[node]
            while at + 1 < end and self.t[at + 1] <= time:
                at += 1
            self.cursor[node] = at
            walked = range(at, max(start, at - k), -1) if end > start else ()
            out.append([int(self.event[i]) for i in walked if self.t[i] < time])
        return out


def samplers() -> dict[str, Callable[[Any], Any]]:
    found: dict[str, Callable[[Any], Any]] = {
        "gnnaccel, strict": gnnaccel_sampler(),
        "gnnaccel, strict, uniform": gnnaccel_sampler("strict", "uniform"),
        "gnnaccel, before_batch": gnnaccel_sampler("before_batch"),
        "gnnaccel, inclusive": gnnaccel_sampler("inclusive"),
        "gnnaccel, tgl_compat": gnnaccel_sampler("tgl_compat"),
        "TGL's rules with its shared cursor": SharedCursor,
    }
    try:
        found["PyG `LastNeighborLoader`"] = pyg_sampler(10)
    except ValueError:
        pass  # not installed: no row
    return found


def row(name: str, data: str, report: Report) -> str:
    def share(check: str) -> str:
        value = report[check].value
        return "0" if value == 0 else f"{value:.1%}"

    auc, chance, _, among, true, _, negative = re.findall(r"[\d.]+%?", report["neighbor count"].figure)
    count = f"{auc} ({chance}) | {among} | {true}, {negative}"
    shares = [share(c) for c in ("future events", "own event", "order of roots", "completeness")]
    return f"| {name} | {data} | {count} | {' | '.join(shares)} | {'**leak**' if report.leaks else 'none'} |"


def main(
    data: Annotated[list[str], typer.Argument(help="Data sets: names, files or folders.")],
    out: Annotated[Path, typer.Option(help="Page whose last section is written anew.")] = Path("docs/leakcheck.md"),
    batch_size: Annotated[int, typer.Option(min=1, help="Events a batch.")] = 600,
) -> None:
    """Check all samplers on DATA and all presets on the synthetic stream; write the tables."""
    from gnnaccel.data.registry import REGISTRY, load

    # one's own data are shown as the paths they are
    named = " ".join(x if x in REGISTRY or x.startswith("synthetic") else f"path/to/{Path(x).name}" for x in data)
    lines = [
        MARK,
        f"    python -m gnnaccel.bench.leakcheck {named} --batch-size {batch_size}",
        "",
        "writes both tables anew, with the same figures every time; there is no file of results beside them. 10 neighbours,",
        f"batches of {batch_size}, the last 30% of each stream, at most 20,000 events. AUC of the number of neighbours, with",
        "what chance reaches; the same among destinations with 10 or more past events, and how many of the true and of the",
        "negative ones are given 10; shares of samples that change with the future, of ends that are given their own event,",
        "of samples that change with order or company, of roots that are given too few.",
        "",
        "| sampler | data | AUC (chance) | 10 or more | get 10 | future | own event | order | too few | leak |",
        f"|{' --- |' * 10}",
    ]
    for name in data:
        events = load(name)
        for label, make in tqdm(samplers().items(), desc=events.name):
            semantics = "strict" if make is SharedCursor else None
            report = check_sampler(make, events, k=10, batch_size=batch_size, semantics=semantics)
            lines.append(row(label, events.name, report))
    lines += model_lines()
    text = out.read_text("utf-8").partition(MARK)[0]
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.write_text(text.rstrip() + "\n\n" + "\n".join(lines) + "\n", "utf-8")
    temporary.replace(out)


def model_lines() -> list[str]:
    """The table of models."""
    from gnnaccel.data.registry import load
    from gnnaccel.train.config import load_config, preset_names

    lines = ["", "Models with random weights on 1,500 synthetic events, small sizes:", ""]
    lines += ["| model | semantics | future events | own event | symmetry | company | leak |", f"|{' --- |' * 7}"]
    events = load("synthetic:events=1500")
    runs = [(p, "strict") for p in preset_names()]
    runs += [("tgn", s) for s in ("before_batch", "inclusive", "tgl_compat")]
    for preset, semantics in tqdm(runs, desc="models"):
        settings = [] if preset == "edgebank" else [*SHORT, f"data.semantics={semantics}"]
        report = check_model(model_of_task(load_config(preset, None, settings)), events, batch_size=100)
        verdicts = " | ".join(report[c].status for c in ("future events", "own event", "symmetry", "company"))
        lines.append(f"| {preset} | {semantics} | {verdicts} | {'**leak**' if report.leaks else 'none'} |")
    return lines


if __name__ == "__main__":
    typer.run(main)
