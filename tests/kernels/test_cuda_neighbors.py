"""The neighbour sampler's CUDA text, compiled for the host, gives the op's bits; and NVRTC takes it."""

import ctypes
import itertools
import subprocess

import pytest
import torch

from gnnaccel.kernels.cuda import neighbor_sample as launcher
from gnnaccel.kernels.cuda.temporal_sample import source
from tests.harness import threads
from tests.kernels.test_cuda import FOLDER, GXX, HOST_THREADS, nvrtc
from tests.ops.static_rows import graph

EMULATION = (
    HOST_THREADS
    + r"""
#include "neighbor_sample.cu"

template <class F>
void launch(long blocks, unsigned threads, const F& kernel) {
  blockDim.x = threads;
  std::vector<std::thread> running;
  for (unsigned t = 0; t < threads; ++t)
    running.emplace_back([&, t] {
      threadIdx.x = t;
      for (long b = 0; b < blocks; ++b) {
        blockIdx.x = static_cast<unsigned>(b);
        kernel();
        __syncthreads();  // one block after the other: they share the static memory
      }
    });
  for (auto& t : running) t.join();
}

#define RUN(NAME, ID)                                                                                                 \
  extern "C" void run_##NAME(long blocks, unsigned threads, const void* const* p, const int64_t* s) {                 \
    launch(blocks, threads, [&] {                                                                                     \
      NAME((const int64_t*)p[0], (const ID*)p[1], (const ID*)p[2], (const int16_t*)p[3], (const float*)p[4],          \
           (const int64_t*)p[5], (const int64_t*)p[6], p[7], (const int64_t*)p[8], (ID*)p[9], (ID*)p[10],             \
           (int16_t*)p[11], (float*)p[12], (int32_t*)p[13], (double*)p[14], s[0], s[1], s[2], s[3], s[4], s[5],       \
           s[6], s[7], s[8], s[9], s[10], s[11], s[12]);                                                              \
    });                                                                                                               \
  }
RUN(neighbor_sample_i32, int32_t)
RUN(neighbor_sample_i64, int64_t)
"""
)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if GXX is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("emulation")
    (folder / "k.cpp").write_text(EMULATION)
    command = [GXX, "-std=c++17", "-O1", "-shared", "-fPIC", "-pthread", f"-I{FOLDER}", "-Wno-unknown-pragmas"]
    subprocess.run([*command, "-o", str(folder / "k.so"), str(folder / "k.cpp")], check=True, stdin=subprocess.DEVNULL)
    return ctypes.CDLL(str(folder / "k.so"))


@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
def test_the_kernel_on_the_host_gives_the_ops_bits(library, ids):
    gen = torch.Generator().manual_seed(1)
    g = graph(gen, 3000, 60, relations=4, weighted=True, ids=ids)
    exclude = torch.randperm(3000, generator=gen)[:400].sort().values
    nodes = torch.randint(-1, 60, (200,), generator=gen)
    for fanout, weighted, replace, banned, edge_ids, keyed in itertools.product(
        ([1], [15], [70], [2, 0, 3, 40]), *[(False, True)] * 5
    ):
        typed = len(fanout) > 1
        tensors = [g["indptr"], g["nbr"], g["eid"] if edge_ids or banned else None, g["relation"], g["weight"]]
        tensors += [exclude if banned else None]
        roots, key = nodes.to(torch.int32) if replace else nodes, (2**35 + 1, 3, 4, 2)
        with threads(2):
            want = torch.ops.gnnaccel.neighbor_sample(*tensors, roots, fanout, typed, weighted, replace, edge_ids, *key)
        got = [torch.full_like(o, 77) for o in want]
        order = [got[0], got[1] if edge_ids else None, got[3], got[4], got[2]]
        keys = torch.empty((200, sum(fanout)), dtype=torch.float64)
        fanouts = torch.tensor(fanout) if typed else None
        counters = torch.tensor(key[1:3]) if keyed else None
        pointers = [0 if x is None else x.data_ptr() for x in (*tensors, fanouts, roots, counters, *order, keys)]
        scalars = [60, 3000, 200, sum(fanout), len(fanout), len(exclude) if banned else 0]
        scalars += [int(x) for x in (roots.dtype == torch.int64, weighted, replace)]
        scalars += [key[0], 0, 0, key[3]] if keyed else list(key)
        getattr(library, "run_" + launcher.NAMES[ids])(
            ctypes.c_long(-(-len(nodes) // launcher.BLOCK_ROOTS)),
            ctypes.c_uint(launcher.BLOCK_ROOTS),
            (ctypes.c_void_p * 15)(*pointers),
            (ctypes.c_int64 * 13)(*scalars),
        )
        for x, y in zip(want, got, strict=True):
            assert torch.equal(x, y), (fanout, weighted, replace, banned, edge_ids, keyed)


@pytest.mark.parametrize("capability", [80, 90])
def test_the_launchers_text_compiles_at_run_time(capability):
    library = nvrtc()
    if library is None:
        pytest.skip("no NVRTC")
    program = ctypes.c_void_p()
    text = source("neighbor_sample.cu").encode()
    assert library.nvrtcCreateProgram(ctypes.byref(program), text, b"k.cu", 0, None, None) == 0
    options = [f"--gpu-architecture=sm_{capability}".encode(), b"--std=c++17"]
    result = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    assert result == 0, log.value.decode()
