"""Test metrics and time of every knowledge-graph preset: `python -m gnnaccel.bench.kg_models`.

Presets are trained as `gnnaccel kg train` does and ranked on the whole test split. Runs that the JSON already has are not run
again.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import yaml
from rich.console import Console

from gnnaccel.bench._stream import write_json
from gnnaccel.bench.device import environment

Run = dict[str, Any]
METRICS = ("mrr", "hits@1", "hits@3", "hits@10", "mr", "amri")
BEGIN, END = "<!-- kg-results:begin -->", "<!-- kg-results:end -->"


def train(model: str, kg: Any, overrides: list[str], say: Any) -> Run:
    """One run from start to test, with the whole time that it took."""
    from gnnaccel.train.kg import KGTrainer, load_kg_config

    config = load_kg_config(model, kg.name, overrides=overrides)
    with tempfile.TemporaryDirectory() as folder:
        trainer = KGTrainer(config, kg, folder, progress=False, notify=lambda line: say(f"{kg.name} {model}: {line}"))
        return {"overrides": overrides, **figures(trainer.fit(), kg.name)}


def figures(found: dict[str, Any], name: str) -> Run:
    """What is kept of the results of a run."""
    keep = ("model", "dim", "seed", "steps", "best_step", "threads", "val_mrr")
    return {
        "data": name,
        **{k: found.get(k) for k in keep},
        "minutes": found["seconds"] / 60,
        **{k: found[f"test_{k}"] for k in METRICS},
        "sides": {side: found[f"test_{side}"] for side in ("head", "tail")},
    }


def read_run(folder: Path) -> Run:
    """The figures of a run that `gnnaccel kg train` has finished.

    Raises:
        ValueError: It is not finished, or not made with a preset as it is.
    """
    from gnnaccel.train.kg import load_kg_config, validate_kg

    if not (folder / "results.json").is_file():
        raise ValueError(f"--run: {folder} holds no results.json: the run is not finished")
    found = json.loads((folder / "results.json").read_text("utf-8"))
    name = Path(found["data"]).name
    config = validate_kg(yaml.safe_load((folder / "config.yaml").read_text("utf-8"))).model_dump()
    preset = load_kg_config(found["model"], name).model_dump()
    changes_nothing = ("train.lookahead", "train.checkpoint_seconds", "train.checkpoint_steps")
    for section, values in preset.items():
        for key, value in values.items():
            place = f"{section}.{key}"
            if config[section][key] != value and place not in changes_nothing:
                raise ValueError(
                    f"--run: {folder} was made with {place}={config[section][key]}, the preset has {value}"
                )
    return {"overrides": [], **figures(found, name)}


def table(runs: list[Run]) -> str:
    """Runs as a Markdown table, by data set, the best first."""
    lines = [
        "| data | model | dim | MRR | Hits@1 | Hits@3 | Hits@10 | mean rank | minutes of training | threads |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    names = list(dict.fromkeys(run["data"] for run in runs))
    for run in sorted(runs, key=lambda r: (names.index(r["data"]), -r["mrr"])):
        figures = " | ".join(f"{run[k]:.3f}" for k in ("mrr", "hits@1", "hits@3", "hits@10"))
        lines.append(
            f"| {run['data']} | `{run['model']}` | {run['dim']} | {figures} | {run['mr']:.1f} | {run['minutes']:.1f} | "
            f"{run['threads']} |"
        )
    return "\n".join(lines)


def fill(page: Path, text: str) -> None:
    """Put `text` between the marks of a page.

    Raises:
        ValueError: The page has no marks.
    """
    before, begin, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"--into: {page} must have the lines {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")


def models(
    data: Annotated[list[str] | None, typer.Option(help="Names or paths of knowledge graphs; repeatable.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only these models; repeatable.")] = None,
    run: Annotated[
        list[Path] | None, typer.Option(help="Finished run of a preset, to add instead of training it; repeatable.")
    ] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Setting laid over every preset.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="File of runs to add to.")] = None,
    into: Annotated[Path | None, typer.Option(help="Markdown page whose marked lines are written anew.")] = None,
) -> None:
    """Train the presets of knowledge graphs, rank their test triples, and keep the figures.

    Examples:

        python -m gnnaccel.bench.kg_models --data synthetic-kg --model rotate

        python -m gnnaccel.bench.kg_models --data path/to/umls --json runs.json --into docs/kg.md
    """
    from gnnaccel.data.kg import load
    from gnnaccel.train.allocator import keep_freed_memory
    from gnnaccel.train.kg import kg_presets

    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    err, document = Console(stderr=True), {"environment": environment(torch.device("cpu")), "runs": []}
    if json_file is not None and json_file.exists():
        document["runs"] = json.loads(json_file.read_text("utf-8"))["runs"]
    runs: list[Run] = document["runs"]
    done = {(run["data"], run["model"]) for run in runs}
    presets = kg_presets()
    for folder in run or []:
        added = read_run(folder)
        runs[:] = [r for r in runs if (r["data"], r["model"]) != (added["data"], added["model"])] + [added]
        write_json(json_file, document)
    for name in data or []:
        kg = load(name)
        tuned = [m for m, sets in presets.items() if kg.name in sets] or list(presets)
        for wanted in model or tuned:
            if (kg.name, wanted) in done:
                continue
            runs.append(train(wanted, kg, settings or [], lambda line: err.print(line, highlight=False)))
            write_json(json_file, document)
    if into is not None:
        fill(into, table(runs))
    print(table(runs))


if __name__ == "__main__":
    typer.run(models)
