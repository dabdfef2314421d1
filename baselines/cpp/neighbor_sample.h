// Neighbour sampling on CPU: the shared per-root functions, with the memory latency of one root hidden behind others.
//
// Roots go in groups. While the picks of group g are fetched, group g+1 draws its picks and prefetches them, the rows
// of group g+2 are looked up, and the row pointers of group g+3 are fetched. Uniform draws are made for sixteen roots
// at once, one a lane.
#pragma once

#include <cstring>
#include <vector>

#include "neighbor_sample.cuh"
#include "simd.h"

namespace gnnaccel {

#define GNNACCEL_INLINE_LAMBDA __attribute__((always_inline))

constexpr int64_t kRootGroup = 32, kDrawLanes = 16;
constexpr int64_t kLaneFanout = 64;  // above, the lanes' comparisons of all pairs cost too much

struct alignas(64) DrawLanes {
  int32_t picks[kLaneFanout][kDrawLanes];
  uint32_t words[4][kDrawLanes];
  uint32_t root[kDrawLanes], high[kDrawLanes], n[kDrawLanes];
};

// `draw_ascending` for the roots and row lengths in the lanes, without a branch.
template <class Id>
GNNACCEL_INLINE void draw_lanes(const NeighborArgs<Id>& a, DrawLanes& s) {
  const auto k0 = static_cast<uint32_t>(a.seed), k1 = static_cast<uint32_t>(static_cast<uint64_t>(a.seed) >> 32);
  const auto batch = static_cast<uint32_t>(a.batch), epoch = static_cast<uint32_t>(a.epoch),
             hop = static_cast<uint32_t>(a.hop) << 24;
  const auto count = static_cast<int32_t>(a.fanout);
  for (int32_t i = 0; i < count; ++i) {
    if (i % 2 == 0) {
      for (int64_t l = 0; l < kDrawLanes; ++l) {
        uint32_t c0 = hop + static_cast<uint32_t>(i / 2), c1 = s.root[l], c2 = batch, c3 = epoch ^ s.high[l];
        philox4x32(c0, c1, c2, c3, k0, k1);
        s.words[0][l] = c0, s.words[1][l] = c1, s.words[2][l] = c2, s.words[3][l] = c3;
      }
    }
    alignas(64) int32_t pick[kDrawLanes], taken[kDrawLanes];
    const uint32_t* const low = s.words[i % 2 * 2];
    const uint32_t* const high = s.words[i % 2 * 2 + 1];
    for (int64_t l = 0; l < kDrawLanes; ++l) {
      const uint32_t bound = a.replace ? s.n[l] : s.n[l] - static_cast<uint32_t>(count - i) + 1;
      pick[l] = static_cast<int32_t>(scaled(high[l], low[l], bound));
      taken[l] = 0;
    }
    if (!a.replace) {
      for (int32_t j = 0; j < i; ++j)
        for (int64_t l = 0; l < kDrawLanes; ++l) taken[l] |= -static_cast<int32_t>(s.picks[j][l] == pick[l]);
      for (int64_t l = 0; l < kDrawLanes; ++l) {
        const int32_t last = static_cast<int32_t>(s.n[l]) - count + i;
        pick[l] = (pick[l] & ~taken[l]) | (last & taken[l]);
      }
    }
    // into its place among those before
    for (int32_t j = 0; j < i; ++j) {
      for (int64_t l = 0; l < kDrawLanes; ++l) {
        const int32_t x = s.picks[j][l], y = pick[l];
        s.picks[j][l] = x < y ? x : y;
        pick[l] = x < y ? y : x;
      }
    }
    for (int64_t l = 0; l < kDrawLanes; ++l) s.picks[i][l] = pick[l];
  }
}

// `pick_weighted` of a whole row, thirty-two random words at a time: all that an entry costs where it is not among the
// smallest is a product and a comparison.
template <class Id>
GNNACCEL_INLINE int64_t pick_weighted_row(const NeighborArgs<Id>& a, int64_t root, RowRange row, int32_t& faults) {
  constexpr int64_t kBlock = 32;
  const int64_t fanout = a.fanout;
  Id* const picks = a.out_nbr + root * fanout;
  double* const keys = a.keys + root * fanout;
  Draws d = make_draws(a.seed, a.epoch, a.batch, static_cast<uint64_t>(root), a.hop);
  if (row.end - row.begin <= fanout) return pick_from(a, row, fanout, picks, keys, d, faults);
  alignas(64) double unit[kBlock], weight[kBlock];
  alignas(64) uint32_t words[4][kBlock / 2];
  int32_t place[kBlock + 1];
  int64_t count = 0;
  int32_t bad = 0;
  for (int64_t i = row.begin; i < row.end;) {
    int64_t n = 0;
    for (; i < row.end && n < kBlock; ++i) {
      const float w = a.weight[i];
      bad |= static_cast<int32_t>(!is_weight(w));
      place[n] = static_cast<int32_t>(i - row.begin);
      weight[n] = static_cast<double>(w);
      n += w > 0 && !is_excluded(a, i) ? 1 : 0;
    }
    for (int64_t l = 0; l < kBlock / 2; ++l) {
      uint32_t c0 = d.counter + static_cast<uint32_t>(l), c1 = d.root, c2 = d.batch, c3 = d.epoch;
      philox4x32(c0, c1, c2, c3, d.k0, d.k1);
      words[0][l] = c0, words[1][l] = c1, words[2][l] = c2, words[3][l] = c3;
    }
    d.counter += kBlock / 2;
    for (int64_t l = 0; l < kBlock; ++l) {
      const uint64_t x = static_cast<uint64_t>(words[l % 2 * 2 + 1][l / 2]) << 32 | words[l % 2 * 2][l / 2];
      unit[l] = (static_cast<double>(x >> 11) + 0.5) * 0x1p-53;
    }
    uint32_t candidates = ~uint32_t{0};
    if (count == fanout) {
      const double limit = keys[count - 1];
      candidates = 0;
      for (int64_t l = 0; l < kBlock; ++l) candidates |= static_cast<uint32_t>(1 - unit[l] < limit * weight[l]) << l;
    }
    if (n < kBlock) candidates &= (uint32_t{1} << n) - 1;
    for (; candidates != 0; candidates &= candidates - 1) {
      const auto l = static_cast<int64_t>(__builtin_ctz(candidates));
      offer_weighted(picks, keys, count, fanout, place[l], weight[l], unit[l]);
    }
  }
  if (bad != 0) {
    faults |= kBadWeight;
    return 0;
  }
  sort_picks(picks, count);
  return count;
}

// Samples for roots [begin, end); returns what is wrong.
template <class Id>
GNNACCEL_INLINE int32_t sample_neighbors(const NeighborArgs<Id>& a, int64_t begin, int64_t end) {
  const int64_t groups = (end - begin + kRootGroup - 1) / kRootGroup, fanout = a.fanout;
  const bool plain = !a.weighted && a.fanouts == nullptr, lanes = plain && fanout <= kLaneFanout;
  RowRange rows[4][kRootGroup];
  DrawLanes s;
  int32_t faults = 0;

  auto size_of = [&](int64_t g) GNNACCEL_INLINE_LAMBDA {
    const int64_t left = end - begin - g * kRootGroup;
    return left < kRootGroup ? left : kRootGroup;
  };

  auto fetch_rows = [&](int64_t g) GNNACCEL_INLINE_LAMBDA {
    if (g >= groups) return;
    for (int64_t i = 0; i < size_of(g); ++i) {
      const int64_t node = root_node(a, begin + g * kRootGroup + i);
      __builtin_prefetch(a.indptr + node);
    }
  };

  auto look_up = [&](int64_t g) GNNACCEL_INLINE_LAMBDA {
    if (g >= groups) return;
    for (int64_t i = 0; i < size_of(g); ++i) {
      const int64_t root = begin + g * kRootGroup + i;
      const RowRange row = row_of(a, root_node(a, root), faults);
      rows[g & 3][i] = row;
      if (a.weighted) {
        __builtin_prefetch(a.weight + row.begin);
      } else if (a.fanouts != nullptr) {
        __builtin_prefetch(a.relation + row.begin);
        __builtin_prefetch(a.relation + ((row.begin + row.end) >> 1));
      }
    }
  };

  auto fetch_pick = [&](int64_t at) GNNACCEL_INLINE_LAMBDA {
    __builtin_prefetch(a.nbr + at);
    if (a.eid != nullptr) __builtin_prefetch(a.eid + at);
    if (a.out_relation != nullptr) __builtin_prefetch(a.relation + at);
    if (a.out_weight != nullptr) __builtin_prefetch(a.weight + at);
  };

  auto fetch_picks = [&](int64_t root, RowRange row, int64_t count) GNNACCEL_INLINE_LAMBDA {
    a.out_count[root] = static_cast<int32_t>(count);
    for (int64_t k = 0; k < count; ++k) fetch_pick(row.begin + static_cast<int64_t>(a.out_nbr[root * fanout + k]));
  };

  auto choose = [&](int64_t g) GNNACCEL_INLINE_LAMBDA {
    if (g >= groups) return;
    const int64_t first = begin + g * kRootGroup;
    int64_t drawn[kRootGroup + kDrawLanes], waiting = 0;
    for (int64_t i = 0; i < size_of(g); ++i) {
      const int64_t root = first + i;
      const RowRange row = rows[g & 3][i];
      const int64_t n = row.end - row.begin;
      if (lanes && n > 0 && (a.replace || n > fanout)) {
        drawn[waiting++] = i;
      } else if (plain && n <= fanout && !a.replace) {
        for (int64_t k = 0; k < n; ++k) a.out_nbr[root * fanout + k] = static_cast<Id>(k);
        a.out_count[root] = static_cast<int32_t>(n);
        for (int64_t k = 0; k < n; k += 8) fetch_pick(row.begin + k);
        if (n > 0) fetch_pick(row.end - 1);
      } else if (plain) {
        Draws d = make_draws(a.seed, a.epoch, a.batch, static_cast<uint64_t>(root), a.hop);
        fetch_picks(root, row, pick_uniform(a, row, fanout, a.out_nbr + root * fanout, d));
      } else if (a.weighted && !a.replace && a.fanouts == nullptr) {
        fetch_picks(root, row, pick_weighted_row(a, root, row, faults));
      } else {
        fetch_picks(root, row, pick_root(a, root, row, faults));
      }
    }
    for (int64_t part = 0; part < waiting; part += kDrawLanes) {
      const int64_t used = waiting - part < kDrawLanes ? waiting - part : kDrawLanes;
      for (int64_t l = 0; l < kDrawLanes; ++l) {
        const int64_t i = drawn[l < used ? part + l : part];
        const auto key = static_cast<uint64_t>(first + i);
        s.root[l] = static_cast<uint32_t>(key);
        s.high[l] = static_cast<uint32_t>(key >> 32);
        s.n[l] = static_cast<uint32_t>(rows[g & 3][i].end - rows[g & 3][i].begin);
      }
      draw_lanes(a, s);
      for (int64_t l = 0; l < used; ++l) {
        const int64_t i = drawn[part + l], root = first + i, row = rows[g & 3][i].begin;
        a.out_count[root] = static_cast<int32_t>(fanout);
        for (int64_t k = 0; k < fanout; ++k) {
          const int32_t pick = s.picks[k][l];
          a.out_nbr[root * fanout + k] = static_cast<Id>(pick);
          fetch_pick(row + pick);
        }
      }
    }
  };

  auto write = [&](int64_t g) GNNACCEL_INLINE_LAMBDA {
    for (int64_t i = 0; i < size_of(g); ++i) {
      const int64_t root = begin + g * kRootGroup + i;
      const RowRange row = rows[g & 3][i];
      if (plain && a.num_excluded > 0) {
        // drawn again after all draws that were made in any case, as `pick_from` does
        Draws d = make_draws(a.seed, a.epoch, a.batch, static_cast<uint64_t>(root), a.hop);
        const int64_t n = row.end - row.begin, made = n > 0 && (a.replace || n > fanout) ? fanout : 0;
        d.counter += static_cast<uint32_t>(made / 2);
        if (made % 2 == 1) next_word(d);
        a.out_count[root] =
            static_cast<int32_t>(without_excluded(a, row, fanout, a.out_nbr + root * fanout, a.out_count[root], d));
      }
      const int64_t count = a.out_count[root];
      if (a.out_eid == nullptr && a.out_relation == nullptr && a.out_weight == nullptr) {
        Id* const out = a.out_nbr + root * fanout;
        int64_t k = 0;
        for (; k < count; ++k) out[k] = a.nbr[row.begin + static_cast<int64_t>(out[k])];
        for (; k < fanout; ++k) out[k] = Id(-1);
      } else {
        for (int64_t k = 0; k < fanout; ++k) write_slot(a, root, k, row.begin, count);
      }
    }
  };

  fetch_rows(0);
  fetch_rows(1);
  fetch_rows(2);
  look_up(0);
  look_up(1);
  choose(0);
  for (int64_t g = 0; g < groups; ++g) {
    fetch_rows(g + 3);
    look_up(g + 2);
    choose(g + 1);
    write(g);
  }
  return faults;
}

// One binary serves every x86-64: the same text compiled for three levels, chosen at run time.
template <class Id>
int32_t sample_neighbors_base(const NeighborArgs<Id>& a, int64_t begin, int64_t end) {
  return sample_neighbors(a, begin, end);
}

template <class Id>
using SampleNeighbors = int32_t (*)(const NeighborArgs<Id>&, int64_t, int64_t);

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
template <class Id>
__attribute__((target("arch=x86-64-v3"))) int32_t sample_neighbors_v3(const NeighborArgs<Id>& a, int64_t begin,
                                                                      int64_t end) {
  return sample_neighbors(a, begin, end);
}

template <class Id>
__attribute__((target("arch=x86-64-v4,prefer-vector-width=512"))) int32_t sample_neighbors_v4(const NeighborArgs<Id>& a,
                                                                                              int64_t begin,
                                                                                              int64_t end) {
  return sample_neighbors(a, begin, end);
}

template <class Id>
SampleNeighbors<Id> sample_neighbors_here() {
  if (__builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
    return &sample_neighbors_v4<Id>;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")) return &sample_neighbors_v3<Id>;
  return &sample_neighbors_base<Id>;
}
#else
template <class Id>
SampleNeighbors<Id> sample_neighbors_here() {
  return &sample_neighbors_base<Id>;
}
#endif

}  // namespace gnnaccel
