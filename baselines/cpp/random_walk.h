// Random walks on CPU: the shared functions, with the memory latency of one walk hidden behind others. A block of walks
// goes in step: all their words are drawn, then all rows looked up and the entries fetched, then all entries read and
// the next rows fetched.
#pragma once

#include "random_walk.cuh"
#include "simd.h"

namespace gnnaccel {

constexpr int64_t kWalkBlock = 64;

struct WalkBlock {
  uint32_t low[kWalkBlock], high[kWalkBlock], restart[kWalkBlock], accept[kWalkBlock];
  int64_t at[kWalkBlock], before[kWalkBlock], begin[kWalkBlock], end[kWalkBlock];
};

// The words of all walks of a block, of whose numbers only the low halves differ.
GNNACCEL_CLONES inline void draw_block(WalkBlock& b, uint32_t step, uint32_t first, uint32_t epoch, int64_t seed) {
  const auto k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32);
  for (uint32_t i = 0; i < kWalkBlock; ++i) {
    uint32_t c0 = step, c1 = first + i, c2 = 0, c3 = epoch;
    philox4x32(c0, c1, c2, c3, k0, k1);
    b.low[i] = c0, b.high[i] = c1, b.restart[i] = c2, b.accept[i] = c3;
  }
}

// Walks [first, first + n), n <= kWalkBlock. False: a start or an entry is no node.
template <class Id>
bool walk_block(const WalkArgs<Id>& a, int64_t first, int64_t n) {
  WalkBlock b;
  bool good = true;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t start = walk_start(a, first + i);
    good &= start == -1 || is_node(a, start);
    b.at[i] = is_node(a, start) ? start : -1;
    b.before[i] = -1;
    a.out[(first + i) * (a.length + 1)] = static_cast<Id>(b.at[i]);
    if (b.at[i] >= 0) __builtin_prefetch(a.indptr + b.at[i]);
  }
  const auto number = static_cast<uint64_t>(first + a.offset);
  const bool one_half = number >> 32 == (number + kWalkBlock - 1) >> 32;
  for (int64_t step = 1; step <= a.length; ++step) {
    if (one_half) {
      const auto epoch = static_cast<uint32_t>(a.epoch) ^ static_cast<uint32_t>(number >> 32);
      draw_block(b, static_cast<uint32_t>(step), static_cast<uint32_t>(number), epoch, a.seed);
    } else {
      for (int64_t i = 0; i < n; ++i) {
        const WalkWords w = walk_words(a, first + i, step, 0);
        b.low[i] = w.low, b.high[i] = w.high, b.restart[i] = w.restart, b.accept[i] = w.accept;
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      if (b.at[i] < 0) continue;
      b.begin[i] = a.indptr[b.at[i]], b.end[i] = a.indptr[b.at[i] + 1];
      const WalkWords words{b.low[i], b.high[i], b.restart[i], b.accept[i]};
      const auto degree = static_cast<uint64_t>(b.end[i] - b.begin[i]);
      __builtin_prefetch(a.nbr + b.begin[i] + static_cast<int64_t>(walk_draw(words, degree)));
    }
    for (int64_t i = 0; i < n; ++i) {
      Id* out = a.out + (first + i) * (a.length + 1) + step;
      if (b.at[i] >= 0) {
        const WalkWords words{b.low[i], b.high[i], b.restart[i], b.accept[i]};
        if (words.restart < a.restart) {
          b.at[i] = walk_start(a, first + i);
          b.before[i] = -1;
        } else {
          const int64_t begin = b.begin[i], end = b.end[i];
          int64_t next = -1;
          if (begin < end) {
            next = a.second_order && b.before[i] >= 0
                       ? static_cast<int64_t>(second_order_step(a, first + i, step, b.before[i], begin, end, words))
                       : static_cast<int64_t>(
                             a.nbr[begin + static_cast<int64_t>(walk_draw(words, static_cast<uint64_t>(end - begin)))]);
            good &= is_node(a, next);
          }
          b.before[i] = b.at[i];
          b.at[i] = is_node(a, next) ? next : -1;
        }
        if (b.at[i] >= 0) __builtin_prefetch(a.indptr + b.at[i]);
      }
      *out = static_cast<Id>(b.at[i]);
    }
  }
  return good;
}

}  // namespace gnnaccel
