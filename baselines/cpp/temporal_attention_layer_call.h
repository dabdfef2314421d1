// Both directions of the layer over tensors, for every op that runs it.
#pragma once

#include <atomic>

#include "temporal_attention_layer.h"

namespace gnnaccel {

// The values of a tensor in A, dense; padded for whole vectors if `width` says so.
template <class A>
struct Values {
  Tensor dense;
  std::vector<A> copy;
  const A* data;

  explicit Values(const Tensor& t, int64_t width = 0) : dense(torch::stable::contiguous(t)) {
    constexpr ScalarType kSame = std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float;
    const bool same = dense.scalar_type() == kSame && width <= dense.numel();
    if (!same) {
      copy.resize(static_cast<size_t>(std::max(width, dense.numel())));
      loader<A>(dense.scalar_type())(dense.data_ptr(), 0, dense.numel(), copy.data());
    }
    data = same ? ptr<A>(std::as_const(dense)) : copy.data();
  }
};

// f(memory, i) for i in [0, n), in no order: a thread that is done takes the next.
template <class Make, class F>
void shared_tasks(int64_t n, const Make& make_memory, const F& f) {
  std::atomic<int64_t> next{0};
  const int64_t workers = std::min<int64_t>(n, torch::stable::get_num_threads());
  torch::stable::parallel_for(0, workers, 1, [&](int64_t, int64_t) {
    auto memory = make_memory();
    for (int64_t i = next++; i < n; i = next++) f(memory, i);
  });
}

// Blocks g, g + groups, ... are summed in group g: a fixed number, so that threads change no bit.
inline int64_t groups_of(int64_t blocks) {
  constexpr int64_t kMost = 16, kBlocks = 3;
  int64_t groups = std::min<int64_t>(blocks, 2);
  while (groups > 0 && groups < kMost && groups * 2 * kBlocks <= blocks) groups *= 2;
  return groups;
}

// The sums of all groups.
template <class A>
class GroupSums {
 public:
  GroupSums(int64_t groups, const AttentionShape<A>& a, const LayerWeights<A>& w)
      : groups_(groups),
        D_(w.D),
        width_(a.width),
        own_(round_up(w.Dq + 1, kLanes<A>)),
        out_(w.projects() ? round_up(w.D, kLanes<A>) : 0),
        norm_(w.projects() ? padded(w.D) : 0),
        size_(D_ * (2 * width_ + 2 * own_ + out_) + 2 * norm_),
        // from torch's allocator, whose statistics should tell of it
        memory_(empty({groups, size_}, std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float)) {
    for (int64_t g = 0; g < groups; ++g) std::fill_n(group(g).norm_weight, 2 * norm_, A{0});
  }

  LayerSums<A> group(int64_t g) {
    A *key = ptr<A>(memory_) + g * size_, *value = key + D_ * width_, *own = value + D_ * width_;
    A *output = own + 2 * D_ * own_, *norm = output + D_ * out_;
    return {key, value, own, output, norm, norm + norm_};
  }
  // Row i of a sum with `columns` columns; `sum` is that of group 0.
  std::vector<A> row(const A* sum, int64_t i, int64_t columns) const {
    std::vector<A> total(static_cast<size_t>(columns), A{0});
    for (int64_t g = 0; g < groups_; ++g) {
      const A* part = sum + g * size_ + i * round_up(columns, kLanes<A>);
      for (int64_t j = 0; j < columns; ++j) total[static_cast<size_t>(j)] += part[j];
    }
    return total;
  }

 private:
  int64_t groups_, D_, width_, own_, out_, norm_, size_;
  Tensor memory_;
};

// The gradient of a table: of what roots point at (by_row, or null), and of neighbours' rows (source, or null). By
// slices of columns, each added up in the order of the roots, so that hubs cost no balance and threads change no bit.
template <class A>
void add_table(const Layer<A>& layer, const A* by_row, int64_t by_row_ld, const TableSource<A>* source,
               const A* coefficients, Tensor& grad) {
  const int64_t U = grad.size(0), dim = grad.size(1), H = layer.in.shape.H, K = layer.in.shape.K, L = kLanes<A>,
                slots = layer.in.shape.slots;
  const RootOrder& order = layer.order;
  const Store<A> store = storer<A>(grad.scalar_type());
  void* to = grad.data_ptr();
  parallel_chunks((dim + L - 1) / L, 1, [&](int64_t s, int64_t) {
    const int64_t columns = std::min(L, dim - s * L);
    Scratch<A> memory(U * L);
    A* slice = memory.get();
    std::fill_n(slice, U * L, A{0});
    int64_t distinct = -1;
    for (int64_t p = 0; p < order.R(); ++p) {
      const bool new_row = order.new_row(p);
      distinct += new_row;
      if (by_row != nullptr && new_row) {
        A* row = slice + order.row[static_cast<size_t>(p)] * L;
        for (int64_t j = 0; j < L; ++j) row[j] += by_row[distinct * by_row_ld + s * L + j];
      }
      if (source == nullptr) continue;
      const int64_t n = layer.in.nbrs.count[order.root[static_cast<size_t>(p)]];
      add_to_slice(source->row + p * K, n, source->dz + (s * order.R() + p) * H * L,
                   source->u + (s * order.rows() + distinct) * H * L, coefficients + p * 2 * H * slots, H, slots,
                   slice);
    }
    for (int64_t i = 0; i < U; ++i) store(to, i * dim + s * L, columns, slice + i * L);
  });
}

// All blocks forward; `result` is [R, D].
template <class A>
void layer_forward(const Layer<A>& layer, Tensor& result) {
  const Store<A> store = storer<A>(result.scalar_type());
  void* to = result.data_ptr();
  const int64_t D = layer.w.D;
  shared_tasks(
      layer.order.blocks(), [&] { return LayerWork<A>(layer.in.shape, layer.w, layer.order.size); },
      [&](LayerWork<A>& m, int64_t block) {
        layer.forward(block, m, [&](int64_t root, const A* row) { store(to, root * D, D, row); });
      });
}

// All blocks backward: sums for the gradients of the weights, and those of the tables that are not [0].
template <class A>
class LayerBackward {
 public:
  // `of_roots`: what roots' rows get is part of the gradient of the node table.
  LayerBackward(const Layer<A>& layer, const Tensor& grad, bool of_roots, Tensor& node, bool need_node, Tensor& root,
                bool need_root, Tensor& edge, bool need_edge)
      : sums(groups_of(layer.order.blocks()), layer.in.shape, layer.w), time_(2 * layer.in.shape.T) {
    const AttentionShape<A>& a = layer.in.shape;
    const RootOrder& order = layer.order;
    const ScalarType acc = std::is_same_v<A, double> ? ScalarType::Double : ScalarType::Float;
    const int64_t R = order.R(), T = a.T, blocks = order.blocks(), groups = groups_of(blocks);
    const int64_t row_ld = round_up(layer.w.Dq, kLanes<A>);
    Tensor by_row = empty({order.rows(), row_ld}, acc), coefficients = empty({R, 2 * a.H, a.slots}, acc);
    LayerGradients<A> to{grad.data_ptr(), loader<A>(grad.scalar_type()), ptr<A>(by_row), ptr<A>(coefficients), {}};
    std::vector<Tensor> kept;
    const auto add_source = [&](bool edges, int64_t column, int64_t columns) {
      const int64_t slices = (columns + kLanes<A> - 1) / kLanes<A>;
      kept.push_back(empty({slices, R, a.H, kLanes<A>}, acc));
      kept.push_back(empty({slices, order.rows(), a.H, kLanes<A>}, acc));
      kept.push_back(empty({R, a.K}, ScalarType::Long));
      const auto n = kept.size();
      to.tables.push_back(
          {edges, column, columns, ptr<A>(kept[n - 3]), ptr<A>(kept[n - 2]), ptr<int64_t>(kept[n - 1])});
    };
    if (need_node) add_source(false, 0, a.Dn);
    if (need_edge) add_source(true, a.Dn, a.De);

    std::vector<double> time(static_cast<size_t>(groups * 2 * T));
    shared_tasks(
        groups, [&] { return LayerWork<A>(a, layer.w, order.size); },
        [&](LayerWork<A>& m, int64_t g) {
          std::fill_n(m.scratch.grad_w, T, 0.0);
          std::fill_n(m.scratch.grad_b, T, 0.0);
          for (int64_t block = g; block < blocks; block += groups)
            layer.backward(block, m, to, sums.group(g), block == g);
          std::copy_n(m.scratch.grad_w, T, time.data() + g * 2 * T);
          std::copy_n(m.scratch.grad_b, T, time.data() + g * 2 * T + T);
        });
    for (size_t i = 0; i < time.size(); ++i) time_[i % time_.size()] += time[i];

    const TableSource<A>* sources = to.tables.data();
    const A *rows = ptr<A>(by_row), *c = ptr<A>(coefficients);
    if (need_node) add_table(layer, of_roots ? rows : nullptr, row_ld, sources++, c, node);
    if (need_edge) add_table<A>(layer, nullptr, 0, sources, c, edge);
    if (need_root) add_table<A>(layer, rows, row_ld, nullptr, c, root);
  }

  GroupSums<A> sums;
  std::vector<double>& time() { return time_; }  // gradients of frequencies, then of phases

 private:
  std::vector<double> time_;
};

}  // namespace gnnaccel
