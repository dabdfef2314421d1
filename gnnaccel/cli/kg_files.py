"""`gnnaccel kg export` and `gnnaccel kg import`: embeddings as files of other systems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gnnaccel.cli._common import say
from gnnaccel.cli.kg_query import Names, Run
from gnnaccel.cli.link import prepare, reference


def export(
    run: Run,
    to: Annotated[Path, typer.Option("--out", "-o", help="Folder (npy) or file to write.")],
    format: Annotated[str, typer.Option("--format", help="npy, safetensors or word2vec.")] = "npy",
    table: Annotated[str, typer.Option("--table", help="word2vec: entity or relation.")] = "entity",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Write the embeddings of a run for other programs, with names.

    npy: a folder of entity.npy, relation.npy, names and model.json. safetensors: all tables in one file. word2vec: one table as
    text, blanks in names as _.

    Examples:

        gnnaccel kg export runs/complex-umls-0 --out vectors

        gnnaccel kg export runs/complex-umls-0 --format safetensors --out complex.safetensors

        gnnaccel kg export runs/complex-umls-0 --format word2vec --table relation --out relations.txt
    """
    from gnnaccel.models.kge_export import EXPORTS, export_word2vec
    from gnnaccel.train.kg import load_kg_run

    if format not in EXPORTS:
        raise ValueError(f"--format must be one of {', '.join(EXPORTS)}, got {format!r}")
    if to.exists() and not overwrite:
        raise ValueError(f"{to} exists; give --overwrite or another --out")
    if to.exists() and to.is_dir() != (format == "npy"):
        raise ValueError(f"--out must be a {'folder' if format == 'npy' else 'file'} for {format}, {to} is not")
    model, _, _ = load_kg_run(run)
    names = Names(run if run.is_dir() else run.parent, model.num_entities, model.num_relations).tables
    given = {"entities": names["entity"], "relations": names["relation"]}
    if format == "word2vec":
        files = export_word2vec(model, to, table=table, **given)
    else:
        files = EXPORTS[format](model, to, **given)
    for file in files:
        say(f"{file} ({file.stat().st_size / 2**20:,.1f} MiB)")


def import_(
    source: Annotated[Path, typer.Argument(help="Folder that DGL-KE saved, or file of a PyKEEN model's state_dict.")],
    data: Annotated[str, typer.Option("--data", help="The graph it was trained on: a name, file or folder.")],
    to: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run to make.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="PyKEEN: transe_l1, transe_l2, distmult, complex, rescal, simple, rotate or transr."
        ),
    ] = None,
    triples: Annotated[
        Path | None, typer.Option("--triples", help="PyKEEN: its training_triples, which has the names.")
    ] = None,
    inverse: Annotated[
        bool | None, typer.Option("--inverse/--no-inverse", help="PyKEEN: has inverse relations.")
    ] = None,
    other_scores: Annotated[
        bool, typer.Option("--other-scores", help="PyKEEN: take rotate and transr, whose scores will differ here.")
    ] = False,
    columns: Annotated[str | None, typer.Option("--columns", help="Order of the columns of --data.")] = None,
    format: Annotated[str | None, typer.Option("--format", help="Format of --data; found out by default.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
) -> None:
    """Make a run of a checkpoint of DGL-KE or PyKEEN, to evaluate it and ask it here.

    Rows go by name to the ids of --data; a checkpoint without names must have the ids of --data. Nothing that could run code
    is loaded: of PyKEEN give a saved state_dict, not trained_model.pkl.

    Examples:

        gnnaccel kg import ckpts/ComplEx_FB15k_0 --data path/to/FB15k --out runs/dglke-complex

        gnnaccel kg import state.pt --model distmult --triples results/training_triples --data umls --out runs/pykeen

        gnnaccel kg eval runs/dglke-complex
    """
    from gnnaccel.cli.kg import load_graph, reading_options
    from gnnaccel.models.kge_import import import_dglke, import_pykeen
    from gnnaccel.train.kg.imported import fit_to, save_imported

    if source.is_dir() and (model or triples or inverse is not None or other_scores):
        raise ValueError(
            "--model, --triples, --inverse and --other-scores are for a file of PyKEEN; DGL-KE's folder says all"
        )
    if not source.exists():
        raise ValueError(f"no file or folder {source}")
    if not overwrite:
        prepare(to, False, False)
    reading = reading_options(columns, format, None)
    kg = load_graph(data, reading)
    if source.is_dir():
        found = import_dglke(source)
    else:
        found = import_pykeen(source, model, triples=triples, inverse=inverse, strict=not other_scores)
    fitted = fit_to(found, kg)
    prepare(to, False, overwrite)  # only now, so that a failure leaves the old run
    config = save_imported(fitted, kg, to, data=reference(data), reading=reading)
    by = "by name" if found.entities is not None else "by id"
    say(
        f"{config.model.name} of width {config.model.dim} for {kg.name}, rows matched {by}; next: gnnaccel kg eval {to}"
    )
