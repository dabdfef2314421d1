// Philox4x32-10, the counter-based generator (Salmon et al., SC 2011): four random words are a function of a key and a
// counter, never of words drawn before. Plain inline functions without library calls, so that g++, nvcc and NVRTC all
// take them; written so that g++ vectorises a loop over counters.
#pragma once

#if defined(__CUDACC_RTC__)
typedef short int16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#else
#include <cstdint>
#endif

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define GNNACCEL_HD __host__ __device__ __forceinline__
#else
#define GNNACCEL_HD inline __attribute__((always_inline))
#endif

namespace gnnaccel {

// Ten rounds over the counter (c0, c1, c2, c3), in place, with the key k1 * 2^32 + k0.
GNNACCEL_HD void philox4x32(uint32_t& c0, uint32_t& c1, uint32_t& c2, uint32_t& c3, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0, p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

}  // namespace gnnaccel
