"""`gnnaccel leakcheck`: does a sampler or a model see what it should not?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from gnnaccel.cli._common import out


def leakcheck(
    sampler: Annotated[
        str | None,
        typer.Option(
            "--sampler",
            help="gnnaccel[:SEMANTICS[:STRATEGY]], pyg, my_file.py:make_sampler or package.module:make_sampler.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Folder of a run, a preset (with its initial weights), my_file.py:make_model or package.module:attr.",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Data set: a name or a file or folder; that of the run, or synthetic.")
    ] = None,
    semantics: Annotated[
        str | None, typer.Option(help="What may be seen: strict, inclusive, before_batch, by_event_id (models).")
    ] = None,
    neighbors: Annotated[int, typer.Option("-k", "--neighbors", min=1, help="Neighbours a root.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Events a batch.")] = 200,
    events: Annotated[
        int | None, typer.Option(min=10, help="Events to ask about; 20000 for samplers, 3000 for models.")
    ] = None,
    cuts: Annotated[int, typer.Option(min=1, help="Points of the stream whose future is changed.")] = 5,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, help="Samplers: AUC above 0.5 let pass (0.02). Models: difference of scores (0)."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Setting of a preset as key=value; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of negatives and changes.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Look for leaks: change the future, count neighbours, ask in another order. Exit code 1 if there is one.

    Samplers and models of your own need a few lines: see docs/leakcheck.md.

    Examples:

        gnnaccel leakcheck --sampler gnnaccel --data wikipedia

        gnnaccel leakcheck --sampler gnnaccel:tgl_compat --data wikipedia --batch-size 600

        gnnaccel leakcheck --sampler pyg --data wikipedia --json

        gnnaccel leakcheck --sampler my_sampler.py:make_sampler --data my/edges.csv

        gnnaccel leakcheck --model tgn --set data.semantics=strict

        gnnaccel leakcheck --model runs/tgn-wikipedia-0
    """
    from gnnaccel.data.registry import load
    from gnnaccel.leakcheck import check_model, check_sampler

    if (sampler is None) == (model is None):
        raise ValueError("leakcheck needs exactly one of --sampler and --model")
    if settings and (model is None or Path(model).exists() or ":" in model):
        raise ValueError("--set changes the settings of a preset: give --model with the name of one")
    source = data
    if sampler is not None:
        make, subject = _sampler(sampler, neighbors), sampler
    else:
        assert model is not None
        make, subject, of_run = _model(model, settings or [])
        source = data or of_run
    stream = load(source or "synthetic")
    common: dict[str, Any] = {
        "batch_size": batch_size,
        "semantics": semantics,
        "cuts": cuts,
        "seed": seed,
        "name": subject,
    }
    option = "--sampler" if sampler is not None else "--model"
    with (
        tqdm(unit=" events", unit_scale=True, leave=False, dynamic_ncols=True, disable=quiet) as bar,
        _told(option, subject),
    ):
        if sampler is not None:
            report = check_sampler(
                make,
                stream,
                k=neighbors,
                queries=events or 20_000,
                tolerance=0.02 if tolerance is None else tolerance,
                progress=bar,
                **common,
            )
        else:
            report = check_model(
                make, stream, queries=events or 3000, tolerance=tolerance or 0.0, progress=bar, **common
            )
    if as_json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        out.print(report.table())
    raise typer.Exit(1 if report.leaks else 0)


def _sampler(spec: str, neighbors: int) -> Callable[[Any], Any]:
    from gnnaccel.leakcheck import gnnaccel_sampler, pyg_sampler

    name, *more = spec.split(":")
    if name == "gnnaccel" and len(more) <= 2:
        return gnnaccel_sampler(*more)
    if spec == "pyg":
        return pyg_sampler(neighbors)
    return _own("--sampler", spec, "gnnaccel, pyg")


def _model(spec: str, settings: list[str]) -> tuple[Callable[[Any], Any], str, str | None]:
    from gnnaccel.leakcheck import model_of_run, model_of_task
    from gnnaccel.models import TemporalModel
    from gnnaccel.train.build import resolve_own
    from gnnaccel.train.config import load_config, preset_names

    if Path(spec).exists() and ":" not in spec:
        make, config, data = model_of_run(spec)
        return make, f"{config.model.name} of {spec}", data
    if spec in preset_names():
        return model_of_task(load_config(spec, None, settings)), spec, None
    if ":" in spec:
        own = resolve_own("--model", spec)
        if isinstance(own, type) and issubclass(own, TemporalModel):
            return model_of_task(load_config(spec)), spec, None
    return _own("--model", spec, f"a run's folder, {', '.join(preset_names())}"), spec, None


@contextmanager
def _told(option: str, subject: str) -> Iterator[None]:
    """An error in a user's own sampler or model is told in one line, not as a leak."""
    try:
        yield
    except Exception as error:
        if ":" not in subject or isinstance(error, ValueError):
            raise
        text = " ".join(str(error).split())
        raise ValueError(f"{option} {subject}: {type(error).__name__}: {text}") from error


def _own(option: str, spec: str, known: str) -> Callable[[Any], Any]:
    from gnnaccel.train.build import resolve_own

    if ":" not in spec:
        raise ValueError(f"{option} must be one of: {known}, or your own as file.py:name or module:name, got {spec!r}")
    make = resolve_own(option, spec)
    if not callable(make):
        raise ValueError(f"{option} {spec}: must be a function of the events, got {type(make).__name__}")
    return make
