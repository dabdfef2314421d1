#include "relu_norm.h"

#include <algorithm>
#include <tuple>
#include <type_traits>
#include <vector>

#include "common.h"

namespace gnnaccel {
namespace {

constexpr int64_t kNormRows = 64;  // rows a task; fixed, so that sums do not depend on the number of threads

// Rows from one stride to another, and from the dtype of tensors to that of computation or back.
template <class S, class T>
void move_rows(const S* from, int64_t rows, int64_t D, int64_t from_stride, T* to, int64_t to_stride) {
  if constexpr (std::is_same_v<S, T>)
    copy_rows(from, rows, D, from_stride, to, to_stride);
  else
    for (int64_t i = 0; i < rows; ++i) copy_row(from + i * from_stride, D, to + i * to_stride);
}

// [D] in A, padded with zeros.
template <class S, class A>
std::vector<A> padded_vector(const Tensor& t) {
  const Tensor dense = torch::stable::contiguous(t);
  std::vector<A> out(static_cast<size_t>(padded(dense.numel())), A{0});
  copy_row(ptr<S>(dense), dense.numel(), out.data());
  return out;
}

ScalarType acc_dtype(ScalarType dtype) { return dtype == ScalarType::Double ? dtype : ScalarType::Float; }

std::tuple<Tensor, Tensor, Tensor> relu_norm_cpu(const Tensor& x_in, const Tensor& weight, const Tensor& bias,
                                                 double rate, int64_t seed, double eps) {
  const Tensor x = torch::stable::contiguous(x_in);
  const int64_t R = x.size(0), D = x.size(1);
  const ScalarType dtype = x.scalar_type();
  Tensor y = empty({R, D}, dtype), mean = empty({R}, acc_dtype(dtype)), rstd = empty({R}, acc_dtype(dtype));
  const NormDropout dropout(rate, seed, D);
  dispatch_floating(dtype, "relu_norm", [&](auto tag) {
    using S = decltype(tag);
    using A = acc_t<S>;
    const auto w = padded_vector<S, A>(weight), b = padded_vector<S, A>(bias);
    parallel_chunks(R, kNormRows, [&](int64_t begin, int64_t end) {
      NormScratch<A> m(D);
      for (int64_t r = begin; r < end; r += kNormGroup) {
        const int64_t rows = std::min(kNormGroup, end - r);
        int64_t numbers[kNormGroup];
        std::iota(numbers, numbers + rows, r);
        move_rows(ptr<S>(x) + r * D, rows, D, D, m.h, m.width);
        relu_norm_rows(w.data(), b.data(), dropout, numbers, rows, D, eps, m, ptr<A>(mean) + r, ptr<A>(rstd) + r);
        move_rows(m.n, rows, D, m.width, ptr<S>(y) + r * D, D);
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
  const NormDropout dropout(rate, seed, D);
  dispatch_floating(dtype, "relu_norm", [&](auto tag) {
    using S = decltype(tag);
    using A = acc_t<S>;
    const int64_t W = padded(D);
    const auto w = padded_vector<S, A>(weight);
    std::vector<A> partial(static_cast<size_t>(chunks * 2 * W), A{0});  // [chunk, dw and db, W]
    parallel_chunks(R, kNormRows, [&](int64_t begin, int64_t end) {
      NormScratch<A> m(D);
      A* sums = partial.data() + begin / kNormRows * 2 * W;
      for (int64_t r = begin; r < end; r += kNormGroup) {
        const int64_t rows = std::min(kNormGroup, end - r);
        int64_t numbers[kNormGroup];
        std::iota(numbers, numbers + rows, r);
        move_rows(ptr<S>(x) + r * D, rows, D, D, m.h, W);
        move_rows(ptr<S>(grad) + r * D, rows, D, D, m.g, W);
        relu_norm_rows_backward(w.data(), ptr<A>(mean) + r, ptr<A>(rstd) + r, dropout, numbers, rows, D, m, sums,
                                sums + W);
        move_rows(m.g, rows, D, W, ptr<S>(dx) + r * D, D);
      }
    });
    std::vector<double> total(static_cast<size_t>(2 * W), 0.0);
    for (int64_t c = 0; c < chunks; ++c)
      for (int64_t j = 0; j < 2 * W; ++j)
        total[static_cast<size_t>(j)] += static_cast<double>(partial[static_cast<size_t>(c * 2 * W + j)]);
    for (int64_t j = 0; j < D; ++j) {
      ptr<S>(dw)[j] = static_cast<S>(static_cast<A>(total[static_cast<size_t>(j)]));
      ptr<S>(db)[j] = static_cast<S>(static_cast<A>(total[static_cast<size_t>(W + j)]));
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
