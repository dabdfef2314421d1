"""Training on a stream larger than memory should hold: `python -m gnnaccel.bench.scale --folder DIR`.

Writes a synthetic stream once (edges in `edges.npz`, edge features in float16 in `edge_feat.npy`, in pieces), then trains TGN
for a bounded number of batches after 1M, 5M and all events of history, in turns, the features staying in their file. Reports
seconds a batch at each, and seconds a thousand nodes of the batch, which must not grow with the history (a batch has more
neighbours until every root has as many as the sampler takes), and the peak of the resident memory, of which the file's pages
are the system's to take back.

Memory and mailboxes are filled as after a replay, every node with a mail, since replaying 20M events would take longer than
all the rest: so a batch costs as much as it ever will.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer
from numpy.lib import format as npy
from tqdm import tqdm

from gnnaccel.bench._stream import write_json
from gnnaccel.bench.device import environment

if TYPE_CHECKING:
    from gnnaccel.train.link import LinkTask

TURN = 10  # batches before the next history has its turn
CHUNK = 1 << 18  # rows of features written at a time
HISTORIES = (1_000_000, 5_000_000)


def write(folder: Path, nodes: int, events: int, features: int, seed: int = 0) -> None:
    """A power-law stream, bipartite, with random features in +-[0.5, 1); what is there already is kept."""
    from gnnaccel.data.synthetic import power_law_events

    folder.mkdir(parents=True, exist_ok=True)
    said = {"nodes": nodes, "events": events, "features": features, "seed": seed}
    note = folder / "scale.json"
    if note.exists() and json.loads(note.read_text()) == said:
        return
    note.unlink(missing_ok=True)
    stream = power_law_events(nodes, events, seed=seed, bipartite=True)
    arrays = {name: getattr(stream, name).numpy() for name in ("src", "dst", "t")}
    np.savez(folder / "edges.npz", **arrays, node_ids=np.arange(nodes))
    bits = np.random.Philox(key=np.array([seed, 7], np.uint64))
    with open(folder / "edge_feat.npy", "wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (events, features)}
        npy.write_array_header_1_0(file, header)
        for start in tqdm(range(0, events, CHUNK), desc="features", unit=" chunks", leave=False):
            count = (min(CHUNK, events - start)) * features
            half = bits.random_raw((count + 3) // 4).view(np.uint16)[:count]
            file.write(((half & 0x83FF) | 0x3800).tobytes())  # sign and mantissa are random, the exponent is 2^-1
    note.write_text(json.dumps(said) + "\n")


def resident() -> tuple[int, int]:
    """Bytes of resident memory now: the process's own, and pages of files."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, 0
    found = {k: int(v.split()[0]) * 1024 for k, _, v in (line.partition(":") for line in lines) if k.startswith("Rss")}
    return found["RssAnon"] + found["RssShmem"], found["RssFile"]


def fill(task: LinkTask, seed: int = 0) -> None:
    """State as after a replay: random memory, and a mail for every node."""
    model: Any = task.model
    gen = torch.Generator().manual_seed(seed)
    model.memory.memory.normal_(generator=gen)
    model.mailbox.mail.uniform_(-1, 1, generator=gen)
    model.mailbox.has_mail.fill_(True)


def measure(folder: Path, batches: int, batch_size: int, histories: tuple[int, ...] = HISTORIES) -> dict[str, Any]:
    """Seconds a batch after each history, in turns, and peaks of memory."""
    from gnnaccel.data import load
    from gnnaccel.train.config import load_config
    from gnnaccel.train.link import LinkTask
    from gnnaccel.train.trainer import StageTimer, make_optimizer, train_step

    begin = time.perf_counter()
    events = load(str(folder))
    loaded = time.perf_counter()
    config = load_config("tgn", overrides=[f"train.batch_size={batch_size}", "train.learning_rate=0.001"])
    task = LinkTask.create(config, events)
    optimizer = make_optimizer(task)
    task.model.train()
    fill(task)
    task.negatives.sample([0])  # makes its index
    created = time.perf_counter()
    whole, each = len(events), batches * batch_size
    ends = sorted({max(h, batch_size) for h in histories if h + each < whole} | {whole - each})
    if ends[0] < 0:
        raise ValueError(f"scale: events must be at least {each} (batches x batch size), got {whole}")
    seconds: dict[int, list[float]] = {h: [] for h in ends}
    losses: dict[int, list[float]] = {h: [] for h in ends}
    sizes: dict[int, list[tuple[int, float]]] = {h: [] for h in ends}  # distinct nodes of a batch, neighbours a root
    timer, peak = StageTimer(), resident()

    def step(history: int, i: int) -> None:
        nonlocal peak
        part = slice(history + i * batch_size, history + (i + 1) * batch_size)
        start = time.perf_counter()
        loss = train_step(task, optimizer, part, 0, part.start // batch_size, timer)
        losses[history].append(float(loss))
        seconds[history].append(time.perf_counter() - start)
        now = resident()
        peak = max(peak[0], now[0]), max(peak[1], now[1])
        if i % TURN == 0:
            batch = task.training_step(part, 0, 0).batch
            sizes[history].append((len(batch.nodes), batch.block.count.float().mean().item()))

    with tqdm(total=batches * len(ends), unit=" batches", leave=False) as bar:
        for first in range(0, batches, TURN):
            for history in ends:
                for i in range(first, min(first + TURN, batches)):
                    step(history, i)
                    bar.update()
    warm = {h: s[min(TURN, len(s) // 2) :] for h, s in seconds.items()}
    return {
        "nodes": events.num_nodes,
        "events": whole,
        "features": 0 if events.edge_feat is None else events.edge_feat.shape[1],
        "feature_dtype": str(None if events.edge_feat is None else events.edge_feat.dtype).removeprefix("torch."),
        "feature_bytes": (folder / "edge_feat.npy").stat().st_size,
        "batch_size": batch_size,
        "load_seconds": loaded - begin,
        "create_seconds": created - loaded,
        "histories": [
            {
                "history": h,
                "batches": len(seconds[h]),
                "median_seconds": statistics.median(warm[h]),
                "p20_seconds": float(np.quantile(warm[h], 0.2)),
                "p80_seconds": float(np.quantile(warm[h], 0.8)),
                "nodes_a_batch": statistics.fmean(n for n, _ in sizes[h]),
                "neighbors_a_root": statistics.fmean(k for _, k in sizes[h]),
                "first_turn_seconds": statistics.median(seconds[h][:TURN]),
                "loss_first": losses[h][0],
                "loss_last": statistics.fmean(losses[h][-TURN:]),
            }
            for h in ends
        ],
        "stage_seconds": {k: v / (batches * len(ends)) for k, v in timer.seconds.items()},
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_own_bytes": peak[0],
        "peak_file_bytes": peak[1],
    }


def picture(found: dict[str, Any], path: Path, theme: str = "light") -> None:
    """Milliseconds a batch by events of history."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from gnnaccel.bench.report_draw import THEMES, fixed_style, save

    color, rows = THEMES[theme], found["histories"]
    with fixed_style():
        figure = Figure(figsize=(6.4, 3.2), facecolor=color["ground"])
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.1, 0.24, 0.86, 0.62), facecolor=color["ground"])
        names = [f"{r['history'] / 1e6:.3g}M" for r in rows]
        for i, r in enumerate(rows):
            p20, p50, p80 = (1e3 * r[f"{k}_seconds"] for k in ("p20", "median", "p80"))
            axes.bar(i, p50, width=0.5, color=color["faster"], linewidth=0)
            axes.plot([i, i], [p20, p80], color=color["text"], linewidth=1.2)
            per, k = 1e3 * p50 / r["nodes_a_batch"], r["neighbors_a_root"]
            each = f"{p50:.0f} ms\n{k:.1f} neighbours a root\n{per:.0f} ms per 1,000 nodes"
            axes.annotate(each, (i, p80), (0, 4), textcoords="offset points", ha="center", color=color["text"], size=9)
        axes.set_ylim(0, 1.5e3 * max(r["p80_seconds"] for r in rows))
        axes.set_xticks(range(len(rows)), names)
        axes.tick_params(colors=color["muted"], length=0, labelsize=9)
        axes.grid(axis="y", color=color["grid"], linewidth=0.8)
        axes.set_axisbelow(True)
        for side in axes.spines.values():
            side.set_visible(False)
        title = f"A training batch of {found['batch_size']} events, by events of history"
        figure.text(0.02, 0.92, title, color=color["text"], size=11, weight="bold")
        gib = {k: found[f"{k}_bytes"] / 2**30 for k in ("feature", "peak_rss", "peak_own")}
        note = (
            f"TGN, {found['nodes'] / 1e6:.3g}M nodes, {found['features']} edge features in a {found['feature_dtype']} "
            f"file of {gib['feature']:.1f} GiB;\npeak memory {gib['peak_rss']:.1f} GiB, of which own {gib['peak_own']:.1f} "
            f"GiB; {found['environment']['threads']} threads. Lines: 20th to 80th percentile"
        )
        figure.text(0.02, 0.03, note, color=color["muted"], size=8)
        save(figure, path, color["ground"])


def main(
    folder: Annotated[Path, typer.Option(help="Where the stream is written, and found by later runs.")],
    nodes: Annotated[int, typer.Option(min=2, help="Nodes.")] = 1_000_000,
    events: Annotated[int, typer.Option(min=1, help="Events.")] = 20_000_000,
    features: Annotated[int, typer.Option(min=1, help="Edge features, float16.")] = 172,
    batches: Annotated[int, typer.Option(min=1, help="Batches trained after each history.")] = 200,
    batch_size: Annotated[int, typer.Option(min=1, help="Events a batch.")] = 600,
    max_rss_gb: Annotated[float, typer.Option(help="Exit code 1 if resident memory ever exceeds this, in GB.")] = 8.0,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves torch's default.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results here.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw them here, .svg or .png.")] = None,
    write_only: Annotated[bool, typer.Option("--write-only", help="Write the stream and stop.")] = False,
) -> None:
    """Train with edge features in a file, on a long stream, and tell time and memory.

    Example:

        python -m gnnaccel.bench.scale --folder scale --batches 200 --json scale.json --figure scale.svg
    """
    if write_only:
        write(folder, nodes, events, features)
        return
    # in a process of its own: the peak of memory is to be that of training
    args = {"folder": folder, "nodes": nodes, "events": events, "features": features}
    options = [text for k, v in args.items() for text in (f"--{k}", str(v))]
    subprocess.run([sys.executable, "-m", "gnnaccel.bench.scale", "--write-only", *options], check=True, env=os.environ)
    if threads:
        torch.set_num_threads(threads)
    try:
        found = measure(folder, batches, batch_size)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    found["environment"] = environment(torch.device("cpu"))
    for row in found["histories"]:
        ms, nodes_now = 1e3 * row["median_seconds"], row["nodes_a_batch"]
        typer.echo(
            f"{row['history']:>12,} events of history: {ms:.1f} ms a batch of {nodes_now:,.0f} nodes, "
            f"{1e3 * ms / nodes_now:.1f} ms a thousand"
        )
    gb = {k: found[f"peak_{k}_bytes"] / 1e9 for k in ("rss", "own", "file")}
    typer.echo(
        f"peak resident {gb['rss']:.2f} GB; peaks of own memory {gb['own']:.2f} GB, of file pages {gb['file']:.2f} GB"
    )
    write_json(json_file, found)
    if figure is not None:
        picture(found, figure)
    if gb["rss"] > max_rss_gb:
        typer.echo(f"more than --max-rss-gb {max_rss_gb:g}", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
