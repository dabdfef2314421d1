"""`gnnaccel dglke train`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer
import yaml
from tqdm import tqdm

from gnnaccel.cli.dglke._flags import (
    LOSS,
    MACHINE,
    MODEL,
    TRAIN,
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
    HiddenDim,
    LossGenre,
    MixCPUGPU,
    ModelName,
    NegDegSampleEval,
    NegSampleSizeEval,
    NoEvalFilter,
    NumProc,
    NumThread,
    _option,
)
from gnnaccel.cli.dglke._settings import kg_config, machine, note, print_metrics, read_data


def train(
    model_name: Annotated[
        ModelName, _option("--model_name", help="TransE is TransE_l2.", panel=MODEL)
    ] = ModelName.TransE,
    data_path: DataPath = "data",
    dataset: Dataset = "FB15k",
    format: Format = "built_in",
    data_files: DataFiles = None,
    delimiter: Delimiter = None,
    save_path: Annotated[str, _option("--save_path", help="The run is MODEL_DATASET_N in it.", panel=TRAIN)] = "ckpts",
    no_save_emb: Annotated[bool, _option("--no_save_emb", help="Keep no tables.", panel=TRAIN)] = False,
    max_step: Annotated[int, _option("--max_step", min=0, help="Steps of each of --num_proc.", panel=TRAIN)] = 80000,
    batch_size: Annotated[
        int, _option("--batch_size", min=1, help="Triples a step; a multiple of --neg_sample_size.", panel=TRAIN)
    ] = 1024,
    batch_size_eval: BatchSizeEval = None,
    neg_sample_size: Annotated[
        int, _option("--neg_sample_size", min=1, help="Negatives, which as many triples share.", panel=TRAIN)
    ] = 256,
    neg_deg_sample: Annotated[
        bool, _option("--neg_deg_sample", help="Those triples' own entities are negatives too.", panel=TRAIN)
    ] = False,
    neg_deg_sample_eval: NegDegSampleEval = False,
    neg_sample_size_eval: NegSampleSizeEval = -1,
    eval_percent: EvalPercent = 1.0,
    no_eval_filter: NoEvalFilter = False,
    log_interval: Annotated[
        int, _option("--log_interval", "-log", min=1, help="Steps between lines of the loss.", panel=TRAIN)
    ] = 1000,
    eval_interval: Annotated[
        int, _option("--eval_interval", min=1, help="Steps between validations.", panel=TRAIN)
    ] = 10000,
    test: Annotated[bool, _option("--test", help="Rank the test triples in the end.", panel=TRAIN)] = False,
    valid: Annotated[
        bool, _option("--valid", help="Rank the valid triples amid training; the best tables are kept.", panel=TRAIN)
    ] = False,
    num_proc: NumProc = None,
    num_thread: NumThread = None,
    force_sync_interval: Annotated[
        int | None, _option("--force_sync_interval", help="Has no meaning here.", panel=MACHINE)
    ] = None,
    hidden_dim: HiddenDim = 400,
    lr: Annotated[float, _option("--lr", help="Learning rate of Adagrad.", panel=TRAIN)] = 0.01,
    gamma: Annotated[
        float, _option("--gamma", "-g", help="Added to distances; spreads the first rows.", panel=MODEL)
    ] = 12.0,
    double_ent: DoubleEnt = False,
    double_rel: DoubleRel = False,
    neg_adversarial_sampling: Annotated[
        bool, _option("--neg_adversarial_sampling", "-adv", help="Weight negatives by their scores.", panel=LOSS)
    ] = False,
    adversarial_temperature: Annotated[
        float, _option("--adversarial_temperature", "-a", min=0, help="Multiplies the scores in -adv.", panel=LOSS)
    ] = 1.0,
    regularization_coef: Annotated[
        float, _option("--regularization_coef", "-rc", help="Of the norms of all rows that a step reads.", panel=LOSS)
    ] = 2e-6,
    regularization_norm: Annotated[
        int, _option("--regularization_norm", "-rn", max=9, help="Power of that norm.", panel=LOSS)
    ] = 3,
    pairwise: Annotated[
        bool, _option("--pairwise", "-pw", help="Compare a triple with each of its negatives.", panel=LOSS)
    ] = False,
    loss_genre: Annotated[LossGenre, _option("--loss_genre", help="Kind of loss.", panel=LOSS)] = LossGenre.Logsigmoid,
    margin: Annotated[float, _option("--margin", "-m", help="Of Hinge.", panel=LOSS)] = 1.0,
    gpu: GPUs = None,
    mix_cpu_gpu: MixCPUGPU = False,
    rel_part: Annotated[
        bool, _option("--rel_part", help="A batch has relations of one part of them.", panel=MACHINE)
    ] = False,
    async_update: Annotated[
        bool, _option("--async_update", help="Write rows beside the next step, one step late.", panel=MACHINE)
    ] = False,
    has_edge_importance: Annotated[
        bool, _option("--has_edge_importance", help="A fourth column weights the loss of each triple.", panel=TRAIN)
    ] = False,
    seed: Annotated[int, _option("--seed", min=0, help="Ours: of everything random.", panel=TRAIN)] = 0,
    resume: Annotated[
        Path | None, _option("--resume", help="Ours: continue the run in this folder, by its own flags.", panel=TRAIN)
    ] = None,
    quiet: Annotated[bool, _option("--quiet", "-q", help="Ours: no progress bars.", panel=MACHINE)] = False,
) -> None:
    """Train embeddings by dglke_train's flags, into SAVE_PATH/MODEL_DATASET_N.

    The folder holds DATASET_MODEL_entity.npy, DATASET_MODEL_relation.npy, config.json, entities.tsv, relations.tsv and
    train.log as DGL-KE writes them, and the files of `gnnaccel kg train`, by which a run can be resumed.

    Other than DGL-KE: with --neg_deg_sample an own positive among the negatives is left out of the loss, where DGL-KE counts
    it with score 0; RESCAL and TransR have one score for both sides; SimplE's is not clamped; RESCAL's matrices start normal
    and TransR's projections as the identity; BCE is computed from logits; results do not depend on processes or threads.

    Examples:

        gnnaccel dglke train --model_name TransE_l2 --dataset FB15k --batch_size 1000 --neg_sample_size 200 --hidden_dim 400
        --gamma 19.9 --lr 0.25 --max_step 24000 --batch_size_eval 16 --test -adv --regularization_coef 1.00E-09

        gnnaccel dglke train --model_name RotatE -de --dataset mine --format raw_udd_htr --data_path my/folder
        --data_files train.tsv valid.tsv test.tsv --hidden_dim 200 -adv --test

        gnnaccel dglke train --resume ckpts/RotatE_mine_0
    """
    a = SimpleNamespace(**locals())
    a.model_name, a.loss_genre = model_name.value, loss_genre.value
    if resume is not None:
        a = _stored(resume, a)
    if not 0 <= a.gamma:
        raise ValueError(f"--gamma must be at least 0, got {a.gamma:g}")
    if not a.lr > 0:
        raise ValueError(f"--lr must be above 0, got {a.lr:g}")
    kg, data, reading = read_data(
        a.data_path, a.dataset, a.format, a.data_files, a.delimiter, weight=a.has_edge_importance
    )
    config = kg_config(a, kg)
    device = machine(a)
    _run(a, kg, data, reading, config, device, resume)


def _run(a: Any, kg: Any, data: str, reading: dict, config: Any, device: Any, resume: Path | None) -> None:
    from gnnaccel.cli.kg import describe_graph
    from gnnaccel.models.kge_dglke import export_dglke
    from gnnaccel.train.allocator import keep_freed_memory
    from gnnaccel.train.kg import KGTrainer
    from gnnaccel.train.trainer import Interrupted, TrainingError

    keep_freed_memory()
    folder = resume or _new_folder(Path(a.save_path), f"{a.model_name}_{Path(a.dataset).name}_")
    note(describe_graph(kg))
    log = _Log(folder / "train.log", a.log_interval, config.train.steps)
    trainer = KGTrainer(
        config, kg, folder, device=device, data=data, reading=reading,
        progress=not a.quiet, notify=log.line, on_step=log.step,
    )  # fmt: skip
    if resume is not None:
        trainer.resume()
        note(f"resuming at step {trainer.next + 1}" if trainer.finished is None else "this run is finished")
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(), sort_keys=False), "utf-8")
    (folder / "config.json").write_text(json.dumps(_config_json(a), indent=4) + "\n", "utf-8")
    try:
        results = trainer.fit()
    except Interrupted as stop:
        note(f"{stop}; continue with gnnaccel dglke train --resume {folder}")
        raise typer.Exit(130) from None
    except TrainingError as error:
        raise ValueError(str(error)) from None
    if a.no_save_emb:
        for name in ("best.pt", "checkpoint.pt"):
            (folder / name).unlink(missing_ok=True)
    else:
        export_dglke(trainer.model, folder, dataset=Path(a.dataset).name, name=a.model_name)
    print(f"training takes {results['seconds']} seconds")
    if "test_mrr" in results:
        print_metrics({k.removeprefix("test_"): v for k, v in results.items()})
    note(f"results in {folder}")


def _new_folder(save_path: Path, prefix: str) -> Path:
    """MODEL_DATASET_N with DGL-KE's N: how many there are."""
    if save_path.exists() and not save_path.is_dir():
        raise ValueError(f"--save_path must be a folder, {save_path} is a file")
    save_path.mkdir(parents=True, exist_ok=True)
    n = sum(p.name.startswith(prefix) for p in save_path.iterdir())
    while (save_path / f"{prefix}{n}").exists():
        n += 1
    (save_path / f"{prefix}{n}").mkdir()
    return save_path / f"{prefix}{n}"


def _config_json(a: Any) -> dict[str, Any]:
    """DGL-KE's config.json: its flags, some under the names that its readers look for."""
    flags = {k: v for k, v in vars(a).items() if k not in ("resume", "quiet")}
    return {
        **flags,
        "dataset": Path(a.dataset).name,
        "gnnaccel_dataset": a.dataset,
        "data_path": str(Path(a.data_path).resolve()),
        "model": a.model_name,
        "emb_size": a.hidden_dim,
        "max_train_step": a.max_step,
        "emap_file": "entities.tsv",
        "rmap_file": "relations.tsv",
    }


def _stored(folder: Path, a: Any) -> Any:
    """The flags of a run that is resumed; of those given now, which machine and what is shown count."""
    try:
        stored = json.loads((folder / "config.json").read_text("utf-8"))
        flags = {k: stored["gnnaccel_dataset"] if k == "dataset" else stored[k] for k in vars(a) if k in stored}
    except (OSError, ValueError, KeyError):
        raise ValueError(f"--resume: no run of gnnaccel dglke train in {folder}") from None
    if not (folder / "checkpoint.pt").exists():
        raise ValueError(f"--resume: no checkpoint.pt in {folder}: nothing to continue")
    now = {k: getattr(a, k) for k in ("gpu", "num_thread", "resume", "quiet") if getattr(a, k) not in (None, False)}
    return SimpleNamespace(**{**vars(a), **flags, **now})


class _Log:
    """Lines to stderr and train.log: the mean loss of every so many steps, and what the trainer tells."""

    def __init__(self, path: Path, every: int, total: int | None) -> None:
        self.path, self.every, self.total = path, every, total
        self.loss, self.count, self.start = 0.0, 0, time.perf_counter()

    def line(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} INFO     {text}\n")

    def step(self, step: int, loss: float) -> None:
        self.loss, self.count = self.loss + loss, self.count + 1
        if step % self.every:
            return
        seconds = time.perf_counter() - self.start
        self.line(
            f"[Train]({step}/{self.total}) average loss: {self.loss / self.count:.6f}, "
            f"{self.count} steps take {seconds:.3f} seconds"
        )
        self.loss, self.count, self.start = 0.0, 0, time.perf_counter()
