// Temporal sampling on CPU: the shared per-root functions, with the memory latency of one root hidden behind others.
//
// Roots go in groups. While group g is searched, the rows of group g+1 are looked up, the row pointers of group g+2 are
// fetched, and the sample of group g-1 is written. The searches of a group advance together, one probe each in turn.
#pragma once

#include <type_traits>

#include "simd.h"
#include "temporal_sample.cuh"

namespace gnnaccel {

constexpr int64_t kGroup = 32;

GNNACCEL_INLINE void prefetch(const void* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p);
#endif
}

template <class T>
GNNACCEL_INLINE void prefetch_range(const T* begin, const T* end) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  for (const T* p = begin; p < end; p += kLine) prefetch(p);
  prefetch(end - 1);
}

#if defined(__GNUC__)
template <class T, int kBytes>
struct Lanes {
  static constexpr int64_t kCount = kBytes / static_cast<int64_t>(sizeof(T));
  using Int = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
  typedef T Vec __attribute__((vector_size(kBytes), aligned(alignof(T)), may_alias));
  typedef Int IntVec __attribute__((vector_size(kBytes)));

  // by reference: a vector wider than the base level's has no ABI to be returned by
  static GNNACCEL_INLINE void iota(IntVec& v) {
    for (int64_t l = 0; l < kCount; ++l) v[l] = static_cast<Int>(l);
  }
  static GNNACCEL_INLINE void reverse(Vec& v) {
#if defined(__clang__)
    Vec r{};
    for (int64_t l = 0; l < kCount; ++l) r[l] = v[kCount - 1 - l];
    v = r;
#else
    IntVec lane;
    iota(lane);
    v = __builtin_shuffle(v, static_cast<Int>(kCount - 1) - lane);
#endif
  }
};

// out[k] = src[end - 1 - k], or `now` minus it, for k < count; `fill` from there to `fanout`. Whole vectors are loaded
// and stored: needs kCount readable elements before every loaded position, and writes up to kCount - 1 elements past
// the row.
template <int kBytes, bool kMinus, class T>
GNNACCEL_INLINE void reversed(T* out, const T* src, int64_t end, int64_t count, int64_t fanout, T fill, T now) {
  using L = Lanes<T, kBytes>;
  using Vec = typename L::Vec;
  for (int64_t k = 0; k < fanout; k += L::kCount) {
    Vec v = Vec{} + fill;
    if (k < count) {
      typename L::IntVec lane;
      L::iota(lane);
      Vec newest_first = *reinterpret_cast<const Vec*>(src + (end - k - L::kCount));
      L::reverse(newest_first);
      if (kMinus) newest_first = now - newest_first;
      const auto left = static_cast<typename L::Int>(count - k < L::kCount ? count - k : L::kCount);
      v = lane < left ? newest_first : v;
    }
    *reinterpret_cast<Vec*>(out + k) = v;
  }
}
#endif

template <class Id, class Time>
GNNACCEL_INLINE void write_slots(const SampleArgs<Id, Time>& a, int64_t root, Range seen, int64_t count) {
  for (int64_t k = 0; k < a.fanout; ++k) write_slot(a, root, k, seen, count);
}

// Samples for roots [begin, end). False: a node is out of range or a time is NaN.
template <int kBytes, bool kOnlyStrict, class Id, class Time>
GNNACCEL_INLINE bool sample_roots(const SampleArgs<Id, Time>& a, int64_t begin, int64_t end) {
  const int32_t visibility = kOnlyStrict ? static_cast<int32_t>(kStrict) : a.visibility;
  const int64_t groups = (end - begin + kGroup - 1) / kGroup, fanout = a.fanout;
  Search search[2][kGroup];
  Key<Time> key[2][kGroup];
  Range seen[4][kGroup];  // while searching, `begin` is the row's
  bool good = true;
#if defined(__GNUC__)
  // rows that have room for whole vectors behind them and are written strictly in order
  const int64_t lanes = Lanes<Id, kBytes>::kCount;
  const int64_t vector_end = a.uniform || fanout == 0 ? begin : end - (lanes + fanout - 1) / fanout;
#endif

  auto size_of = [&](int64_t g) {
    const int64_t left = end - begin - g * kGroup;
    return left < kGroup ? left : kGroup;
  };

  auto fetch_rows = [&](int64_t g) {
    if (g >= groups) return;
    const int64_t first = begin + g * kGroup;
    for (int64_t i = 0; i < size_of(g); ++i) {
      const int64_t node = node_of(a, first + i);
      prefetch(a.row_start + node);
      prefetch(a.row_end + node);
    }
  };

  auto look_up = [&](int64_t g) {
    if (g >= groups) return;
    const int64_t first = begin + g * kGroup;
    for (int64_t i = 0; i < size_of(g); ++i) {
      const int64_t root = first + i, node = node_of(a, root);
      const bool real = is_root(a, root, node);
      good &= real | ((node == -1) & (a.times[root] == a.times[root]));
      const int64_t row = real ? a.row_start[node] : 0, row_end = real ? a.row_end[node] : 0;
      const Search s{row, row_end - row};
      search[g & 1][i] = s;
      key[g & 1][i] = key_of(a, root, visibility);
      seen[g & 3][i].begin = row;
      prefetch(a.t + probe_of(s));
    }
  };

  auto find = [&](int64_t g) {
    const int64_t n = size_of(g);
    Search* s = search[g & 1];
    const Key<Time>* k = key[g & 1];
    uint8_t active[kGroup];
    int64_t left = 0;
    for (int64_t i = 0; i < n; ++i) {
      active[left] = static_cast<uint8_t>(i);
      left += s[i].size > 0;
    }
    while (left > 0) {
      int64_t still = 0;
      for (int64_t j = 0; j < left; ++j) {
        const uint8_t i = active[j];
        step(a, s[i], k[i], visibility);
        prefetch(a.t + probe_of(s[i]));
        active[still] = i;
        still += s[i].size > 0;
      }
      left = still;
    }
    for (int64_t i = 0; i < n; ++i) {
      const int64_t root = begin + g * kGroup + i;
      Range& r = seen[g & 3][i];
      r.end = s[i].base;
      r.begin = window_begin(a, root, r);
      const int64_t count = count_of(a, r);
      if (count == 0) continue;
      if (is_newest(a, r)) {
        prefetch_range(a.nbr + (r.end - count), a.nbr + r.end);
        prefetch_range(a.eid + (r.end - count), a.eid + r.end);
        prefetch_range(a.t + (r.end - count), a.t + r.end);
      } else {
        Id* picks = a.out_eid + root * fanout;  // its place until the events are known
        draw_picks(a, root, r, count);
        for (int64_t p = 0; p < count; ++p) {
          const int64_t at = r.begin + static_cast<int64_t>(picks[p]);
          prefetch(a.nbr + at);
          prefetch(a.eid + at);
          prefetch(a.t + at);
        }
      }
    }
  };

  auto write = [&](int64_t g) {
    for (int64_t i = 0; i < size_of(g); ++i) {
      const int64_t root = begin + g * kGroup + i, row = root * fanout;
      const Range r = seen[g & 3][i];
      const int64_t count = count_of(a, r);
      a.out_count[root] = static_cast<int32_t>(count);
#if defined(__GNUC__)
      if (root < vector_end && r.end >= count + lanes) {
        const Time t = a.times[root];
        reversed<kBytes, false>(a.out_nbr + row, a.nbr, r.end, count, fanout, Id(-1), Id(0));
        reversed<kBytes, false>(a.out_eid + row, a.eid, r.end, count, fanout, Id(-1), Id(0));
        reversed<kBytes, true>(a.out_dt + row, a.t, r.end, count, fanout, Time(0), t);
        if (a.out_t != nullptr) reversed<kBytes, false>(a.out_t + row, a.t, r.end, count, fanout, Time(0), Time(0));
        continue;
      }
#endif
      write_slots(a, root, r, count);
    }
  };

  fetch_rows(0);
  fetch_rows(1);
  look_up(0);
  for (int64_t g = 0; g < groups; ++g) {
    fetch_rows(g + 2);
    look_up(g + 1);
    find(g);
    if (g > 0) write(g - 1);
  }
  if (groups > 0) write(groups - 1);
  return good;
}

// One binary serves every x86-64: the same text compiled for three levels, chosen at run time.
template <bool kOnlyStrict, class Id, class Time>
bool sample_roots_base(const SampleArgs<Id, Time>& a, int64_t begin, int64_t end) {
  return sample_roots<16, kOnlyStrict>(a, begin, end);
}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
template <bool kOnlyStrict, class Id, class Time>
__attribute__((target("arch=x86-64-v3"))) bool sample_roots_v3(const SampleArgs<Id, Time>& a, int64_t begin,
                                                               int64_t end) {
  return sample_roots<32, kOnlyStrict>(a, begin, end);
}

template <bool kOnlyStrict, class Id, class Time>
__attribute__((target("arch=x86-64-v4,prefer-vector-width=512"))) bool sample_roots_v4(const SampleArgs<Id, Time>& a,
                                                                                       int64_t begin, int64_t end) {
  return sample_roots<64, kOnlyStrict>(a, begin, end);
}
#endif

template <class Id, class Time>
using SampleRoots = bool (*)(const SampleArgs<Id, Time>&, int64_t, int64_t);

template <bool kOnlyStrict, class Id, class Time>
SampleRoots<Id, Time> sample_roots_here() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  if (__builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
    return &sample_roots_v4<kOnlyStrict, Id, Time>;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")) return &sample_roots_v3<kOnlyStrict, Id, Time>;
#endif
  return &sample_roots_base<kOnlyStrict, Id, Time>;
}

}  // namespace gnnaccel
