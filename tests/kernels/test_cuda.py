"""The CUDA text compiles for sm_80 and sm_90, and its logic, compiled for the host, gives the op's bits."""

import ctypes
import itertools
import os
import shutil
import subprocess
import sys
import types
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import gnnaccel as ga
from gnnaccel.kernels.cuda import temporal_sample as launcher
from tests.harness import poisoned_memory, threads

NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
GXX = shutil.which(os.environ.get("CXX", "g++"))
FOLDER = Path(launcher.__file__).parent
SOURCES = sorted(FOLDER.glob("*.cu"))


@pytest.mark.skipif(NVCC is None, reason="no nvcc")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_compiles_without_spills(source, capability, tmp_path):
    command = [NVCC, "-std=c++17", f"-arch=sm_{capability}", "-cubin", "-Xptxas=-v", "-Werror=all-warnings"]
    ran = subprocess.run(
        [*command, "-o", tmp_path / "k.cubin", source], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert ran.returncode == 0, ran.stderr
    frames = [line.strip() for line in ran.stderr.splitlines() if "bytes stack frame" in line]
    assert frames
    assert all(line.startswith("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads") for line in frames)


def nvrtc():
    names = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


@pytest.mark.parametrize("capability", [80, 90])
def test_the_launchers_text_compiles_at_run_time(capability):
    library = nvrtc()
    if library is None:
        pytest.skip("no NVRTC")
    program = ctypes.c_void_p()
    text = launcher.source().encode()
    assert library.nvrtcCreateProgram(ctypes.byref(program), text, b"k.cu", 0, None, None) == 0
    options = [f"--gpu-architecture=sm_{capability}".encode(), b"--std=c++17"]
    result = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    assert result == 0, log.value.decode()


# Every thread of a block is a thread of the host, and __syncthreads() a barrier.
HOST_THREADS = r"""
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>
#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
struct Dim { unsigned x; };
static thread_local Dim threadIdx, blockIdx;
static Dim blockDim;
static std::mutex mutex;
static std::condition_variable passed;
static unsigned waiting, turn;
inline void __syncthreads() {
  std::unique_lock<std::mutex> lock(mutex);
  const unsigned now = turn;
  if (++waiting == blockDim.x) {
    waiting = 0;
    ++turn;
    passed.notify_all();
  } else {
    passed.wait(lock, [&] { return turn != now; });
  }
}
"""

EMULATION = (
    HOST_THREADS
    + r"""
inline double __longlong_as_double(long long bits) { double d; __builtin_memcpy(&d, &bits, 8); return d; }
#include "temporal_sample.cu"

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

#define RUN(NAME, ID, TIME)                                                                                     \
  extern "C" void run_##NAME(long blocks, unsigned threads, const void* const* p, const int64_t* s) {           \
    launch(blocks, threads, [&] {                                                                               \
      NAME((const int64_t*)p[0], (const int64_t*)p[1], (const ID*)p[2], (const ID*)p[3], (const TIME*)p[4],     \
           p[5], (const TIME*)p[6], (const int64_t*)p[7], (const int64_t*)p[8], (const int64_t*)p[9],           \
           (ID*)p[10], (ID*)p[11], (TIME*)p[12], (TIME*)p[13], (int32_t*)p[14],                                 \
           s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8],                                                \
           s[9], s[10], s[11], s[12], s[13], s[14]);                                                            \
    });                                                                                                         \
  }
RUN(temporal_sample_i32_i64, int32_t, int64_t)
RUN(temporal_sample_i32_f64, int32_t, double)
RUN(temporal_sample_i64_i64, int64_t, int64_t)
RUN(temporal_sample_i64_f64, int64_t, double)
"""
)


@pytest.fixture(scope="session")
def on_host(tmp_path_factory):
    """The launcher's function with the kernel run by the host."""
    if GXX is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("emulation")
    (folder / "k.cpp").write_text(EMULATION)
    command = [GXX, "-std=c++17", "-O1", "-shared", "-fPIC", "-pthread", f"-I{FOLDER}", "-Wno-unknown-pragmas"]
    subprocess.run([*command, "-o", str(folder / "k.so"), str(folder / "k.cpp")], check=True, stdin=subprocess.DEVNULL)
    library = ctypes.CDLL(str(folder / "k.so"))

    def kernel(name):
        def call(grid, block, args):
            pointers, scalars = args[:15], args[15:]
            assert block == (launcher.THREADS,) and len(scalars) == 15
            getattr(library, f"run_{name}")(
                ctypes.c_long(*grid),
                ctypes.c_uint(launcher.BLOCK_ROOTS),  # threads that only write slots would slow the host down
                (ctypes.c_void_p * 15)(*pointers),
                (ctypes.c_int64 * 15)(*scalars),
            )

        return call

    # what the launcher asks of CuPy and of torch.cuda
    cupy = types.SimpleNamespace(
        RawModule=lambda code, options: types.SimpleNamespace(get_function=kernel),
        cuda=types.SimpleNamespace(
            Device=lambda i: nullcontext(), Stream=types.SimpleNamespace(from_external=lambda stream: nullcontext())
        ),
    )
    stream = types.SimpleNamespace(cuda_stream=0)

    def run(*args, counters=None):
        given = list(args)
        if counters is not None:
            for place in (14, 15, 17, 18):  # what they take the places of
                given[place] = -99
        with poisoned_memory(), pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "cupy", cupy)
            patch.setattr(torch.cuda, "current_stream", lambda device: stream)
            patch.setattr(launcher, "_kernel", launcher._kernel.__wrapped__)  # no cache: a real kernel may be in it
            return torch.ops.gnnaccel.temporal_sample.default(*args), launcher.temporal_sample(*given, counters)

    return run


@pytest.mark.parametrize("time", [torch.int64, torch.float64])
@pytest.mark.parametrize("ids", [torch.int32, torch.int64])
def test_the_kernel_on_the_host_gives_the_ops_bits(on_host, ids, time):
    gen = torch.Generator().manual_seed(1)
    events, roots = 3000, 200
    src, dst = torch.randint(0, 40, (2, events), generator=gen)
    t = torch.randint(-300, 300, (events,), generator=gen).sort().values.to(time)
    g = ga.TemporalGraph.from_events(src, dst, t, num_nodes=43, id_dtype=ids)
    nodes = torch.randint(-1, 43, (roots,), generator=gen)
    times = t[torch.randint(0, events, (roots,), generator=gen)]
    event_ids = torch.randint(0, events, (roots,), generator=gen)
    draw_keys = torch.randint(-(2**63), 2**63 - 1, (roots,), generator=gen)
    no_window = ga.ops.temporal_sample.__globals__["_NO_WINDOW"][time]
    bits = ga.ops.temporal_sample.__globals__["_bits"]
    for visibility, (uniform, replace), window, fanout in itertools.product(
        range(5), [(False, False), (True, False), (True, True)], [None, 20], [1, 10, 70]
    ):
        args = (
            *(g.row_start, g.row_end, g.nbr, g.eid, g.t),
            *(nodes.to(torch.int32) if visibility else nodes, times, event_ids if visibility == 2 else None),
            draw_keys if window is None else None,
            *(fanout, visibility, uniform, replace),
            *(no_window if window is None else bits(window, time), bits(t[events // 2].item(), time), events // 2),
            *(2**35 + 1, 3, 4, 1000, 2),
        )
        bound_t, bound_eid, _, epoch, batch = args[14:19]
        for counters in (None, torch.tensor([epoch, batch, bound_t, bound_eid])):
            with threads(2):
                want, got = on_host(*args, counters=counters)
            for x, y in zip(want, got, strict=True):
                assert torch.equal(x, y)


def test_streams_of_either_cupy():
    """CuPy 14 deprecates the class that earlier ones have."""
    from gnnaccel.kernels.cuda._stream import torch_stream

    seen, stream = [], types.SimpleNamespace(cuda_stream=17)

    def enter(*made):
        seen.append(made)
        return nullcontext()

    new = types.SimpleNamespace(Device=lambda i: enter(i), Stream=types.SimpleNamespace(from_external=enter))
    old = types.SimpleNamespace(Device=lambda i: enter(i), Stream=object, ExternalStream=enter)
    for cuda, want in ((new, (stream,)), (old, (17, 3))):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=cuda))
            patch.setattr(torch.cuda, "current_stream", lambda device: stream)
            with torch_stream(torch.device("cuda", 3)):
                pass
        assert len(seen) == 2 and want in seen and (3,) in seen
        seen.clear()
