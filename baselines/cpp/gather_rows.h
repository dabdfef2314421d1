// Rows of a table by id, converted on the way; and the sum of rows by id, which is its gradient.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "simd.h"

namespace gnnaccel {

// 16-bit floats by their bits: integer arithmetic that every compiler vectorises, exact, indifferent to flush-to-zero.
struct HalfBits {
  uint16_t bits;
};
struct BFloat16Bits {
  uint16_t bits;
};

template <class To, class From>
GNNACCEL_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

GNNACCEL_INLINE float to_float(float x) { return x; }
GNNACCEL_INLINE float to_float(double x) { return static_cast<float>(x); }
GNNACCEL_INLINE float to_float(int8_t x) { return static_cast<float>(x); }
GNNACCEL_INLINE float to_float(BFloat16Bits x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }
GNNACCEL_INLINE float to_float(HalfBits x) {
  const uint32_t magnitude = x.bits & 0x7fffu, sign = (x.bits & 0x8000u) << 16;
  const uint32_t subnormal = bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  const uint32_t normal = (magnitude << 13) + (112u << 23);
  const uint32_t special = (magnitude << 13) | 0x7f800000u;
  return bit_cast<float>(sign | (magnitude < 0x400u ? subnormal : magnitude < 0x7c00u ? normal : special));
}

// Rounds to nearest, ties to even.
GNNACCEL_INLINE void from_float(float x, float* out) { *out = x; }
GNNACCEL_INLINE void from_float(float x, double* out) { *out = x; }
GNNACCEL_INLINE void from_float(float x, BFloat16Bits* out) {
  const uint32_t u = bit_cast<uint32_t>(x);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  out->bits = static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}
GNNACCEL_INLINE void from_float(float x, HalfBits* out) {
  const uint32_t u = bit_cast<uint32_t>(x), magnitude = u & 0x7fffffffu;
  // adding 1/2 leaves a subnormal half in the low bits, rounded by the adder
  const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - bit_cast<uint32_t>(0.5f);
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  uint32_t h = magnitude < (113u << 23) ? subnormal : normal;
  h = magnitude >= (143u << 23) ? 0x7c00u : h;
  h = magnitude > 0x7f800000u ? 0x7e00u : h;
  out->bits = static_cast<uint16_t>(h | ((u >> 16) & 0x8000u));
}

// double on either side: no detour through float
GNNACCEL_INLINE double to_double(double x) { return x; }
template <class T>
GNNACCEL_INLINE double to_double(T x) {
  return to_float(x);
}
GNNACCEL_INLINE void from_double(double x, double* out) { *out = x; }
template <class T>
GNNACCEL_INLINE void from_double(double x, T* out) {
  from_float(static_cast<float>(x), out);
}

// out[j] = row[j] * factor, for every pair of types; and sum[j] += row[j]. target_clones does not reach templates.
#define GNNACCEL_GATHER_PAIR(In, Out)                                                         \
  GNNACCEL_CLONES inline void convert_row(const In* row, Out* out, int64_t F, float factor) { \
    for (int64_t j = 0; j < F; ++j) from_float(to_float(row[j]) * factor, out + j);           \
  }
#define GNNACCEL_GATHER_DOUBLE(In, Out)                                                                    \
  inline void convert_row(const In* row, Out* out, int64_t F, float factor) {                              \
    for (int64_t j = 0; j < F; ++j) from_double(to_double(row[j]) * static_cast<double>(factor), out + j); \
  }
#define GNNACCEL_GATHER_FROM(In)         \
  GNNACCEL_GATHER_PAIR(In, float)        \
  GNNACCEL_GATHER_PAIR(In, HalfBits)     \
  GNNACCEL_GATHER_PAIR(In, BFloat16Bits) \
  GNNACCEL_GATHER_DOUBLE(In, double)
GNNACCEL_GATHER_FROM(float)
GNNACCEL_GATHER_FROM(HalfBits)
GNNACCEL_GATHER_FROM(BFloat16Bits)
GNNACCEL_GATHER_FROM(int8_t)
GNNACCEL_GATHER_DOUBLE(double, float)
GNNACCEL_GATHER_DOUBLE(double, HalfBits)
GNNACCEL_GATHER_DOUBLE(double, BFloat16Bits)
GNNACCEL_GATHER_DOUBLE(double, double)
#undef GNNACCEL_GATHER_FROM
#undef GNNACCEL_GATHER_DOUBLE
#undef GNNACCEL_GATHER_PAIR

#define GNNACCEL_ADD(In, Sum, convert)                                      \
  GNNACCEL_CLONES inline void add_row(const In* row, Sum* sum, int64_t F) { \
    for (int64_t j = 0; j < F; ++j) sum[j] += convert(row[j]);              \
  }
GNNACCEL_ADD(float, float, to_float)
GNNACCEL_ADD(HalfBits, float, to_float)
GNNACCEL_ADD(BFloat16Bits, float, to_float)
GNNACCEL_ADD(float, double, to_double)
GNNACCEL_ADD(HalfBits, double, to_double)
GNNACCEL_ADD(BFloat16Bits, double, to_double)
GNNACCEL_ADD(double, double, to_double)
#undef GNNACCEL_ADD

template <class Sum, class Out>
void store_row(const Sum* sum, Out* out, int64_t F) {
  if constexpr (std::is_same_v<Sum, Out>) {
    std::memcpy(out, sum, static_cast<size_t>(F) * sizeof(Sum));
  } else {
    convert_row(sum, out, F, 1.0f);
  }
}

inline void prefetch_row(const void* row, int64_t bytes) {
  // the hardware follows a row of its own accord after a few lines
  constexpr int64_t kLines = 8;
  const char* p = static_cast<const char*>(row);
  for (int64_t at = 0; at < bytes && at < kLines * 64; at += 64) __builtin_prefetch(p + at);
}

// Rows ids[0..n) of `table` (stride in elements) to `out` [n, F]; a negative id gives zeros. ids are in range.
template <class In, class Out>
void gather_rows_chunk(const In* table, int64_t stride, const float* scale, const int64_t* ids, Out* out, int64_t n,
                       int64_t F) {
  const int64_t row_bytes = F * static_cast<int64_t>(sizeof(In));
  const int64_t ahead = row_bytes >= 2048 ? 2 : row_bytes >= 256 ? 8 : 16;
  for (int64_t i = 0; i < n && i < ahead; ++i)
    if (ids[i] >= 0) prefetch_row(table + ids[i] * stride, row_bytes);
  for (int64_t i = 0; i < n; ++i) {
    if (i + ahead < n && ids[i + ahead] >= 0) prefetch_row(table + ids[i + ahead] * stride, row_bytes);
    const int64_t id = ids[i];
    Out* o = out + i * F;
    if (id < 0) {
      std::memset(static_cast<void*>(o), 0, static_cast<size_t>(F) * sizeof(Out));
    } else if constexpr (std::is_same_v<In, Out>) {
      std::memcpy(static_cast<void*>(o), table + id * stride, static_cast<size_t>(row_bytes));
    } else {
      convert_row(table + id * stride, o, F, scale == nullptr ? 1.0f : scale[id]);
    }
  }
}

// Sums of grad rows that share an id. `order` lists positions grouped by id (segment[k] .. segment[k + 1] belong to
// row[k]), so any split of `order` splits the work evenly, hubs included. One window of it: groups that lie inside are
// written to `out`; the part of a group that began before goes to `head`, the part of one that goes on after to `tail`
// (each [F]).
template <class In, class Sum, class Out>
void sum_rows_window(const In* grad, const int64_t* order, const int64_t* segment, const int64_t* row, int64_t group,
                     int64_t begin, int64_t end, Out* out, Sum* head, Sum* tail, Sum* sum, int64_t F) {
  for (int64_t at = begin; at < end; ++group) {
    const int64_t stop = segment[group + 1] < end ? segment[group + 1] : end;
    const bool starts = segment[group] >= begin, stops = segment[group + 1] <= end;
    Sum* to = !starts ? head : !stops ? tail : sum;
    std::memset(to, 0, static_cast<size_t>(F) * sizeof(Sum));
    for (; at < stop; ++at) {
      if (at + 4 < end) prefetch_row(grad + order[at + 4] * F, F * static_cast<int64_t>(sizeof(In)));
      add_row(grad + order[at] * F, to, F);
    }
    if (starts && stops) store_row(sum, out + row[group] * F, F);
  }
}

}  // namespace gnnaccel
