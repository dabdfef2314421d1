"""`gnnaccel dglke predict`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
from tqdm import tqdm

from gnnaccel.cli.dglke._eval import load_saved
from gnnaccel.cli.dglke._flags import DATA, MACHINE, MODEL, OneGPU, _option
from gnnaccel.cli.dglke._lists import lists_of, read_list, read_map, spell
from gnnaccel.cli.dglke._settings import gpu_device

MODES = {"all": "all", "batch_head": "head", "batch_rel": "relation", "batch_tail": "tail"}
BROADCAST = {"none": "all", "head": "batch_head", "rel": "batch_rel", "tail": "batch_tail"}
RESULT = "Result"


def predict(
    data_path: Annotated[str, _option("--data_path", help="Where mapping files are looked for.", panel=DATA)] = "data",
    model_path: Annotated[
        Path, _option("--model_path", help="Folder that dglke_train, or ours, wrote.", panel=MODEL)
    ] = Path("ckpts"),
    format: Annotated[
        str, _option("--format", help="h_r_t, with * for all: h_r_*, *_r_t, h_*_t, h_*_*, ...", panel=DATA)
    ] = "h_r_t",
    data_files: Annotated[
        list[str] | None, _option("--data_files", help="A list for each letter of --format, one a line.", panel=DATA)
    ] = None,
    raw_data: Annotated[bool, _option("--raw_data", help="The lists hold names.", panel=DATA)] = False,
    exec_mode: Annotated[
        str | None,
        _option(
            "--exec_mode",
            help="The best of all (default), of each batch_head, batch_rel or batch_tail, or triplet_wise, line by line.",
            panel=RESULT,
        ),
    ] = None,
    bcast: Annotated[
        str | None, _option("--bcast", help="The same in older words: none, head, rel or tail.", panel=RESULT)
    ] = None,
    top: Annotated[int, _option("--topK", "--topk", min=1, help="How many.", panel=RESULT)] = 10,
    score_func: Annotated[
        str, _option("--score_func", help="none: without gamma; logsigmoid: of the score.", panel=RESULT)
    ] = "none",
    output: Annotated[Path, _option("--output", help="TSV to write.", panel=RESULT)] = Path("result.tsv"),
    entity_mfile: Annotated[
        str | None, _option("--entity_mfile", help="Names of entities; by default as config.json tells.", panel=DATA)
    ] = None,
    rel_mfile: Annotated[str | None, _option("--rel_mfile", help="Names of relations.", panel=DATA)] = None,
    gpu: OneGPU = -1,
    quiet: Annotated[bool, _option("--quiet", "-q", help="Ours: no progress bars.", panel=MACHINE)] = False,
) -> None:
    """Name the best triples of lists of heads, relations and tails, with dglke_predict's flags. Exact.

    Every model can be asked, TransR and SimplE too; RotatE's phases are as they were trained, whatever --score_func is.

    Examples:

        gnnaccel dglke predict --model_path ckpts/TransE_l2_wn18_0 --format h_r_* --data_files head.list rel.list
        --score_func logsigmoid --topK 5 --exec_mode batch_head

        gnnaccel dglke predict --model_path ckpts/TransE_l2_wn18_0 --format h_r_t --raw_data
        --data_files heads.list rels.list tails.list
    """
    from gnnaccel.cli.kg_query import _emit

    mode = _mode(exec_mode, bcast)
    if score_func not in ("none", "logsigmoid"):
        raise ValueError(f"--score_func must be none or logsigmoid, got {score_func!r}")
    if not re.fullmatch(r"[h*]_[r*]_[t*]", format):
        raise ValueError(f"--format must be h_r_t with * for any of them, got {format!r}")
    if mode == "triplet_wise" and "*" in format:
        raise ValueError(f"--exec_mode triplet_wise: --format must be h_r_t, got {format!r}")
    found = load_saved(model_path)
    model = found.model.to(gpu_device([gpu]))
    counts = {"entity": model.num_entities, "relation": model.num_relations}
    names: dict[str, Any] = {"entity": None, "relation": None}
    if raw_data:
        names = {"entity": found.entities, "relation": found.relations}
        for kind, flag, file in (("entity", "--entity_mfile", entity_mfile), ("relation", "--rel_mfile", rel_mfile)):
            if file is not None:
                names[kind] = read_map(flag, file, counts[kind], data_path, model_path)
            elif names[kind] is None:
                raise ValueError(f"--raw_data: {flag} must be given, there is no such file in {model_path}")
    if score_func == "none":
        model.gamma = 0.0
    files = zip(lists_of(format, format.split("_"), data_files), ("entity", "relation", "entity"), strict=True)
    ids = [None if f is None else read_list(f, names[kind], counts[kind]) for f, kind in files]
    with tqdm(desc="asking", unit=" queries", unit_scale=True, leave=False, dynamic_ncols=True, disable=quiet) as bar:
        blocks = _one_by_one(model, ids, top) if mode == "triplet_wise" else _search(model, ids, top, MODES[mode], bar)
        _emit(_lines(blocks, names, score_func), ("src", "rel", "dst", "score"), output, False, "predictions")


def _mode(exec_mode: str | None, bcast: str | None) -> str:
    if bcast is not None:
        if exec_mode is not None:
            raise ValueError("--exec_mode and --bcast say the same: give only one of them")
        exec_mode = BROADCAST.get(bcast.lower())
        if exec_mode is None:
            raise ValueError(f"--bcast must be one of {', '.join(BROADCAST)}, got {bcast!r}")
    mode = exec_mode or "all"
    if mode not in (*MODES, "triplet_wise"):
        raise ValueError(f"--exec_mode must be one of {', '.join([*MODES, 'triplet_wise'])}, got {mode!r}")
    return mode


def _search(model: Any, ids: list[Any], top: int, best_of: str, bar: tqdm) -> Iterator[Any]:
    from gnnaccel.train.kg.predict import Search

    search = Search(model, *ids, k=top, best_of=best_of, progress=bar)
    bar.total = search.total
    yield from search


def _one_by_one(model: Any, ids: list[Any], top: int) -> Iterator[Any]:
    from gnnaccel.train.kg.predict import Predictions, answer

    if len({len(x) for x in ids}) != 1:
        given = ", ".join(str(len(x)) for x in ids)
        raise ValueError(f"--exec_mode triplet_wise: the lists must be equally long, got {given} lines")
    scored = answer(model, torch.stack(ids, 1), 1)
    order = scored.score.squeeze(1).sort(descending=True, stable=True).indices[:top]
    yield Predictions(*(x[order].T for x in scored))


def _lines(blocks: Iterator[Any], names: dict[str, Any], score_func: str) -> Iterator[tuple[Any, ...]]:
    for block in blocks:
        for h, r, t, score in zip(*block, strict=True):
            there = h >= 0
            value = torch.nn.functional.logsigmoid(score[there]) if score_func == "logsigmoid" else score[there]
            columns = (spell(names[kind], x[there]) for kind, x in (("entity", h), ("relation", r), ("entity", t)))
            yield from zip(*columns, value.tolist(), strict=True)
