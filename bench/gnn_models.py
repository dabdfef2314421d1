"""What models of static graphs reach, beside PyG's; smaller features; students: `python -m gnnaccel.bench.gnn_models`.

For each data set and model the preset is trained as `gnnaccel train` does, and the same model of PyG with the same settings,
over some seeds; where the preset samples batches, PyG takes 60 steps on the whole graph. With `--extras` (models of ours), the
test is repeated on float16 and int8 features, and a student is distilled and both are timed. Runs that the JSON has are kept.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from gnnaccel.bench._stream import write_json
from gnnaccel.bench.device import environment
from gnnaccel.cli.gnn import preset_data

Run = dict[str, Any]
BEGIN, END = "<!-- gnn-results:begin -->", "<!-- gnn-results:end -->"
SIZES = (1, 64, 1024)  # nodes at a time, for latency


def load(data: str, config: Any, dtype: str | None = None) -> Any:
    from gnnaccel.data.nodes import load_nodes

    d = config.data
    kind = getattr(torch, dtype or d.dtype)
    return load_nodes(data, features=d.features, nan_features=d.nan_features, dtype=kind)


def train_ours(model: str, data: str, seed: int, overrides: list[str], say: Any) -> tuple[Run, Any]:
    """One run from start to test, and its task with the weights of the best epoch."""
    from gnnaccel.train.gnn import graph_task, load_gnn_config
    from gnnaccel.train.trainer import Trainer

    config = load_gnn_config(model, preset_data(data), overrides=[*overrides, f"train.seed={seed}"])
    task = graph_task(config, load(data, config))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = Trainer(task, folder, progress=False, notify=lambda line: say(f"{model} {seed}: {line}")).fit()
    seconds = time.perf_counter() - start
    run = {"library": "gnnaccel", "accuracy": found["test_accuracy"], "macro_f1": found["test_macro_f1"]}
    return run | {"epochs": found["epochs"], "seconds": seconds, "val_accuracy": found["val_accuracy"]}, task


def train_peer(model: str, data: str, seed: int, overrides: list[str], say: Any) -> Run:
    from gnnaccel.baselines.peers.gnn_pyg import train_pyg
    from gnnaccel.train.gnn import load_gnn_config

    config = load_gnn_config(model, preset_data(data), overrides=[*overrides, f"train.seed={seed}"])
    start = time.perf_counter()
    found = train_pyg(config, load(data, config), lambda epoch: say(f"pyg {model} {seed}: epoch {epoch + 1}"))
    run = {"library": "pyg", "accuracy": found["test_accuracy"], "val_accuracy": found["val_accuracy"]}
    return run | {"epochs": found["epochs"], "seconds": time.perf_counter() - start}


def smaller_features(task: Any, data: str) -> list[Run]:
    """The test again, of the same weights, on smaller tables."""
    from gnnaccel.train.gnn import graph_task

    rows = []
    for dtype in ("float32", "float16", "int8"):
        other = graph_task(task.config, load(data, task.config, dtype))
        other.model = task.model
        nodes = torch.arange(other.data.num_nodes)
        start = time.perf_counter()
        other.results(nodes)
        seconds = time.perf_counter() - start
        rows.append(
            {
                "features": dtype,
                "accuracy": other.metrics("test")["accuracy"],
                "bytes": other.x.numel() * other.x.element_size(),
                "inference_seconds": seconds,
            }
        )
    return rows


def distilled(task: Any, data: str, overrides: list[str], say: Any) -> Run:
    """A student of a trained task, and the latency of both."""
    from gnnaccel.train.gnn import load_gnn_config
    from gnnaccel.train.gnn.distill import distill_task, latency
    from gnnaccel.train.trainer import Trainer

    d = task.config.data
    kept = [f"data.features={d.features}", f"train.seed={task.config.train.seed}"]
    config = load_gnn_config("mlp", f"distill-{preset_data(data)}", overrides=[*kept, *overrides])
    student = distill_task(config, task)
    with tempfile.TemporaryDirectory() as folder:
        found = Trainer(student, folder, progress=False, notify=lambda line: say(f"student: {line}")).fit()
    neighbors = [10] * task.config.model.layers if task.config.whole_graph else None
    times = {str(n): (latency(task, n, neighbors=neighbors), latency(student, n)) for n in SIZES}
    return {
        "teacher": task.metrics("test")["accuracy"],
        "student": found["test_accuracy"],
        "teacher_ms": {n: 1e3 * a for n, (a, _) in times.items()},
        "student_ms": {n: 1e3 * b for n, (_, b) in times.items()},
    }


def tables(document: dict[str, Any]) -> str:
    """The runs as Markdown."""
    lines = ["| data | model | ours | PyG | ours, s | PyG, s | seeds |", "| --- | --- | --- | --- | --- | --- | --- |"]
    runs: list[Run] = document["runs"]
    for data, model in dict.fromkeys((run["data"], run["model"]) for run in runs):
        cells, counts = [], 0
        mine = {
            lib: [r for r in runs if (r["data"], r["model"], r["library"]) == (data, model, lib)] for lib in LIBRARIES
        }
        for key, form in (("accuracy", "{:.3f}"), ("seconds", "{:.0f}")):
            for library in LIBRARIES:
                values = [run[key] for run in mine[library]]
                counts = max(counts, len(values))
                cells.append(form.format(statistics.fmean(values)) if values else "-")
        lines.append(f"| {data} | `{model}` | " + " | ".join(cells) + f" | {counts} |")
    for extra in document.get("extras", []):
        lines += ["", f"{extra['data']}, `{extra['model']}`, the same weights on smaller feature tables:", ""]
        lines += ["| features | MB | test accuracy |", "| --- | --- | --- |"]
        lines += [f"| {r['features']} | {r['bytes'] / 1e6:.1f} | {r['accuracy']:.4f} |" for r in extra["features"]]
        s = extra["student"]
        lines += ["", f"and distilled into a perceptron: accuracy {s['teacher']:.4f} and {s['student']:.4f};", ""]
        lines += ["| nodes at a time | teacher, ms | student, ms | |", "| --- | --- | --- | --- |"]
        for n, ms in s["teacher_ms"].items():
            lines.append(f"| {n} | {ms:.2f} | {s['student_ms'][n]:.2f} | {ms / s['student_ms'][n]:.1f}x |")
    return "\n".join(lines)


LIBRARIES = ("gnnaccel", "pyg")


def main(
    data: Annotated[list[str], typer.Option("--data", help="Data sets: names or paths; repeatable.")],
    model: Annotated[str, typer.Option(help="Models of ours that PyG has too, with commas.")] = "sage,gat",
    libraries: Annotated[str, typer.Option(help="Whose: gnnaccel,pyg.")] = "gnnaccel,pyg",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0, 1, ...")] = 3,
    extras: Annotated[
        str, typer.Option(help="Models whose features are shrunk and that are distilled, with commas.")
    ] = "",
    settings: Annotated[list[str] | None, typer.Option("--set", help="Settings over the presets, for both.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves torch's default.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Results, written after each run.")] = None,
    into: Annotated[Path | None, typer.Option(help="Markdown page whose marked part is replaced.")] = None,
) -> None:
    """Train models of static graphs and PyG's, and print what they reach.

    Example:

        python -m gnnaccel.bench.gnn_models --data path/to/cora --data path/to/facebook-pages --extras sage
    """
    console, overrides = Console(stderr=True), list(settings or [])
    if threads:
        torch.set_num_threads(threads)
    document: dict[str, Any] = {"runs": [], "extras": []}
    if json_file is not None and json_file.exists():
        document = json.loads(json_file.read_text("utf-8"))
    document["environment"] = environment(torch.device("cpu"))

    def say(line: str) -> None:
        console.print(line, style="dim", highlight=False, markup=False)

    for place in data:
        name = preset_data(place)
        for kind in model.split(","):
            for seed in range(seeds):
                for library in libraries.split(","):
                    key = {"data": name, "model": kind, "seed": seed, "library": library}
                    want_extras = library == "gnnaccel" and seed == 0 and kind in extras.split(",")
                    done = any(all(run[k] == v for k, v in key.items()) for run in document["runs"])
                    if done and not want_extras:
                        continue
                    if library == "gnnaccel":
                        run, task = train_ours(kind, place, seed, overrides, say)
                        if want_extras:
                            extra = {"data": name, "model": kind, "features": smaller_features(task, place)}
                            extra["student"] = distilled(task, place, [], say)
                            kept = [e for e in document["extras"] if (e["data"], e["model"]) != (name, kind)]
                            document["extras"] = [*kept, extra]
                    else:
                        run = train_peer(kind, place, seed, overrides, say)
                    if not done:
                        document["runs"].append(
                            {**key, **run, "threads": torch.get_num_threads(), "overrides": overrides}
                        )
                    write_json(json_file, document)
    text = tables(document)
    Console().print(text, highlight=False, markup=False)
    if into is not None:
        page = into.read_text("utf-8")
        head, _, rest = page.partition(BEGIN)
        into.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", "utf-8")


if __name__ == "__main__":
    typer.run(main)
