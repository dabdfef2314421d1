// How rows are shared between threads, and output tensors that are summed over rows.
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

// Weight gradients are sums over rows. Rows are cut into slabs, and each slab sums into its own weights in blocks:
// first the rows of the block are made (tiles), then multiplied (tasks). With few threads one thread does a slab, and
// all it multiplies is in its own cache; with more they share each block. Slabs follow from the rows alone and sums are
// cut every kDepth rows of a slab whatever the block, so the number of threads changes no bit.
struct RowPlan {
  int64_t rows, tile;  // rows of a tile, a divisor of kDepth
  int64_t slabs, slab_rows;
  int64_t block;   // most rows of a block
  int64_t blocks;  // that exist at a time
  bool shared;     // whether threads share a block

  RowPlan(int64_t n, int64_t tile_rows) : rows(n), tile(tile_rows) {
    const int64_t threads = torch::stable::get_num_threads();
    slab_rows = std::max<int64_t>(1, round_up((n + 1) / 2, tile));
    slabs = std::max<int64_t>(1, (n + slab_rows - 1) / slab_rows);
    shared = threads > slabs;
    block = std::min(slab_rows, kDepth * (shared ? threads : 1));
    blocks = shared ? 1 : std::min(threads, slabs);
  }

  // make(slab, first, begin, end): rows [begin, end) of the block whose row 0 is row `first` of the call.
  // multiply(slab, task, depth, fresh): the block's `depth` rows; fresh: the first of the slab. Both use block slab %
  // blocks.
  template <class Make, class Multiply>
  void run(int64_t tasks, const Make& make, const Multiply& multiply) const {
    const auto serial = [](int64_t n, const auto& f) {
      for (int64_t i = 0; i < n; ++i) f(i);
    };
    const auto parallel = [](int64_t n, const auto& f) { parallel_chunks(n, 1, [&](int64_t i, int64_t) { f(i); }); };
    const auto slab = [&](int64_t s, const auto& each) {
      const int64_t last = std::min(rows, (s + 1) * slab_rows);
      for (int64_t first = s * slab_rows; first < last; first += block) {
        const int64_t end = std::min(first + block, last);
        each((end - first + tile - 1) / tile, [&](int64_t i) {
          const int64_t begin = first + i * tile;
          make(s, first, begin, std::min(begin + tile, end));
        });
        each(tasks, [&](int64_t task) { multiply(s, task, end - first, first == s * slab_rows); });
      }
    };
    if (shared)
      for (int64_t s = 0; s < slabs; ++s) slab(s, parallel);
    else
      parallel(slabs, [&](int64_t s) { slab(s, serial); });
  }
};

// A tensor of S that slabs sum in A, not initialised. Slab 0 sums in the tensor itself when the types are one.
template <class S>
class Sum {
 public:
  using A = acc_t<S>;
  explicit Sum(std::initializer_list<int64_t> shape, int64_t slabs = 1)
      : tensor_(gnnaccel::empty(shape, dtype_of<S>())),
        n_(tensor_.numel()),
        slabs_(slabs),
        buffer_((slabs - kInPlace) * n_) {}
  void zero() { std::fill_n(data(), n_, A(0)); }
  A* data(int64_t slab = 0) {
    if constexpr (kInPlace == 1)
      if (slab == 0) return ptr<A>(tensor_);
    return buffer_.get() + (slab - kInPlace) * n_;
  }
  Tensor finish() {
    constexpr int64_t kChunk = 16384;
    if (slabs_ > kInPlace)
      parallel_chunks(n_, kChunk, [&](int64_t begin, int64_t end) {
        A* sum = data(0);
        for (int64_t s = 1; s < slabs_; ++s) {
          const A* more = data(s);
          for (int64_t i = begin; i < end; ++i) sum[i] += more[i];
        }
        if constexpr (kInPlace == 0)
          for (int64_t i = begin; i < end; ++i) ptr<S>(tensor_)[i] = static_cast<S>(sum[i]);
      });
    return tensor_;
  }

 private:
  static constexpr int64_t kInPlace = std::is_same_v<S, A> ? 1 : 0;
  Tensor tensor_;
  int64_t n_, slabs_;
  Scratch<A> buffer_;
};

}  // namespace gnnaccel
