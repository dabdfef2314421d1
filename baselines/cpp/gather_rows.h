// Rows of a table by id, converted on the way; and the sum of rows by id, which is its gradient.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "simd.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

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

// out[j] = row[j] * factor. Pairs that occur in inner loops have overloads (target_clones does not reach templates); a
// product of any two of these values but doubles is exact in double, so every pair rounds once, from the exact product.
template <class In, class Out>
inline void convert_row(const In* row, Out* out, int64_t F, float factor) {
  for (int64_t j = 0; j < F; ++j) from_double(to_double(row[j]) * static_cast<double>(factor), out + j);
}
GNNACCEL_CLONES inline void convert_row(const int8_t* row, float* out, int64_t F, float factor) {
  for (int64_t j = 0; j < F; ++j) out[j] = static_cast<float>(row[j]) * factor;
}
GNNACCEL_CLONES inline void convert_row(const BFloat16Bits* row, float* out, int64_t F, float) {
  for (int64_t j = 0; j < F; ++j) out[j] = to_float(row[j]);
}
GNNACCEL_CLONES inline void convert_row(const float* row, BFloat16Bits* out, int64_t F, float) {
  for (int64_t j = 0; j < F; ++j) from_float(row[j], out + j);
}
GNNACCEL_CLONES inline void half_to_float(const HalfBits* row, float* out, int64_t F) {
  for (int64_t j = 0; j < F; ++j) out[j] = to_float(row[j]);
}
GNNACCEL_CLONES inline void float_to_half(const float* row, HalfBits* out, int64_t F) {
  for (int64_t j = 0; j < F; ++j) from_float(row[j], out + j);
}

#if defined(__x86_64__) && defined(__GNUC__)
// Four times as fast as the integer arithmetic; the same values.
inline const bool kF16c = __builtin_cpu_supports("avx2");  // every processor with AVX2 has F16C
__attribute__((target("avx2,f16c"))) inline int64_t half_to_float_f16c(const HalfBits* row, float* out, int64_t F) {
  int64_t j = 0;
  for (; j + 8 <= F; j += 8)
    _mm256_storeu_ps(out + j, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + j))));
  return j;
}
__attribute__((target("avx2,f16c"))) inline int64_t float_to_half_f16c(const float* row, HalfBits* out, int64_t F) {
  int64_t j = 0;
  for (; j + 8 <= F; j += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + j),
                     _mm256_cvtps_ph(_mm256_loadu_ps(row + j), _MM_FROUND_TO_NEAREST_INT));
  return j;
}
#else
constexpr bool kF16c = false;
inline int64_t half_to_float_f16c(const HalfBits*, float*, int64_t) { return 0; }
inline int64_t float_to_half_f16c(const float*, HalfBits*, int64_t) { return 0; }
#endif

inline void convert_row(const HalfBits* row, float* out, int64_t F, float) {
  const int64_t done = kF16c ? half_to_float_f16c(row, out, F) : 0;
  if (done < F) half_to_float(row + done, out + done, F - done);
}
inline void convert_row(const float* row, HalfBits* out, int64_t F, float) {
  const int64_t done = kF16c ? float_to_half_f16c(row, out, F) : 0;
  if (done < F) float_to_half(row + done, out + done, F - done);
}

// sum[j] += row[j]
template <class In>
inline void add_row(const In* row, double* sum, int64_t F) {
  for (int64_t j = 0; j < F; ++j) sum[j] += to_double(row[j]);
}
GNNACCEL_CLONES inline void add_row(const float* row, float* sum, int64_t F) {
  for (int64_t j = 0; j < F; ++j) sum[j] += row[j];
}
GNNACCEL_CLONES inline void add_row(const BFloat16Bits* row, float* sum, int64_t F) {
  for (int64_t j = 0; j < F; ++j) sum[j] += to_float(row[j]);
}
GNNACCEL_CLONES inline void add_row(const HalfBits* row, float* sum, int64_t F) {
  for (int64_t j = 0; j < F; ++j) sum[j] += to_float(row[j]);
}

template <class In, class Out>
void copy_row(const In* row, Out* out, int64_t F, float factor = 1.0f) {
  if constexpr (std::is_same_v<In, Out>) {
    std::memcpy(static_cast<void*>(out), row, static_cast<size_t>(F) * sizeof(In));
  } else {
    convert_row(row, out, F, factor);
  }
}

constexpr int64_t kRowsAhead = 16;  // rows between prefetch and use

// The hardware fetches the rest of a row by itself once its first lines are read.
inline void prefetch_row(const void* row) {
  __builtin_prefetch(row);
  __builtin_prefetch(static_cast<const char*>(row) + 64);
}

// Writes bytes one after the other past the caches, by whole cache lines: an output too large to stay in a cache need
// not be read from memory before it is written. `to` starts on a cache line.
class LineWriter {
 public:
  explicit LineWriter(void* to) : to_(static_cast<char*>(to)) {}

  // Where the next `bytes` are to be put; at most kRoom.
  void* room(int64_t bytes) {
    if (filled_ >= kFull) write(filled_ / kLine * kLine);
    void* at = stage_ + filled_;
    filled_ += bytes;
    return at;
  }

  void finish() {
    write(filled_ / kLine * kLine);
    std::memcpy(to_, stage_, static_cast<size_t>(filled_));
    fence();
  }

  static bool supported();

  static constexpr int64_t kLine = 64, kRoom = 8192;

 private:
  static constexpr int64_t kFull = 2048;  // more stays less surely in the nearest cache beside the rows that come

  void write(int64_t bytes);
  static void fence();

  char* to_;
  int64_t filled_ = 0;
  alignas(kLine) char stage_[kFull + kRoom];
};

#if defined(__x86_64__) && defined(__GNUC__)
inline const bool kAvx512 = __builtin_cpu_supports("avx512f");
__attribute__((target("avx512f"))) inline void stream_lines_avx512(const char* from, char* to, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_load_si512(from + i));
}
inline bool LineWriter::supported() { return kAvx512; }
inline void LineWriter::write(int64_t bytes) {
  stream_lines_avx512(stage_, to_, bytes);
  to_ += bytes;
  filled_ -= bytes;
  std::memmove(stage_, stage_ + bytes, static_cast<size_t>(filled_));
}
inline void LineWriter::fence() { _mm_sfence(); }
#else
inline bool LineWriter::supported() { return false; }
inline void LineWriter::write(int64_t) {}
inline void LineWriter::fence() {}
#endif

// As gather_rows_chunk, for an output that no cache holds; `out` starts on a cache line, a row has at most
// LineWriter::kRoom bytes.
template <class In, class Out>
void gather_rows_stream(const In* table, int64_t stride, const float* scale, const int64_t* ids, Out* out, int64_t n,
                        int64_t ahead, int64_t F) {
  constexpr int64_t kSoon = kRowsAhead / 2;
  LineWriter lines(out);
  const int64_t bytes = F * static_cast<int64_t>(sizeof(Out));
  for (int64_t i = 0; i < n; ++i) {
    if (i + kSoon < n + ahead && ids[i + kSoon] >= 0) prefetch_row(table + ids[i + kSoon] * stride);
    const int64_t id = ids[i];
    void* o = lines.room(bytes);
    if (id < 0) {
      std::memset(o, 0, static_cast<size_t>(bytes));
    } else {
      copy_row(table + id * stride, static_cast<Out*>(o), F, scale == nullptr ? 1.0f : scale[id]);
    }
  }
  lines.finish();
}

// Rows ids[0..n) of `table` (stride in elements) to `out` [n, F]; a negative id gives zeros. `ids` holds n + ahead ids,
// all in range.
template <class In, class Out>
void gather_rows_chunk(const In* table, int64_t stride, const float* scale, const int64_t* ids, Out* out, int64_t n,
                       int64_t ahead, int64_t F) {
  for (int64_t i = 0; i < n; ++i) {
    if (i + kRowsAhead < n + ahead && ids[i + kRowsAhead] >= 0) prefetch_row(table + ids[i + kRowsAhead] * stride);
    const int64_t id = ids[i];
    Out* o = out + i * F;
    if (id < 0) {
      std::memset(static_cast<void*>(o), 0, static_cast<size_t>(F) * sizeof(Out));
    } else {
      copy_row(table + id * stride, o, F, scale == nullptr ? 1.0f : scale[id]);
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
    Out* const target = out + row[group] * F;
    Sum* to = !starts ? head : !stops ? tail : sum;
    if constexpr (std::is_same_v<Sum, Out>) to = starts && stops ? target : to;
    for (bool first = true; at < stop; ++at, first = false) {
      if (at + kRowsAhead < end) prefetch_row(grad + order[at + kRowsAhead] * F);
      if (first)
        copy_row(grad + order[at] * F, to, F);
      else
        add_row(grad + order[at] * F, to, F);
    }
    if constexpr (!std::is_same_v<Sum, Out>) {
      if (starts && stops) copy_row(sum, target, F);
    }
  }
}

}  // namespace gnnaccel
