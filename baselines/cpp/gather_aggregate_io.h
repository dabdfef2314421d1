// What the bindings of gather_aggregate and edge_softmax_aggregate share: the block of neighbours, checked, and its
// transpose.
#pragma once

#include <algorithm>
#include <optional>

#include "common.h"
#include "gather_aggregate.h"
#include "gemm.h"

namespace gnnaccel {

// Neighbours of R roots, padded or CSR.
class NeighborRows {
 public:
  // A slot of a root that holds a neighbour.
  struct Slot {
    int64_t at, id;  // position in nbr, and what it says
    int32_t k;
  };

  NeighborRows(const char* owner, const Tensor& nbr, const std::optional<Tensor>& count,
               const std::optional<Tensor>& indptr, int64_t num_rows)
      : owner_(owner), nbr_(torch::stable::contiguous(nbr)), num_rows_(num_rows) {
    const std::string op = owner;
    wide_ = nbr_.scalar_type() == ScalarType::Long;
    if (indptr) {
      const Tensor p = torch::stable::contiguous(*indptr);
      R = p.numel() - 1;
      const auto* begin = ptr<int64_t>(static_cast<const Tensor&>(p));
      const int64_t M = nbr_.numel();
      if (begin[0] != 0 || begin[R] != M)
        throw std::invalid_argument(op + ": indptr must begin with 0 and end with " + std::to_string(M) +
                                    " (size of nbr), got [" + std::to_string(begin[0]) + ", ..., " +
                                    std::to_string(begin[R]) + "]");
      begin_.assign(begin, begin + R + 1);
      for (int64_t r = 0; r < R; ++r)
        if (begin_[static_cast<size_t>(r)] > begin_[static_cast<size_t>(r + 1)])
          throw std::invalid_argument(op + ": indptr must not decrease, got a decrease at row " + std::to_string(r));
    } else {
      R = nbr_.size(0);
      K_ = nbr_.size(1);
      if (count) {
        const Tensor c = torch::stable::contiguous(*count);
        count_.resize(static_cast<size_t>(R));
        dispatch_ids(c.scalar_type(), owner, [&](auto tag) {
          const auto* p = ptr<decltype(tag)>(c);
          for (int64_t r = 0; r < R; ++r) {
            if (p[r] < 0 || p[r] > K_)
              throw std::invalid_argument(op + ": count must be in [0, " + std::to_string(K_) + "], got " +
                                          std::to_string(p[r]));
            count_[static_cast<size_t>(r)] = static_cast<int64_t>(p[r]);
          }
        });
      }
    }
    // about as many neighbours a task; no root's bits depend on the division
    int64_t work = kTask;
    for (int64_t r = 0; r < R; ++r) {
      if (work >= kTask) {
        task_.push_back(r);
        work = 0;
      }
      work += end(r) - begin(r) + 1;
    }
    task_.push_back(R);
  }

  int64_t R;
  int64_t slots() const { return nbr_.numel(); }
  int64_t begin(int64_t r) const { return begin_.empty() ? r * K_ : begin_[static_cast<size_t>(r)]; }
  int64_t end(int64_t r) const {
    if (!begin_.empty()) return begin_[static_cast<size_t>(r + 1)];
    return r * K_ + (count_.empty() ? K_ : count_[static_cast<size_t>(r)]);
  }
  // Used slots of the roots [first, last).
  int64_t between(int64_t first, int64_t last) const {
    int64_t n = 0;
    for (int64_t r = first; r < last; ++r) n += end(r) - begin(r);
    return n;
  }

  // f(slot) for the neighbours of r, in order.
  template <class F>
  GNNACCEL_INLINE void each(int64_t r, const F& f) const {
    if (wide_)
      each_of(static_cast<const int64_t*>(nbr_.data_ptr()), r, f);
    else
      each_of(static_cast<const int32_t*>(nbr_.data_ptr()), r, f);
  }

  // f(first root, last root) for every task, in parallel.
  template <class F>
  void tasks(const F& f) const {
    parallel_chunks(static_cast<int64_t>(task_.size()) - 1, 1,
                    [&](int64_t i, int64_t) { f(task_[static_cast<size_t>(i)], task_[static_cast<size_t>(i + 1)]); });
  }

  // Every neighbour is below num_rows, or this raises.
  void check() const {
    std::vector<int64_t> largest(task_.size(), -1);
    parallel_chunks(static_cast<int64_t>(task_.size()) - 1, 1, [&](int64_t i, int64_t) {
      int64_t most = -1;
      for (int64_t r = task_[static_cast<size_t>(i)]; r < task_[static_cast<size_t>(i + 1)]; ++r)
        each(r, [&](const Slot& s) { most = s.id > most ? s.id : most; });
      largest[static_cast<size_t>(i)] = most;
    });
    const int64_t most = *std::max_element(largest.begin(), largest.end());
    if (most >= num_rows_)
      throw std::invalid_argument(std::string(owner_) + ": nbr must be below " + std::to_string(num_rows_) +
                                  " (rows of the table), got " + std::to_string(most));
  }

 private:
  static constexpr int64_t kTask = 2048;

  template <class Id, class F>
  GNNACCEL_INLINE void each_of(const Id* ids, int64_t r, const F& f) const {
    const int64_t first = begin(r), last = end(r);
    for (int64_t i = first; i < last; ++i)
      if (ids[i] >= 0) f(Slot{i, static_cast<int64_t>(ids[i]), static_cast<int32_t>(i - first)});
  }

  const char* owner_;
  Tensor nbr_;
  int64_t num_rows_, K_ = 0;
  bool wide_;
  std::vector<int64_t> begin_, count_, task_;
};

// For each row of the table where it is a neighbour, in the order of the roots: a counting sort. Threads share the
// rows, so each reads all neighbours and keeps its own.
struct Transposed {
  struct Edge {
    int64_t at;
    int32_t root, k;
  };
  std::vector<int64_t> start;
  Scratch<Edge> edge;

  Transposed(const NeighborRows& nbrs, int64_t N) : start(static_cast<size_t>(N) + 1, 0), edge(nbrs.slots()) {
    const int64_t parts = std::min<int64_t>(torch::stable::get_num_threads(), 8), rows = (N + parts - 1) / parts;
    const auto sweep = [&](const auto& f) {
      parallel_chunks(N, std::max<int64_t>(rows, 1), [&](int64_t low, int64_t high) {
        const uint64_t width = static_cast<uint64_t>(high - low);
        for (int64_t r = 0; r < nbrs.R; ++r)
          nbrs.each(r, [&](const NeighborRows::Slot& s) {
            if (static_cast<uint64_t>(s.id - low) < width) f(r, s);
          });
      });
    };
    int64_t* const next = start.data();
    sweep([&](int64_t, const NeighborRows::Slot& s) { ++next[s.id]; });
    int64_t total = 0;
    for (int64_t i = 0; i <= N; ++i) {
      const int64_t n = next[i];
      next[i] = total;
      total += n;
    }
    // leaves each row's end in its place
    sweep([&](int64_t r, const NeighborRows::Slot& s) {
      edge.get()[next[s.id]++] = {s.at, static_cast<int32_t>(r), s.k};
    });
  }
  int64_t begin(int64_t row) const { return row == 0 ? 0 : start[static_cast<size_t>(row - 1)]; }
  int64_t end(int64_t row) const { return start[static_cast<size_t>(row)]; }

  // f(first row, last row) in parallel, about as many edges and rows a task.
  template <class F>
  void tasks(const F& f) const {
    const int64_t N = static_cast<int64_t>(start.size()) - 1;
    std::vector<int64_t> task;
    int64_t work = kTask;
    for (int64_t i = 0; i < N; ++i) {
      if (work >= kTask) {
        task.push_back(i);
        work = 0;
      }
      work += end(i) - begin(i) + 1;
    }
    task.push_back(N);
    parallel_chunks(static_cast<int64_t>(task.size()) - 1, 1,
                    [&](int64_t i, int64_t) { f(task[static_cast<size_t>(i)], task[static_cast<size_t>(i + 1)]); });
  }

 private:
  static constexpr int64_t kTask = 2048;
};

// The rows of one task, with what each is multiplied by.
template <class In, class A>
struct Gathered {
  std::vector<const In*> row;
  std::vector<A> factor;
  std::vector<int32_t> slot;
  std::vector<int64_t> first;  // of each root, and the end

  // This thread's. Not inlined, or compilers look the address up again for each row.
  __attribute__((noinline)) static Gathered& mine() {
    static thread_local Gathered gathered;
    return gathered;
  }
  // At most `most` rows follow, each with `factors` factors.
  void begin(int64_t most, int64_t bytes, int64_t factors = 1) {
    const size_t room = static_cast<size_t>(most + kMostAhead), numbers = static_cast<size_t>(most * factors);
    if (row.size() < room) row.resize(room);
    if (factor.size() < numbers) factor.resize(numbers);
    slot.clear(), first.clear();
    n_ = 0, bytes_ = bytes, ahead_ = rows_ahead(bytes);
  }
  void begin_root() { first.push_back(n_); }
  GNNACCEL_INLINE void add(const In* p) {
    if (n_ < ahead_) prefetch_lines(p, bytes_);
    row[static_cast<size_t>(n_++)] = p;
  }
  GNNACCEL_INLINE A* factor_of_next(int64_t factors) { return factor.data() + n_ * factors; }
  void finish() {
    begin_root();
    std::fill_n(row.begin() + n_, kMostAhead, n_ > 0 ? row[static_cast<size_t>(n_ - 1)] : nullptr);
  }
  RowList<In> of(size_t i, int64_t F, int64_t width) const {
    return {row.data() + first[i], first[i + 1] - first[i], ahead_, F, bytes_, width};
  }

 private:
  int64_t n_, bytes_, ahead_;
};

// Values of any floating dtype as A.
template <class A>
Tensor as_acc(const Tensor& t_in) {
  constexpr ScalarType kAcc = std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float;
  const Tensor t = torch::stable::contiguous(t_in);
  if (t.scalar_type() == kAcc) return t;
  Tensor out = empty(sizes_of(t), kAcc);
  dispatch_floating_as<HalfBits, BFloat16Bits>(t.scalar_type(), "as_acc", [&](auto tag) {
    const auto* p = ptr<decltype(tag)>(t);
    A* to = ptr<A>(out);
    parallel_chunks(t.numel(), 1 << 14,
                    [&](int64_t begin, int64_t end) { copy_row(p + begin, to + begin, end - begin); });
  });
  return out;
}

// The same values in `dtype`.
template <class A>
Tensor from_acc(const Tensor& t, ScalarType dtype) {
  if (t.scalar_type() == dtype) return t;
  Tensor out = empty(sizes_of(t), dtype);
  dispatch_floating_as<HalfBits, BFloat16Bits>(dtype, "from_acc", [&](auto tag) {
    auto* to = ptr<decltype(tag)>(out);
    const A* p = ptr<A>(t);
    parallel_chunks(t.numel(), 1 << 14,
                    [&](int64_t begin, int64_t end) { copy_row(p + begin, to + begin, end - begin); });
  });
  return out;
}

}  // namespace gnnaccel
