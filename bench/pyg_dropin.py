"""PyG's TGN example with its own imports against the same text with gnnaccel's.

    python -m gnnaccel.bench.pyg_dropin --data wikipedia --json bench/results/cpu-2t/pyg-dropin.json

Both come from one file, examples/pyg_tgn.py, read twice; in the second reading its import lines name `gnnaccel.pyg`. Before the
race both train a few batches in float64 from one seed, without dropout, and must give the same losses and scores; for that, and
only for that, two errors of torch_geometric are repaired (see docs/pyg.md). Then they walk the same epoch in turns of 20
batches, train and validation, in float32, with dropout and as they are.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from gnnaccel.bench.device import environment, no_gc, percentiles

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "pyg_tgn.py"
IMPORT = re.compile(r"^((?:from|import) )torch_geometric\b", re.MULTILINE)
NAMES = ("gnnaccel", "pyg")


def read_example(name: str) -> ModuleType:
    """The example as a module, with the imports of `name`."""
    if not EXAMPLE.is_file():
        raise SystemExit("pyg_dropin: examples/pyg_tgn.py is not here; run this in a checkout of gnnaccel")
    text = EXAMPLE.read_text()
    text = IMPORT.sub(r"\1gnnaccel.pyg", text) if name == "gnnaccel" else text
    module = ModuleType(f"pyg_tgn_{name}")
    exec(compile(text, str(EXAMPLE), "exec"), module.__dict__)
    return module


class Contender:
    """One reading of the example, half-way through an epoch."""

    def __init__(
        self, name: str, data: str, batch_size: int, dtype: torch.dtype = torch.float32, **kwargs: Any
    ) -> None:
        example = read_example(name)
        stream = example.load(data)
        stream.msg = stream.msg.to(dtype)
        torch.manual_seed(0)
        self.run = example.Example(stream, **kwargs)
        for module in self.run.modules:
            module.to(dtype)
        parts = stream.train_val_test_split(val_ratio=0.15, test_ratio=0.15)
        self.loaders = [example.TemporalDataLoader(x, batch_size=batch_size, neg_sampling_ratio=1.0) for x in parts]
        self.run.start_epoch()

    def start(self, part: int) -> int:
        """Begin to walk train (0) or validation (1); returns the number of batches."""
        if part == 0:
            self.run.start_epoch()
        else:
            with torch.no_grad():
                for module in self.run.modules:
                    module.eval()
        torch.manual_seed(part)
        self.batches = iter(self.loaders[part])
        self.random = torch.get_rng_state()
        return len(self.loaders[part])

    def walk(self, part: int, count: int) -> list[Any]:
        """Results of up to `count` batches: losses, or scores."""
        # each contender has torch's generator for itself
        torch.set_rng_state(self.random)
        step = self.run.train_step if part == 0 else torch.no_grad()(self.run.test_step)
        out = [step(batch.to(self.run.device)) for _, batch in zip(range(count), self.batches, strict=False)]
        self.random = torch.get_rng_state()
        return out


@contextmanager
def repaired_pyg() -> Iterator[None]:
    """torch_geometric without the two errors that the example meets."""
    from torch_geometric.nn.models import tgn

    def scatter_argmax(src: Tensor, index: Tensor, dim: int = 0, dim_size: int = 0) -> Tensor:
        order = torch.argsort(src, stable=True)
        out = torch.full((dim_size,), len(src))
        nodes, row = torch.unique(index[order], return_inverse=True)
        last = row.new_zeros(len(nodes)).scatter_reduce_(0, row, torch.arange(len(row)), "amax", include_self=False)
        out[nodes] = order[last]
        return out

    argmax, sort = tgn.scatter_argmax, Tensor.sort
    try:
        tgn.scatter_argmax, Tensor.sort = scatter_argmax, lambda self: sort(self, stable=True)
        yield
    finally:
        tgn.scatter_argmax, Tensor.sort = argmax, sort


def gate(data: str, batch_size: int, batches: int) -> dict[str, float]:
    """Largest differences of losses and of scores over the first batches; raises if they are not rounding."""
    results = []
    with repaired_pyg():
        for name in NAMES:
            made = Contender(name, data, batch_size, torch.float64, dropout=0.0, lr=1e-3)
            made.start(0)
            losses = torch.tensor(made.walk(0, batches), dtype=torch.float64)
            made.start(1)
            scores = [s.squeeze(-1) for pair in made.walk(1, batches) for s in pair]
            results.append((losses, torch.cat(scores), made.run.memory.memory))
    found = {
        f"gate_{name}": float((a - b).detach().abs().max())
        for name, a, b in zip(("loss", "score", "memory"), *results, strict=True)
    }
    if not max(found.values()) < 1e-6:
        raise SystemExit(f"pyg_dropin: losses or scores differ: {found}")
    return found


def race(data: str, batch_size: int, limit: int, segment: int) -> list[dict[str, Any]]:
    contenders = {name: Contender(name, data, batch_size) for name in NAMES}
    rows = []
    for part, what in enumerate(("train", "eval")):
        total = min(limit, *(c.start(part) for c in contenders.values()))
        seconds: dict[str, list[float]] = {name: [] for name in NAMES}
        losses: dict[str, list[float]] = {name: [] for name in NAMES}
        counts, order = [], list(NAMES)
        with no_gc():
            for first in range(0, total, segment):
                counts.append(min(segment, total - first))
                for name in order:
                    start = time.perf_counter()
                    found = contenders[name].walk(part, counts[-1])
                    seconds[name].append(time.perf_counter() - start)
                    losses[name] += found if part == 0 else []
                order.reverse()
                print(f"{what} {first + counts[-1]}/{total}", end="\r", file=sys.stderr)
        print(file=sys.stderr)
        ratios = [b / a for a, b in zip(seconds["gnnaccel"], seconds["pyg"], strict=True)]
        for name in NAMES:
            ms = [1e3 * s / n for s, n in zip(seconds[name], counts, strict=True)]
            row: dict[str, Any] = {"mode": what, "provider": name, "batches": total, "epoch_s": sum(seconds[name])}
            row |= dict(zip(("p20_ms", "p50_ms", "p80_ms"), percentiles(ms), strict=True))
            if name == "pyg":
                row |= dict(zip(("ratio_p20", "ratio", "ratio_p80"), percentiles(ratios), strict=True))
                row["ratio_epoch"] = sum(seconds["pyg"]) / sum(seconds["gnnaccel"])
            if losses[name]:
                last = losses[name][-max(1, total // 4) :]
                row |= {"loss_first": losses[name][0], "loss_last": sum(last) / len(last)}
            rows.append(row)
    return rows


def main(
    data: Annotated[str, typer.Option(help="A data set's name, a file or a folder.")] = "wikipedia",
    batch_size: Annotated[int, typer.Option(help="Events a batch.")] = 200,
    batches: Annotated[int, typer.Option(help="At most so many of each part; 0 for all.")] = 0,
    segment: Annotated[int, typer.Option(help="Batches a turn.")] = 20,
    gate_batches: Annotated[int, typer.Option(help="Batches of the check.")] = 6,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 leaves torch's default.")] = 0,
    keep_memory: Annotated[
        bool,
        typer.Option(help="Tell the C library to keep freed memory, as `gnnaccel train` does; the example does not."),
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results here.")] = None,
) -> None:
    """Race the two readings of the example."""
    from gnnaccel.train.allocator import keep_freed_memory

    if threads:
        torch.set_num_threads(threads)
    if keep_memory:
        keep_freed_memory()
    checked = gate(data, batch_size, gate_batches)
    rows = race(data, batch_size, batches or sys.maxsize, segment)
    for row in rows:
        ratio = f"  {row['ratio']:.2f}x ({row['ratio_p20']:.2f}-{row['ratio_p80']:.2f})" if "ratio" in row else ""
        print(f"{row['mode']:5} {row['provider']:8} {row['epoch_s']:8.2f} s  {row['p50_ms']:7.2f} ms a batch{ratio}")
    if json_file is not None:
        report = {
            "schema": 1,
            "environment": environment(torch.device("cpu")),
            "data": Path(data).name,
            "batch_size": batch_size,
            "keep_freed_memory": keep_memory,
        }
        report |= {"gate": checked, "rows": rows}
        json_file.parent.mkdir(parents=True, exist_ok=True)
        scratch = json_file.with_name(json_file.name + ".tmp")
        scratch.write_text(json.dumps(report, indent=1) + "\n")
        os.replace(scratch, json_file)


if __name__ == "__main__":
    typer.run(main)
