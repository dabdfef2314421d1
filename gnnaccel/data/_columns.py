"""Columns of a table -> checked NumPy arrays: ids, times, labels, features, and the map to contiguous ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from gnnaccel.data.events import DataError

# Arrow makes its functions at run time, which type checkers cannot see
pc: Any = pyarrow.compute

INT = r"^[-+]?[0-9]+$"
WHOLE = r"^[-+]?[0-9]+\.0*$"
NUMBER = r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$"
EXACT = 2.0**53
INT64 = 2**63 - 1


@dataclass
class Table:
    """An Arrow table with where it came from.

    Attributes:
        data: The columns read.
        path: For messages.
        reread: Columns of a text file again, as text; None where the file has types of its own (Parquet).
    """

    data: pa.Table
    path: Path
    reread: Callable[[list[str]], pa.Table] | None = None

    def text(self, name: str) -> pa.ChunkedArray | None:
        """The column as the file spells it, without surrounding blanks; None for a typed file."""
        if self.reread is None:
            return None
        return pc.utf8_trim_whitespace(self.reread([name]).column(name))

    def fail(self, problem: str, remedy: str | None = None, at: int | None = None) -> DataError:
        return DataError(self.path, problem, remedy, None if at is None else at + 1)


def first(mask: Any) -> int | None:
    """Position of the first true element, None if there is none. Nulls count as false."""
    m = mask if isinstance(mask, np.ndarray) else pc.fill_null(mask, False).to_numpy(zero_copy_only=False)
    i = int(m.argmax()) if len(m) else 0
    return i if len(m) and m[i] else None


def _plain(col: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(col.type):
        col = col.cast(col.type.value_type)
    return col.cast(pa.string()) if pa.types.is_large_string(col.type) else col


def _is_text(kind: Any) -> bool:
    return pa.types.is_string(kind) or pa.types.is_binary(kind)


def _overflow(table: Table, text: pa.ChunkedArray, what: str) -> DataError:
    at = next(i for i, v in enumerate(text.to_pylist()) if not -INT64 - 1 <= int(v) <= INT64)
    return table.fail(f"{what} {text[at].as_py()} overflows int64", "use ids below 2^63, or make them strings", at)


def _ints(table: Table, text: pa.ChunkedArray, what: str) -> np.ndarray:
    try:
        return text.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid:
        # Arrow's parser takes no leading plus sign
        text = pc.replace_substring_regex(text, r"^\+", "")
    try:
        return text.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid:
        raise _overflow(table, text, what) from None


def id_column(table: Table, name: str, label: str) -> np.ndarray | pa.ChunkedArray:
    """int64 array, or a string column where any id is not an integer."""
    col = _plain(table.data.column(name))
    if (at := first(col.is_null())) is not None:
        raise table.fail(f"{label} is missing", "every event needs a source and a destination", at)
    kind = col.type
    if pa.types.is_integer(kind):
        if pa.types.is_uint64(kind) and (at := first(pc.greater(col, pa.scalar(INT64, pa.uint64())))) is not None:
            raise table.fail(
                f"{label} {col[at].as_py()} overflows int64", "use ids below 2^63, or make them strings", at
            )
        return _non_negative(table, col.to_numpy().astype(np.int64, copy=False), label)
    text = None if _is_text(kind) else table.text(name)
    if text is None and pa.types.is_floating(kind):
        x = col.to_numpy().astype(np.float64)
        if (at := first(~(np.isfinite(x) & (x == np.floor(x)) & (np.abs(x) < EXACT)))) is not None:
            raise table.fail(f"{label} {x[at]} is not an exact integer", "store ids as integers or strings", at)
        return _non_negative(table, x.astype(np.int64), label)
    if text is None:
        if not _is_text(kind):
            raise table.fail(f"column {name!r} holds {kind}, not ids", "store ids as integers or strings")
        text = pc.utf8_trim_whitespace(col.cast(pa.string()))
    if (at := first(pc.equal(text, ""))) is not None:
        raise table.fail(f"{label} is missing", "every event needs a source and a destination", at)
    # In Parquet a string is a string; in a text file digits are a number, whatever else the reader tripped over
    if table.reread is not None:
        if (at := first(pc.invert(pc.match_substring_regex(text, INT)))) is None:
            return _non_negative(table, _ints(table, text, label), label)
        whole = pc.or_(pc.match_substring_regex(text, INT), pc.match_substring_regex(text, WHOLE))
        if first(pc.invert(whole)) is None:
            return _non_negative(table, _ints(table, pc.replace_substring_regex(text, r"\..*$", ""), label), label)
        if pa.types.is_floating(kind):
            at = first(pc.invert(whole))
            raise table.fail(f"{label} {text[at].as_py()} is not an integer", "store ids as integers or strings", at)
    return text


def _non_negative(table: Table, x: np.ndarray, label: str) -> np.ndarray:
    if (at := first(x < 0)) is not None:
        raise table.fail(
            f"{label} {x[at]} is negative",
            "number the ids from 0, or make them strings",
            at,
        )
    return x


def time_column(table: Table, name: str) -> tuple[np.ndarray, str | None]:
    """int64 or float64 array and the unit, which is known only for dates. Whole numbers are int64 however they are spelt."""
    col = _plain(table.data.column(name))
    kind = col.type
    remedy = "give every event a time: a number, or an ISO date"
    if pa.types.is_date(kind):
        col = col.cast(pa.timestamp("s"))
        kind = col.type
    if (at := first(col.is_null())) is not None and not _is_text(kind):
        raise table.fail("the time is missing or NaN", remedy, at)
    if pa.types.is_timestamp(kind):
        unit, x = kind.unit, col.cast(pa.int64()).to_numpy()
        for coarse in {"ns": ("us", "ms", "s"), "us": ("ms", "s"), "ms": ("s",), "s": ()}[unit]:
            if (x % 1000).any():
                break
            unit, x = coarse, x // 1000
        return x, unit
    if pa.types.is_integer(kind):
        if pa.types.is_uint64(kind) and (at := first(pc.greater(col, pa.scalar(INT64, pa.uint64())))) is not None:
            raise table.fail(f"the time {col[at].as_py()} overflows int64", "use a coarser unit", at)
        return col.to_numpy().astype(np.int64, copy=False), None
    if pa.types.is_decimal(kind):
        col, kind = col.cast(pa.float64()), pa.float64()
    if pa.types.is_floating(kind):
        x = col.to_numpy().astype(np.float64, copy=False)
        if table.reread is None or not (np.abs(x[np.isfinite(x)]) >= EXACT).any():
            return _whole_or_float(table, x, remedy), None
    text = pc.utf8_trim_whitespace(col.cast(pa.string())) if _is_text(kind) else table.text(name)
    if text is None:
        raise table.fail(f"column {name!r} holds {kind}, not times", remedy)
    if (
        at := first(pc.is_in(pc.utf8_lower(pc.fill_null(text, "")), pa.array(["", "nan", "null", "na", "none"])))
    ) is not None:
        raise table.fail("the time is missing or NaN", remedy, at)
    if first(pc.invert(pc.match_substring_regex(text, INT))) is None:
        return _ints(table, text, "the time"), None
    infinite = pc.match_substring_regex(text, r"(?i)^[-+]?inf(inity)?$")
    if (at := first(pc.invert(pc.or_(pc.match_substring_regex(text, NUMBER), infinite)))) is not None:
        raise table.fail(f"the time {text[at].as_py()!r} cannot be read", remedy, at)
    x = pc.replace_substring_regex(text, r"^\+", "").cast(pa.float64()).to_numpy()
    big = pc.and_(pc.match_substring_regex(text, INT), pa.array(np.abs(x) >= EXACT))
    if (at := first(big)) is not None:
        raise table.fail(
            f"the time {text[at].as_py()} is not exact beside fractional times",
            "use whole numbers in a finer unit",
            at,
        )
    return _whole_or_float(table, x, remedy), None


def _whole_or_float(table: Table, x: np.ndarray, remedy: str) -> np.ndarray:
    if (at := first(~np.isfinite(x))) is not None:
        raise table.fail("the time is NaN" if np.isnan(x[at]) else "the time is infinite", remedy, at)
    if (np.floor(x) == x).all() and (np.abs(x) < EXACT).all():
        return x.astype(np.int64)
    return x


def label_column(table: Table, name: str) -> np.ndarray:
    """int64 where all labels are whole, else float32."""
    x = _floats(table, name, f"label {name!r}", np.float64)
    if (np.floor(x) == x).all() and (np.abs(x) < EXACT).all():
        return x.astype(np.int64)
    return x.astype(np.float32)


def is_numeric(table: Table, name: str) -> bool:
    kind = table.data.column(name).type
    if (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    ):
        return True
    if table.reread is None or not pa.types.is_string(kind):
        return False
    text = pc.utf8_trim_whitespace(table.data.column(name))
    return first(pc.invert(pc.match_substring_regex(text, NUMBER))) is None


def _floats(table: Table, name: str, what: str, dtype: Any) -> np.ndarray:
    col = _plain(table.data.column(name))
    remedy = "fill the gap, or leave the column out"
    if (at := first(col.is_null())) is not None:
        raise table.fail(f"{what} is missing or NaN", remedy, at)
    if pa.types.is_boolean(col.type):
        col = col.cast(pa.int8())
    if _is_text(col.type):
        text = pc.utf8_trim_whitespace(col.cast(pa.string()))
        if (at := first(pc.invert(pc.match_substring_regex(text, NUMBER)))) is not None:
            raise table.fail(f"{what} {text[at].as_py()!r} is not a number", remedy, at)
        col = pc.replace_substring_regex(text, r"^\+", "").cast(pa.float64())
    if not (pa.types.is_integer(col.type) or pa.types.is_floating(col.type) or pa.types.is_decimal(col.type)):
        raise table.fail(f"{what} holds {col.type}, not numbers", remedy)
    with np.errstate(over="ignore"):
        x = (col.cast(pa.float64()) if pa.types.is_decimal(col.type) else col).to_numpy().astype(dtype, copy=False)
    if (at := first(~np.isfinite(x))) is not None:
        raise table.fail(f"{what} is not finite", remedy, at)
    return x


def feature_columns(table: Table, names: list[str], labels: list[str] | None = None) -> np.ndarray | None:
    """float32 [E, len(names)], finite, or None for no names."""
    if not names:
        return None
    out = np.empty((table.data.num_rows, len(names)), np.float32)
    for j, name in enumerate(names):
        out[:, j] = _floats(table, name, f"feature {(labels or names)[j]!r}", np.float32)
    return out


def contiguous(
    src: np.ndarray | pa.ChunkedArray, dst: np.ndarray | pa.ChunkedArray, separate: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids of any kind -> `(src, dst, node_ids)` with contiguous int64 ids in the order of the original ids.

    Args:
        src, dst: int64 arrays, or string columns; if one is strings, both are taken as strings.
        separate: Sources and destinations are numbered separately: sources come first.
    """
    if not (isinstance(src, np.ndarray) and isinstance(dst, np.ndarray)):
        src, dst = (pa.chunked_array([x]).cast(pa.string()) if isinstance(x, np.ndarray) else x for x in (src, dst))
    if separate:
        (src_ids, s), (dst_ids, d) = _unique(src), _unique(dst)
        return s, d + len(src_ids), np.concatenate([src_ids, dst_ids])
    n = len(src)
    ids, both = _unique(
        np.concatenate([src, dst]) if isinstance(src, np.ndarray) else pa.chunked_array(src.chunks + dst.chunks)  # type: ignore[union-attr]
    )
    return both[:n], both[n:], ids


def _unique(x: Any) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(x, np.ndarray):
        enc = x.dictionary_encode().unify_dictionaries().combine_chunks()
        enc = enc.chunk(0) if isinstance(enc, pa.ChunkedArray) else enc
        names = np.array(enc.dictionary.to_pylist(), dtype=str)
        order = np.argsort(names)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        return names[order], rank[enc.indices.to_numpy()]
    top = int(x.max())
    if top <= 8 * len(x) + 1024:
        # Dense ids: a table beats a sort
        seen = np.zeros(top + 1, bool)
        seen[x] = True
        if seen.all():
            return np.arange(top + 1), x
        return np.flatnonzero(seen), (np.cumsum(seen) - 1)[x]
    ids, inverse = np.unique(x, return_inverse=True)
    return ids, inverse.reshape(-1).astype(np.int64, copy=False)
