"""DGL-KE's flags, and its way of reading them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

_UsageError: Any = typer.BadParameter.__base__  # of click, wherever typer has it from
DATA, MODEL, LOSS, TRAIN, EVAL, MACHINE = "Data", "Model", "Loss", "Training", "Evaluation", "Machine"


class DGLKECommand(TyperCommand):
    """A command that reads flags as argparse does: `--gpu 0 1 2`, `--model` for `--model_name`; errors of one line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, translate(args, self.params))
        except _UsageError as error:
            said = " ".join(error.format_message().split()).rstrip(".")
            raise ValueError(f"{said}; see {ctx.command_path} --help") from None


def translate(args: Sequence[str], params: Sequence[Any]) -> list[str]:
    """`args` with a flag before each of its values, and flags that were cut short in full."""
    flags = {flag: p for p in params for flag in getattr(p, "opts", ()) if flag.startswith("-")}
    out: list[str] = []
    rest = list(args)
    while rest:
        flag, eq, value = rest.pop(0).partition("=")
        if flag.startswith("--") and len(flag) > 2 and flag not in flags:
            near = [f for f in flags if f.startswith(flag)]
            flag = near[0] if len({id(flags[f]) for f in near}) == 1 else flag
        out += [flag, value] if eq and len(flag) == 2 else [flag + eq + value]
        if getattr(flags.get(flag), "multiple", False):
            first = not eq
            while rest and _is_value(rest[0]):
                out += [rest.pop(0)] if first else [flag, rest.pop(0)]
                first = False
    return out


def _is_value(text: str) -> bool:
    return not text.startswith("-") or text[1:].replace(".", "", 1).isdigit()


class ModelName(str, Enum):
    TransE = "TransE"
    TransE_l1 = "TransE_l1"
    TransE_l2 = "TransE_l2"
    TransR = "TransR"
    RESCAL = "RESCAL"
    DistMult = "DistMult"
    ComplEx = "ComplEx"
    RotatE = "RotatE"
    SimplE = "SimplE"


class LossGenre(str, Enum):
    Hinge = "Hinge"
    Logistic = "Logistic"
    Logsigmoid = "Logsigmoid"
    BCE = "BCE"


def _option(*names: str, help: str, panel: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


DataPath = Annotated[str, _option("--data_path", help="Folder of the data.", panel=DATA)]
Dataset = Annotated[
    str,
    _option(
        "--dataset",
        help="Name of the data; for built_in a folder in --data_path, or a name that gnnaccel knows. Nothing is fetched.",
        panel=DATA,
    ),
]
Format = Annotated[
    str,
    _option("--format", help="built_in, raw_udd_{hrt} (names) or udd_{hrt} (ids), letters in any order.", panel=DATA),
]
DataFiles = Annotated[
    list[str] | None,
    _option(
        "--data_files",
        help="Files in --data_path: TRAIN [VALID [TEST]] for raw_udd, ENTITIES RELATIONS TRAIN [VALID [TEST]] for udd.",
        panel=DATA,
    ),
]
Delimiter = Annotated[
    str | None, _option("--delimiter", help="Of the columns, the same in all files; found out by default.", panel=DATA)
]
HiddenDim = Annotated[
    int, _option("--hidden_dim", min=1, help="Width of the rows; -de and -dr double it.", panel=MODEL)
]
DoubleEnt = Annotated[
    bool, _option("--double_ent", "-de", help="Entities twice as wide (RotatE, SimplE).", panel=MODEL)
]
DoubleRel = Annotated[bool, _option("--double_rel", "-dr", help="Relations twice as wide (SimplE).", panel=MODEL)]
BatchSizeEval = Annotated[
    int | None,
    _option("--batch_size_eval", min=1, help="Triples that share --neg_sample_size_eval candidates.", panel=EVAL),
]
NegSampleSizeEval = Annotated[
    int, _option("--neg_sample_size_eval", help="Rank among so many sampled entities; -1: all.", panel=EVAL)
]
NegDegSampleEval = Annotated[
    bool, _option("--neg_deg_sample_eval", help="Sample them in proportion to their degree.", panel=EVAL)
]
EvalPercent = Annotated[float, _option("--eval_percent", help="Share of the triples that is ranked.", panel=EVAL)]
NoEvalFilter = Annotated[bool, _option("--no_eval_filter", help="Other known answers compete too.", panel=EVAL)]
GPUs = Annotated[list[int] | None, _option("--gpu", help="GPU, -1 for the CPU; of more the first.", panel=MACHINE)]
OneGPU = Annotated[int, _option("--gpu", help="GPU, -1 for the CPU.", panel=MACHINE)]
MixCPUGPU = Annotated[bool, _option("--mix_cpu_gpu", help="Has no meaning here.", panel=MACHINE)]
NumProc = Annotated[
    int | None,
    _option("--num_proc", min=1, help="Multiplies --max_step and --num_thread: there is one process.", panel=MACHINE),
]
NumThread = Annotated[
    int | None, _option("--num_thread", min=1, help="CPU threads; all cores by default.", panel=MACHINE)
]
