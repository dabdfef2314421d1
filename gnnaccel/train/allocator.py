"""The C library's allocator, set up for steps that free and take the same megabytes again and again."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Let the process keep memory that it has freed. For programs, not for libraries: it changes the whole process.

    By default glibc gives large blocks back to the system at once, and a training step pays for them in page faults each time
    (about a thousand a step of TGN at batch 600).

    Returns:
        Whether the C library was glibc and took the settings.
    """
    return _set(1 << 30, 2**31 - 1)


def give_back_freed_memory() -> bool:
    """The opposite, for comparisons: the thresholds that glibc's own adjustment ends with (32 and 64 MiB)."""
    return _set(32 << 20, 64 << 20)


def _set(mmap_threshold: int, trim_threshold: int) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, mmap_threshold)) and bool(mallopt(M_TRIM_THRESHOLD, trim_threshold))
