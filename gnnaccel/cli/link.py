"""`gnnaccel train`, `eval` and `predict` for temporal link prediction."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import yaml
from rich.table import Table
from tqdm import tqdm

from gnnaccel.cli._common import err, out, pick_device

Data = Annotated[str, typer.Option("--data", help="Data set: a name (gnnaccel data list) or a file or folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


def train(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Streams: tgn, tgn-2layer, tgat, jodie, dysat, apan, graphmixer, edgebank, or your own model, file.py:Class. "
            "Static graphs: sage, gat, rgcn, graph-transformer, mlp."
        ),
    ] = None,
    data: Data = "synthetic",
    config: Annotated[Path | None, typer.Option(help="YAML file laid over the preset, or a file of TGL.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Setting as key=value, e.g. train.epochs=3; repeatable.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--out", help="Folder of the run; runs/MODEL-DATA-SEED by default.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out where it stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    list_settings: Annotated[bool, typer.Option("--list-settings", help="Print every setting and stop.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse data that is not sorted by time.")] = False,
    stages: Annotated[
        bool, typer.Option("--stages", help="Static graphs: report who waited for whom, as table and picture.")
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Train a temporal model on a stream of interactions, or a GNN on a static graph, and test it.

    Examples:

        gnnaccel train tgn --data synthetic

        gnnaccel train tgn --data wikipedia --set train.batch_size=600 --set train.epochs=10 --out runs/wiki

        gnnaccel train tgn --data my/edges.csv --config mine.yaml

        gnnaccel train tgn --data wikipedia --out runs/wiki --resume

        gnnaccel train tgat --data wikipedia --set decoder.kind=pair

        gnnaccel train my_model.py:MyModel --data wikipedia

        gnnaccel train --config TGL/config/TGN.yml --data wikipedia

        gnnaccel train sage --data synthetic-nodes --stages

        gnnaccel train gat --data path/to/cora

        gnnaccel train sage --data path/to/cora --set data.task=link
    """
    from gnnaccel.data.registry import load
    from gnnaccel.train.allocator import keep_freed_memory
    from gnnaccel.train.config import describe, load_config, short_name
    from gnnaccel.train.gnn.config import MODELS as GRAPH_MODELS
    from gnnaccel.train.gnn.config import describe_gnn
    from gnnaccel.train.link import LinkTask
    from gnnaccel.train.trainer import Trainer

    static = model in GRAPH_MODELS
    if list_settings:
        table = Table("setting", "default", "meaning")
        for row in describe_gnn() if static else describe():
            table.add_row(*row)
        out.print(table)
        return
    if static:
        from gnnaccel.cli.gnn import train_graph

        assert model is not None
        if strict:
            raise ValueError(f"--strict: is of streams, {model} is of static graphs")
        how: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "device": device, "threads": threads}
        return train_graph(model, data, config, settings or [], to, quiet=quiet, stages=stages, **how)
    if stages:
        raise ValueError(f"--stages: is of static graphs ({', '.join(GRAPH_MODELS)}), not of streams")
    settings_used = load_config(model, config, settings or [])
    model = model or settings_used.model.name
    set_threads(threads)
    keep_freed_memory()
    where = pick_device(device)
    folder = to or Path("runs") / f"{short_name(model)}-{title_of(data).replace(':', '-')}-{settings_used.train.seed}"
    prepare(folder, resume, overwrite)
    events = load(data, strict=strict)
    err.print(_describe(events), highlight=False)
    task = LinkTask.create(settings_used, events, where)
    trainer = Trainer(
        task, folder, data=reference(data), progress=not quiet, notify=lambda line: err.print(line, highlight=False)
    )
    results = fit(trainer, folder, settings_used, resume)
    out.print(results_table(results, f"{short_name(model)} on {title_of(data)}: test"))
    pace = f"{results['seconds_per_epoch']:.1f} s an epoch" if results["epochs"] else "nothing trained"
    out.print(f"{pace}; results in {folder}", highlight=False)


def fit(trainer: Any, folder: Path, settings: Any, resume: bool) -> dict[str, Any]:
    """Train to the end, and say how to go on if that is interrupted. Returns the results."""
    from gnnaccel.train.trainer import Interrupted, TrainingError

    if resume:
        trainer.resume()
        err.print(where_it_stands(trainer), highlight=False)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings.model_dump(), sort_keys=False), "utf-8")
    try:
        return trainer.fit()
    except Interrupted as stop:
        err.print(f"{stop}; continue with --out {folder} --resume", highlight=False)
        raise typer.Exit(130) from None
    except TrainingError as error:
        raise ValueError(str(error)) from None


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a finished or running training, or a best.pt.")],
    data: Annotated[str | None, typer.Option("--data", help="Same data at another place.")] = None,
    part: Annotated[str, typer.Option("--split", help="test or val.")] = "test",
    negatives: Annotated[int | None, typer.Option(min=1, help="Negatives a positive for MRR.")] = None,
    lists: Annotated[
        str | None,
        typer.Option(
            "--negatives-file", help="Given negatives: an npz of `gnnaccel data negatives`, or tgb for TGB's own."
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Events a batch.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Static graphs: sampler, eval and data.dtype as key=value, e.g. data.dtype=int8."),
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Evaluate the best epoch of a run: AP, AUC and MRR, transductive and inductive; accuracy and macro F1 of classes of nodes.

    Examples:

        gnnaccel eval runs/tgn-wikipedia-0

        gnnaccel eval runs/tgn-wikipedia-0 --split val --negatives 20 --json

        gnnaccel eval runs/tgn-wikipedia-0 --negatives-file wikipedia-test.npz

        gnnaccel eval runs/sage-cora-0 --set data.dtype=int8
    """
    from gnnaccel.cli.gnn import evaluate_graph, graph_run
    from gnnaccel.train.config import short_name
    from gnnaccel.train.ranking import evaluate_ranking
    from gnnaccel.train.trainer import plain

    if part not in ("test", "val"):
        raise ValueError(f"--split must be test or val, got {part!r}")
    if lists is not None and negatives is not None:
        raise ValueError("--negatives-file gives the negatives: leave --negatives out")
    set_threads(threads)
    if graph_run(run):
        if lists is not None or batch_size is not None:
            raise ValueError(
                "--negatives-file and --batch-size are of streams; for a static graph give --set eval.batch_size"
            )
        more = [] if negatives is None else [f"eval.negatives={negatives}"]
        how: dict[str, Any] = {"as_json": as_json, "device": device, "quiet": quiet}
        return evaluate_graph(run, data, part, [*(settings or []), *more], **how)
    if settings:
        raise ValueError("--set: is for runs on static graphs, this one is of a stream")
    task, state = load_task(run, data, pick_device(device), batch_size)
    events = task.split.val if part == "val" else task.split.test
    heading = f"{short_name(task.config.model.name)} on {title_of(data or state['data']['name'])}: {part}"
    given = None if lists is None else _given_negatives(lists, task.events, part, events)
    if part == "val":
        task.reset()
        task.replay(task.split.train)
    if given is not None:
        with bar("ranking", events.stop - events.start, quiet) as shown:
            metrics = evaluate_ranking(task, events, given, progress=shown)
        ranking = {"negatives_file": lists, "best_epoch": state["epoch"] + 1}
        ranking |= {f"{part}_{k}": v for k, v in metrics.items()}
        if as_json:
            print(json.dumps(plain(ranking), indent=2))
        else:
            out.print(ranking_table(ranking, heading, part))
        return
    count = negatives or task.config.eval.negatives
    with bar("evaluating", events.stop - events.start, quiet) as shown:
        metrics = task.evaluate(events, negatives=count, progress=shown)
    results = {"negatives": count, "best_epoch": state["epoch"] + 1, **{f"{part}_{k}": v for k, v in metrics.items()}}
    if as_json:
        print(json.dumps(plain(results), indent=2))
    else:
        out.print(results_table(results, heading, part))


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a training run, or a best.pt.")],
    input: Annotated[
        Path | None,
        typer.Option(
            "--input",
            "-i",
            help="CSV with columns src,dst,t (scores) or src,t (--top); node for a static graph (all without).",
        ),
    ] = None,
    to: Annotated[Path | None, typer.Option("--out", "-o", help="CSV to write; standard output by default.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Give the best so many destinations of each (src, t).")] = None,
    data: Annotated[str | None, typer.Option("--data", help="Same data at another place.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Score interactions, or name the most probable destinations, at given times; or tell the classes of a graph's nodes.

    Ids are those of the data. Each row sees the events strictly before its time, whatever the order of rows.

    Examples:

        gnnaccel predict runs/tgn-wikipedia-0 --input pairs.csv --out scores.csv

        gnnaccel predict runs/tgn-wikipedia-0 --input sources.csv --top 10

        gnnaccel predict runs/sage-cora-0 --out classes.csv
    """
    from gnnaccel.cli.gnn import graph_run, predict_graph
    from gnnaccel.train.predict import Predictor

    set_threads(threads)
    if graph_run(run):
        if top is not None:
            raise ValueError("--top: is of streams, this run is of a static graph")
        return predict_graph(run, input, to, data, device=device, quiet=quiet)
    if input is None:
        raise ValueError("--input: a CSV of queries must be given for a run of a stream")
    task, _ = load_task(run, data, pick_device(device), None)
    src, dst, t = _read_queries(input, task.events, need_dst=top is None)
    ids = np.arange(task.events.num_nodes) if task.events.node_ids is None else task.events.node_ids
    with bar("replaying", len(task.events), quiet) as shown:
        predictor = Predictor(task, shown)
        columns: dict[str, np.ndarray]
        if top is None:
            score = predictor.score(src, dst, t).numpy()
            columns = {"src": ids[src.numpy()], "dst": ids[dst.numpy()], "t": t.numpy(), "score": score}
        else:
            nodes, scores = predictor.top(src, t, top)
            k = nodes.shape[1]
            columns = {
                "src": ids[src.numpy()].repeat(k),
                "t": t.numpy().repeat(k),
                "rank": np.tile(np.arange(1, k + 1), len(src)),
                "dst": ids[nodes.reshape(-1).numpy()],
                "score": scores.reshape(-1).numpy(),
            }
    _write_csv(columns, to)


def results_table(results: dict[str, Any], title: str, part: str = "test") -> Table:
    """Transductive, inductive and historical metrics as one table."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("events")
    for column in ("AP", "AUC", f"MRR ({results['negatives']} negatives)", "count"):
        table.add_column(column, justify="right")
    rows = [("all", "", "events"), ("with a node unseen in training", "inductive_", "inductive_events")]
    for name, prefix, count in rows:
        values = [results[f"{part}_{prefix}{k}"] for k in ("ap", "auc", "mrr")]
        table.add_row(name, *(f"{v:.4f}" if v == v else "-" for v in values), f"{results[f'{part}_{count}']:,}")
    old = [results.get(f"{part}_{k}_historical", float("nan")) for k in ("ap", "auc")]
    table.add_row(
        "all, against historical negatives", *(f"{v:.4f}" for v in old), "-", f"{results[f'{part}_events']:,}"
    )
    return table


def ranking_table(results: dict[str, Any], title: str, part: str = "test") -> Table:
    """MRR and hits against given negatives as one table."""
    table = Table(title=title, title_justify="left")
    table.add_column("events")
    columns = [k for k in ("mrr", "hits@1", "hits@3", "hits@10") if f"{part}_{k}" in results]
    for column in (*(c.upper() if c == "mrr" else c for c in columns), "count"):
        table.add_column(column, justify="right")
    for name, prefix, count in (
        ("all", "", "events"),
        ("with a node unseen in training", "inductive_", "inductive_events"),
    ):
        values = [results[f"{part}_{prefix}{k}"] for k in columns]
        table.add_row(name, *(f"{v:.4f}" if v == v else "-" for v in values), f"{results[f'{part}_{count}']:,}")
    each = results[f"{part}_candidates"] / max(1, results[f"{part}_events"])
    table.caption = f"{each:.1f} given negatives a query; ties share the average rank"
    return table


def _given_negatives(source: str, events, part: str, chosen: slice):
    from gnnaccel.data import read_negatives
    from gnnaccel.data.tgb import tgb_negatives

    if source == "tgb":
        return tgb_negatives(events, part, chosen)
    return read_negatives(source, events, chosen)


def set_threads(count: int | None) -> None:
    if count is not None:
        torch.set_num_threads(count)


def bar(label: str, total: int, quiet: bool, unit: str = "events") -> tqdm:
    return tqdm(
        total=total, desc=label, unit=f" {unit}", unit_scale=True, leave=False, dynamic_ncols=True, disable=quiet
    )


def _describe(events) -> str:
    return f"{events.name}: {events.num_nodes:,} nodes, {len(events):,} events"


def title_of(data: str) -> str:
    """What to call data in tables: a name as it was given, a file or folder without its place and endings."""
    path = Path(data)
    known = path.is_absolute() or path.exists()
    return os.path.basename(os.path.abspath(path)).partition(".")[0] if known else data


def reference(data: str) -> str:
    # a path is kept absolute in the checkpoint, so that eval and predict find it from any folder
    return str(Path(data).resolve()) if Path(data).exists() else data


def prepare(folder: Path, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise ValueError("--resume continues a run and --overwrite replaces it: give only one of them")
    used = (folder / "checkpoint.pt").exists() or (folder / "best.pt").exists()
    if resume and not (folder / "checkpoint.pt").exists():
        raise ValueError(f"--resume: no checkpoint.pt in {folder}; leave --resume out to start a run")
    if used and overwrite:
        weights, reports = ("checkpoint.pt", "best.pt"), ("results.json", "distill.json", "stages.json", "stages.png")
        for name in (*weights, "metrics.jsonl", *reports, "config.yaml"):
            (folder / name).unlink(missing_ok=True)
    elif used and not resume:
        raise ValueError(f"{folder} already holds a run; give --resume, --overwrite or another --out")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out must be a folder, {folder} is a file")
    folder.mkdir(parents=True, exist_ok=True)


def where_it_stands(trainer) -> str:
    if trainer.finished is not None:
        return f"this run is finished: {trainer.finished}. Its results again:"
    return f"resuming at epoch {trainer.epoch + 1}, batch {trainer.batch + 1}"


def load_task(run: Path, data: str | None, device: torch.device, batch_size: int | None, *, label: str | None = None):
    """The link task of a finished run with its weights and memory, and the state of its checkpoint."""
    from gnnaccel.data.registry import load
    from gnnaccel.train.checkpoint import load_best
    from gnnaccel.train.link import LinkTask
    from gnnaccel.train.trainer import check_fits, config_of

    path, state = load_best(run)
    name = data or state["data"]["name"]
    events = load(name)
    if label is not None:  # the features stay those that the run was trained on
        events = replace(events, label=load(name, label=label).label)
    task = LinkTask.create(config_of(state), events, device)
    check_fits(state, task, path)
    if batch_size:
        task.config.eval.batch_size = batch_size
    task.model.load_state_dict(state["model"])
    return task, state


def _read_queries(path: Path, events, need_dst: bool):
    """Queries of a CSV as tensors of contiguous ids; an unknown id is named with its row."""
    import pyarrow.csv

    if not path.is_file():
        raise ValueError(f"--input: no file {path}")
    try:
        table = pyarrow.csv.read_csv(path)
    except Exception as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    names = ["src", "dst", "t"] if need_dst else ["src", "t"]
    for name in names:
        if name not in table.column_names:
            raise ValueError(f"{path} needs columns {','.join(names)}, it has {','.join(table.column_names)}")

    def rows_of(name: str) -> torch.Tensor:
        values = table[name].to_numpy()
        try:
            return events.lookup(values, side=name)
        except KeyError as error:
            unknown = str(error.args[0])
            row = next((i for i, v in enumerate(values) if unknown.endswith(f" {v} in {events.name}")), None)
            at = f"column {name}" if row is None else f"row {row + 1}, column {name}"
            raise ValueError(f"{path}, {at}: {unknown.removeprefix('lookup: ')}") from None

    t = table["t"].to_numpy()
    if t.dtype.kind not in "iuf" or not np.isfinite(t).all():
        raise ValueError(f"{path}: column t must hold finite numbers in the unit of the data")
    times = torch.from_numpy(np.array(t))  # a copy: Arrow's memory is read-only
    if not events.t.dtype.is_floating_point and t.dtype.kind == "f":
        times = torch.from_numpy(np.ceil(t))  # nothing happens between ticks: t' < 1.5 is t' < 2
    times = times.to(events.t.dtype)
    return rows_of("src"), rows_of("dst") if need_dst else times.new_empty(0), times


def _write_csv(columns: dict[str, np.ndarray], to: Path | None) -> None:
    import pyarrow as pa
    import pyarrow.csv

    table = pa.table(columns)
    if to is None:
        pyarrow.csv.write_csv(table, sys.stdout.buffer)
        return
    temporary = to.with_name(f".{to.name}.tmp")
    try:
        pyarrow.csv.write_csv(table, temporary)
        shutil.move(temporary, to)
    finally:
        temporary.unlink(missing_ok=True)
    err.print(f"{table.num_rows:,} rows in {to}", highlight=False)
