"""The `gnnaccel` command."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Annotated

import typer
from rich.logging import RichHandler
from rich.markup import escape

import gnnaccel
from gnnaccel.cli import data as data_command
from gnnaccel.cli import dglke as dglke_command
from gnnaccel.cli import kg as kg_command
from gnnaccel.cli._common import err
from gnnaccel.cli.classify import classify
from gnnaccel.cli.convert import app as convert
from gnnaccel.cli.gnn import distill
from gnnaccel.cli.info import info
from gnnaccel.cli.leakcheck import leakcheck
from gnnaccel.cli.link import evaluate, predict, train
from gnnaccel.cli.partition import partition

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Kernels and models for graph learning: train, evaluate, predict, measure.",
    epilog="Start with: [bold]gnnaccel train tgn --data synthetic[/bold]",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"gnnaccel {gnnaccel.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and stop.")
    ] = False,
) -> None:
    pass  # the help of the command is the app's


app.command("train")(train)
app.command("eval")(evaluate)
app.command("predict")(predict)
app.command("classify")(classify)
app.command("distill")(distill)
app.command("leakcheck")(leakcheck)
app.command("partition")(partition)
app.command("info")(info)
app.add_typer(data_command.app, name="data")
app.add_typer(convert, name="convert")
app.add_typer(kg_command.app, name="kg")
app.add_typer(dglke_command.app, name="dglke")


def _add_bench() -> None:
    from gnnaccel.bench.cli import app as bench

    app.add_typer(bench, name="bench")


_add_bench()


def main() -> None:
    """Entry point. Errors that a user can cause are one line on stderr and exit code 2."""
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=err, show_path=False)]
    )
    logging.captureWarnings(True)
    warnings.simplefilter("default", UserWarning)
    try:
        app()
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        # ours are ValueErrors that already say what to do; the rest keep their type
        name = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        err.print(
            f"[bold red]error:[/bold red] {escape(f'{name}{error}')}", highlight=False, markup=True, soft_wrap=True
        )
        sys.exit(2)
