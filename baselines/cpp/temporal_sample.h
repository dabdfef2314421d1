// Temporal sampling on CPU: the shared per-root functions, with the memory latency of one root hidden behind others.
//
// Roots go in groups. While group g is searched, the rows of group g+1 are looked up, the row pointers of group g+2 are
// fetched, and the sample of group g-1 is written. The searches of a group advance together, a probe each.
#pragma once

#include <type_traits>

#include "simd.h"
#include "temporal_sample.cuh"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define GNNACCEL_SAMPLE_LEVELS 1  // compiled for three levels of x86-64, see below
#include <immintrin.h>
#endif

namespace gnnaccel {

// inlined, a lambda is compiled for the instruction set of the function around it
#define GNNACCEL_INLINE_LAMBDA __attribute__((always_inline))

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

// One search a lane: lower bound of `key` in t[base, base + size).
template <class Time>
struct alignas(64) Lanewise {
  int64_t base[kGroup], size[kGroup], row[kGroup], row_end[kGroup];
  Time key[kGroup];
};

// All lanes a step at a time. Every lane probes in every step, so that the compiler can gather whole vectors; a lane
// that is done, or whose row is empty (base 0, size 0), probes its base and stays.
template <class Time>
GNNACCEL_INLINE void lower_bounds(const Time* t, Lanewise<Time>& s) {
  int64_t longest = 0;
  for (int64_t i = 0; i < kGroup; ++i) longest |= s.size[i];
  if (longest == 0) return;  // nor is there a t[0]
  while (longest > 1) {
    longest = 0;
    for (int64_t i = 0; i < kGroup; ++i) {
      const int64_t half = s.size[i] >> 1, probe = s.base[i] + half - (half > 0 ? 1 : 0);
      s.base[i] += t[probe] < s.key[i] ? half : 0;
      s.size[i] -= half;
      longest |= s.size[i];
    }
  }
  for (int64_t i = 0; i < kGroup; ++i) s.base[i] += t[s.base[i]] < s.key[i] ? s.size[i] : 0;
}

#if GNNACCEL_SAMPLE_LEVELS
// Which of eight events at `at` are earlier than `key`; only those of `lanes` are looked at.
template <class Time>
__attribute__((target("avx512f,avx512dq"))) inline __mmask8 earlier(const Time* t, __mmask8 lanes, __m512i at,
                                                                    const Time* key) {
  if constexpr (std::is_same_v<Time, int64_t>) {
    const __m512i keys = _mm512_load_si512(key);
    return _mm512_cmplt_epi64_mask(_mm512_mask_i64gather_epi64(keys, lanes, at, t, 8), keys);
  } else {
    const __m512d keys = _mm512_load_pd(key);
    return _mm512_cmp_pd_mask(_mm512_mask_i64gather_pd(keys, lanes, at, t, 8), keys, _CMP_LT_OQ);
  }
}

// The same with gathers, which compilers shun: lanes that are done probe nothing.
template <class Time>
__attribute__((target("avx512f,avx512dq"))) void lower_bounds_512(const Time* t, Lanewise<Time>& s) {
  constexpr int64_t kVecs = kGroup / 8;
  __m512i base[kVecs], size[kVecs];
  __m512i any = _mm512_setzero_si512();
  for (int64_t v = 0; v < kVecs; ++v) {
    base[v] = _mm512_load_si512(s.base + 8 * v);
    size[v] = _mm512_load_si512(s.size + 8 * v);
    any = _mm512_or_si512(any, size[v]);
  }
  while (_mm512_cmpgt_epi64_mask(any, _mm512_set1_epi64(1)) != 0) {
    any = _mm512_setzero_si512();
    for (int64_t v = 0; v < kVecs; ++v) {
      const __m512i half = size[v] >> 1;
      const __m512i probe = _mm512_add_epi64(base[v], _mm512_sub_epi64(half, _mm512_set1_epi64(1)));
      const __mmask8 right = earlier(t, _mm512_test_epi64_mask(half, half), probe, s.key + 8 * v);
      base[v] = _mm512_mask_add_epi64(base[v], right, base[v], half);
      size[v] = _mm512_sub_epi64(size[v], half);
      any = _mm512_or_si512(any, size[v]);
    }
  }
  for (int64_t v = 0; v < kVecs; ++v) {
    const __mmask8 right = earlier(t, _mm512_test_epi64_mask(size[v], size[v]), base[v], s.key + 8 * v);
    _mm512_store_si512(s.base + 8 * v, _mm512_mask_add_epi64(base[v], right, base[v], size[v]));
  }
}
#endif

// Samples for roots [begin, end). False: a node is out of range or a time is NaN.
template <int kBytes, class Id, class Time>
GNNACCEL_INLINE bool sample_roots(const SampleArgs<Id, Time>& a, int64_t begin, int64_t end) {
  const int64_t groups = (end - begin + kGroup - 1) / kGroup, fanout = a.fanout, node_size = a.nodes_are_64 ? 8 : 4;
  Lanewise<Time> search[2];
  Range seen[2][kGroup];
  bool good = true;
#if defined(__GNUC__)
  // rows that have room for whole vectors behind them and are written strictly in order
  const int64_t lanes = Lanes<Id, kBytes>::kCount;
  const int64_t vector_end = end - (lanes + fanout - 1) / fanout;
#endif

  auto size_of = [&](int64_t g) GNNACCEL_INLINE_LAMBDA {
    const int64_t left = end - begin - g * kGroup;
    return left < kGroup ? left : kGroup;
  };

  auto fetch_rows = [&](int64_t g) GNNACCEL_INLINE_LAMBDA {
    if (g >= groups) return;
    const int64_t first = begin + g * kGroup, later = first + 2 * kGroup;
    if (later + kGroup <= end) {
      const char* nodes = static_cast<const char*>(a.nodes) + later * node_size;
      prefetch_range(nodes, nodes + kGroup * node_size);
      prefetch_range(a.times + later, a.times + later + kGroup);
    }
    for (int64_t i = 0; i < size_of(g); ++i) {
      const int64_t node = node_of(a, first + i);
      prefetch(a.row_start + node);
      prefetch(a.row_end + node);
    }
  };

  auto look_up = [&](int64_t g) GNNACCEL_INLINE_LAMBDA {
    if (g >= groups) return;
    const int64_t first = begin + g * kGroup, n = size_of(g);
    Lanewise<Time>& s = search[g & 1];
    for (int64_t i = 0; i < n; ++i) {
      const int64_t root = first + i, node = node_of(a, root);
      const Time time = a.times[root];
      const bool real = is_root(a, root, node);
      good &= real | ((node == -1) & (time == time));
      const int64_t row = real ? a.row_start[node] : 0, row_end = real ? a.row_end[node] : 0;
      s.size[i] = row_end - row;
      s.base[i] = row_end > row ? row : 0;
      s.row[i] = s.base[i];
      s.row_end[i] = s.base[i] + s.size[i];
      s.key[i] = a.visibility == kBeforeBatch && a.bound_t < time ? a.bound_t : time;
      prefetch(a.t + s.base[i] + (s.size[i] >> 1));
    }
    for (int64_t i = n; i < kGroup; ++i) {
      s.base[i] = s.size[i] = s.row[i] = s.row_end[i] = 0;
      s.key[i] = Time(0);
    }
  };

  // by whole vectors, as `reversed` reads them
  auto fetch_newest = [&](auto* src, int64_t last, int64_t count) GNNACCEL_INLINE_LAMBDA {
    constexpr int64_t kLanes = kBytes / static_cast<int64_t>(sizeof *src);
    const int64_t first = last - (count + kLanes - 1) / kLanes * kLanes;
    prefetch_range(src + (first > 0 ? first : 0), src + last);
  };

  auto find = [&](int64_t g) GNNACCEL_INLINE_LAMBDA {
    const Lanewise<Time>& s = search[g & 1];
#if GNNACCEL_SAMPLE_LEVELS
    if constexpr (kBytes == 64) {
      lower_bounds_512(a.t, search[g & 1]);
    } else
#endif
      lower_bounds(a.t, search[g & 1]);
    for (int64_t i = 0; i < size_of(g); ++i) {
      const int64_t root = begin + g * kGroup + i;
      Range r{s.row[i], s.base[i]};
      if (a.visibility != kStrict && r.end < s.row_end[i] && a.t[r.end] == s.key[i]) {
        // some of the events at that very time may be visible too
        r.end = lower_bound(a, r.end, s.row_end[i], key_of(a, root, a.visibility), a.visibility);
      }
      if (a.visibility == kTglCompat) {
        r = tgl_seen(a, root, r, s.base[i]);
      } else {
        r.begin = window_begin(a, root, r);
      }
      seen[g & 1][i] = r;
      int64_t count = count_of(a, r);
      if (count == 0) continue;
      if (is_newest(a, r)) {
        fetch_newest(a.nbr, r.end, count);
        fetch_newest(a.eid, r.end, count);
        fetch_newest(a.t, r.end, count);
      } else {
        Id* picks = a.out_eid + root * fanout;  // its place until the events are known
        count = draw_picks(a, root, r, count);
        a.out_count[root] = static_cast<int32_t>(count);
        for (int64_t p = 0; p < count; ++p) {
          const int64_t at = r.begin + static_cast<int64_t>(picks[p]);
          prefetch(a.nbr + at);
          prefetch(a.eid + at);
          prefetch(a.t + at);
        }
      }
    }
  };

  auto write = [&](int64_t g) GNNACCEL_INLINE_LAMBDA {
    for (int64_t i = 0; i < size_of(g); ++i) {
      const int64_t root = begin + g * kGroup + i, row = root * fanout;
      const Range r = seen[g & 1][i];
      const int64_t count = slots_of(a, root, r);
      a.out_count[root] = static_cast<int32_t>(count);
#if defined(__GNUC__)
      if (!a.uniform && root < vector_end && (count == 0 || r.end >= count + lanes)) {
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
template <class Id, class Time>
bool sample_roots_base(const SampleArgs<Id, Time>& a, int64_t begin, int64_t end) {
  return sample_roots<16>(a, begin, end);
}

#if GNNACCEL_SAMPLE_LEVELS
template <class Id, class Time>
__attribute__((target("arch=x86-64-v3"))) bool sample_roots_v3(const SampleArgs<Id, Time>& a, int64_t begin,
                                                               int64_t end) {
  return sample_roots<32>(a, begin, end);
}

template <class Id, class Time>
__attribute__((target("arch=x86-64-v4,prefer-vector-width=512"))) bool sample_roots_v4(const SampleArgs<Id, Time>& a,
                                                                                       int64_t begin, int64_t end) {
  return sample_roots<64>(a, begin, end);
}
#endif

template <class Id, class Time>
using SampleRoots = bool (*)(const SampleArgs<Id, Time>&, int64_t, int64_t);

template <class Id, class Time>
SampleRoots<Id, Time> sample_roots_here() {
#if GNNACCEL_SAMPLE_LEVELS
  if (__builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
    return &sample_roots_v4<Id, Time>;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")) return &sample_roots_v3<Id, Time>;
#endif
  return &sample_roots_base<Id, Time>;
}

}  // namespace gnnaccel
