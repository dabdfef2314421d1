"""Embeddings for others: .npy files, safetensors, word2vec text."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch
from torch import Tensor

from gnnaccel.models.kge import KGE

__all__ = ["EXPORTS", "export_npy", "export_safetensors", "export_word2vec"]

pc: Any = pyarrow.compute
_BLOCK = 1 << 24  # numbers copied at a time
_SAFE = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file under a temporary name, which takes the place of `path` when all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _blocks(table: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Rows in order, a few at a time, on the CPU."""
    rows = max(1, _BLOCK // max(1, table[:1].numel()))
    for i in range(0, len(table), rows):
        yield table[i : i + rows].detach().to("cpu", dtype).contiguous()


def _write_npy(path: Path, table: Tensor, scale: float = 1.0) -> Path:
    """`scale * table` in float32, float64 as it is."""
    dtype = table.dtype if table.dtype == torch.float64 else torch.float32
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype("<f8" if dtype == torch.float64 else "<f4")),
        "fortran_order": False,
        "shape": tuple(table.shape),
    }
    with _replacing(path) as out:
        np.lib.format.write_array_header_1_0(out, header)
        for block in _blocks(table, dtype):
            out.write((block if scale == 1 else block * scale).numpy().data)
    return path


def _names(owner: str, names: Any, count: int) -> Any:
    """Arrow strings, or the ids in digits."""
    if names is None:
        return None
    found = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else pa.array(names, pa.string())
    if len(found) != count:
        raise ValueError(f"{owner}: names must be {count}, one for each row, got {len(found)}")
    return found


def _write_names(path: Path, names: Any) -> Path:
    with _replacing(path) as out:
        for start in range(0, len(names), 1 << 16):
            part = names[start : start + (1 << 16)].to_pylist()
            out.write("".join(f"{start + i}\t{name}\n" for i, name in enumerate(part)).encode())
    return path


def _about(model: KGE) -> dict[str, Any]:
    return {
        "model": model.model,
        "gamma": model.gamma,
        "dim": model.dim,
        "num_entities": model.num_entities,
        "num_relations": model.num_relations,
        "reciprocal": model.reciprocal,
    }


def export_npy(model: KGE, to: str | Path, *, entities: Any = None, relations: Any = None) -> list[Path]:
    """Write a folder: `entity.npy`, `relation.npy` and, for TransR, `projection.npy`; `model.json`; and names.

    Rows are those of the tables (see `KGE`), float32 for half types. Names, if given, are lines `id<TAB>name` in `entities.tsv`
    and `relations.tsv`. Each file is written under a temporary name first.

    Args:
        model: What to export.
        to: Folder, made if absent.
        entities, relations: Names by id, E and R strings.

    Returns:
        The files.
    """
    folder, done = Path(to), []
    named = {"entities": _names("export_npy", entities, model.num_entities)}
    named["relations"] = _names("export_npy", relations, model.num_relations)
    for name, table in model.tables.items():
        done.append(_write_npy(folder / f"{name}.npy", table))
    with _replacing(folder / "model.json") as out:
        out.write((json.dumps(_about(model), indent=2) + "\n").encode())
    done.append(folder / "model.json")
    return done + [_write_names(folder / f"{what}.tsv", x) for what, x in named.items() if x is not None]


def export_safetensors(model: KGE, to: str | Path, *, entities: Any = None, relations: Any = None) -> list[Path]:
    """Write `entity`, `relation` and, for TransR, `projection` as they are into one safetensors file.

    The metadata hold the model's name, gamma and sizes, as strings. Names, if given, go to `NAME.entities.tsv` and
    `NAME.relations.tsv` beside it.

    Args:
        model: What to export.
        to: The file.
        entities, relations: Names by id, E and R strings.

    Returns:
        The files.
    """
    path, at = Path(to), 0
    named = {"entities": _names("export_safetensors", entities, model.num_entities)}
    named["relations"] = _names("export_safetensors", relations, model.num_relations)
    about = {k: v if isinstance(v, str) else json.dumps(v) for k, v in _about(model).items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **about}}
    for name, table in model.tables.items():
        end = at + table.numel() * table.element_size()
        header[name] = {"dtype": _SAFE[table.dtype], "shape": list(table.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with _replacing(path) as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for table in model.tables.values():
            for block in _blocks(table, table.dtype):
                out.write(block.view(torch.uint8).numpy().data)
    sidecars = [(path.with_name(f"{path.stem}.{what}.tsv"), x) for what, x in named.items() if x is not None]
    return [path, *(_write_names(file, x) for file, x in sidecars)]


def export_word2vec(
    model: KGE, to: str | Path, *, entities: Any = None, relations: Any = None, table: str = "entity"
) -> list[Path]:
    """Write one table as word2vec text: a line `rows columns`, then lines `name number number ...`.

    Blanks end a word there, so they become `_` in names; without names the ids are taken. Numbers are the shortest that read
    back as the same float32 (float64 for such a table).

    Args:
        model: What to export.
        to: The file.
        entities, relations: Names by id, E and R strings; inverse relations get `_inverse`.
        table: `"entity"` or `"relation"`.

    Returns:
        The file.

    Raises:
        ValueError: A name is empty, or two are the same when written.
    """
    if table not in ("entity", "relation"):
        raise ValueError(f"export_word2vec: table must be entity or relation, got {table!r}")
    rows = model.tables[table]
    count = model.num_entities if table == "entity" else model.num_relations
    words = _names("export_word2vec", entities if table == "entity" else relations, count)
    words = pa.array(map(str, range(count))) if words is None else pc.replace_substring_regex(words, r"\s+", "_")
    if len(rows) > count:
        words = pa.concat_arrays([words, pc.binary_join_element_wise(words, "inverse", "_")])
    if pc.any(pc.equal(words, "")).as_py():
        raise ValueError("export_word2vec: names must not be empty, got ''")
    counts = pc.value_counts(words)
    again = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(again):
        raise ValueError(
            f"export_word2vec: names must be distinct when blanks are written as _, got {again[0]['values'].as_py()!r} "
            f"{again[0]['counts'].as_py()} times"
        )
    dtype, width, start = torch.promote_types(rows.dtype, torch.float32), rows[:1].numel(), 0
    with _replacing(Path(to)) as out:
        out.write(f"{len(rows)} {width}\n".encode())
        for block in _blocks(rows, dtype):
            numbers = pc.cast(pa.array(block.flatten().numpy()), pa.string())
            ends = pa.array(np.arange(len(block) + 1, dtype=np.int32) * width)
            joined = pc.binary_join(pa.ListArray.from_arrays(ends, numbers), " ")
            lines = pc.binary_join_element_wise(words[start : start + len(block)], joined, " ")
            out.write("".join(f"{line}\n" for line in lines.to_pylist()).encode())
            start += len(block)
    return [Path(to)]


#: Format -> what writes it
EXPORTS = {"npy": export_npy, "safetensors": export_safetensors, "word2vec": export_word2vec}
