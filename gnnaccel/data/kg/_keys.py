"""Orders of triples without overflow: keys are packed in one int64 where they fit, else sorted by columns."""

from __future__ import annotations

import numpy as np

_LIMIT = 2**63 - 1


def packs(*bounds: int) -> bool:
    """Whether columns with values in [0, bound) fit one int64."""
    product = 1
    for b in bounds:
        product *= max(b, 1)
    return product <= _LIMIT


def _bound(x: np.ndarray) -> int:
    return int(x.max()) + 1 if len(x) else 1


def repeated(head: np.ndarray, relation: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """Which rows occurred at an earlier position, bool [T]."""
    again = np.zeros(len(head), bool)
    if len(head) < 2:
        return again
    E, R = max(_bound(head), _bound(tail)), _bound(relation)
    if packs(E, R, E):
        key = (head * R + relation) * E + tail
        order = np.argsort(key, kind="stable")
        key = key[order]
        again[order[1:]] = key[1:] == key[:-1]
        return again
    order = np.lexsort((tail, relation, head))
    same = np.ones(len(head) - 1, bool)
    for x in (head, relation, tail):
        same &= x[order[1:]] == x[order[:-1]]
    again[order[1:]] = same
    return again


def distinct_rows(key: np.ndarray, value: np.ndarray, bound: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (key, value) -> CSR of the distinct ones.

    Args:
        key: int64 [T] >= 0.
        value: int64 [T], in [0, bound).

    Returns:
        `(keys, indptr, values)`: ascending keys int64 [K], int64 [K + 1], and for each key its values, ascending.
    """
    if len(key) == 0:
        return np.empty(0, np.int64), np.zeros(1, np.int64), np.empty(0, np.int64)
    if packs(_bound(key), bound):
        pair = key * bound + value
        pair.sort()
        first = np.ones(len(pair), bool)
        np.not_equal(pair[1:], pair[:-1], out=first[1:])
        key, value = np.divmod(pair[first], bound)
    else:
        order = np.lexsort((value, key))
        key, value = key[order], value[order]
        first = np.ones(len(key), bool)
        first[1:] = (key[1:] != key[:-1]) | (value[1:] != value[:-1])
        key, value = key[first], value[first]
    start = np.ones(len(key), bool)
    np.not_equal(key[1:], key[:-1], out=start[1:])
    at = np.flatnonzero(start)
    return key[at], np.append(at, len(key)), value
