"""`gnnaccel train`, `eval` and `predict` for models of static graphs, and `gnnaccel distill`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.table import Column, Table

from gnnaccel.cli._common import out, pick_device, say

SYNTHETIC = "synthetic-nodes"


def train_graph(
    model: str,
    data: str,
    config: Path | None,
    settings: Sequence[str],
    to: Path | None,
    *,
    resume: bool,
    overwrite: bool,
    device: str,
    threads: int | None,
    quiet: bool,
    stages: bool,
) -> None:
    """`gnnaccel train` of a model of `gnnaccel.train.gnn`."""
    from gnnaccel.cli.link import fit, prepare, reference, set_threads, title_of
    from gnnaccel.train.allocator import keep_freed_memory
    from gnnaccel.train.gnn import graph_task, load_gnn_config
    from gnnaccel.train.gnn.report import StageRecorder
    from gnnaccel.train.trainer import Trainer

    data = SYNTHETIC if data == "synthetic" else data
    used = load_gnn_config(model, preset_data(data), config, settings)
    set_threads(threads)
    keep_freed_memory()
    where = pick_device(device)
    folder = to or Path("runs") / f"{model}-{title_of(data).replace(':', '-')}-{used.train.seed}"
    prepare(folder, resume, overwrite)
    nodes = load_data(data, used)
    task = graph_task(used, nodes, where)
    describe(task)
    trainer = Trainer(task, folder, data=reference(data), progress=not quiet, notify=lambda line: say(line))
    recorder = StageRecorder()
    trainer.timer = recorder
    results = fit(trainer, folder, used, resume)
    out.print(metrics_table(results, f"{model} on {title_of(data)}: test"))
    if stages:
        show_stages(recorder, folder)
    pace = f"{results['seconds_per_epoch']:.2f} s an epoch" if results["epochs"] else "nothing trained"
    say(f"{pace}; results in {folder}", out)


def preset_data(data: str) -> str:
    """The section of a preset that a data set would have: its name, whatever folder it is in."""
    path = Path(data)
    if path.exists():
        path = Path(os.path.abspath(path))
    if path.is_file():
        path = path.parent if path.stem == "data" else path.with_suffix("")
    return path.name.partition(":")[0]


def load_data(data: str, config: Any) -> Any:
    """Node data as a configuration wants its features."""
    from gnnaccel.data.nodes import load_nodes

    d = config.data
    nodes = load_nodes(data, features=d.features, nan_features=d.nan_features, dtype=getattr(torch, d.dtype))
    for note in nodes.notes:
        say(f"note: {note}")
    return nodes


def describe(task: Any) -> None:
    g, d, s = task.graph, task.data, task.split
    features = f"{d.x.shape[1]} features" if d.x is not None else "no features"
    parts = f"{s.train.stop:,} / {s.val.stop:,} / {s.test.stop:,} {task.unit} to train / validate / test"
    say(f"{d.name}: {g.num_nodes:,} nodes, {d.graph.num_edges:,} edges, {features}, {d.num_classes} classes; {parts}")
    if not s.val.stop:
        say(f"note: there are no {task.unit} to validate on: all epochs are trained, and the last one is kept")


def metrics_table(results: dict[str, Any], title: str, part: str = "test") -> Table:
    """The metrics of a part in one row."""
    table = Table(title=title, title_justify="left")
    names = {"accuracy": "accuracy", "macro_f1": "macro F1", "auc": "AUC", "ap": "AP", "mrr": "MRR"}
    shown = {k: v for k, v in names.items() if f"{part}_{k}" in results}
    for name in (*shown.values(), "count"):
        table.add_column(name, justify="right")
    count = results.get(f"{part}_nodes", results.get(f"{part}_edges", 0))
    values = [results[f"{part}_{k}"] for k in shown]
    table.add_row(*(f"{v:.4f}" if v == v else "-" for v in values), f"{count:,}")
    return table


def show_stages(recorder: Any, folder: Path) -> None:
    """The stage report: a table, `stages.json`, and `stages.png` where matplotlib is installed."""
    from gnnaccel.train.checkpoint import write_text
    from gnnaccel.train.gnn.report import bottleneck, draw_stages, stage_rows

    rows = stage_rows(recorder.total)
    table = Table("stage", title="stages of all training batches", title_justify="left")
    table.add_column("works, s", justify="right")
    table.add_column("waits, s", justify="right")
    for row in rows:
        table.add_row(row.stage, f"{row.busy:.3f}", f"{row.waited:.3f}")
    out.print(table)
    say(bottleneck(rows), out)
    write_text(folder / "stages.json", json.dumps([row._asdict() for row in rows], indent=2) + "\n")
    try:
        draw_stages(recorder, folder / "stages.png")
    except ImportError as error:
        say(str(error))
    else:
        say(f"picture: {folder / 'stages.png'}", out)


def load_run(run: Path, data: str | None, device: str, overrides: Sequence[str] = ()) -> tuple[Any, dict[str, Any]]:
    """The task of a run on a graph with its best weights, and the state of its checkpoint."""
    from gnnaccel.train.checkpoint import CheckpointError, load_checkpoint
    from gnnaccel.train.gnn import graph_task, validate_gnn
    from gnnaccel.train.settings import lay_over
    from gnnaccel.train.trainer import check_fits

    path = run / "best.pt" if run.is_dir() else run
    if run.is_dir() and not path.exists():
        raise CheckpointError(f"{run} holds no best.pt: the run has not finished an epoch")
    state = load_checkpoint(path)
    if not is_graph_run(state):
        raise CheckpointError(f"{path} is not of a model of a static graph")
    config = validate_gnn(state["config"])
    name = data or state["data"]["name"]
    task = graph_task(config, load_data(name, config), pick_device(device))
    check_fits(state, task, path)
    task.model.load_state_dict(state["model"])
    task.model.eval()
    if overrides:
        values = config.model_dump()
        lay_over(values, overrides)
        changed = validate_gnn(values)
        if _trained(changed) != _trained(config):
            raise ValueError(
                "--set: the model, its graph and its split are what was trained; data.dtype, eval and sampler settings (but "
                "not sampler.keep) may change"
            )
        other = graph_task(changed, load_data(name, changed), task.device)
        other.model = task.model
        task = other
    return task, state


def _trained(config: Any) -> dict[str, Any]:
    """The settings that the weights, the graph and the split of a run depend on."""
    sampler = {"keep", "keep_by"} if config.sampler.keep is not None else {"keep"}
    data = set(type(config.data).model_fields) - {"dtype"}
    return config.model_dump(include={"model": True, "train": True, "sampler": sampler, "data": data})


def is_graph_run(state: dict[str, Any]) -> bool:
    return isinstance(state.get("data"), dict) and state["data"].get("kind") == "graph"


def graph_run(run: Path) -> bool:
    """Whether a folder or checkpoint is of a model of a static graph; what cannot be read is not."""
    from gnnaccel.train.checkpoint import CheckpointError, load_checkpoint

    try:
        return is_graph_run(load_checkpoint(run / "best.pt" if run.is_dir() else run))
    except CheckpointError:
        return False


def evaluate_graph(
    run: Path, data: str | None, part: str, overrides: Sequence[str], *, as_json: bool, device: str, quiet: bool
) -> None:
    """`gnnaccel eval` of a run on a graph."""
    from gnnaccel.cli.link import bar, title_of
    from gnnaccel.train.trainer import plain

    task, state = load_run(run, data, device, overrides)
    with bar("evaluating", 0, quiet, "nodes") as shown:
        if task.config.data.task == "node":
            metrics = task.metrics(part, shown)
        else:
            metrics = task.metrics(part, task.config.eval.negatives, shown)
    results = {"best_epoch": state["epoch"] + 1, **task.protocol(), **{f"{part}_{k}": v for k, v in metrics.items()}}
    if as_json:
        print(json.dumps(plain(results), indent=2))
    else:
        name = f"{task.config.model.name} on {title_of(data or state['data']['name'])}: {part}"
        out.print(metrics_table(results, name, part))


def predict_graph(
    run: Path, input: Path | None, to: Path | None, data: str | None, *, device: str, quiet: bool
) -> None:
    """`gnnaccel predict` of a run on a graph: the class of each node, with its probability."""
    from gnnaccel.cli.link import _write_csv, bar

    task, _ = load_run(run, data, device)
    if task.config.data.task != "node":
        raise ValueError(f"{run} tells links, not classes; its embeddings are in Python: task.results(nodes)")
    d = task.data
    ids = np.arange(d.num_nodes) if d.graph.node_ids is None else d.graph.node_ids
    nodes = torch.arange(d.num_nodes) if input is None else _read_nodes(input, ids)
    with bar("inferring", 0, quiet, "nodes") as shown:
        wanted, at = torch.unique(nodes, return_inverse=True)
        chance = task.logits(wanted.to(task.device), shown).softmax(1).cpu()[at]
    best = chance.max(1)
    names = np.arange(d.num_classes) if d.class_names is None else d.class_names
    columns = {
        "node": ids[nodes.numpy()],
        "class": names[best.indices.numpy()],
        "probability": best.values.numpy(),
    }
    _write_csv(columns, to)


def _read_nodes(path: Path, ids: np.ndarray) -> torch.Tensor:
    """Rows of the nodes that a CSV names in its column `node`."""
    import pyarrow.csv

    if not path.is_file():
        raise ValueError(f"--input: no file {path}")
    try:
        table = pyarrow.csv.read_csv(path)
    except Exception as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    if "node" not in table.column_names:
        raise ValueError(f"{path} needs a column node, it has {','.join(table.column_names)}")
    values = table["node"].to_pylist()
    place = {str(name): i for i, name in enumerate(ids.tolist())}
    rows = []
    for i, value in enumerate(values):
        if str(value) not in place:
            raise ValueError(f"{path}, row {i + 1}: no node {value} in the data")
        rows.append(place[str(value)])
    return torch.tensor(rows, dtype=torch.int64)


def distill(
    run: Annotated[Path, typer.Argument(help="Folder of a trained sage, gat, rgcn or graph-transformer.")],
    to: Annotated[Path | None, typer.Option("--out", help="Folder of the student; RUN-mlp by default.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting of the student as key=value, e.g. distill.soft_weight=1; repeatable."),
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Same data at another place.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the student in --out where it stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the student in --out.")] = False,
    batches: Annotated[
        str, typer.Option("--latency-batches", help="Time predictions of so many nodes at a time, e.g. 1,64,1024.")
    ] = "1,64,1024",
    fanout: Annotated[
        int, typer.Option(min=1, help="Neighbours a hop that a teacher of whole graphs samples when it is timed.")
    ] = 10,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Teach a perceptron what a trained GNN knows: its predictions need no neighbours, and take a fraction of the time.

    The student learns the teacher's probabilities for all nodes (Zhang et al., GLNN, ICLR 2022). Accuracy and latency of both
    are printed, and written to distill.json.

    Examples:

        gnnaccel distill runs/sage-cora-0

        gnnaccel distill runs/sage-cora-0 --out runs/student --set model.hidden=256 --set train.epochs=300
    """
    from gnnaccel.cli.link import bar, fit, prepare, reference, set_threads
    from gnnaccel.train.checkpoint import write_text
    from gnnaccel.train.gnn import load_gnn_config
    from gnnaccel.train.gnn.distill import check_teacher, distill_task
    from gnnaccel.train.trainer import Trainer, plain

    set_threads(threads)
    sizes = _sizes(batches)
    teacher, state = load_run(run, data, device)
    check_teacher(teacher)
    sizes = sorted({min(n, teacher.data.num_nodes) for n in sizes})
    d = teacher.config.data
    kept = [f"data.{k}={getattr(d, k)}" for k in ("features", "nan_features", "dtype")]
    name = preset_data(state["data"]["name"])
    student_config = load_gnn_config("mlp", f"distill-{name}", None, [*kept, *(settings or [])])
    taught = run if run.is_dir() else run.parent
    taught = taught if taught.name else taught.absolute()  # the folder `.`
    folder = to or taught.with_name(f"{taught.name}-mlp")
    prepare(folder, resume, overwrite)
    with bar("asking the teacher", 0, quiet, "nodes") as shown:
        task = distill_task(student_config, teacher, shown)
    source = data or state["data"]["name"]
    trainer = Trainer(task, folder, data=reference(source), progress=not quiet, notify=lambda line: say(line))
    results = fit(trainer, folder, student_config, resume)
    whole = teacher.config.whole_graph
    neighbors = [fanout] * teacher.config.model.layers if whole and hasattr(teacher.model.gnn, "convs") else None
    rows = [
        _compare(model, kind, sizes, n) for model, kind, n in ((teacher, "teacher", neighbors), (task, "student", None))
    ]
    table = Table(
        Column("model", no_wrap=True), "test accuracy", title=f"distilled: {taught.name}", title_justify="left"
    )
    for size in sizes:
        table.add_column(f"{size} node{'s' if size > 1 else ''}, ms", justify="right")
    for row in rows:
        times = (f"{1e3 * s:.3f}" for s in row["seconds"].values())
        table.add_row(f"{row['kind']} ({row['model']})", f"{row['accuracy']:.4f}", *times)
    out.print(table)
    pairs = zip(rows[0]["seconds"].values(), rows[1]["seconds"].values(), strict=True)
    say("student: " + ", ".join(f"{a / b:.1f}x" for a, b in pairs) + " as fast", out)
    found = {"teacher": rows[0], "student": rows[1], "seed": results["seed"]}
    write_text(folder / "distill.json", json.dumps(plain(found), indent=2) + "\n")
    say(f"results in {folder}", out)


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise ValueError(f"--latency-batches must be numbers above 0, separated by commas, got {text!r}")
    return sizes


def _compare(task: Any, kind: str, sizes: list[int], neighbors: list[int] | None) -> dict[str, Any]:
    from gnnaccel.train.gnn.distill import latency

    accuracy = task.metrics("test")["accuracy"]
    seconds = {str(n): latency(task, n, neighbors=neighbors) for n in sizes}
    return {"kind": kind, "model": task.config.model.name, "accuracy": accuracy, "seconds": seconds}
