"""`gnnaccel dglke emb_sim`."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor
from tqdm import tqdm

from gnnaccel.cli.dglke._flags import DATA, MACHINE, OneGPU, _option
from gnnaccel.cli.dglke._lists import lists_of, read_list, read_map, spell
from gnnaccel.cli.dglke._predict import RESULT
from gnnaccel.cli.dglke._settings import gpu_device

FUNCTIONS = {"cosine": "cosine", "l2": "l2", "l1": "l1", "dot": "dot", "ext_jaccard": "jaccard"}
FORMATS = {"l_r": ["l", "r"], "l_*": ["l", "*"], "*_r": ["*", "r"], "*": ["*", "*"]}
MODES = ("all", "pairwise", "batch_left")


def emb_sim(
    emb_file: Annotated[
        Path, _option("--emb_file", help="DATASET_MODEL_entity.npy or _relation.npy.", panel=DATA, show_default=False)
    ],
    mfile: Annotated[
        str | None, _option("--mfile", help="Their names; by default the .tsv beside --emb_file.", panel=DATA)
    ] = None,
    format: Annotated[
        str, _option("--format", help="l_r, l_*, *_r or *: lists of the left and right, or all.", panel=DATA)
    ] = "l_r",
    data_files: Annotated[
        list[str] | None, _option("--data_files", help="A list for each letter of --format, one a line.", panel=DATA)
    ] = None,
    raw_data: Annotated[bool, _option("--raw_data", help="The lists hold names.", panel=DATA)] = False,
    exec_mode: Annotated[
        str,
        _option(
            "--exec_mode",
            help="The best of all pairs, of each left one (batch_left), or of the lists line by line (pairwise).",
            panel=RESULT,
        ),
    ] = "all",
    top: Annotated[int, _option("--topK", "--topk", min=1, help="How many.", panel=RESULT)] = 10,
    sim_func: Annotated[
        str, _option("--sim_func", help="cosine, l2, l1, dot or ext_jaccard.", panel=RESULT)
    ] = "cosine",
    output: Annotated[Path, _option("--output", help="TSV to write.", panel=RESULT)] = Path("result.tsv"),
    gpu: OneGPU = -1,
    quiet: Annotated[bool, _option("--quiet", "-q", help="Ours: no progress bars.", panel=MACHINE)] = False,
) -> None:
    """Name the rows of a file that are most alike, with dglke_emb_sim's flags. Exact.

    l2 and l1 are distances, of which the least come first. A row is alike to itself, too.

    Examples:

        gnnaccel dglke emb_sim --emb_file ckpts/TransE_l2_wn18_0/wn18_TransE_l2_entity.npy --format l_* --data_files head.list
        --sim_func l2 --topK 5 --exec_mode batch_left

        gnnaccel dglke emb_sim --emb_file ckpts/TransE_l2_wn18_0/wn18_TransE_l2_relation.npy --mfile data/wn18/relations.dict
        --format l_* --data_files rel.list --topK 5 --raw_data
    """
    from gnnaccel.cli.kg_query import _emit
    from gnnaccel.models.kge_import import read_array

    for flag, value, known in (
        ("--format", format, FORMATS),
        ("--exec_mode", exec_mode, MODES),
        ("--sim_func", sim_func, FUNCTIONS),
    ):
        if value not in known:
            raise ValueError(f"{flag} must be one of {', '.join(known)}, got {value!r}")
    table = read_array(emb_file)
    if table.dim() != 2:
        raise ValueError(f"--emb_file must be [rows, columns], got {list(table.shape)}")
    usual = "relations.tsv" if emb_file.stem.endswith("relation") else "entities.tsv"
    names = read_map("--mfile", mfile or usual, len(table), emb_file.parent) if raw_data else None
    files = lists_of(format, FORMATS[format], data_files)
    left, right = (None if f is None else read_list(f, names, len(table)) for f in files)
    table, metric = table.to(gpu_device([gpu])), FUNCTIONS[sim_func]
    with tqdm(desc="comparing", unit=" rows", unit_scale=True, leave=False, dynamic_ncols=True, disable=quiet) as bar:
        if exec_mode == "pairwise":
            found = _pairwise(table, left, right, top, metric)
        else:
            found = _each(table, left, right, top, metric, bar)
            found = _best(found, top, metric) if exec_mode == "all" else found
        lines = ((*spell(names, torch.tensor([x, y])), value) for x, y, value in found)
        _emit(lines, ("left", "right", "score"), output, False, "similarities")


def _each(
    table: Tensor, left: Tensor | None, right: Tensor | None, top: int, metric: str, bar: tqdm
) -> Iterator[tuple[int, int, float]]:
    """The best of each left row."""
    from gnnaccel.train.kg.neighbors import similar

    asked, first = torch.arange(len(table)) if left is None else left, 0
    bar.total = len(asked)
    for block in similar(table, asked, top, metric=metric, candidates=right, keep_self=True, progress=bar):
        for own, ids, value in zip(asked[first:].tolist(), block.ids, block.value, strict=False):
            there = ids >= 0
            yield from ((own, x, v) for x, v in zip(ids[there].tolist(), value[there].tolist(), strict=True))
        first += len(block.ids)


def _best(found: Iterator[tuple[int, int, float]], top: int, metric: str) -> list[tuple[int, int, float]]:
    from gnnaccel.train.kg.neighbors import METRICS

    sign = -1 if METRICS[metric][1] else 1
    return heapq.nsmallest(top, found, key=lambda x: sign * x[2])


def _pairwise(
    table: Tensor, left: Tensor | None, right: Tensor | None, top: int, metric: str
) -> list[tuple[int, int, float]]:
    from gnnaccel.train.kg.neighbors import pair_similarity

    every = torch.arange(len(table))
    left, right = every if left is None else left, every if right is None else right
    if len(left) != len(right):
        raise ValueError(f"--exec_mode pairwise: both sides must be equally long, got {len(left)} and {len(right)}")
    value = pair_similarity(table, left, right, metric)
    return _best(zip(left.tolist(), right.tolist(), value.tolist(), strict=True), top, metric)
