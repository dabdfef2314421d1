"""When memory of large outputs is asked for in huge pages: only where enough of them lie free."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from gnnaccel import baselines

FOLDER = Path(baselines.__file__).parent / "cpp"
GXX = shutil.which("g++")
SOURCE = """
#include "huge_pages.h"
extern "C" int64_t free_pages(const char* text, int64_t order) { return gnnaccel::free_huge_pages(text, order); }
extern "C" void advise(void* data, uint64_t bytes) { gnnaccel::advise_huge_pages_if_free(data, bytes); }
"""
DMA = "Node 0, zone      DMA      1      1      0      0      2      1      1      0      1      1      3 \n"
NORMAL = "Node {}, zone   Normal  55051  60931  31580  16881   7276   2823   1145    191     91     {}   {} \n"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if GXX is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("huge")
    (folder / "h.cpp").write_text(SOURCE)
    command = [GXX, "-std=c++17", "-shared", "-fPIC", f"-I{FOLDER}", "-o", str(folder / "h.so"), str(folder / "h.cpp")]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    library = ctypes.CDLL(str(folder / "h.so"))
    library.free_pages.restype = ctypes.c_int64
    return library


@pytest.mark.parametrize(
    "text, order, pages",
    [
        (DMA + NORMAL.format(0, 5, 7), 9, 5 + 2 * 7),
        (NORMAL.format(0, 5, 7).strip(), 9, 5 + 2 * 7),  # no line break at the end
        (NORMAL.format(0, 5, 7), 10, 7),
        (NORMAL.format(0, 0, 0), 9, 0),
        (NORMAL.format(0, 5, 7) + DMA + NORMAL.format(1, 2, 0), 9, 2),  # the node with least
        (NORMAL.format(0, 5, 7), 11, 0),  # larger than the system counts
        (DMA, 9, 0),
        ("", 9, 0),
        ("\n\nNode", 9, 0),
        ("Node 0, zone   Normal  here  be  words", 0, 0),
    ],
)
def test_free_huge_pages(library, text, order, pages):
    assert library.free_pages(text.encode(), ctypes.c_int64(order)) == pages


def test_advice_changes_no_byte(library):
    size = 9 << 20
    data = ctypes.create_string_buffer(b"\x07" * size, size)
    library.advise(ctypes.addressof(data), ctypes.c_uint64(size))
    assert data.raw == b"\x07" * size
