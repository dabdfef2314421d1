// Sums, maxima and products of rows that are given by pointers: neighbours' rows where they lie in the table.
//
// A row may be read up to a whole vector past its end (see RowTable), so columns come in whole vectors and what is
// computed in the columns past F is never stored.
#pragma once

#include <vector>

#include "gather_rows.h"
#include "temporal_attention.h"

namespace gnnaccel {

template <class T>
struct unaligned {
  typedef T type __attribute__((vector_size(64), aligned(sizeof(T)), may_alias));
};

// kLanes<A> values as A. By reference: a vector returned by value has another ABI on every level.
GNNACCEL_INLINE void load_row(const float* p, vec_t<float>& v) {
  v = *reinterpret_cast<const unaligned<float>::type*>(p);
}
GNNACCEL_INLINE void load_row(const double* p, vec_t<double>& v) {
  v = *reinterpret_cast<const unaligned<double>::type*>(p);
}
typedef uint32_t Words __attribute__((vector_size(64)));
GNNACCEL_INLINE void load_words(const void* p, Words& w) {
  typedef uint16_t Half __attribute__((vector_size(32), aligned(2), may_alias));
  w = __builtin_convertvector(*static_cast<const Half*>(p), Words);
}
GNNACCEL_INLINE void load_row(const BFloat16Bits* p, vec_t<float>& v) {
  Words w;
  load_words(p, w);
  v = reinterpret_cast<vec_t<float>>(w << 16);
}
GNNACCEL_INLINE void load_row(const HalfBits* p, vec_t<float>& v) {
  Words w;
  load_words(p, w);
  const Words magnitude = w & 0x7fffu;
  const Words small = reinterpret_cast<Words>(
      __builtin_convertvector(reinterpret_cast<vec<float>::mask>(magnitude), vec_t<float>) * 0x1p-24f);
  const Words normal = (magnitude << 13) + (112u << 23), special = (magnitude << 13) | 0x7f800000u;
  const Words value = magnitude < 0x400u ? small : (magnitude < 0x7c00u ? normal : special);
  v = reinterpret_cast<vec_t<float>>(value | ((w & 0x8000u) << 16));
}

// Rows between prefetch and use. They wait in the second cache: the first has few lines to wait for.
constexpr int64_t kMostAhead = 64;
inline int64_t rows_ahead(int64_t row_bytes) {
  const int64_t rows = 16384 / (row_bytes + 1);
  return rows < 2 ? 2 : rows > kMostAhead ? kMostAhead : rows;
}

GNNACCEL_INLINE void prefetch_lines(const void* row, int64_t bytes) {
  const char *p = static_cast<const char*>(row), *end = p + bytes;
  for (; p < end; p += 64) __builtin_prefetch(p, 0, 2);
  if (reinterpret_cast<uintptr_t>(row) % 64 != 0) __builtin_prefetch(end - 1, 0, 2);
}

// What all kernels take: n rows, followed by `ahead` more that will be read next; columns, in numbers, bytes, and whole
// vectors.
template <class In>
struct RowList {
  const In* const* row;
  int64_t n, ahead, columns, bytes, width;
};

// To be called for each row i of [begin, end): prefetches the rows ahead of it, several at a time. A prefetch does not
// retire before its address is translated, which takes as long as the row does where pages are small, and what is
// computed between two prefetches would keep the second out of the core meanwhile.
template <class In>
GNNACCEL_INLINE void prefetch_ahead(const RowList<In>& x, int64_t begin, int64_t i, int64_t end) {
  constexpr int64_t kBurst = 16;
  if ((i - begin) % kBurst != 0) return;
  const int64_t last = i + kBurst < end ? i + kBurst : end;
  for (int64_t j = i; j < last; ++j) __builtin_prefetch(x.row[j + x.ahead], 0, 2);
  for (int64_t j = i; j < last; ++j) prefetch_lines(x.row[j + x.ahead], x.bytes);
}

// Rows that stay in the first cache while they are read once a basis and column block.
template <class In>
GNNACCEL_INLINE int64_t piece_of(const RowList<In>& x) {
  const int64_t rows = 16384 / (x.bytes + 1);
  return rows < 4 ? 4 : rows;
}

template <bool kWeighted, bool kPrefetch, int N, class In, class A>
GNNACCEL_INLINE void add_block(const RowList<In>& x, int64_t begin, int64_t end, int64_t f, const A* w, int64_t B,
                               A* sum) {
  constexpr int64_t L = kLanes<A>;
  vec_t<A> acc[N];
  for (int b = 0; b < N; ++b) acc[b] = at(sum + f + b * L);
  for (int64_t i = begin; i < end; ++i) {
    if constexpr (kPrefetch) prefetch_ahead(x, begin, i, end);
    const In* row = x.row[i] + f;
    for (int b = 0; b < N; ++b) {
      vec_t<A> v;
      load_row(row + b * L, v);
      if constexpr (kWeighted)
        acc[b] += v * w[i * B];
      else
        acc[b] += v;
    }
  }
  for (int b = 0; b < N; ++b) at(sum + f + b * L) = acc[b];
}

template <bool kWeighted, class In, class A>
GNNACCEL_INLINE void add_rows_body(const RowList<In>& x, const A* w, int64_t B, A* sum) {
  constexpr int64_t L = kLanes<A>;
  const int64_t piece = piece_of(x);
  for (int64_t begin = 0; begin < x.n; begin += piece) {
    const int64_t end = begin + piece < x.n ? begin + piece : x.n;
    for (int64_t b = 0; b < B; ++b) {
      int64_t f = 0;
      for (; f + 8 * L <= x.width; f += 8 * L) {
        if (f + b == 0)
          add_block<kWeighted, true, 8>(x, begin, end, f, w, B, sum);
        else
          add_block<kWeighted, false, 8>(x, begin, end, f, w + b, B, sum + b * x.width);
      }
      for (; f + 2 * L <= x.width; f += 2 * L) {
        if (f + b == 0)
          add_block<kWeighted, true, 2>(x, begin, end, f, w, B, sum);
        else
          add_block<kWeighted, false, 2>(x, begin, end, f, w + b, B, sum + b * x.width);
      }
      for (; f < x.width; f += L) {
        if (f + b == 0)
          add_block<kWeighted, true, 1>(x, begin, end, f, w, B, sum);
        else
          add_block<kWeighted, false, 1>(x, begin, end, f, w + b, B, sum + b * x.width);
      }
    }
  }
}

// The product of a row and g; the last vector counts `tail` lanes.
template <class In, class A>
GNNACCEL_INLINE void dot_row_body(const In* row, const A* g, int64_t width, A* out) {
  constexpr int64_t L = kLanes<A>;
  vec_t<A> sum[4] = {}, v;
  int64_t f = 0;
  for (; f + 4 * L <= width; f += 4 * L)
    for (int j = 0; j < 4; ++j) {
      load_row(row + f + j * L, v);
      sum[j] += v * at(g + f + j * L);
    }
  for (; f < width; f += L) {
    load_row(row + f, v);
    sum[0] += v * at(g + f);
  }
  sum[0] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  *out = sum_lanes<A>(sum[0]);
}

// target_clones does not reach templates
#define GNNACCEL_ROW_KERNELS(name, In, A)                                                 \
  GNNACCEL_CLONES inline void name(const RowList<In>& x, A* sum) {                        \
    add_rows_body<false>(x, static_cast<const A*>(nullptr), 1, sum);                      \
  }                                                                                       \
  GNNACCEL_CLONES inline void name(const RowList<In>& x, const A* w, int64_t B, A* sum) { \
    add_rows_body<true>(x, w, B, sum);                                                    \
  }
GNNACCEL_ROW_KERNELS(sum_row_list, float, float)
GNNACCEL_ROW_KERNELS(sum_row_list, BFloat16Bits, float)
GNNACCEL_ROW_KERNELS(sum_row_list, double, double)
GNNACCEL_ROW_KERNELS(sum_halves, HalfBits, float)
#undef GNNACCEL_ROW_KERNELS

// Bytes and halves have instructions of their own, which vectors of the language do not reach.
#if defined(__x86_64__) && defined(__GNUC__)
#define GNNACCEL_AVX2 __attribute__((target("avx2,f16c,fma")))
inline const bool kAvx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
GNNACCEL_AVX2 GNNACCEL_INLINE void load_eight(const int8_t* p, __m256& v) {
  v = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
GNNACCEL_AVX2 GNNACCEL_INLINE void load_eight(const HalfBits* p, __m256& v) {
  v = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
template <int N, class In>
GNNACCEL_AVX2 inline void add_eights(const RowList<In>& x, int64_t begin, int64_t end, int64_t f, const float* w,
                                     int64_t B, bool prefetch, float* sum) {
  __m256 acc[N];
  for (int b = 0; b < N; ++b) acc[b] = _mm256_load_ps(sum + f + 8 * b);
  for (int64_t i = begin; i < end; ++i) {
    if (prefetch) prefetch_ahead(x, begin, i, end);
    const __m256 factor = _mm256_set1_ps(w == nullptr ? 1.0f : w[i * B]);
    for (int b = 0; b < N; ++b) {
      __m256 v;
      load_eight(x.row[i] + f + 8 * b, v);
      acc[b] = _mm256_fmadd_ps(v, factor, acc[b]);
    }
  }
  for (int b = 0; b < N; ++b) _mm256_store_ps(sum + f + 8 * b, acc[b]);
}
template <class In>
inline void sum_in_eights(const RowList<In>& x, const float* w, int64_t B, float* sum) {
  const int64_t piece = piece_of(x);
  for (int64_t begin = 0; begin < x.n; begin += piece) {
    const int64_t end = begin + piece < x.n ? begin + piece : x.n;
    for (int64_t b = 0; b < B; ++b) {
      const float* factor = w == nullptr ? nullptr : w + b;
      float* to = sum + b * x.width;
      int64_t f = 0;
      for (; f + 64 <= x.width; f += 64) add_eights<8>(x, begin, end, f, factor, B, f + b == 0, to);
      for (; f < x.width; f += 16) add_eights<2>(x, begin, end, f, factor, B, f + b == 0, to);
    }
  }
}
#else
constexpr bool kAvx2 = false;
template <class In>
inline void sum_in_eights(const RowList<In>&, const float*, int64_t, float*) {}
#endif

GNNACCEL_CLONES inline void add_bytes(const int8_t* row, float w, float* sum, int64_t n) {
  for (int64_t j = 0; j < n; ++j) sum[j] += static_cast<float>(row[j]) * w;
}
inline void sum_row_list(const RowList<int8_t>& x, const float* w, int64_t B, float* sum) {
  if (kAvx2) return sum_in_eights(x, w, B, sum);
  for (int64_t i = 0; i < x.n; ++i) {
    prefetch_ahead(x, 0, i, x.n);
    for (int64_t b = 0; b < B; ++b) add_bytes(x.row[i], w[i * B + b], sum + b * x.width, x.columns);
  }
}
inline void sum_row_list(const RowList<HalfBits>& x, const float* w, int64_t B, float* sum) {
  kAvx2 ? sum_in_eights(x, w, B, sum) : sum_halves(x, w, B, sum);
}
inline void sum_row_list(const RowList<HalfBits>& x, float* sum) {
  kAvx2 ? sum_in_eights(x, nullptr, 1, sum) : sum_halves(x, sum);
}

GNNACCEL_CLONES inline void dot_row(const float* row, const float* g, int64_t width, float* out) {
  dot_row_body(row, g, width, out);
}
GNNACCEL_CLONES inline void dot_row(const double* row, const double* g, int64_t width, double* out) {
  dot_row_body(row, g, width, out);
}

// The first slot, a larger value, or the first NaN is taken; slot is below 0 where there is none yet.
template <class A>
GNNACCEL_INLINE void max_row_body(const A* row, A scale, int32_t k, A* top, int32_t* slot, int64_t n) {
  for (int64_t j = 0; j < n; ++j) {
    const A v = row[j] * scale, best = top[j];
    const bool take = (slot[j] < 0) | (v > best) | ((v != v) & (best == best));
    top[j] = take ? v : best;
    slot[j] = take ? k : slot[j];
  }
}
GNNACCEL_CLONES inline void max_row(const float* row, float scale, int32_t k, float* top, int32_t* slot, int64_t n) {
  max_row_body(row, scale, k, top, slot, n);
}
GNNACCEL_CLONES inline void max_row(const double* row, double scale, int32_t k, double* top, int32_t* slot, int64_t n) {
  max_row_body(row, scale, k, top, slot, n);
}

// f(i, row) for every row, as A and followed by zeros to whole vectors in `room` if it is not A already.
template <class In, class A, class F>
void each_row(const RowList<In>& x, A* room, const F& f) {
  for (int64_t i = 0; i < x.n; ++i) {
    prefetch_ahead(x, 0, i, x.n);
    if constexpr (std::is_same_v<In, A>) {
      f(i, x.row[i]);
    } else {
      copy_row(x.row[i], room, x.columns);
      f(i, static_cast<const A*>(room));
    }
  }
}

// Sums in double of rows that are not.
template <class In>
void sum_row_list(const RowList<In>& x, const double* w, int64_t B, double* sum) {
  std::vector<double> room(static_cast<size_t>(x.width));
  each_row(x, room.data(), [&](int64_t i, const double* row) {
    for (int64_t b = 0; b < B; ++b)
      for (int64_t j = 0; j < x.columns; ++j) sum[b * x.width + j] += w[i * B + b] * row[j];
  });
}

GNNACCEL_CLONES inline void divide_row(float* row, float by, int64_t n) {
  for (int64_t j = 0; j < n; ++j) row[j] /= by;
}
inline void divide_row(double* row, double by, int64_t n) {
  for (int64_t j = 0; j < n; ++j) row[j] /= by;
}

// sum[j] += g[j] where slot k gave the maximum
GNNACCEL_CLONES inline void add_where(const float* g, const int32_t* slot, int32_t k, float* sum, int64_t n) {
  for (int64_t j = 0; j < n; ++j) sum[j] += slot[j] == k ? g[j] : 0.0f;
}
inline void add_where(const double* g, const int32_t* slot, int32_t k, double* sum, int64_t n) {
  for (int64_t j = 0; j < n; ++j) sum[j] += slot[j] == k ? g[j] : 0.0;
}

// Rows [N, F] of a table, each of which may be read in whole vectors: the last ones, after which the memory may end,
// are copies with room behind them.
template <class In>
class RowTable {
 public:
  RowTable(const In* table, int64_t N, int64_t F, int64_t stride, int64_t width) : table_(table), stride_(stride) {
    const int64_t over = width - F, last = stride > 0 ? (over + stride - 1) / stride : N;
    first_copy_ = N - (last < N ? last : N);
    width_ = width;
    copy_.resize(static_cast<size_t>((N - first_copy_) * width));
    for (int64_t i = first_copy_; i < N; ++i)
      std::memcpy(static_cast<void*>(copy_.data() + (i - first_copy_) * width), table + i * stride,
                  static_cast<size_t>(F) * sizeof(In));
  }
  const In* operator[](int64_t i) const {
    return i < first_copy_ ? table_ + i * stride_ : copy_.data() + (i - first_copy_) * width_;
  }

 private:
  const In* table_;
  int64_t stride_, first_copy_, width_;
  std::vector<In> copy_;
};

}  // namespace gnnaccel
