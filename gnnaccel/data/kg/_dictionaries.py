"""Files that number names: DGL-KE's dictionaries and OpenKE's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from gnnaccel.data.kg._files import BLANKS, Coded, TripleError, TripleFile, lines_of, read_lines

# Arrow makes its functions at run time, which type checkers cannot see
pc: Any = pyarrow.compute


def read_names(path: Path, id_first: bool) -> Any:
    """Names by id from a file of `id name` lines (DGL-KE) or, as OpenKE has it, a count and `name id` lines.

    Args:
        path: Text, perhaps gzipped. A first line of one number is the count, and must agree.
        id_first: Which of both is usual for this file; the other is taken where all lines have it and not all the usual one.

    Returns:
        Arrow string array [n]. The ids must be 0..n-1, each once, and the names distinct.
    """
    probe = TripleFile(path, delimiter=BLANKS, header=False)  # refuses what is not text
    lines = Coded.of(read_lines(path).column("line")) if not probe.empty else None
    text = None if lines is None else lines.values.take(pa.array(lines.codes))
    if text is None or not len(text):
        raise TripleError(path, "expected names and ids, got an empty file")
    numbers, count = [n for n, line in lines_of(path) if line.strip()], None
    if re.fullmatch(r"[0-9]{1,18}", text[0].as_py()):
        count, text, numbers = int(text[0].as_py()), text[1:], numbers[1:]
    patterns = [r"^(?P<id>[0-9]{1,18})[ \t,]+(?P<name>.+)$", r"^(?P<name>.*[^ \t,])[ \t,]+(?P<id>[0-9]{1,18})$"]
    found = [pc.extract_regex(text, p) for p in (patterns if id_first else patterns[::-1])]
    pick = next((f for f in found if f.null_count == 0), found[0])
    if pick.null_count:
        at = int(np.argmax(pick.is_null().to_numpy(zero_copy_only=False)))
        expected = "expected an id and a name" if id_first else "expected a name and an id"
        raise TripleError(path, f"{expected}, got {text[at].as_py()!r}", None, numbers[at])
    names, n = pc.struct_field(pick, "name"), len(pick)
    ids = pc.struct_field(pick, "id").cast(pa.int64()).to_numpy()
    if count is not None and count != n:
        raise TripleError(path, f"expected {count} names as its first line says, got {n}")
    if (ids >= n).any():
        at = int(np.argmax(ids >= n))
        raise TripleError(path, f"expected ids 0..{n - 1} for {n} names, got {ids[at]}", None, numbers[at])
    for what, keys in (("id", ids), ("name", names.dictionary_encode().indices.to_numpy())):
        first = np.full(n, -1, np.int64)
        first[keys[::-1]] = np.arange(n)[::-1]
        if (again := first[keys] != np.arange(n)).any():
            at = int(np.argmax(again))
            given = ids[at] if what == "id" else repr(names[at].as_py())
            earlier = numbers[int(first[keys[at]])]
            raise TripleError(path, f"expected each {what} once, got {given} again (line {earlier})", None, numbers[at])
    place = np.empty(n, np.int64)
    place[ids] = np.arange(n)
    return names.take(pa.array(place))
