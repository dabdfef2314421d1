// The call of a sparse optimiser: lists of ids and gradients, grouped by row, and the rows dealt to threads.
#pragma once

#include <numeric>
#include <optional>

#include "common.h"
#include "gemm.h"
#include "philox.h"
#include "sparse_rows.h"
#include "unique_nodes.h"

namespace gnnaccel {

struct SparseCall {
  const char* name;
  Tensor table;
  std::vector<Tensor> ids, grad;
  double regularization;
  int64_t norm;
  std::optional<int64_t> seed;
};

// Occurrences of rows in the lists, in order.
struct Occurrences {
  std::vector<const void*> grad;  // by position
  std::vector<int32_t> trace;     // by position: which list
  Groups groups;

  explicit Occurrences(SparseCall& call) {
    const int64_t n = call.table.size(0);
    std::vector<int64_t> all;
    size_t total = 0;
    for (const Tensor& ids : call.ids) total += static_cast<size_t>(ids.numel());
    all.reserve(total), grad.reserve(total), trace.reserve(total);
    for (size_t k = 0; k < call.ids.size(); ++k) {
      call.grad[k] = with_dense_rows(call.grad[k]);
      const Tensor ids = torch::stable::contiguous(call.ids[k]);
      const auto* base = static_cast<const char*>(call.grad[k].data_ptr());
      const int64_t stride = call.grad[k].stride(0) * call.grad[k].element_size();
      dispatch_ids(ids.scalar_type(), call.name, [&](auto tag) {
        const auto* p = ptr<decltype(tag)>(ids);
        for (int64_t i = 0; i < ids.numel(); ++i) {
          const auto id = static_cast<int64_t>(p[i]);
          if (id < 0 || id >= n)
            throw std::invalid_argument(std::string(call.name) + ": ids must be in [0, " + std::to_string(n) +
                                        ") (rows of table), got " + std::to_string(id));
          all.push_back(id);
          grad.push_back(base + i * stride);
          trace.push_back(static_cast<int32_t>(k));
        }
      });
    }
    groups = group_ids(all.data(), static_cast<int64_t>(all.size()), n);
  }
};

// The first lines of a row; the hardware fetches the rest of a long one by itself.
inline void prefetch_lines(const void* row, int64_t bytes) {
  constexpr int64_t kMost = 512, kLine = 64;
  const auto* p = static_cast<const char*>(row);
  for (int64_t at = 0; at < bytes && at < kMost; at += kLine) __builtin_prefetch(p + at);
}

// One row at a time: its values and gradients in A, wherever they lie. T: of the table, G: of the gradients.
template <class T, class G>
class SparseRow {
 public:
  using A = acc_t<T>;
  SparseRow(const SparseCall& call, const Occurrences& from)
      : D(call.table.size(1)),
        call_(call),
        from_(from),
        table_(static_cast<T*>(call.table.data_ptr())),
        penalty_(static_cast<A>(call.regularization * static_cast<double>(call.norm))),
        scratch_(4 * width()),
        counters_(call.seed.value_or(0), kInPlace || !call.seed ? 0 : (D + 3) / 4) {
    counters_.stream = kRoundStream, counters_.high_third = true;
    std::iota(counters_.second.begin(), counters_.second.end(), 0u);
  }

  void open(size_t k) {
    k_ = k, row = from_.groups.row[k];
    if constexpr (kInPlace)
      w = table_ + row * D;
    else
      copy_row(table_ + row * D, w = scratch_.get(), D);
  }
  void close() {
    if constexpr (!kInPlace) {
      T* to = table_ + row * D;
      if (!call_.seed) return copy_row(w, to, D);
      philox_rows()(counters_, &row, 1, D, width(), words_.get());
      round_row(w, words_.get(), to, D);
    }
  }

  int64_t begin() const { return from_.groups.segment[k_]; }
  int64_t end() const { return from_.groups.segment[k_ + 1]; }
  int64_t trace(int64_t i) const { return from_.trace[at(i)]; }

  // Sum of the occurrences' gradients, with their penalties.
  const A* total() {
    A* sum = scratch_.get() + width();
    if (end() == begin() + 1 && penalty_ == 0) {
      if constexpr (std::is_same_v<G, A>) return grad(begin());
    }
    copy_row(grad(begin()), sum, D);
    for (int64_t i = begin() + 1; i < end(); ++i) add_row(grad(i), sum, D);
    if (penalty_ != 0) penalise(w, penalty_ * static_cast<A>(end() - begin()), call_.norm, sum, D);
    return sum;
  }

  // Gradient of one occurrence. The penalty is that of the values at the first of them.
  const A* one(int64_t i) {
    A *sum = scratch_.get() + width(), *extra = sum + width();
    if (penalty_ == 0) {
      if constexpr (std::is_same_v<G, A>) return grad(i);
    }
    copy_row(grad(i), sum, D);
    if (penalty_ == 0) return sum;
    if (i == begin()) {
      std::fill_n(extra, D, A{0});
      penalise(w, penalty_, call_.norm, extra, D);
    }
    add_row(extra, sum, D);
    return sum;
  }
  A* spare() { return scratch_.get() + 3 * width(); }  // [D]

  // Calls f(row) for the row k of the call, if there is one, after its values and its first gradient were sent for.
  template <class F>
  void prefetch(size_t k, const F& f) const {
    if (k >= from_.groups.row.size()) return;
    const int64_t next = from_.groups.row[k];
    prefetch_lines(table_ + next * D, D * static_cast<int64_t>(sizeof(T)));
    const auto position = static_cast<size_t>(from_.groups.order[static_cast<size_t>(from_.groups.segment[k])]);
    prefetch_lines(from_.grad[position], D * static_cast<int64_t>(sizeof(G)));
    f(next);
  }

  const int64_t D;
  int64_t row = 0;
  A* w = nullptr;

 private:
  static constexpr bool kInPlace = std::is_same_v<T, A>;
  int64_t width() const { return round_up(D, kPhiloxBlock); }
  size_t at(int64_t i) const { return static_cast<size_t>(from_.groups.order[static_cast<size_t>(i)]); }
  const G* grad(int64_t i) const { return static_cast<const G*>(from_.grad[at(i)]); }

  const SparseCall& call_;
  const Occurrences& from_;
  T* table_;
  A penalty_;
  size_t k_ = 0;
  Scratch<A> scratch_;
  Scratch<uint32_t> words_{kInPlace || !call_.seed ? 0 : width()};
  PhiloxCounters counters_;
};

// update(row) for every row with gradients, some time after ahead(number of the row); rows are shared between threads
// by their number of occurrences.
template <class F, class P>
void update_rows(SparseCall& call, const F& update, const P& ahead) {
  constexpr int64_t kTask = 1 << 15;  // elements, about
  constexpr size_t kRowsBefore = 4;
  const Occurrences from(call);
  const int64_t D = call.table.size(1);
  if (from.grad.empty() || D == 0) return;
  const std::vector<int64_t>& segment = from.groups.segment;
  const size_t rows = from.groups.row.size();
  std::vector<size_t> first = {0};
  for (size_t k = 1; k < rows; ++k)
    if ((segment[k] - segment[first.back()]) * D >= kTask) first.push_back(k);
  first.push_back(rows);
  dispatch_floating_as<HalfBits, BFloat16Bits>(call.table.scalar_type(), call.name, [&](auto tag) {
    using T = decltype(tag);
    const auto run = [&](auto grad_tag) {
      parallel_chunks(static_cast<int64_t>(first.size()) - 1, 1, [&](int64_t task, int64_t) {
        SparseRow<T, decltype(grad_tag)> row(call, from);
        const size_t begin = first[static_cast<size_t>(task)], end = first[static_cast<size_t>(task) + 1];
        for (size_t k = begin; k < end; ++k) {
          row.prefetch(k + kRowsBefore, ahead);
          row.open(k);
          update(row);
          row.close();
        }
      });
    };
    if (call.grad[0].scalar_type() == call.table.scalar_type())
      run(tag);
    else
      run(acc_t<T>{});
  });
}

}  // namespace gnnaccel
