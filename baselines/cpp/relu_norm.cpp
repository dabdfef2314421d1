#include "relu_norm.h"

#include <algorithm>
#include <tuple>
#include <type_traits>
#include <vector>

#include "common.h"

namespace gnnaccel {
namespace {

constexpr int64_t kNormRows = 64;  // rows a task; fixed, so that sums do not depend on the number of threads

// Values of S in A: themselves, or converted into `buffer`.
template <class S, class A>
const A* load(const S* values, int64_t n, A* buffer) {
  if constexpr (std::is_same_v<S, A>) {
    return values;
  } else {
    for (int64_t j = 0; j < n; ++j) buffer[j] = static_cast<A>(values[j]);
    return buffer;
  }
}

// Where values of S are computed in A, and what brings them home.
template <class S, class A>
A* place(S* values, A* buffer) {
  if constexpr (std::is_same_v<S, A>)
    return values;
  else
    return buffer;
}
template <class S, class A>
void store(S* values, int64_t n, const A* buffer) {
  if constexpr (!std::is_same_v<S, A>)
    for (int64_t j = 0; j < n; ++j) values[j] = static_cast<S>(buffer[j]);
}

template <class S, class A>
std::vector<A> as_acc(const Tensor& t) {
  const Tensor dense = torch::stable::contiguous(t);
  std::vector<A> out(static_cast<size_t>(dense.numel()));
  for (size_t j = 0; j < out.size(); ++j) out[j] = static_cast<A>(ptr<S>(dense)[j]);
  return out;
}

ScalarType acc_dtype(ScalarType dtype) { return dtype == ScalarType::Double ? dtype : ScalarType::Float; }

std::tuple<Tensor, Tensor, Tensor> relu_norm_cpu(const Tensor& x_in, const Tensor& weight, const Tensor& bias,
                                                 double rate, int64_t seed, double eps) {
  const Tensor x = torch::stable::contiguous(x_in);
  const int64_t R = x.size(0), D = x.size(1);
  const ScalarType dtype = x.scalar_type();
  Tensor y = empty({R, D}, dtype), mean = empty({R}, acc_dtype(dtype)), rstd = empty({R}, acc_dtype(dtype));
  const NormDropout dropout(rate, seed);
  const PhiloxRowFn draw = philox_row();
  dispatch_floating(dtype, "relu_norm", [&](auto tag) {
    using S = decltype(tag);
    using A = acc_t<S>;
    const auto w = as_acc<S, A>(weight), b = as_acc<S, A>(bias);
    parallel_chunks(R, kNormRows, [&](int64_t begin, int64_t end) {
      NormScratch<A> m(D);
      for (int64_t r = begin; r < end; r += kNormGroup) {
        const int64_t rows = std::min(kNormGroup, end - r);
        S* out = ptr<S>(y) + r * D;
        relu_norm_rows(load(ptr<S>(x) + r * D, rows * D, m.x), w.data(), b.data(), dropout, r, rows, D, eps, draw, m,
                       place(out, m.out), ptr<A>(mean) + r, ptr<A>(rstd) + r);
        store(out, rows * D, m.out);
      }
    });
  });
  return {y, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor> relu_norm_backward_cpu(const Tensor& grad_in, const Tensor& x_in,
                                                          const Tensor& weight, const Tensor& mean_in,
                                                          const Tensor& rstd_in, double rate, int64_t seed) {
  const Tensor grad = torch::stable::contiguous(grad_in), x = torch::stable::contiguous(x_in),
               mean = torch::stable::contiguous(mean_in), rstd = torch::stable::contiguous(rstd_in);
  const int64_t R = x.size(0), D = x.size(1), chunks = (R + kNormRows - 1) / kNormRows;
  const ScalarType dtype = x.scalar_type();
  Tensor dx = empty({R, D}, dtype), dw = empty({D}, dtype), db = empty({D}, dtype);
  const NormDropout dropout(rate, seed);
  const PhiloxRowFn draw = philox_row();
  dispatch_floating(dtype, "relu_norm", [&](auto tag) {
    using S = decltype(tag);
    using A = acc_t<S>;
    const auto w = as_acc<S, A>(weight);
    std::vector<A> partial(static_cast<size_t>(chunks * 2 * D), A{0});  // [chunk, dw and db, D]
    parallel_chunks(R, kNormRows, [&](int64_t begin, int64_t end) {
      NormScratch<A> m(D);
      A* sums = partial.data() + begin / kNormRows * 2 * D;
      for (int64_t r = begin; r < end; r += kNormGroup) {
        const int64_t rows = std::min(kNormGroup, end - r);
        S* out = ptr<S>(dx) + r * D;
        relu_norm_rows_backward(load(ptr<S>(grad) + r * D, rows * D, m.dy), load(ptr<S>(x) + r * D, rows * D, m.x),
                                w.data(), ptr<A>(mean) + r, ptr<A>(rstd) + r, dropout, r, rows, D, draw, m,
                                place(out, m.out), sums, sums + D);
        store(out, rows * D, m.out);
      }
    });
    std::vector<double> total(static_cast<size_t>(2 * D), 0.0);
    for (int64_t c = 0; c < chunks; ++c)
      for (int64_t j = 0; j < 2 * D; ++j)
        total[static_cast<size_t>(j)] += static_cast<double>(partial[static_cast<size_t>(c * 2 * D + j)]);
    for (int64_t j = 0; j < D; ++j) {
      ptr<S>(dw)[j] = static_cast<S>(static_cast<A>(total[static_cast<size_t>(j)]));
      ptr<S>(db)[j] = static_cast<S>(static_cast<A>(total[static_cast<size_t>(D + j)]));
    }
  });
  return {dx, dw, db};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) {
  m.impl("relu_norm", TORCH_BOX(&gnnaccel::relu_norm_cpu));
  m.impl("relu_norm_backward", TORCH_BOX(&gnnaccel::relu_norm_backward_cpu));
}
