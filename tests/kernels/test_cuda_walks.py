"""The walks' CUDA text, compiled for the host, gives the op's bits; and NVRTC takes it."""

import ctypes
import itertools
import subprocess

import pytest
import torch

from gnnaccel.kernels.cuda import random_walk as launcher
from gnnaccel.kernels.cuda.temporal_sample import source
from tests.harness import threads
from tests.kernels.test_cuda import FOLDER, GXX, nvrtc
from tests.ops.test_random_walk import csr

# threads that do not meet may as well come one after the other
EMULATION = r"""
#define __global__
#define __device__
#define __forceinline__ inline
struct Dim { unsigned x; };
static Dim threadIdx, blockIdx, blockDim;
#include "random_walk.cu"

#define RUN(NAME, ID)                                                                                                \
  extern "C" void run_##NAME(long blocks, unsigned threads, const void* const* p, const int64_t* s) {                \
    blockDim.x = threads;                                                                                            \
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)                                                          \
      for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)                                                    \
        NAME((const int64_t*)p[0], (const ID*)p[1], p[2], (ID*)p[3], s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], \
             s[8], s[9], s[10], s[11]);                                                                              \
  }
RUN(random_walk_i32, int32_t)
RUN(random_walk_i64, int64_t)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if GXX is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("emulation")
    (folder / "k.cpp").write_text(EMULATION)
    command = [GXX, "-std=c++17", "-O1", "-shared", "-fPIC", f"-I{FOLDER}", "-Wno-unknown-pragmas"]
    subprocess.run([*command, "-o", str(folder / "k.so"), str(folder / "k.cpp")], check=True, stdin=subprocess.DEVNULL)
    return ctypes.CDLL(str(folder / "k.so"))


@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
def test_the_kernel_on_the_host_gives_the_ops_bits(library, ids):
    gen = torch.Generator().manual_seed(1)
    N, walks, length = 60, 300, 13
    src, dst = torch.randint(0, N - 3, (2, 500), generator=gen)
    indptr, nbr = csr(src, dst, N, ids)
    start = torch.randint(-1, N, (walks,), generator=gen)
    one = 2**32
    for weights, restart, ordered, kind in itertools.product(
        [(one, one, one), (one, one // 2, one // 7), (1, 5, one)],
        [0, one // 9],
        [True, False],
        [torch.int32, torch.int64],
    ):
        begin = start.to(kind)
        scalars = [*weights, restart, ordered, 2**35 + 1, 3, one - 100]
        with threads(2):
            want = torch.ops.gnnaccel.random_walk(indptr, nbr, begin, length, *scalars)
        got = torch.full_like(want, 77)
        kernel = getattr(library, "run_" + launcher.NAMES[ids])
        kernel(
            ctypes.c_long(-(-walks // launcher.THREADS)),
            ctypes.c_uint(launcher.THREADS),
            (ctypes.c_void_p * 4)(*(x.data_ptr() for x in (indptr, nbr, begin, got))),
            (ctypes.c_int64 * 12)(N, walks, length, kind == torch.int64, *(int(x) for x in scalars)),
        )
        assert torch.equal(got, want)


@pytest.mark.parametrize("capability", [80, 90])
def test_the_launchers_text_compiles_at_run_time(capability):
    library = nvrtc()
    if library is None:
        pytest.skip("no NVRTC")
    program = ctypes.c_void_p()
    text = source("random_walk.cu").encode()
    assert library.nvrtcCreateProgram(ctypes.byref(program), text, b"k.cu", 0, None, None) == 0
    options = [f"--gpu-architecture=sm_{capability}".encode(), b"--std=c++17"]
    result = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    library.nvrtcDestroyProgram(ctypes.byref(program))
    assert result == 0
