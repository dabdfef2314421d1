// Output tensors that are summed in the accumulation type.
#pragma once

#include <algorithm>
#include <type_traits>

#include "common.h"

namespace gnnaccel {

template <class S>
constexpr ScalarType dtype_of() {
  if constexpr (std::is_same_v<S, Half>) return ScalarType::Half;
  if constexpr (std::is_same_v<S, BFloat16>) return ScalarType::BFloat16;
  return std::is_same_v<S, double> ? ScalarType::Double : ScalarType::Float;
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
