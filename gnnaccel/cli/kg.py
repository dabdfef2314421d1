"""`gnnaccel kg`: train and evaluate knowledge-graph embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.markup import escape
from rich.table import Table
from tqdm import tqdm

from gnnaccel.cli import kg_files, kg_partition, kg_query
from gnnaccel.cli._common import out, pick_device, say
from gnnaccel.cli.link import Device, Quiet, Threads, prepare, reference, set_threads, title_of

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Knowledge-graph embeddings: train, evaluate, predict, compare, partition.",
    epilog="Start with: [bold]gnnaccel kg train rotate --data synthetic-kg[/bold]",
)

Data = Annotated[
    str,
    typer.Option("--data", help="A name (gnnaccel kg presets; synthetic-kg), or a file or folder of triples."),
]
Columns = Annotated[
    str | None, typer.Option("--columns", help="Order of the columns: hrt (default), htr, ...; hrtw: and a weight.")
]
Format = Annotated[
    str | None, typer.Option("--format", help="raw, names, ids, openke, raw_udd_hrt, udd_hrt; found out by default.")
]
Duplicates = Annotated[
    str | None, typer.Option("--duplicates", help="Triples that a split holds again: keep (default), drop or error.")
]
AllowEmpty = Annotated[bool, typer.Option("--allow-empty", help="A file of valid or test may hold nothing.")]


@app.command("train")
def train(
    model: Annotated[
        str | None,
        typer.Argument(help="transe_l1, transe_l2, distmult, complex, rotate, rescal, transr or simple."),
    ] = None,
    data: Data = "synthetic-kg",
    columns: Columns = None,
    format: Format = None,
    duplicates: Duplicates = None,
    allow_empty: AllowEmpty = False,
    config: Annotated[Path | None, typer.Option(help="YAML file laid over the preset.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Setting as key=value, e.g. model.dim=200; repeatable.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help="Preset tuned for this data set, or none; by default that of the data."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--out", help="Folder of the run; runs/MODEL-DATA-SEED by default.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out where it stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    list_settings: Annotated[bool, typer.Option("--list-settings", help="Print every setting and stop.")] = False,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Train embeddings of a knowledge graph, and rank its test triples.

    Examples:

        gnnaccel kg train rotate --data synthetic-kg

        gnnaccel kg train complex --data path/to/fb15k-237 --out runs/complex

        gnnaccel kg train transe_l2 --data path/to/triples.tsv --columns htr --set model.dim=200 --set train.epochs=50

        gnnaccel kg train complex --data path/to/fb15k-237 --out runs/complex --resume
    """
    from gnnaccel.train.allocator import keep_freed_memory
    from gnnaccel.train.kg import KGTrainer, describe_kg, kg_presets, load_kg_config
    from gnnaccel.train.trainer import Interrupted, TrainingError

    if list_settings:
        table = Table("setting", "default", "meaning")
        for row in describe_kg():
            table.add_row(*row)
        out.print(table)
        return
    if model is None:
        raise ValueError("no model: name one, e.g. gnnaccel kg train rotate --data synthetic-kg")
    reading = reading_options(columns, format, duplicates, allow_empty)
    kg = load_graph(data, reading)
    settings_used = load_kg_config(model, preset or kg.name, config, settings or [])
    if preset not in (None, "none", *(tuned := kg_presets()[model])):
        raise ValueError(f"--preset must be none or one of {model}'s, {', '.join(tuned)}, got {preset!r}")
    set_threads(threads)
    place = pick_device(device)
    keep_freed_memory()
    folder = to or Path("runs") / f"{model}-{title_of(data).replace(':', '-')}-{settings_used.train.seed}"
    say(describe_graph(kg))
    try:
        trainer = KGTrainer(
            settings_used,
            kg,
            folder,
            device=place,
            data=reference(data),
            reading=reading,
            progress=not quiet,
            notify=say,
        )
    except ImportError as error:  # pymetis
        raise ValueError(str(error)) from None
    prepare(folder, resume, overwrite)  # only now, so that a failure leaves the old run
    if resume:
        trainer.resume()
        stands = trainer.finished
        say(
            f"resuming at step {trainer.next + 1}"
            if stands is None
            else f"this run is finished: {stands}. Its results again:"
        )
    (folder / "config.yaml").write_text(yaml.safe_dump(settings_used.model_dump(), sort_keys=False), "utf-8")
    try:
        results = trainer.fit()
    except Interrupted as stop:
        say(f"{stop}; continue with --out {folder} --resume")
        raise typer.Exit(130) from None
    except TrainingError as error:
        raise ValueError(str(error)) from None
    if "test_mrr" in results:
        out.print(metrics_table(strip(results, "test_"), f"{model} on {title_of(data)}: test"))
    say(f"{results['seconds']:.0f} s of training; results in {folder}", out)


@app.command("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or its best.pt.")],
    data: Annotated[str | None, typer.Option("--data", help="Same data at another place.")] = None,
    split: Annotated[str, typer.Option("--split", help="test, valid or train.")] = "test",
    raw: Annotated[bool, typer.Option("--raw", help="Other known answers compete too.")] = False,
    ties: Annotated[str, typer.Option("--ties", help="realistic, optimistic or pessimistic.")] = "realistic",
    unseen: Annotated[
        str, typer.Option("--unseen", help="Triples of entities that training has not seen: rank or drop.")
    ] = "rank",
    batch_size: Annotated[int, typer.Option(min=1, help="Triples ranked at a time.")] = 4096,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    device: Device = "auto",
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Rank triples among all entities: MRR, MR, Hits@k, adjusted mean rank index; by side and relation category.

    Examples:

        gnnaccel kg eval runs/complex-fb15k-237-0

        gnnaccel kg eval runs/complex-fb15k-237-0 --split valid --raw --json
    """
    from gnnaccel.data.kg import SPLITS
    from gnnaccel.train.kg import evaluate as rank
    from gnnaccel.train.kg import load_kg_run
    from gnnaccel.train.kg.evaluate import TIES
    from gnnaccel.train.trainer import plain

    for name, value, choices in (
        ("split", split, SPLITS), ("ties", ties, TIES), ("unseen", unseen, ("rank", "drop")),
    ):  # fmt: skip
        if value not in choices:
            raise ValueError(f"--{name} must be {', '.join(choices[:-1])} or {choices[-1]}, got {value!r}")
    set_threads(threads)
    model, config, state = load_kg_run(run, pick_device(device))
    kg = graph_of(state, data, run)
    with tqdm(
        total=2 * len(kg.split(split)),
        desc="ranking",
        unit=" triples",
        unit_scale=True,
        leave=False,
        dynamic_ncols=True,
        disable=quiet,
    ) as bar:
        results = rank(
            model,
            kg,
            split,
            filtered=not raw,
            ties=ties,
            batch_size=batch_size,
            unseen=unseen,
            details=True,
            progress=bar,
        )
    if as_json:
        print(json.dumps(plain({"split": split, "filtered": not raw, "tie_rule": ties, **results}), indent=2))
        return
    where = title_of(data or state["data"]["name"])
    out.print(metrics_table(results, f"{config.model.name} on {where}: {split}{', raw' if raw else ''}"))


@app.command("presets")
def presets() -> None:
    """List the tuned presets and what to expect of each.

    Example:

        gnnaccel kg presets
    """
    from gnnaccel.train.kg import kg_presets

    table = Table("model", "data", "filtered test MRR", "Hits@10", "training minutes, one core", "note")
    for model, sets in kg_presets().items():
        for data, expect in sorted(sets.items(), key=lambda item: item[0] == "default"):
            cells = ["", "", "", ""]
            if expect is not None:
                numbers = [(expect.mrr, ".3f"), (expect.hits_at_10, ".3f"), (expect.minutes, ".1f")]
                cells = ["" if v is None else f"{v:{form}}" for v, form in numbers] + [expect.note or ""]
            table.add_row(model, "any other" if data == "default" else data, *cells)
    out.print(table)


app.command("predict")(kg_query.predict)
app.command("similar")(kg_query.similar)
app.command("export")(kg_files.export)
app.command("import")(kg_files.import_)
app.command("partition")(kg_partition.partition)


def reading_options(
    columns: str | None, format: str | None, duplicates: str | None = None, allow_empty: bool = False
) -> dict[str, Any]:
    """Options of `read_kg` that were given."""
    options: dict[str, Any] = {"format": format, "duplicates": duplicates, "allow_empty": allow_empty or None}
    if columns is not None:
        if sorted(columns.removesuffix("w")) != ["h", "r", "t"]:
            raise ValueError(f"--columns must be h, r and t in some order, and perhaps w at the end, got {columns!r}")
        options |= {"order": columns.removesuffix("w"), "weight": True if columns.endswith("w") else None}
    return {k: v for k, v in options.items() if v is not None}


def load_graph(data: str, reading: dict[str, Any]) -> Any:
    """A knowledge graph by name or path; options of reading are for files only."""
    from gnnaccel.data.kg import load

    if reading and data.startswith("synthetic-kg") and not Path(data).exists():
        option = "columns" if "order" in reading else next(iter(reading)).replace("_", "-")
        raise ValueError(f"--{option} is for files, not for {data}")
    return load(data, **reading)


def graph_of(state: dict[str, Any], data: str | None, run: Path) -> Any:
    """The graph that a run was trained on, from where it was or from `data`."""
    from gnnaccel.train.kg.trainer import check_kg_fits

    name = data or state["data"]["name"]
    if data is None and Path(name).is_absolute() and not Path(name).exists():
        raise ValueError(f"{run} was trained on {name}, which is not there; name its place by --data")
    kg = load_graph(name, state["data"]["reading"])
    check_kg_fits(state, kg, run)
    return kg


def describe_graph(kg: Any) -> str:
    sizes = " / ".join(f"{len(s):,}" for s in (kg.train, kg.valid, kg.test))
    text = f"{kg.name}: {kg.num_entities:,} entities, {kg.num_relations:,} relations, {sizes} triples"
    summary = kg.summary()
    odd = [f"{n} repeated in {split}" for split, n in summary["duplicates"].items() if n]
    odd += [f"{n} of {split} also in train" for split, n in summary["in_train"].items() if n]
    if summary["entities_not_in_train"]:
        odd.append(f"{summary['entities_not_in_train']} entities not in train")
    if summary["relations_not_in_train"]:
        odd.append(f"{summary['relations_not_in_train']} relations without training triples")
    return text + (f" ({', '.join(odd)})" if odd else "")


def metrics_table(results: dict[str, Any], title: str) -> Table:
    """Both sides, each side, and relation categories as one table."""
    table = Table(title=escape(title), title_justify="left", caption_justify="left")
    table.add_column("triples")
    names = ("mrr", "hits@1", "hits@3", "hits@10", "mr", "amri")
    for name in names:
        table.add_column(
            name.upper() if name in ("mrr", "mr", "amri") else name.replace("hits", "Hits"), justify="right"
        )
    table.add_column("count", justify="right")

    def add(label: str, values: dict[str, float], count: int) -> None:
        table.add_row(label, *(f"{values[n]:.1f}" if n == "mr" else f"{values[n]:.4f}" for n in names), f"{count:,}")

    add("all", results, results["triples"])
    for side in ("head", "tail"):
        add(f"{side}s", results[side], results["triples"])
    for name, part in results["categories"].items():
        for side in ("head", "tail"):
            add(f"{name}, {side}s", part[side], part["triples"])
    if results["unseen"]:
        table.caption = f"{results['unseen']} triples have an entity or relation that no training triple has"
    return table


def strip(results: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in results.items() if k.startswith(prefix)}
