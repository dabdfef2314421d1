// random_walk on GPU: a thread is a walk.
#include "random_walk.cuh"

namespace gnnaccel {

template <class Id>
__device__ __forceinline__ void walk(const WalkArgs<Id>& a) {
  const int64_t w = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (w >= a.num_walks) return;
  Id* out = a.out + w * (a.length + 1);
  const int64_t start = is_node(a, walk_start(a, w)) ? walk_start(a, w) : -1;
  int64_t at = start, before = -1;
  out[0] = static_cast<Id>(start);
  for (int64_t step = 1; step <= a.length; ++step) {
    if (at >= 0) {
      const WalkWords words = walk_words(a, w, step, 0);
      if (words.restart < a.restart) {
        at = start;
        before = -1;
      } else {
        const int64_t begin = a.indptr[at], end = a.indptr[at + 1];
        int64_t next = -1;
        if (begin < end) {
          next = a.second_order && before >= 0
                     ? static_cast<int64_t>(second_order_step(a, w, step, before, begin, end, words))
                     : static_cast<int64_t>(
                           a.nbr[begin + static_cast<int64_t>(walk_draw(words, static_cast<uint64_t>(end - begin)))]);
        }
        before = at;
        at = is_node(a, next) ? next : -1;
      }
    }
    out[step] = static_cast<Id>(at);
  }
}

}  // namespace gnnaccel

// Plain arguments, all of eight bytes: any launcher can pass them.
#define GNNACCEL_RANDOM_WALK(NAME, ID)                                                                                 \
  extern "C" __global__ void NAME(const int64_t* indptr, const ID* nbr, const void* start, ID* out, int64_t num_nodes, \
                                  int64_t num_walks, int64_t length, int64_t start_is_64, int64_t back, int64_t near,  \
                                  int64_t away, int64_t restart, int64_t sorted, int64_t seed, int64_t epoch,          \
                                  int64_t offset) {                                                                    \
    gnnaccel::WalkArgs<ID> a{};                                                                                        \
    a.indptr = indptr;                                                                                                 \
    a.nbr = nbr;                                                                                                       \
    a.start = start;                                                                                                   \
    a.out = out;                                                                                                       \
    a.num_nodes = num_nodes;                                                                                           \
    a.num_walks = num_walks;                                                                                           \
    a.length = length;                                                                                                 \
    a.start_is_64 = static_cast<int32_t>(start_is_64);                                                                 \
    a.back = static_cast<uint64_t>(back);                                                                              \
    a.near = static_cast<uint64_t>(near);                                                                              \
    a.away = static_cast<uint64_t>(away);                                                                              \
    a.restart = static_cast<uint64_t>(restart);                                                                        \
    a.second_order = back != near || near != away;                                                                     \
    a.sorted = static_cast<int32_t>(sorted);                                                                           \
    a.seed = seed;                                                                                                     \
    a.epoch = epoch;                                                                                                   \
    a.offset = offset;                                                                                                 \
    gnnaccel::walk(a);                                                                                                 \
  }

GNNACCEL_RANDOM_WALK(random_walk_i32, int32_t)
GNNACCEL_RANDOM_WALK(random_walk_i64, int64_t)
