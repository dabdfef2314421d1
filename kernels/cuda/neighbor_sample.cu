// neighbor_sample on GPU. A thread picks for one root; then the threads of the block write the slots of all its roots
// side by side, so that stores are coalesced.
#include "neighbor_sample.cuh"

namespace gnnaccel {

constexpr int kNeighborRoots = 64;

template <class Id>
__device__ __forceinline__ void neighbor_block(const NeighborArgs<Id>& a) {
  __shared__ int64_t begins[kNeighborRoots];
  __shared__ int32_t counts[kNeighborRoots];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kNeighborRoots, left = a.num_roots - first;
  const int64_t roots = left < kNeighborRoots ? left : kNeighborRoots;
  if (threadIdx.x < roots) {
    const int64_t root = first + threadIdx.x;
    int32_t faults = 0;
    const RowRange row = row_of(a, root_node(a, root), faults);
    const int64_t count = pick_root(a, root, row, faults);
    begins[threadIdx.x] = row.begin;
    counts[threadIdx.x] = static_cast<int32_t>(count);
    a.out_count[root] = static_cast<int32_t>(count);
  }
  __syncthreads();
  const int64_t slots = roots * a.fanout;
  for (int64_t s = threadIdx.x; s < slots; s += blockDim.x) {
    const int64_t r = s / a.fanout;
    write_slot(a, first + r, s - r * a.fanout, begins[r], counts[r]);
  }
}

}  // namespace gnnaccel

// Plain arguments, all of eight bytes: any launcher can pass them. `counters`, if given, takes the places of epoch and
// batch: what is read from memory may differ from replay to replay of a CUDA graph.
#define GNNACCEL_NEIGHBOR_SAMPLE(NAME, ID)                                                                             \
  extern "C" __global__ void NAME(const int64_t* indptr, const ID* nbr, const ID* eid, const int16_t* relation,        \
                                  const float* weight, const int64_t* exclude, const int64_t* fanouts,                 \
                                  const void* nodes, const int64_t* counters, ID* out_nbr, ID* out_eid,                \
                                  int16_t* out_relation, float* out_weight, int32_t* out_count, double* keys,          \
                                  int64_t num_nodes, int64_t num_edges, int64_t num_roots, int64_t fanout,             \
                                  int64_t num_relations, int64_t num_excluded, int64_t nodes_are_64, int64_t weighted, \
                                  int64_t replace, int64_t seed, int64_t epoch, int64_t batch, int64_t hop) {          \
    gnnaccel::NeighborArgs<ID> a{};                                                                                    \
    a.indptr = indptr;                                                                                                 \
    a.nbr = nbr;                                                                                                       \
    a.eid = eid;                                                                                                       \
    a.relation = relation;                                                                                             \
    a.weight = weight;                                                                                                 \
    a.exclude = exclude;                                                                                               \
    a.fanouts = fanouts;                                                                                               \
    a.nodes = nodes;                                                                                                   \
    a.out_nbr = out_nbr;                                                                                               \
    a.out_eid = out_eid;                                                                                               \
    a.out_relation = out_relation;                                                                                     \
    a.out_weight = out_weight;                                                                                         \
    a.out_count = out_count;                                                                                           \
    a.keys = keys;                                                                                                     \
    a.num_nodes = num_nodes;                                                                                           \
    a.num_edges = num_edges;                                                                                           \
    a.num_roots = num_roots;                                                                                           \
    a.fanout = fanout;                                                                                                 \
    a.num_relations = num_relations;                                                                                   \
    a.num_excluded = num_excluded;                                                                                     \
    a.nodes_are_64 = static_cast<int32_t>(nodes_are_64);                                                               \
    a.weighted = static_cast<int32_t>(weighted);                                                                       \
    a.replace = static_cast<int32_t>(replace);                                                                         \
    a.seed = seed;                                                                                                     \
    a.epoch = epoch;                                                                                                   \
    a.batch = batch;                                                                                                   \
    a.hop = hop;                                                                                                       \
    if (counters != nullptr) {                                                                                         \
      a.epoch = counters[0];                                                                                           \
      a.batch = counters[1];                                                                                           \
    }                                                                                                                  \
    gnnaccel::neighbor_block(a);                                                                                       \
  }

GNNACCEL_NEIGHBOR_SAMPLE(neighbor_sample_i32, int32_t)
GNNACCEL_NEIGHBOR_SAMPLE(neighbor_sample_i64, int64_t)
