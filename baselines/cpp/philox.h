// Philox4x32-10 for rows of columns: column j has word j % 4 of the counter of its row and of its group j / 4.
//
// The products of 32-bit words are what it costs, and x86 has an instruction for just those, which compilers do not use
// in a loop: hence intrinsics. Instruction set chosen at run time; GNNACCEL_SIMD=portable|avx2|avx512 lowers it. The
// words are the same on all.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "philox.cuh"
#include "simd.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define GNNACCEL_PHILOX_X86 1
#include <immintrin.h>
#endif

namespace gnnaccel {

constexpr int64_t kPhiloxBlock = 32;  // rows of words are written in whole blocks

// Counter (row low, second[group], third[group], row high), or with `stream` in the last place and the row's high half
// in the third.
struct PhiloxCounters {
  uint32_t key_low, key_high;
  uint32_t stream = 0;
  bool high_third = false;
  std::vector<uint32_t> second, third;  // of whole blocks of groups

  PhiloxCounters(int64_t seed, int64_t groups)
      : key_low(static_cast<uint32_t>(seed)),
        key_high(static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32)),
        second(static_cast<size_t>(round_up(groups, kPhiloxBlock / 4))),
        third(second) {}
  uint32_t high_for_third(uint32_t high) const { return high_third ? high : 0; }
  uint32_t fourth(uint32_t high) const { return high_third ? stream : high; }
};

// Words of rows with these numbers, each `stride` words after the one before.
using PhiloxFn = void (*)(const PhiloxCounters& counters, const int64_t* numbers, int64_t rows, int64_t columns,
                          int64_t stride, uint32_t* words);

GNNACCEL_CLONES
inline void philox_rows_portable(const PhiloxCounters& counters, const int64_t* numbers, int64_t rows, int64_t columns,
                                 int64_t stride, uint32_t* words) {
  for (int64_t i = 0; i < rows; ++i, words += stride) {
    const auto low = static_cast<uint32_t>(numbers[i]);
    const auto high = static_cast<uint32_t>(static_cast<uint64_t>(numbers[i]) >> 32);
    for (int64_t g = 0; g < (columns + 3) / 4; ++g) {
      const auto group = static_cast<size_t>(g);
      uint32_t c0 = low, c1 = counters.second[group], c2 = counters.third[group] + counters.high_for_third(high),
               c3 = counters.fourth(high);
      philox4x32(c0, c1, c2, c3, counters.key_low, counters.key_high);
      words[4 * g] = c0, words[4 * g + 1] = c1, words[4 * g + 2] = c2, words[4 * g + 3] = c3;
    }
  }
}

#ifdef GNNACCEL_PHILOX_X86
#define GNNACCEL_AVX2 __attribute__((target("avx2"), always_inline)) inline
#define GNNACCEL_AVX512 __attribute__((target("avx512f"), always_inline)) inline
GNNACCEL_AVX2 __m256i product(__m256i a, __m256i b) { return _mm256_mul_epu32(a, b); }
GNNACCEL_AVX2 __m256i even_lanes(__m256i a, __m256i b) { return _mm256_unpacklo_epi64(a, b); }
GNNACCEL_AVX2 __m256i odd_lanes(__m256i a, __m256i b) { return _mm256_unpackhi_epi64(a, b); }
GNNACCEL_AVX2 __m256i high_half(__m256i a) { return _mm256_shuffle_epi32(a, 0xF5); }
// masked: g++ 12 warns about its own definition of the plain ones
GNNACCEL_AVX512 __m512i product(__m512i a, __m512i b) { return _mm512_maskz_mul_epu32(0xFF, a, b); }
GNNACCEL_AVX512 __m512i even_lanes(__m512i a, __m512i b) { return _mm512_maskz_unpacklo_epi64(0xFF, a, b); }
GNNACCEL_AVX512 __m512i odd_lanes(__m512i a, __m512i b) { return _mm512_maskz_unpackhi_epi64(0xFF, a, b); }
GNNACCEL_AVX512 __m512i high_half(__m512i a) {
  return _mm512_maskz_shuffle_epi32(0xFFFF, a, static_cast<_MM_PERM_ENUM>(0xF5));
}
#undef GNNACCEL_AVX2
#undef GNNACCEL_AVX512

// A counter to each 64-bit lane; products read the low half of a lane and leave rubbish in the high one. high_half is a
// shuffle, since a shift would wait for the port that multiplies. The groups are dealt to the lanes so that the even
// ones, and after them the odd ones, give the words in the order of their columns.
#define GNNACCEL_PHILOX(NAME, TARGET, M, ...)                                                                        \
  __attribute__((target(TARGET))) inline void NAME(const PhiloxCounters& counters, const int64_t* numbers,           \
                                                   int64_t rows, int64_t columns, int64_t stride, uint32_t* words) { \
    typedef unsigned long long V __attribute__((vector_size(sizeof(M))));                                            \
    constexpr int64_t L = sizeof(M) / 8, deal[L] = {__VA_ARGS__};                                                    \
    constexpr unsigned long long half = 0xFFFFFFFFull;                                                               \
    const V zero = {}, a = zero + 0xD2511F53ull, b = zero + 0xCD9E8D57ull;                                           \
    V k0[10], k1[10];                                                                                                \
    for (uint32_t i = 0; i < 10; ++i) {                                                                              \
      k0[i] = zero + static_cast<uint32_t>(counters.key_low + i * 0x9E3779B9u);                                      \
      k1[i] = zero + static_cast<uint32_t>(counters.key_high + i * 0xBB67AE85u);                                     \
    }                                                                                                                \
    for (int64_t j = 0; j < columns; j += 4 * L) {                                                                   \
      V second, third;                                                                                               \
      for (int64_t i = 0; i < L; ++i) {                                                                              \
        second[i] = counters.second[static_cast<size_t>(j / 4 + deal[i])];                                           \
        third[i] = counters.third[static_cast<size_t>(j / 4 + deal[i])];                                             \
      }                                                                                                              \
      for (int64_t row = 0; row < rows; ++row) {                                                                     \
        const auto bits = static_cast<unsigned long long>(numbers[row]);                                             \
        const auto high = static_cast<uint32_t>(bits >> 32);                                                         \
        V c0 = zero + (bits & half), c1 = second, c2 = third + counters.high_for_third(high),                        \
          c3 = zero + counters.fourth(high);                                                                         \
        for (int i = 0; i < 10; ++i) {                                                                               \
          const M p0 = product((M)a, (M)c0), p1 = product((M)b, (M)c2);                                              \
          c0 = (V)high_half(p1) ^ c1 ^ k0[i], c1 = (V)p1;                                                            \
          c2 = (V)high_half(p0) ^ c3 ^ k1[i], c3 = (V)p0;                                                            \
        }                                                                                                            \
        const M w01 = (M)((c0 & half) | (c1 << 32)), w23 = (M)((c2 & half) | (c3 << 32));                            \
        const M one = even_lanes(w01, w23), two = odd_lanes(w01, w23);                                               \
        std::memcpy(words + row * stride + j, &one, sizeof(M));                                                      \
        std::memcpy(words + row * stride + j + 2 * L, &two, sizeof(M));                                              \
      }                                                                                                              \
    }                                                                                                                \
  }
GNNACCEL_PHILOX(philox_rows_avx2, "avx2", __m256i, 0, 2, 1, 3)
GNNACCEL_PHILOX(philox_rows_avx512, "avx512f", __m512i, 0, 4, 1, 5, 2, 6, 3, 7)
#undef GNNACCEL_PHILOX
#endif

// The one for this machine. `stride` is at least `columns` rounded up to kPhiloxBlock.
inline PhiloxFn philox_rows() {
#ifdef GNNACCEL_PHILOX_X86
  static const PhiloxFn chosen = []() -> PhiloxFn {
    const char* wish = std::getenv("GNNACCEL_SIMD");
    const auto capped = [&](const char* level) { return wish != nullptr && std::strcmp(wish, level) == 0; };
    if (capped("portable")) return philox_rows_portable;
    if (__builtin_cpu_supports("avx512f") && !capped("avx2")) return philox_rows_avx512;
    return __builtin_cpu_supports("avx2") ? philox_rows_avx2 : philox_rows_portable;
  }();
  return chosen;
#else
  return philox_rows_portable;
#endif
}

}  // namespace gnnaccel
