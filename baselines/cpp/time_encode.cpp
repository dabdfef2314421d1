#include "time_encode.h"

#include "common.h"

namespace gnnaccel {
namespace {

constexpr int64_t kChunk = 256;  // rows a task; fixed, so that sums do not depend on the number of threads

// Frequencies as the row kernels want them: radians for double, turns for float.
template <class Acc>
constexpr double unit() {
  return std::is_same_v<Acc, double> ? 1.0 : kInvTwoPi;
}

void load_dt(const Tensor& dt, int64_t begin, int64_t end, double* out) {
  dispatch_time(dt.scalar_type(), "time_encode", [&](auto tag) {
    const auto* p = ptr<decltype(tag)>(dt);
    for (int64_t i = begin; i < end; ++i) out[i - begin] = static_cast<double>(p[i]);
  });
}

Tensor time_encode_cpu(const Tensor& dt_in, const Tensor& w, const Tensor& b) {
  const Tensor dt = torch::stable::contiguous(dt_in);
  const int64_t n = dt.numel(), T = w.size(0);
  std::vector<int64_t> shape = sizes_of(dt);
  shape.push_back(T);
  Tensor out = empty(shape, w.scalar_type());
  dispatch_floating(w.scalar_type(), "time_encode", [&](auto tag) {
    using scalar_t = decltype(tag);
    using A = acc_t<scalar_t>;
    const auto wd = to_double(w, unit<A>(), "time_encode");
    const auto bd = to_double(b, unit<A>(), "time_encode");
    scalar_t* o = ptr<scalar_t>(out);
    parallel_chunks(n, kChunk, [&](int64_t begin, int64_t end) {
      double dts[kChunk];
      load_dt(dt, begin, end, dts);
      if constexpr (std::is_same_v<scalar_t, A>) {
        time_encode_rows(dts, wd.data(), bd.data(), o + begin * T, end - begin, T);
      } else {
        std::vector<A> row(static_cast<size_t>(T));
        for (int64_t i = begin; i < end; ++i) {
          time_encode_rows(dts + (i - begin), wd.data(), bd.data(), row.data(), 1, T);
          for (int64_t j = 0; j < T; ++j) o[i * T + j] = static_cast<scalar_t>(row[static_cast<size_t>(j)]);
        }
      }
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> time_encode_backward_cpu(const Tensor& grad_in, const Tensor& dt_in, const Tensor& w,
                                                    const Tensor& b) {
  const Tensor grad = torch::stable::contiguous(grad_in), dt = torch::stable::contiguous(dt_in);
  const int64_t n = dt.numel(), T = w.size(0), chunks = (n + kChunk - 1) / kChunk;
  Tensor grad_w = empty({T}, w.scalar_type()), grad_b = empty({T}, b.scalar_type());
  dispatch_floating(w.scalar_type(), "time_encode", [&](auto tag) {
    using scalar_t = decltype(tag);
    using A = acc_t<scalar_t>;
    const auto wd = to_double(w, unit<A>(), "time_encode");
    const auto bd = to_double(b, unit<A>(), "time_encode");
    const scalar_t* g = ptr<scalar_t>(grad);
    std::vector<double> partial(static_cast<size_t>(chunks * 2 * T), 0.0);
    parallel_chunks(n, kChunk, [&](int64_t begin, int64_t end) {
      double dts[kChunk];
      load_dt(dt, begin, end, dts);
      double* pw = partial.data() + (begin / kChunk) * 2 * T;
      if constexpr (std::is_same_v<scalar_t, A>) {
        time_encode_grad_rows(dts, wd.data(), bd.data(), g + begin * T, pw, pw + T, end - begin, T);
      } else {
        std::vector<A> row(static_cast<size_t>(T));
        for (int64_t i = begin; i < end; ++i) {
          for (int64_t j = 0; j < T; ++j) row[static_cast<size_t>(j)] = static_cast<A>(g[i * T + j]);
          time_encode_grad_rows(dts + (i - begin), wd.data(), bd.data(), row.data(), pw, pw + T, 1, T);
        }
      }
    });
    for (int64_t j = 0; j < T; ++j) {
      double sw = 0, sb = 0;
      for (int64_t c = 0; c < chunks; ++c) {
        sw += partial[static_cast<size_t>(c * 2 * T + j)];
        sb += partial[static_cast<size_t>(c * 2 * T + T + j)];
      }
      ptr<scalar_t>(grad_w)[j] = static_cast<scalar_t>(sw);
      ptr<scalar_t>(grad_b)[j] = static_cast<scalar_t>(sb);
    }
  });
  return {grad_w, grad_b};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) {
  m.impl("time_encode", TORCH_BOX(&gnnaccel::time_encode_cpu));
  m.impl("time_encode_backward", TORCH_BOX(&gnnaccel::time_encode_backward_cpu));
}
