// What every binding (.cpp) needs: dtype dispatch, output allocation, torch's thread pool. Kernels (.h) do not include
// this.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#include "huge_pages.h"

namespace gnnaccel {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T>
T* ptr(Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

template <class T>
const T* ptr(const Tensor& tensor) {
  return static_cast<const T*>(tensor.data_ptr());
}

inline Tensor with_huge_pages(Tensor tensor) {
  advise_huge_pages_if_free(tensor.data_ptr(), static_cast<uintptr_t>(tensor.numel()) * tensor.element_size());
  return tensor;
}

inline Tensor empty(const std::vector<int64_t>& shape, ScalarType dtype) {
  return with_huge_pages(torch::stable::empty({shape.data(), shape.size()}, dtype));
}

inline Tensor empty(std::initializer_list<int64_t> sizes, ScalarType dtype) {
  return empty(std::vector<int64_t>(sizes), dtype);
}

inline std::vector<int64_t> sizes_of(const Tensor& tensor) {
  std::vector<int64_t> sizes(static_cast<size_t>(tensor.dim()));
  for (int64_t i = 0; i < tensor.dim(); ++i) sizes[static_cast<size_t>(i)] = tensor.size(i);
  return sizes;
}

// f(begin, end) over [0, n) in chunks of a FIXED size: what a chunk computes, and hence every bit of the result, does
// not depend on the number of threads. chunk_of(begin) = begin / chunk.
template <class F>
void parallel_chunks(int64_t n, int64_t chunk, const F& f) {
  const int64_t chunks = (n + chunk - 1) / chunk;
  if (chunks <= 1) {
    if (n > 0) f(int64_t{0}, n);
    return;
  }
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) f(c * chunk, (c + 1) * chunk < n ? (c + 1) * chunk : n);
  });
}

// Calls f(T{}) with the C++ type of a floating dtype, the half types as named; accumulate in acc_t<T>.
template <class H, class B, class F>
void dispatch_floating_as(ScalarType dtype, const char* what, const F& f) {
  switch (dtype) {
    case ScalarType::Float: return f(float{});
    case ScalarType::Double: return f(double{});
    case ScalarType::Half: return f(H{});
    case ScalarType::BFloat16: return f(B{});
    default: throw std::runtime_error(std::string(what) + ": expected a floating dtype");
  }
}

template <class F>
void dispatch_floating(ScalarType dtype, const char* what, const F& f) {
  dispatch_floating_as<Half, BFloat16>(dtype, what, f);
}

// Calls f(T{}) for the dtypes that times and time differences may have.
template <class F>
void dispatch_time(ScalarType dtype, const char* what, const F& f) {
  switch (dtype) {
    case ScalarType::Long: return f(int64_t{});
    case ScalarType::Double: return f(double{});
    case ScalarType::Float: return f(float{});
    default: throw std::runtime_error(std::string(what) + ": expected int64, float64 or float32");
  }
}

// Calls f(T{}) for the dtypes that ids may have.
template <class F>
void dispatch_ids(ScalarType dtype, const char* what, const F& f) {
  switch (dtype) {
    case ScalarType::Long: return f(int64_t{});
    case ScalarType::Int: return f(int32_t{});
    default: throw std::runtime_error(std::string(what) + ": expected int64 or int32");
  }
}

template <class T>
struct acc {
  using type = float;
};
template <>
struct acc<double> {
  using type = double;
};
template <class T>
using acc_t = typename acc<T>::type;

// The values of a floating tensor times `factor`.
inline std::vector<double> to_double(const Tensor& t_in, double factor, const char* what) {
  const Tensor t = torch::stable::contiguous(t_in);
  std::vector<double> out(static_cast<size_t>(t.numel()));
  dispatch_floating(t.scalar_type(), what, [&](auto tag) {
    const auto* p = ptr<decltype(tag)>(t);
    for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<double>(p[i]) * factor;
  });
  return out;
}

// The same tensor if its rows are dense, whatever lies between them; else a copy.
inline Tensor with_dense_rows(const Tensor& t) {
  const int64_t last = t.dim() - 1;
  return t.size(last) <= 1 || t.stride(last) == 1 ? t : torch::stable::contiguous(t);
}

}  // namespace gnnaccel
