// What `random_walk` computes for one step of one walk, once for CPU and GPU: the random words, the choice of an entry
// of a row, node2vec's rejections. Plain inline functions without library calls, so that g++, nvcc and NVRTC all take
// them.
#pragma once

#include "philox.cuh"

namespace gnnaccel {

constexpr uint32_t kWalkAttempts = 64;  // candidates that a second-order step rejects before it weighs the whole row

template <class Id>
struct WalkArgs {
  const int64_t* indptr;  // [num_nodes + 1]
  const Id* nbr;
  const void* start;  // [num_walks], int64 or int32
  Id* out;            // [num_walks, length + 1]
  int64_t num_nodes, num_walks, length;
  // Weights of the entries of a row by where they lead, of which 2^32 is always taken: back to the node before, to a
  // neighbour of it, away from it; and the share of 2^32 with which a step goes to the start.
  uint64_t back, near, away, restart;
  int64_t seed, epoch, offset;
  int32_t start_is_64, second_order, sorted;
};

// Four words for a walk's step and attempt. Key = seed, counter = (step, walk, attempt, epoch), the high half of the
// walk's number added to the epoch without carry.
struct WalkWords {
  uint32_t low, high, restart, accept;
};

template <class Id>
GNNACCEL_HD WalkWords walk_words(const WalkArgs<Id>& a, int64_t walk, int64_t step, uint32_t attempt) {
  const uint64_t number = static_cast<uint64_t>(walk + a.offset), seed = static_cast<uint64_t>(a.seed);
  uint32_t c0 = static_cast<uint32_t>(step), c1 = static_cast<uint32_t>(number), c2 = attempt;
  uint32_t c3 = static_cast<uint32_t>(a.epoch) ^ static_cast<uint32_t>(number >> 32);
  philox4x32(c0, c1, c2, c3, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  return {c0, c1, c2, c3};
}

// floor(x n / 2^64) of the 64 random bits x: uniform in [0, n), but for a bias below n / 2^64.
GNNACCEL_HD uint64_t walk_draw(const WalkWords& w, uint64_t n) {
  const uint64_t low = n & 0xffffffffu, high = n >> 32;
  const uint64_t ll = w.low * low, lh = w.low * high, hl = w.high * low, hh = w.high * high;
  const uint64_t middle = (ll >> 32) + (lh & 0xffffffffu) + (hl & 0xffffffffu);
  return hh + (lh >> 32) + (hl >> 32) + (middle >> 32);
}

template <class Id>
GNNACCEL_HD int64_t walk_start(const WalkArgs<Id>& a, int64_t walk) {
  return a.start_is_64 ? static_cast<const int64_t*>(a.start)[walk] : static_cast<const int32_t*>(a.start)[walk];
}

template <class Id>
GNNACCEL_HD bool is_node(const WalkArgs<Id>& a, int64_t node) {
  return static_cast<uint64_t>(node) < static_cast<uint64_t>(a.num_nodes);
}

// Whether `node` is in the row of `of`.
template <class Id>
GNNACCEL_HD bool in_row(const WalkArgs<Id>& a, int64_t of, Id node) {
  int64_t begin = a.indptr[of];
  const int64_t end = a.indptr[of + 1];
  if (!a.sorted) {
    while (begin < end && a.nbr[begin] != node) ++begin;
    return begin < end;
  }
  for (int64_t size = end - begin; size > 0;) {
    const int64_t half = (size + 1) >> 1;
    if (a.nbr[begin + half - 1] < node) begin += half;
    size -= half;
  }
  return begin < end && a.nbr[begin] == node;
}

// node2vec's weight of a step to `node` for a walk that came from `before` (Grover and Leskovec, KDD 2016, sec. 3.2.2).
template <class Id>
GNNACCEL_HD uint64_t walk_weight(const WalkArgs<Id>& a, int64_t before, Id node) {
  if (node == static_cast<Id>(before)) return a.back;
  return a.near == a.away || in_row(a, before, node) ? a.near : a.away;
}

// A step from a row [begin, end) that is not empty, given its first attempt. Candidates are uniform in the row and
// taken with their weight. After many rejections the row is weighed: what was rejected has no say, so the step is as
// likely.
template <class Id>
GNNACCEL_HD Id second_order_step(const WalkArgs<Id>& a, int64_t walk, int64_t step, int64_t before, int64_t begin,
                                 int64_t end, WalkWords words) {
  const uint64_t n = static_cast<uint64_t>(end - begin);
  if (n == 1) return a.nbr[begin];
  for (uint32_t attempt = 0; attempt < kWalkAttempts;) {
    const Id node = a.nbr[begin + static_cast<int64_t>(walk_draw(words, n))];
    if (words.accept < walk_weight(a, before, node)) return node;
    words = walk_words(a, walk, step, ++attempt);
  }
  uint64_t total = 0;
  for (int64_t i = begin; i < end; ++i) total += walk_weight(a, before, a.nbr[i]);
  uint64_t left = walk_draw(words, total);
  for (int64_t i = begin;; ++i) {
    const uint64_t weight = walk_weight(a, before, a.nbr[i]);
    if (left < weight) return a.nbr[i];
    left -= weight;
  }
}

}  // namespace gnnaccel
