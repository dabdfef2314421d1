"""`gnnaccel classify`: labels of events from the embeddings of a trained model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.table import Table

from gnnaccel.cli._common import err, out, pick_device
from gnnaccel.cli.link import (
    Device,
    Quiet,
    Threads,
    bar,
    load_task,
    prepare,
    reference,
    set_threads,
    title_of,
    where_it_stands,
)

# a classifier on embeddings that are there is quick to train: other settings than those of the run
FROZEN = {"epochs": 100, "batch_size": 1000, "learning_rate": 1e-3, "patience": 10}
FROZEN |= {"chunks": 1, "exact": False, "staleness": 0, "lookahead": 0}


def classify(
    run: Annotated[Path, typer.Argument(help="Folder of a trained link-prediction run, or a best.pt.")],
    kind: Annotated[str, typer.Option("--task", help="node: the source's state; edge: the event's class.")] = "node",
    label: Annotated[str | None, typer.Option("--label", help="Column of the labels; 'label' by default.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="Same data at another place.")] = None,
    end_to_end: Annotated[
        bool, typer.Option("--end-to-end", help="Train the temporal model on, on links and labels together.")
    ] = False,
    sees_event: Annotated[
        bool, typer.Option("--sees-event", help="Let a label see its own event: the other end, its features.")
    ] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Setting as key=value, e.g. train.epochs=3; repeatable.")
    ] = None,
    to: Annotated[Path | None, typer.Option("--out", help="Folder of results; RUN/TASK by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue in --out where it stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON instead of a table.")] = False,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Tell the label of each event from what was known just before it.

    The trained model of RUN embeds the nodes of every event from the events before it; a classifier learns the labels of
    the training part, stops by the validation part, and is judged on the whole test part, beside what can be told without
    a temporal model.

    Examples:

        gnnaccel classify runs/tgn-wikipedia-0 --task node

        gnnaccel classify runs/mine --task edge --json

        gnnaccel classify runs/mine --task node --label state --end-to-end --set train.epochs=5
    """
    from gnnaccel.train.classify import FrozenTask, JointTask, collect_embeddings
    from gnnaccel.train.label_baselines import baselines
    from gnnaccel.train.labels import read_labels
    from gnnaccel.train.trainer import Interrupted, Trainer, TrainingError, plain

    if kind not in ("node", "edge"):
        raise ValueError(f"--task must be node or edge, got {kind!r}")
    set_threads(threads)
    where = pick_device(device)
    link, state = load_task(run, data, where, None, label=label)
    if link.config.model.name == "edgebank":
        raise ValueError("EdgeBank has no embeddings to tell labels from; give the run of another model")
    read_labels(link.events, link.split)  # before anything is written
    config = _settings(link.config, kind, sees_event, end_to_end, settings or [])
    home = run if run.is_dir() else run.parent
    folder = to or home / (f"{kind}-end-to-end" if end_to_end else kind)
    prepare(folder, resume, overwrite)
    task: Any
    if end_to_end:
        task = JointTask.create(config, link.events, where)
        fresh = {k: v for k, v in task.model.state_dict().items() if k.startswith("classifier.")}
        task.model.load_state_dict({**state["model"], **fresh})
        task.reset()
    else:
        with bar("embedding", len(link.events), quiet) as shown:
            rows = collect_embeddings(
                link, folder / "embeddings.npy", both=kind == "edge" or sees_event, progress=shown
            )
        task = FrozenTask.create(config, link.events, link.split, rows, where)
    name = reference(data) if data else state["data"]["name"]
    trainer = Trainer(task, folder, data=name, progress=not quiet, notify=lambda line: err.print(line, highlight=False))
    if resume:
        trainer.resume()
        err.print(where_it_stands(trainer), highlight=False)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(), sort_keys=False), "utf-8")
    try:
        results = trainer.fit()
    except Interrupted as stop:
        err.print(f"{stop}; continue with --out {folder} --resume", highlight=False)
        raise typer.Exit(130) from None
    except TrainingError as error:
        raise ValueError(str(error)) from None
    if not quiet:
        err.print("fitting the baselines", highlight=False)
    results["run"] = str(run)
    results["baselines"] = baselines(link.events, link.split, task.labels, kind)
    _write(folder / "results.json", json.dumps(plain(results), indent=2) + "\n")
    for leftover in ("embeddings.npy", "embeddings.json"):
        (folder / leftover).unlink(missing_ok=True)
    if as_json:
        print(json.dumps(plain(results), indent=2))
    else:
        out.print(classes_table(results, f"{results['model']} on {title_of(name)}: {kind} labels, test"))
        out.print(f"results in {folder}", highlight=False)


def _settings(base: Any, kind: str, sees_event: bool, end_to_end: bool, settings: list[str]) -> Any:
    from gnnaccel.train.config import override

    values = base.model_dump()
    if not end_to_end:
        values["train"] |= FROZEN
    values["classify"] |= {"task": kind, "sees_event": sees_event, "end_to_end": end_to_end}
    config = override(values, settings)
    c = config.classify
    if (c.task, c.sees_event, c.end_to_end) != (kind, sees_event, end_to_end):
        raise ValueError(
            "--set cannot change classify.task, classify.sees_event or classify.end_to_end: use the options"
        )
    # what the model of the run was built and judged with stays
    fixed = [s for s in type(base).model_fields if s not in ("train", "classify")]
    for section in fixed:
        if getattr(config, section) != getattr(base, section):
            raise ValueError(f"--set {section}.*: the model is that of the run; only train.* and classify.* can be set")
    return config


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, path)


def classes_table(results: dict[str, Any], title: str) -> Table:
    """The classifier beside the baselines, and what it made of each class."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("")
    columns = [k for k in ("auc", "ap", "accuracy", "macro_f1") if f"test_{k}" in results]
    for column in columns:
        name = {"auc": "AUC", "ap": "PR-AUC", "macro_f1": "macro F1"}.get(column, column)
        table.add_column(name, justify="right")
    known = {"prior": "class prior", "static": "static features", "activity": "counts of earlier events"}
    rows = [("this", {k: results[f"test_{k}"] for k in columns})]
    rows += [(known[name], metrics) for name, metrics in results["baselines"].items()]
    for name, metrics in rows:
        table.add_row(name, *(f"{metrics[k]:.4f}" if metrics[k] == metrics[k] else "-" for k in columns))
    each = results["test_per_class"]
    if len(each) <= 10:
        shown = "; ".join(f"{k}: F1 {v['f1']:.3f} of {v['support']:,}" for k, v in each.items())
        table.caption = f"by class: {shown}"
    return table
