// Rows between threads: blocks and chunks of them, and output tensors that are summed over them.
#pragma once

#include <algorithm>
#include <type_traits>

#include "common.h"
#include "gemm.h"

namespace gnnaccel {

template <class S>
constexpr ScalarType dtype_of() {
  if constexpr (std::is_same_v<S, Half>) return ScalarType::Half;
  if constexpr (std::is_same_v<S, BFloat16>) return ScalarType::BFloat16;
  return std::is_same_v<S, double> ? ScalarType::Double : ScalarType::Float;
}

// Chunk of at most `most` rows that gives each thread as many chunks. For work whose bits do not depend on the chunk.
inline int64_t even_chunk(int64_t rows, int64_t most) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t chunks = std::max<int64_t>(1, (rows + threads * most - 1) / (threads * most) * threads);
  return std::max<int64_t>(1, (rows + chunks - 1) / chunks);
}

// Rows of a block that is written, then multiplied into weight gradients: few enough for the L2 cache, more where many
// threads share the work. Sums are cut every kDepth rows whatever the block, so the number of threads changes no bit.
inline int64_t block_rows(int64_t rows) {
  const int64_t cuts = std::max<int64_t>(2, torch::stable::get_num_threads());
  return std::max<int64_t>(1, std::min(rows, cuts * kDepth));
}

// A tensor of S that is summed in A: in place when they are one, else in a buffer that finish() rounds.
template <class S>
class Sum {
 public:
  using A = acc_t<S>;
  explicit Sum(std::initializer_list<int64_t> shape) : tensor_(gnnaccel::empty(shape, dtype_of<S>())) {
    if constexpr (std::is_same_v<S, A>)
      data_ = ptr<A>(tensor_);
    else {
      buffer_.resize(static_cast<size_t>(tensor_.numel()));
      data_ = buffer_.data();
    }
    std::fill_n(data_, tensor_.numel(), A(0));
  }
  A* data() { return data_; }
  Tensor finish() {
    if constexpr (!std::is_same_v<S, A>)
      for (int64_t i = 0; i < tensor_.numel(); ++i) ptr<S>(tensor_)[i] = static_cast<S>(data_[i]);
    return tensor_;
  }

 private:
  Tensor tensor_;
  std::vector<A> buffer_;
  A* data_;
};

}  // namespace gnnaccel
