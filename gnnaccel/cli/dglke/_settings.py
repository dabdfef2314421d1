"""What DGL-KE's flags mean here: data, `KGConfig`, device, threads, and what to tell the user about it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch

from gnnaccel.cli._common import err

LOSSES = {
    ("Logsigmoid", False): "logsigmoid",
    ("Logistic", False): "logsigmoid",
    ("BCE", False): "logsigmoid",
    ("Hinge", False): "hinge",
    ("Logistic", True): "pairwise_logistic",
    ("Hinge", True): "pairwise_hinge",
}


def note(line: str) -> None:
    """One line to the user about what a flag does here."""
    err.print(line, highlight=False, markup=False, soft_wrap=True)


def read_data(
    data_path: str,
    dataset: str,
    format: str,
    data_files: list[str] | None,
    delimiter: str | None,
    weight: bool = False,
) -> tuple[Any, str, dict[str, Any]]:
    """The graph that the flags name, and by which path and options it was read.

    Raises:
        ValueError: Nothing there, an unknown format, or files that are missing or not so.
    """
    from gnnaccel.data.kg import load, read_kg

    reading: dict[str, Any] = {"name": Path(dataset).name}
    if delimiter is not None:
        reading["delimiter"] = {"\\t": "\t"}.get(delimiter, delimiter)
    if weight:
        reading["weight"] = True
    if format == "built_in":
        folder = Path(data_path) / dataset
        if (folder / "entity2id.txt").exists() and (folder / "train.txt").exists():  # DGL-KE's Freebase: ids, h t r
            files = ["entity2id.txt", "relation2id.txt", "train.txt", "valid.txt", "test.txt"]
            there = [*files[:3], *(f for f in files[3:] if (folder / f).exists())]
            reading |= {"format": "udd_htr", "files": there}
        if folder.is_dir():
            return read_kg(folder, **reading), str(folder.resolve()), reading
        if len(reading) > 1:
            raise ValueError(f"--dataset: no folder {folder}; --format built_in reads DATA_PATH/DATASET")
        try:
            return load(dataset), dataset, {}
        except ValueError as error:
            raise ValueError(f"--dataset: no folder {folder}, and nothing is fetched: {error}") from None
    if not re.fullmatch(r"(raw_)?udd_[hrt]{3}", format) or len(set(format[-3:])) != 3:
        raise ValueError(f"--format must be built_in, raw_udd_{{hrt}} or udd_{{hrt}}, got {format!r}")
    if not data_files:
        expected = "TRAIN [VALID [TEST]]" if format.startswith("raw") else "ENTITIES RELATIONS TRAIN [VALID [TEST]]"
        raise ValueError(f"--data_files must be {expected} for --format {format}, got none")
    reading |= {"format": format, "files": data_files}
    return read_kg(data_path, **reading), str(Path(data_path).resolve()), reading


def widths(model: str, hidden: int, double_ent: bool, double_rel: bool) -> tuple[int, int | None]:
    """Width of an entity's row, and TransR's of a relation's."""
    entity, relation = hidden * (1 + double_ent), hidden * (1 + double_rel)
    if model == "RotatE" and (not double_ent or double_rel):
        raise ValueError(
            "--model_name RotatE: -de must be given and -dr not: entities are complex, relations are phases"
        )
    if model in ("ComplEx", "SimplE") and entity % 2:
        raise ValueError(f"--hidden_dim must be even for {model} without -de and -dr, got {hidden}")
    if model == "TransR":
        return entity, relation
    if model != "RotatE" and entity != relation:
        raise ValueError(f"--model_name {model}: -de and -dr must be given both or neither, got one of them")
    return entity, None


def evaluation(a: Any) -> dict[str, Any]:
    """The section `eval` of a configuration, but for which triples are ranked."""
    sampled = a.neg_sample_size_eval > 0
    if a.neg_sample_size_eval == 0 or a.neg_sample_size_eval < -1:
        raise ValueError(f"--neg_sample_size_eval must be -1 (all entities) or positive, got {a.neg_sample_size_eval}")
    if a.eval_percent <= 0:
        raise ValueError(f"--eval_percent must be above 0 and at most 1 (all), got {a.eval_percent:g}")
    if a.batch_size_eval is not None and not sampled:
        note("--batch_size_eval: changes no result; triples are ranked 4096 at a time")
    if a.neg_deg_sample_eval and not sampled:
        note("--neg_deg_sample_eval: has no effect without --neg_sample_size_eval, all entities are candidates")
    values: dict[str, Any] = {"filtered": not a.no_eval_filter, "ties": "pessimistic"}
    if sampled:
        by = "degree" if a.neg_deg_sample_eval else "uniform"
        values |= {"candidates": a.neg_sample_size_eval, "candidates_by": by, "batch_size": a.batch_size_eval or 8}
    return values


def share(percent: float, count: int) -> int | None:
    """How many of `count` triples --eval_percent is; None for all."""
    return None if percent >= 1 else max(1, int(count * percent))


def processes(a: Any) -> int:
    """DGL-KE's processes, each of which takes --max_step steps: at least one for each GPU."""
    return max(a.num_proc or 1, len(a.gpu or []))


def kg_config(a: Any, kg: Any) -> Any:
    """The `KGConfig` of dglke_train's flags; says on stderr what is not as in DGL-KE.

    Raises:
        ValueError: Flags that do not go together.
    """
    from gnnaccel.models.kge_import import DGLKE
    from gnnaccel.train.kg import validate_kg

    for flag, split in (("--valid", "valid"), ("--test", "test")):
        if getattr(a, split) and not len(getattr(kg, split)):
            raise ValueError(
                f"{flag}: {kg.name} has no {split} triples; name the file in --data_files, or leave {flag} out"
            )
    dim, relation_dim = widths(a.model_name, a.hidden_dim, a.double_ent, a.double_rel)
    batch, n = a.batch_size, a.neg_sample_size
    if n < batch and batch % n:
        batch = -(-batch // n) * n
        note(f"--batch_size {a.batch_size}: {batch}, the next multiple of --neg_sample_size {n}")
    kind = LOSSES.get((a.loss_genre, a.pairwise))
    if kind is None:
        raise ValueError(f"-pw: --loss_genre must be Logistic or Hinge, got {a.loss_genre}")
    if a.loss_genre == "BCE":
        note("--loss_genre BCE: computed from logits, as which it is Logsigmoid")
    if a.pairwise and a.neg_adversarial_sampling:
        note("-adv: has no effect with -pw")
    weighted = a.neg_adversarial_sampling and not a.pairwise
    penalised = a.regularization_coef > 0 and a.regularization_norm > 0
    procs = processes(a)
    values: dict[str, Any] = {
        "model": {
            "name": DGLKE[a.model_name],
            "dim": dim,
            "relation_dim": relation_dim,
            "gamma": a.gamma,
            "init_scale": (a.gamma + 2) / a.hidden_dim,
        },
        "negatives": {
            "count": n,
            "chunk": n,
            "in_batch": a.neg_deg_sample,
            "mask": "own" if a.neg_deg_sample else "none",
            "sides": "alternate",
        },
        "loss": {
            "kind": kind,
            "adversarial_temperature": a.adversarial_temperature if weighted else None,
            "margin": a.margin if a.loss_genre == "Hinge" else None,
            "regularization": a.regularization_coef if penalised else 0.0,
            "regularizer": f"l{a.regularization_norm}" if penalised else "l3",
        },
        "train": {
            "batch_size": batch,
            "steps": a.max_step * procs,
            "optimizer": "adagrad_row_dup",
            "learning_rate": a.lr,
            "seed": a.seed,
            "validate_steps": a.eval_interval if a.valid else max(1, a.max_step * procs),
            "patience": 2**31,
            "staleness": int(a.async_update),
        },
        "eval": {
            **evaluation(a),
            "valid_triples": share(a.eval_percent, len(kg.valid)) if a.valid else 0,
            "test_triples": share(a.eval_percent, len(kg.test)) if a.test else 0,
        },
    }
    if a.rel_part:
        values["train"] |= {"order": "relation", "parts": procs if procs > 1 else 8}
        note(f"--rel_part: a batch has relations of one of {values['train']['parts']} parts")
    if procs > 1:
        note(f"one process trains the {a.max_step} x {procs} = {a.max_step * procs} steps of {procs}")
    if a.async_update:
        note("--async_update: rows are written beside the next step, one step late (train.staleness=1)")
    if a.force_sync_interval is not None:
        note("--force_sync_interval: has no meaning here, there is one process")
    return validate_kg(values)


def machine(a: Any) -> torch.device:
    """Set the threads that --num_proc and --num_thread ask for; the device of --gpu."""
    if a.mix_cpu_gpu:
        note("--mix_cpu_gpu: has no meaning here, tables lie where they are trained")
    if a.num_proc or a.num_thread:
        torch.set_num_threads(max(1, min((a.num_proc or 1) * (a.num_thread or 1), os.cpu_count() or 1)))
    return gpu_device(a.gpu or [-1])


def gpu_device(gpus: list[int]) -> torch.device:
    """The first GPU of the list; the CPU for -1, or, told, where there is none."""
    if min(gpus) < -1:
        raise ValueError(f"--gpu must be ids of GPUs, or -1 for the CPU, got {min(gpus)}")
    if gpus[0] < 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        note(f"--gpu {gpus[0]}: this torch sees no CUDA device, so the CPU is used")
        return torch.device("cpu")
    if gpus[0] >= torch.cuda.device_count():
        raise ValueError(f"--gpu must be below {torch.cuda.device_count()}, got {gpus[0]}")
    if len(gpus) > 1:
        note(f"--gpu: one GPU trains, {gpus[0]}")
    return torch.device("cuda", gpus[0])


def print_metrics(metrics: dict[str, float], title: str = "Test") -> None:
    """On stdout, in DGL-KE's words."""
    print(f"-------------- {title} result --------------")
    for name, key in (("MRR", "mrr"), ("MR", "mr"), *((f"HITS@{k}", f"hits@{k}") for k in (1, 3, 10))):
        print(f"{title} average {name} : {metrics[key]}")
    print("-----------------------------------------")
