#include <numeric>

#include "common.h"
#include "philox.h"

namespace gnnaccel {
namespace {

constexpr uint32_t kDropoutStream = 0x64726F70u;  // a word that no other op's counters have in its place
constexpr int64_t kDropoutRows = 8;               // drawn at a time

template <class S>
GNNACCEL_INLINE void keep_columns(const S* from, const uint32_t* words, uint32_t threshold, acc_t<S> scale, int64_t D,
                                  S* to) {
  for (int64_t j = 0; j < D; ++j)
    to[j] = static_cast<S>(static_cast<acc_t<S>>(from[j]) * (words[j] < threshold ? acc_t<S>{0} : scale));
}

#define GNNACCEL_KEEP(S)                                                                                             \
  GNNACCEL_CLONES void keep_row(const S* from, const uint32_t* words, uint32_t threshold, acc_t<S> scale, int64_t D, \
                                S* to) {                                                                             \
    keep_columns<S>(from, words, threshold, scale, D, to);                                                           \
  }
GNNACCEL_KEEP(float)
GNNACCEL_KEEP(double)
GNNACCEL_KEEP(Half)
GNNACCEL_KEEP(BFloat16)
#undef GNNACCEL_KEEP

Tensor dropout_cpu(const Tensor& x_in, double rate, int64_t seed) {
  const Tensor x = torch::stable::contiguous(x_in);
  const int64_t R = x.size(0), D = x.size(1), width = round_up(D, kPhiloxBlock);
  Tensor out = empty({R, D}, x.scalar_type());
  PhiloxCounters counters(seed, (D + 3) / 4);
  counters.stream = kDropoutStream, counters.high_third = true;
  std::iota(counters.second.begin(), counters.second.end(), 0u);
  const PhiloxFn draw = philox_rows();
  const uint32_t threshold = static_cast<uint32_t>(rate * 16777216.0) << 8;  // of 2^32: words below it are dropped
  dispatch_floating(x.scalar_type(), "dropout", [&](auto tag) {
    using S = decltype(tag);
    parallel_chunks(R, 64, [&](int64_t begin, int64_t end) {
      std::vector<uint32_t> words(static_cast<size_t>(kDropoutRows * width));
      for (int64_t r = begin; r < end; r += kDropoutRows) {
        const int64_t rows = std::min(kDropoutRows, end - r);
        int64_t numbers[kDropoutRows];
        std::iota(numbers, numbers + rows, r);
        draw(counters, numbers, rows, D, width, words.data());
        for (int64_t i = 0; i < rows; ++i)
          keep_row(ptr<S>(x) + (r + i) * D, words.data() + i * width, threshold,
                   static_cast<acc_t<S>>(1.0 / (1.0 - rate)), D, ptr<S>(out) + (r + i) * D);
      }
    });
  });
  return out;
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) { m.impl("dropout", TORCH_BOX(&gnnaccel::dropout_cpu)); }
