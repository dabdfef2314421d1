"""Test accuracy and time of every reference model, with EdgeBank beside them: `python -m gnnaccel.bench.models`.

Every model gets the same split, negatives, batch, epochs, step size and choice of the best epoch, and both decoders: `mlp`,
which scores two embeddings, and `pair`, which also sees whether the two have met. Runs that the JSON already has are not run
again.
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

MODELS = ("tgn", "tgn-2layer", "tgat", "jodie", "dysat", "apan", "graphmixer")
DECODERS = ("mlp", "pair")
METRICS = ("test_ap", "test_auc", "test_mrr", "test_ap_historical")
Run = dict[str, Any]


def key_of(run: Run) -> tuple[Any, ...]:
    return run["data"], run["model"], run["decoder"], run["seed"]


def train(model: str, decoder: str, seed: int, events: Any, overrides: list[str], say: Any) -> Run:
    """One run from start to test."""
    from gnnaccel.train.config import load_config
    from gnnaccel.train.link import LinkTask
    from gnnaccel.train.trainer import Trainer

    settings = [*overrides, f"train.seed={seed}", f"decoder.kind={decoder}"]
    if model == "edgebank":
        settings = [f"train.seed={seed}"]
    config = load_config(model, overrides=settings)
    with tempfile.TemporaryDirectory() as folder:
        task = LinkTask.create(config, events, "cpu")
        found = Trainer(task, folder, progress=False, notify=lambda line: say(f"{model} {decoder}: {line}")).fit()
    keep = (*METRICS, "val_ap", "epochs", "best_epoch")
    parameters = sum(p.numel() for p in getattr(task.model, "parameters", list)() if p.requires_grad)
    return {"model": model, "decoder": decoder, "seed": seed, **{k: found[k] for k in keep}, "parameters": parameters}


def seconds_an_epoch(model: str, decoder: str, events: Any, overrides: list[str]) -> float:
    """Time of one training epoch, the second one."""
    from gnnaccel.train.config import load_config
    from gnnaccel.train.link import LinkTask
    from gnnaccel.train.trainer import StageTimer, make_optimizer, train_step

    task = LinkTask.create(load_config(model, overrides=[*overrides, f"decoder.kind={decoder}"]), events, "cpu")
    optimizer, timer = make_optimizer(task), StageTimer(False)
    task.model.train()
    for i, part in task.steps(slice(0, 20 * task.config.train.batch_size), task.config.train.batch_size):
        train_step(task, optimizer, part, 0, i, timer)
    task.reset()
    start = time.perf_counter()
    for i, part in task.steps(task.split.train, task.config.train.batch_size):
        train_step(task, optimizer, part, 0, i, timer)
    return time.perf_counter() - start


def page(document: dict[str, Any]) -> str:
    """The tables of docs/results.md."""
    setting = document["protocol"]
    lines = [
        "# Results of the reference models",
        "",
        f"Test part of each stream (the last 15% of the time), {setting['epochs']} epochs at most at batch "
        f"{setting['batch_size']}, Adam at {setting['learning_rate']}, best epoch by validation AP. AP and AUC: against one "
        f"random destination an event. MRR: against {setting['negatives']} random destinations, ties share the average rank. "
        "Old AP: against one former destination of the same source. The deviation is that over seeds. Seconds: one "
        "training epoch on "
        f"{document['environment'].get('cpu', 'a CPU')}, {setting['threads']} thread{'s' * (setting['threads'] > 1)}.",
        "",
        f"Regenerate with `python -m gnnaccel.bench.models --epochs {setting['epochs']} "
        "--json bench/results/cpu-2t/models.json --into docs/results.md`.",
        "",
    ]
    runs: list[Run] = document["runs"]
    for data in dict.fromkeys(run["data"] for run in runs):
        lines += [f"## {data}", ""]
        lines += ["| model | decoder | AP | AUC | MRR | old AP | s an epoch | seeds |", "| --- | --- |" + " ---: |" * 6]
        groups: dict[tuple[str, str], list[Run]] = {}
        for run in runs:
            if run["data"] == data:
                groups.setdefault((run["model"], run["decoder"]), []).append(run)
        for (model, decoder), group in groups.items():
            cells = [_mean([run[m] for run in group]) for m in METRICS]
            seconds = document["seconds"].get(f"{data}/{model}/{decoder}")
            cells += ["-" if seconds is None else f"{seconds:.1f}", str(len(group))]
            lines.append(f"| {model} | {decoder if model != 'edgebank' else '-'} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _mean(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{spread}"


def models(
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="Data sets; by default wikipedia and, which is not fetched, collegemsg."),
    ] = None,
    model: Annotated[list[str] | None, typer.Option("--model", help="Models; all by default.")] = None,
    decoder: Annotated[list[str] | None, typer.Option("--decoder", help="mlp, pair; both by default.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of TGN; the others have one.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training events, at most.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Events a batch.")] = 200,
    learning_rate: Annotated[float, typer.Option(help="Adam's step size.")] = 1e-3,
    time_only: Annotated[bool, typer.Option("--time-only", help="Measure the seconds of runs that are there.")] = False,
    accuracy_only: Annotated[bool, typer.Option("--accuracy-only", help="Do not measure seconds.")] = False,
    json_file: Annotated[
        Path, typer.Option("--json", help="Results, written after each run; those in it are kept.")
    ] = Path("bench/results/cpu-2t/models.json"),
    into: Annotated[Path | None, typer.Option(help="Markdown page to write.")] = None,
) -> None:
    """Train all reference models, test them beside EdgeBank, write the table.

    Examples:

        python -m gnnaccel.bench.models --into docs/results.md

        python -m gnnaccel.bench.models --data my/edges.csv --model tgn --json mine.json --into mine.md
    """
    from gnnaccel.data import load

    console = Console(stderr=True)
    document: dict[str, Any] = {"runs": [], "seconds": {}}
    if json_file.exists():
        document = json.loads(json_file.read_text("utf-8"))
    protocol = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "negatives": 100,
        "threads": torch.get_num_threads(),
    }
    earlier = dict(document.get("protocol", protocol))
    if not document["seconds"]:
        earlier["threads"] = protocol["threads"]  # nothing was timed, and accuracy does not depend on them
    for unused, key in ((accuracy_only, "threads"), (time_only, "epochs")):
        if unused:
            protocol[key] = earlier[key]
    if differing := [k for k, v in protocol.items() if earlier.get(k) != v]:
        k = differing[0]
        raise typer.BadParameter(f"--json: {json_file} holds runs with {k} {earlier.get(k)}; name another file")
    document |= {"environment": environment(torch.device("cpu")), "protocol": protocol}
    base = [f"train.epochs={epochs}", f"train.batch_size={batch_size}", f"train.learning_rate={learning_rate}"]
    known = {key_of(run) for run in document["runs"]}
    for name in data or ("wikipedia", "collegemsg"):
        events = load(name)
        wanted = [(m, d) for d in decoder or DECODERS for m in model or MODELS]
        if not time_only:
            for m, d in [("edgebank", "-"), *wanted]:
                for seed in range(seeds if m == "tgn" else 1):
                    if (events.name, m, d, seed) in known:
                        continue
                    say = lambda line: console.print(line, style="dim", highlight=False)  # noqa: E731
                    document["runs"].append({"data": events.name, **train(m, d, seed, events, base, say)})
                    write_json(json_file, document)
        for m, d in wanted:
            if accuracy_only:
                break
            place = f"{events.name}/{m}/{d}"
            if time_only or place not in document["seconds"]:
                document["seconds"][place] = round(seconds_an_epoch(m, d, events, base), 2)
                console.print(f"{place}: {document['seconds'][place]} s an epoch", highlight=False)
                write_json(json_file, document)
    streams, order = list(dict.fromkeys(r["data"] for r in document["runs"])), ["edgebank", *MODELS]
    document["runs"].sort(
        key=lambda r: (
            streams.index(r["data"]),
            r["decoder"],
            order.index(r["model"]) if r["model"] in order else len(order),
            r["seed"],
        )
    )
    write_json(json_file, document)
    if into is not None:
        text = into.read_text("utf-8") if into.exists() else ""
        notes = text.partition("\n<!-- notes -->\n")[2]
        into.write_text(page(document) + ("\n<!-- notes -->\n" + notes if notes else ""), "utf-8")


if __name__ == "__main__":
    typer.run(models)
