"""`gnnaccel dglke`: DGL-KE's commands, with its flags and files."""

from __future__ import annotations

import typer

from gnnaccel.cli.dglke._emb_sim import emb_sim
from gnnaccel.cli.dglke._eval import evaluate
from gnnaccel.cli.dglke._flags import DGLKECommand
from gnnaccel.cli.dglke._partition import partition
from gnnaccel.cli.dglke._predict import predict
from gnnaccel.cli.dglke._train import train

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="DGL-KE's command lines: dglke_train is `gnnaccel dglke train`, with the same flags and files.",
    epilog="Start with: [bold]gnnaccel dglke train --dataset synthetic-kg --hidden_dim 64 --max_step 500 --test -adv[/bold]",
)
app.command("train", cls=DGLKECommand)(train)
app.command("eval", cls=DGLKECommand)(evaluate)
app.command("predict", cls=DGLKECommand)(predict)
app.command("emb_sim", cls=DGLKECommand)(emb_sim)
app.command("partition", cls=DGLKECommand)(partition)
