"""Folders of arrays under one header: written so that a reader finds the old ones or the new ones, and mapped on reading."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["load_arrays", "save_arrays"]


def save_arrays(
    folder: str | os.PathLike[str],
    header: str,
    kind: Mapping[str, Any],
    facts: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Write `arrays` and, last and by renaming, the JSON file `header` that names them.

    Args:
        folder: Made if it is not there. Arrays of an earlier header in it go when the new one stands.
        header: Name of the JSON file.
        kind: Format and version, which `load_arrays` demands.
        facts: Anything else for the header.
        arrays: By name; no pickled objects.
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    stem, token = Path(header).stem, secrets.token_hex(4)
    entries: dict[str, Any] = {}
    for name, array in arrays.items():
        file = f"{stem}.{name}-{token}.npy"
        with open(path / file, "wb") as f:
            np.save(f, array, allow_pickle=False)
            f.flush()
            os.fsync(f.fileno())
        entries[name] = {"file": file, "dtype": str(array.dtype), "shape": list(array.shape)}
    temporary = path / f".{header}-{token}"
    with open(temporary, "w", encoding="utf-8") as f:
        json.dump({**kind, **facts, "arrays": entries}, f, indent=1)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, path / header)
    for old in path.glob(f"{stem}.*-????????.npy"):
        if token not in old.name:
            old.unlink(missing_ok=True)


def load_arrays(
    folder: str | os.PathLike[str],
    header: str,
    kind: Mapping[str, Any],
    required: Iterable[str],
    bad: Callable[[str, object], ValueError],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the arrays that `save_arrays` wrote: nothing is read until it is used, and changes stay private.

    Raises:
        ValueError: What `bad(expected, given)` gives, if the folder does not hold what the header says.
    """
    path = Path(folder)
    try:
        facts = json.loads((path / header).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise bad(f"hold {header}", "none") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise bad(f"hold JSON in {header}", error) from None
    if not isinstance(facts, dict) or {k: facts.get(k) for k in kind} != dict(kind):
        raise bad(f"say {dict(kind)} in {header}", str(facts)[:100])
    entries = facts.get("arrays")
    if not isinstance(entries, dict) or (missing := [name for name in required if name not in entries]):
        raise bad(f"name its arrays in {header}", "none" if not isinstance(entries, dict) else f"no {missing[0]}")
    arrays: dict[str, np.ndarray] = {}
    for name, want in entries.items():
        try:
            file = path / Path(want["file"]).name
            expected, shape = str(want["dtype"]), tuple(int(n) for n in want["shape"])
        except (KeyError, TypeError, ValueError) as error:
            raise bad(f"name its arrays in {header}", repr(error)) from None
        try:
            # mode "c": private pages, so that torch may treat the array as writable
            array = np.load(file, mmap_mode="c", allow_pickle=False)
        except (OSError, EOFError) as error:
            raise bad("hold the files that its header names", error) from None
        except ValueError as error:
            raise bad("hold complete files", error) from None
        if str(array.dtype) != expected or array.shape != shape:
            raise bad(f"hold {expected} {list(shape)} in {file.name}", f"{array.dtype} {list(array.shape)}")
        arrays[name] = array
    return facts, arrays
