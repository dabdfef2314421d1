// Tensors of any floating dtype as the type that sums are taken in.
#pragma once

#include <optional>

#include "common.h"
#include "gemm.h"

namespace gnnaccel {

constexpr int64_t kConverted = 16384;  // values of a task

// The values of a contiguous tensor as A: in place where they are.
template <class S>
struct WideValues {
  using A = acc_t<S>;
  explicit WideValues(const Tensor& t) : tensor(torch::stable::contiguous(t)) {
    if constexpr (std::is_same_v<S, A>) {
      data = ptr<A>(tensor);
    } else {
      copy.emplace(tensor.numel());
      data = copy->get();
      const S* from = ptr<S>(tensor);
      parallel_chunks(tensor.numel(), kConverted, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) copy->get()[i] = static_cast<A>(from[i]);
      });
    }
  }
  Tensor tensor;
  std::optional<Scratch<A>> copy;
  const A* data;
};

// A result summed as A and handed over as S.
template <class S>
struct WideResult {
  using A = acc_t<S>;
  explicit WideResult(Tensor& t) : tensor(t) {
    if constexpr (std::is_same_v<S, A>) {
      data = ptr<A>(tensor);
    } else {
      wide.emplace(tensor.numel());
      data = wide->get();
    }
  }
  void finish() {
    if constexpr (!std::is_same_v<S, A>) {
      S* to = ptr<S>(tensor);
      parallel_chunks(tensor.numel(), kConverted, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) to[i] = static_cast<S>(data[i]);
      });
    }
  }
  Tensor& tensor;
  std::optional<Scratch<A>> wide;
  A* data;
};

}  // namespace gnnaccel
