"""`gnnaccel convert`: files of other systems as ours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
import yaml

from gnnaccel.cli._common import err

app = typer.Typer(name="convert", no_args_is_help=True, help="Files of other systems as ours.")


@app.callback()
def _group() -> None:
    # keeps the name of the one command below
    pass


@app.command("tgl-config")
def tgl_config(
    file: Annotated[Path, typer.Argument(help="A configuration file of TGL, e.g. its config/TGN.yml.")],
    to: Annotated[Path | None, typer.Option("--out", "-o", help="YAML to write; standard output by default.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Turn a configuration file of TGL into one of ours, and say what has no meaning here.

    Examples:

        gnnaccel convert tgl-config TGN.yml --out mine.yaml

        gnnaccel train tgn --config mine.yaml --data wikipedia
    """
    from gnnaccel.train.config import Config, ConfigError, validate
    from gnnaccel.train.settings import read_yaml
    from gnnaccel.train.tgl import convert_tgl, is_tgl

    values = read_yaml(file, Config)
    if not is_tgl(values):
        raise ConfigError(f"{file} is not a TGL configuration: it has no list 'sampling'")
    converted, remarks = convert_tgl(values, str(file))
    config = validate(converted)
    if to is not None and to.exists() and not overwrite:
        raise ValueError(f"{to} exists; give --overwrite or another --out")
    # whole, so that no preset it is laid over shows through
    text = f"# From {file.name} of TGL.\n" + yaml.safe_dump(config.model_dump(), sort_keys=False)
    for remark in remarks:
        err.print(f"note: {remark}", highlight=False)
    if to is None:
        print(text, end="")
        return
    temporary = to.with_name(f".{to.name}.{os.getpid()}.tmp")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, to)
    err.print(f"written to {to}", highlight=False)
