// temporal_sample on GPU. A thread searches and draws for one root; then the threads of the block write the slots of
// all its roots side by side, so that stores are coalesced.
#include "temporal_sample.cuh"

namespace gnnaccel {

constexpr int kBlockRoots = 64;

template <class Id, class Time>
__device__ __forceinline__ void sample_block(const SampleArgs<Id, Time>& a) {
  __shared__ Range seen[kBlockRoots];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kBlockRoots, left = a.num_roots - first;
  const int64_t roots = left < kBlockRoots ? left : kBlockRoots;
  if (threadIdx.x < roots) {
    const int64_t root = first + threadIdx.x;
    seen[threadIdx.x] = begin_root(a, root);
  }
  __syncthreads();
  const int64_t slots = roots * a.fanout;
  for (int64_t s = threadIdx.x; s < slots; s += blockDim.x) {
    const int64_t r = s / a.fanout;
    write_slot(a, first + r, s - r * a.fanout, seen[r], slots_of(a, first + r, seen[r]));
  }
}

__device__ __forceinline__ void from_bits(int64_t bits, int64_t& out) { out = bits; }
__device__ __forceinline__ void from_bits(int64_t bits, double& out) { out = __longlong_as_double(bits); }

}  // namespace gnnaccel

// Plain arguments, all of eight bytes: any launcher can pass them. `counters`, if given, takes the places of epoch,
// batch, bound_t and bound_eid: what is read from memory may differ from replay to replay of a CUDA graph.
#define GNNACCEL_TEMPORAL_SAMPLE(NAME, ID, TIME)                                                                       \
  extern "C" __global__ void NAME(const int64_t* row_start, const int64_t* row_end, const ID* nbr, const ID* eid,      \
                                  const TIME* t, const void* nodes, const TIME* times, const int64_t* event_ids,       \
                                  const int64_t* draw_keys, const int64_t* counters, ID* out_nbr, ID* out_eid,         \
                                  TIME* out_dt, TIME* out_t, int32_t* out_count, int64_t num_nodes, int64_t num_roots, \
                                  int64_t fanout, int64_t nodes_are_64, int64_t visibility, int64_t uniform,           \
                                  int64_t replace, int64_t window, int64_t bound_t, int64_t bound_eid, int64_t seed,   \
                                  int64_t epoch, int64_t batch, int64_t root_offset, int64_t hop) {                    \
    gnnaccel::SampleArgs<ID, TIME> a{};                                                                                \
    a.row_start = row_start;                                                                                           \
    a.row_end = row_end;                                                                                               \
    a.nbr = nbr;                                                                                                       \
    a.eid = eid;                                                                                                       \
    a.t = t;                                                                                                           \
    a.nodes = nodes;                                                                                                   \
    a.times = times;                                                                                                   \
    a.event_ids = event_ids;                                                                                           \
    a.draw_keys = draw_keys;                                                                                           \
    a.out_nbr = out_nbr;                                                                                               \
    a.out_eid = out_eid;                                                                                               \
    a.out_dt = out_dt;                                                                                                 \
    a.out_t = out_t;                                                                                                   \
    a.out_count = out_count;                                                                                           \
    a.num_nodes = num_nodes;                                                                                           \
    a.num_roots = num_roots;                                                                                           \
    a.fanout = fanout;                                                                                                 \
    a.nodes_are_64 = static_cast<int32_t>(nodes_are_64);                                                               \
    a.visibility = static_cast<int32_t>(visibility);                                                                   \
    a.uniform = static_cast<int32_t>(uniform);                                                                         \
    a.replace = replace && visibility != gnnaccel::kTglCompat;                                                         \
    gnnaccel::from_bits(window, a.window);                                                                             \
    gnnaccel::from_bits(bound_t, a.bound_t);                                                                           \
    a.has_window = !gnnaccel::no_window(a.window);                                                                     \
    a.bound_eid = bound_eid;                                                                                           \
    a.seed = seed;                                                                                                     \
    a.epoch = epoch;                                                                                                   \
    a.batch = batch;                                                                                                   \
    a.root_offset = root_offset;                                                                                       \
    a.hop = hop;                                                                                                       \
    if (counters != nullptr) {                                                                                         \
      a.epoch = counters[0];                                                                                           \
      a.batch = counters[1];                                                                                           \
      gnnaccel::from_bits(counters[2], a.bound_t);                                                                     \
      a.bound_eid = counters[3];                                                                                       \
    }                                                                                                                  \
    gnnaccel::sample_block(a);                                                                                         \
  }

GNNACCEL_TEMPORAL_SAMPLE(temporal_sample_i32_i64, int32_t, int64_t)
GNNACCEL_TEMPORAL_SAMPLE(temporal_sample_i32_f64, int32_t, double)
GNNACCEL_TEMPORAL_SAMPLE(temporal_sample_i64_i64, int64_t, int64_t)
GNNACCEL_TEMPORAL_SAMPLE(temporal_sample_i64_f64, int64_t, double)
