"""Lists of names or ids, one a line, and the maps that name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch
from torch import Tensor

pc: Any = pyarrow.compute


def read_map(flag: str, file: str, count: int, *folders: str | Path) -> list[str]:
    """Names by id of a map `id<TAB>name` of `count` rows, given by its path, or by its name in one of the folders."""
    from gnnaccel.data.kg._dictionaries import read_names

    path = next((p for p in (Path(file), *(Path(folder) / file for folder in folders)) if p.is_file()), None)
    if path is None:
        raise ValueError(f"{flag}: no file {file}, nor one in {' or '.join(map(str, folders))}")
    names = read_names(path, id_first=True).to_pylist()
    if len(names) != count:
        raise ValueError(f"{flag}: {path} must name {count} rows, got {len(names)}")
    return names


def read_list(path: str, names: list[str] | None, count: int) -> Tensor:
    """Ids of a file of `count` possible ids, or of names if `names` are given, one a line; int64 `[n]`.

    Raises:
        ValueError: No such file, or a line that is no id or name; names the line.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--data_files: cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    while lines and not lines[-1]:
        lines.pop()
    if names is None:
        ids = [int(x) if x.isascii() and x.isdigit() and int(x) < count else -1 for x in lines]
    else:
        ids = (
            pc.index_in(pa.array(lines, pa.string()), value_set=pa.array(names, pa.string())).fill_null(-1).to_pylist()
        )
    if -1 in ids:
        i = ids.index(-1)
        expected = f"an id in [0, {count})" if names is None else "a name of the mapping file"
        raise ValueError(f"{path}, line {i + 1}: expected {expected}, got {lines[i]!r}")
    return torch.from_numpy(np.array(ids, np.int64))


def lists_of(flag: str, parts: list[str], data_files: list[str] | None) -> list[str | None]:
    """Which file each part of a format has; None for a star."""
    files, wanted = list(data_files or []), [x for x in parts if x != "*"]
    if len(files) != len(wanted):
        expected = ", ".join(wanted) or "no file"
        raise ValueError(f"--data_files must be {expected} for --format {flag}, got {len(files)} files")
    return [None if x == "*" else files.pop(0) for x in parts]


def spell(names: list[str] | None, ids: Tensor) -> list[Any]:
    """Names of ids, or the ids."""
    return ids.tolist() if names is None else [names[i] for i in ids.tolist()]
