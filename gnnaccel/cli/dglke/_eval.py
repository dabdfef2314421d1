"""`gnnaccel dglke eval`."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

from tqdm import tqdm

from gnnaccel.cli.dglke._flags import (
    EVAL,
    MACHINE,
    MODEL,
    BatchSizeEval,
    DataFiles,
    DataPath,
    Dataset,
    Delimiter,
    DoubleEnt,
    DoubleRel,
    EvalPercent,
    Format,
    GPUs,
    MixCPUGPU,
    ModelName,
    NegDegSampleEval,
    NegSampleSizeEval,
    NoEvalFilter,
    NumProc,
    NumThread,
    _option,
)
from gnnaccel.cli.dglke._settings import evaluation, machine, note, print_metrics, read_data, share


def evaluate(
    model_name: Annotated[
        ModelName | None, _option("--model_name", help="Default: that of config.json.", panel=MODEL)
    ] = None,
    data_path: DataPath = "data",
    dataset: Dataset = "FB15k",
    format: Format = "built_in",
    data_files: DataFiles = None,
    delimiter: Delimiter = None,
    model_path: Annotated[
        Path, _option("--model_path", help="Folder that dglke_train, or ours, wrote.", panel=MODEL)
    ] = Path("ckpts"),
    batch_size_eval: BatchSizeEval = None,
    neg_sample_size_eval: NegSampleSizeEval = -1,
    neg_deg_sample_eval: NegDegSampleEval = False,
    hidden_dim: Annotated[
        int | None, _option("--hidden_dim", min=1, help="Default: that of config.json.", panel=MODEL)
    ] = None,
    gamma: Annotated[float | None, _option("--gamma", "-g", help="Default: that of config.json.", panel=MODEL)] = None,
    eval_percent: EvalPercent = 1.0,
    no_eval_filter: NoEvalFilter = False,
    double_ent: DoubleEnt = False,
    double_rel: DoubleRel = False,
    gpu: GPUs = None,
    mix_cpu_gpu: MixCPUGPU = False,
    num_proc: NumProc = None,
    num_thread: NumThread = None,
    seed: Annotated[int, _option("--seed", min=0, help="Ours: of what is sampled.", panel=EVAL)] = 0,
    quiet: Annotated[bool, _option("--quiet", "-q", help="Ours: no progress bars.", panel=MACHINE)] = False,
) -> None:
    """Rank the test triples by saved embeddings, with dglke_eval's flags.

    Ranks among equal scores are the worst, as in DGL-KE. Other than there, the answer itself never competes, not even with
    --no_eval_filter; all scores come from the same arithmetic; and filtering knows all files that are given.

    Example:

        gnnaccel dglke eval --model_name TransE_l2 --dataset FB15k --hidden_dim 400 --gamma 19.9 --batch_size_eval 16
        --model_path ckpts/TransE_l2_FB15k_0/
    """
    from gnnaccel.train.kg import evaluate as rank

    a = SimpleNamespace(**locals())
    found = load_saved(
        model_path,
        model_name=None if model_name is None else model_name.value,
        hidden_dim=hidden_dim,
        gamma=gamma,
        double_ent=double_ent or None,
        double_rel=double_rel or None,
        dataset=dataset,
    )
    kg, _, _ = read_data(data_path, dataset, format, data_files, delimiter)
    check_names(found, kg, model_path)
    options = evaluation(a)
    model = found.model.to(machine(a))
    sample = share(eval_percent, len(kg.test))
    start = time.perf_counter()
    with tqdm(
        total=2 * (sample or len(kg.test)), desc="ranking", unit=" triples", unit_scale=True,
        leave=False, dynamic_ncols=True, disable=quiet,
    ) as bar:  # fmt: skip
        results = rank(model, kg, "test", sample=sample, seed=seed, progress=bar, **options)
    print_metrics(results)
    print(f"Test takes {time.perf_counter() - start:.3f} seconds")


def load_saved(folder: Path, **flags: Any) -> Any:
    """The model in a folder of DGL-KE's layout; flags that are not None must agree with config.json, or stand for it."""
    from gnnaccel.models.kge_import import DGLKE, import_dglke, read_dglke_config

    if not folder.is_dir():
        raise ValueError(f"--model_path: no folder {folder}")
    given = {k: v for k, v in flags.items() if v is not None}
    if not (folder / "config.json").exists():
        if not flags:
            raise ValueError(f"--model_path: no config.json in {folder}")
        lacking = [f"--{k}" for k in ("model_name", "hidden_dim", "gamma") if k not in given]
        if lacking:
            raise ValueError(f"--model_path: no config.json in {folder}; give {', '.join(lacking)}")
        return import_dglke(folder, config=given)
    config = read_dglke_config(folder)
    if "model_name" in given and DGLKE.get(config["model_name"]) != DGLKE[given["model_name"]]:
        raise ValueError(f"--model_name must be {config['model_name']}, as in {folder}, got {given['model_name']}")
    if given.get("hidden_dim", config["hidden_dim"]) != config["hidden_dim"]:
        raise ValueError(f"--hidden_dim must be {config['hidden_dim']}, as in {folder}, got {given['hidden_dim']}")
    for flag, short in (("double_ent", "-de"), ("double_rel", "-dr")):
        if given.get(flag) and not config.get(flag):
            raise ValueError(f"{short} must not be given, as for {folder}")
    if "gamma" in given and given["gamma"] != config["gamma"]:
        note(f"--gamma {given['gamma']:g}: the model was trained with {config['gamma']:g}")
        config = {**config, "gamma": given["gamma"]}
    return import_dglke(folder, config=config)


def check_names(found: Any, kg: Any, folder: Path) -> None:
    """Raise `ValueError` if the folder and the data have names and number them otherwise."""
    for what in ("entities", "relations"):
        mine, theirs = getattr(found, what), getattr(kg, what)
        if mine is None or theirs is None or len(mine) != len(theirs):
            continue
        theirs = theirs.to_pylist()
        if mine != theirs:
            i = next(i for i, (x, y) in enumerate(zip(mine, theirs, strict=True)) if x != y)
            raise ValueError(
                f"the {what} of {folder} are numbered otherwise than those of {kg.name}: {i} is {mine[i]!r} there and "
                f"{theirs[i]!r} here; give the files that it was trained on, in the same order"
            )
