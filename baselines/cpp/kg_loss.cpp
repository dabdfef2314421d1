// `kg_loss_rows`, `kg_loss_ids` and `kg_loss_projected`: queries, losses over waves of rows, gradients of the rows.
#include <optional>

#include "kg_groups.h"
#include "kg_loss_call.h"
#include "kg_values.h"

namespace gnnaccel {
namespace {

// Any floating tensor as A: in place where it is.
template <class A>
struct In {
  explicit In(const Tensor& t) : tensor(torch::stable::contiguous(t)) {
    dispatch_floating(tensor.scalar_type(), "kg_loss", [&](auto tag) {
      using T = decltype(tag);
      if constexpr (std::is_same_v<T, A>) {
        data = ptr<A>(tensor);
      } else {
        copy.emplace(tensor.numel());
        data = copy->get();
        const T* from = ptr<T>(tensor);
        parallel_chunks(tensor.numel(), kConverted, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) copy->get()[i] = static_cast<A>(from[i]);
        });
      }
    });
  }
  Tensor tensor;
  std::optional<Scratch<A>> copy;
  const A* data = nullptr;
};

// A gradient, in the dtype of what it is of; without rows if it is not made.
template <class A>
struct Out {
  Out(const Tensor& of, bool made) : tensor(empty(shape(of, made), of.scalar_type())) {
    if (of.scalar_type() == (sizeof(A) == 8 ? ScalarType::Double : ScalarType::Float)) {
      data = ptr<A>(tensor);
    } else {
      wide.emplace(tensor.numel());
      data = wide->get();
    }
  }
  Tensor finish() {
    if (wide)
      dispatch_floating(tensor.scalar_type(), "kg_loss", [&](auto tag) {
        using T = decltype(tag);
        T* to = ptr<T>(tensor);
        parallel_chunks(tensor.numel(), kConverted, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) to[i] = static_cast<T>(data[i]);
        });
      });
    return tensor;
  }
  static std::vector<int64_t> shape(const Tensor& of, bool made) {
    std::vector<int64_t> sizes = sizes_of(of);
    if (!made) sizes[0] = 0;
    return sizes;
  }
  Tensor tensor;
  std::optional<Scratch<A>> wide;
  A* data;
};

Tensor number(double value, ScalarType dtype) {
  Tensor out = empty({}, dtype);
  dispatch_floating(dtype, "kg_loss", [&](auto tag) {
    *ptr<decltype(tag)>(out) = static_cast<decltype(tag)>(static_cast<float>(value));
  });
  if (dtype == ScalarType::Double) *ptr<double>(out) = value;
  return out;
}

// weight / B.
template <class A>
std::vector<A> scales(const std::optional<Tensor>& weight, int64_t B) {
  std::vector<A> out(static_cast<size_t>(B), static_cast<A>(1 / static_cast<double>(B)));
  if (!weight) return out;
  const std::vector<double> values = to_double(*weight, 1 / static_cast<double>(std::max<int64_t>(B, 1)), "kg_loss");
  for (size_t b = 0; b < out.size(); ++b) out[b] = static_cast<A>(values[b]);
  return out;
}

struct Exclusions {
  Excluded excluded;
  std::optional<Tensor> indptr, position;
  std::vector<int64_t> wide;
  Exclusions(const std::optional<Tensor>& indptr_in, const std::optional<Tensor>& position_in, int64_t N) {
    if (!indptr_in || !position_in) return;
    indptr = torch::stable::contiguous(*indptr_in);
    position = torch::stable::contiguous(*position_in);
    const int64_t B = indptr->numel() - 1, P = position->numel();
    const auto* start = ptr<int64_t>(*indptr);
    bool ascends = start[0] == 0 && start[B] == P;
    for (int64_t b = 0; b < B; ++b) ascends &= start[b] <= start[b + 1];
    if (!ascends) throw std::invalid_argument("kg_loss: exclude[0] must ascend from 0 to " + std::to_string(P));
    dispatch_ids(position->scalar_type(), "kg_loss", [&](auto tag) {
      const auto* p = ptr<decltype(tag)>(*position);
      for (int64_t i = 0; i < P; ++i)
        if (p[i] < 0 || p[i] >= N)
          throw std::invalid_argument("kg_loss: exclude[1] must be in [0, " + std::to_string(N) + "), got " +
                                      std::to_string(p[i]));
      if constexpr (std::is_same_v<decltype(tag), int32_t>) wide.assign(p, p + P);
    });
    excluded = {start, position->scalar_type() == ScalarType::Long ? ptr<int64_t>(*position) : wide.data()};
  }
};

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class F>
void dispatch_wide(ScalarType dtype, const F& f) {
  dtype == ScalarType::Double ? f(double{}) : f(float{});
}

// Rows [., D] one after another, or those of a table by id.
template <class A>
struct RowsOf {
  const A* data;
  int64_t D;
  const int64_t* id = nullptr;
  const A* operator[](int64_t b) const { return data + (id ? id[b] : b) * D; }
  void prefetch(int64_t b) const {
    if (id) prefetch_row((*this)[b]);
  }
};

template <class A>
struct GradientsTo {
  A *e, *r, *other, *n;
};

// The sum of the losses of B triples in C chunks, and the gradients of their rows.
template <class A>
double loss_of_rows(const LossOptions& options, Operation op, int64_t B, int64_t C, int64_t N, const RowsOf<A>& e,
                    const RowsOf<A>& r, const RowsOf<A>& other, const RowsOf<A>& neg, const A* scale,
                    const Excluded& excluded, const GradientsTo<A>& to) {
  constexpr int64_t kAhead = 4;  // rows between prefetch and use
  const int64_t D = e.D;
  const bool given = op == Operation::kGiven && !e.id;
  Scratch<A> queries(given ? 0 : B * D);
  const A* q = given ? e.data : queries.get();
  const auto prefetch = [&](int64_t b) { e.prefetch(b), r.prefetch(b), other.prefetch(b); };
  const auto make = [&](A* x, int64_t begin, int64_t end) {
    Scratch<A> memory(D);
    for (int64_t b = begin; b < end; ++b) {
      if (b + kAhead < B) prefetch(b + kAhead);
      if (!given) make_query(op, D, e[b], r[b], memory.get(), queries.get() + b * D);
      x[b] = score_of_pair(options.kind, q + b * D, other[b], D, static_cast<A>(options.gamma));
    }
  };
  const auto finish = [&](const A* g_pos, int64_t begin, int64_t end) {
    Scratch<A> memory(D), own(D);
    for (int64_t b = begin; b < end; ++b) {
      if (b + kAhead < B) prefetch(b + kAhead);
      A* d = to.e + b * D;
      gradients_of_pair(options.kind, g_pos[b], q + b * D, other[b], D, own.get(), to.other + b * D);
      add_scaled(A(1), own.get(), D, d);
      gradients_of_query(op, D, e[b], r[b], q + b * D, memory.get(), d, to.r + b * r.D);
    }
  };
  LossCall<A> call(options, B, N, D, q, scale, excluded, nullptr, make, finish);
  std::vector<LossChunk<A>> chunks;
  for (int64_t c = 0; c < C; ++c) {
    const int64_t* id = neg.id ? neg.id + c * N : nullptr;
    chunks.push_back({c * (B / C), B / C, id ? neg.data : neg[c * N], to.n + c * N * D, id});
  }
  call.run(chunks, to.e);
  return call.total();
}

Gradients kg_loss_rows_cpu(const Tensor& e_in, const Tensor& r_in, const Tensor& other_in, const Tensor& neg_in,
                           std::optional<Tensor> weight, std::optional<Tensor> indptr, std::optional<Tensor> position,
                           int64_t operation, int64_t kind, int64_t loss, double gamma, double margin,
                           std::optional<double> temperature, bool grads) {
  const int64_t B = e_in.size(0), D = e_in.size(1), width = r_in.size(1), C = neg_in.size(0), N = neg_in.size(1);
  const LossOptions options{
      static_cast<Compare>(kind), static_cast<Loss>(loss), gamma, margin, temperature.value_or(0), grads};
  std::optional<Gradients> result;
  dispatch_wide(neg_in.scalar_type(), [&](auto tag) {
    using A = decltype(tag);
    const In<A> e(e_in), r(r_in), other(other_in), neg(neg_in);
    Out<A> de(e_in, grads), dr(r_in, grads), dother(other_in, grads), dneg(neg_in, grads);
    const std::vector<A> scale = scales<A>(weight, B);
    const Exclusions exclusions(indptr, position, N);
    const double total = loss_of_rows<A>(options, static_cast<Operation>(operation), B, C, N, {e.data, D},
                                         {r.data, width}, {other.data, D}, {neg.data, D}, scale.data(),
                                         exclusions.excluded, {de.data, dr.data, dother.data, dneg.data});
    result.emplace(number(total, neg_in.scalar_type()), de.finish(), dr.finish(), dother.finish(), dneg.finish());
  });
  return *result;
}

// Ids of rows of a table, checked.
struct RowIds {
  RowIds(const Tensor& ids, const Tensor& table) : tensor(torch::stable::contiguous(ids)), data(ptr<int64_t>(tensor)) {
    for (int64_t i = 0; i < tensor.numel(); ++i)
      if (data[i] < 0 || data[i] >= table.size(0))
        throw std::invalid_argument("kg_loss: ids must be in [0, " + std::to_string(table.size(0)) +
                                    ") (rows of a table), got " + std::to_string(data[i]));
  }
  Tensor tensor;
  const int64_t* data;
};

Gradients kg_loss_ids_cpu(const Tensor& entity_in, const Tensor& relation_in, const Tensor& e_in, const Tensor& r_in,
                          const Tensor& other_in, const Tensor& neg_in, std::optional<Tensor> weight,
                          std::optional<Tensor> indptr, std::optional<Tensor> position, int64_t operation, int64_t kind,
                          int64_t loss, double gamma, double margin, std::optional<double> temperature) {
  const Tensor entity = torch::stable::contiguous(entity_in), relation = torch::stable::contiguous(relation_in);
  const int64_t B = e_in.size(0), D = entity.size(1), width = relation.size(1), C = neg_in.size(0), N = neg_in.size(1);
  const LossOptions options{
      static_cast<Compare>(kind), static_cast<Loss>(loss), gamma, margin, temperature.value_or(0), true};
  const RowIds e(e_in, entity), r(r_in, relation), other(other_in, entity), neg(neg_in, entity);
  const Exclusions exclusions(indptr, position, N);
  const ScalarType dtype = entity.scalar_type();
  Tensor de = empty({B, D}, dtype), dr = empty({B, width}, dtype), dother = empty({B, D}, dtype),
         dneg = empty({C, N, D}, dtype);
  double total = 0;
  dispatch_wide(dtype, [&](auto tag) {
    using A = decltype(tag);
    const A* rows = ptr<A>(entity);
    const std::vector<A> scale = scales<A>(weight, B);
    total = loss_of_rows<A>(options, static_cast<Operation>(operation), B, C, N, {rows, D, e.data},
                            {ptr<A>(relation), width, r.data}, {rows, D, other.data}, {rows, D, neg.data}, scale.data(),
                            exclusions.excluded, {ptr<A>(de), ptr<A>(dr), ptr<A>(dother), ptr<A>(dneg)});
  });
  return {number(total, dtype), de, dr, dother, dneg};
}

constexpr int64_t kProjectedGroups = 32;  // groups whose projected candidates exist at a time
constexpr int64_t kProjectedRows = 64;    // candidates of a task

Gradients kg_loss_projected_cpu(const Tensor& q_in, const Tensor& other_in, const Tensor& neg_in, const Tensor& w_in,
                                const Tensor& relation, std::optional<Tensor> weight, std::optional<Tensor> indptr,
                                std::optional<Tensor> position, int64_t loss, double gamma, double margin,
                                std::optional<double> temperature, bool grads) {
  const int64_t B = q_in.size(0), C = neg_in.size(0), N = neg_in.size(1), R = w_in.size(0), D = w_in.size(1),
                M = w_in.size(2);
  const LossOptions options{Compare::kL1, static_cast<Loss>(loss), gamma, margin, temperature.value_or(0), grads};
  const std::vector<Group> groups = groups_of(relation, R, std::max<int64_t>(C ? B / C : 0, 1));
  std::optional<Gradients> result;
  dispatch_wide(neg_in.scalar_type(), [&](auto tag) {
    using A = decltype(tag);
    const In<A> q(q_in), other(other_in), neg(neg_in), w(w_in);
    Out<A> dq(q_in, grads), dother(other_in, grads), dneg(neg_in, grads), dw(w_in, grads);
    const std::vector<A> scale = scales<A>(weight, B);
    const Exclusions exclusions(indptr, position, N);
    // rows of a group together
    std::vector<int64_t> id;
    for (const Group& group : groups) id.insert(id.end(), group.rows.begin(), group.rows.end());
    Scratch<A> rows(B * M), others(B * M), to_rows(grads ? B * M : 0), scaled(B);
    const auto from = [&](int64_t b) { return id[static_cast<size_t>(b)]; };
    const auto gather_rows = [&](A* x, int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        std::copy_n(q.data + from(b) * M, M, rows.get() + b * M);
        std::copy_n(other.data + from(b) * M, M, others.get() + b * M);
        scaled.get()[b] = scale[static_cast<size_t>(from(b))];
        x[b] = score_of_pair(Compare::kL1, rows.get() + b * M, others.get() + b * M, M, static_cast<A>(gamma));
      }
    };
    if (grads) {
      zero(dneg.data, C * N * D);
      zero(dw.data, R * D * M);
    }
    const auto finish = [&](const A* g_pos, int64_t begin, int64_t end) {
      Scratch<A> own(M);
      for (int64_t b = begin; b < end; ++b) {
        A* to = dq.data + from(b) * M;
        gradients_of_pair(Compare::kL1, g_pos[b], rows.get() + b * M, others.get() + b * M, M, own.get(),
                          dother.data + from(b) * M);
        std::copy_n(to_rows.get() + b * M, M, to);
        add_scaled(A(1), own.get(), M, to);
      }
    };
    LossCall<A> call(options, B, N, M, rows.get(), scaled.get(), exclusions.excluded, id.data(), gather_rows, finish);
    const int64_t count = static_cast<int64_t>(groups.size()), blocks = (N + kProjectedRows - 1) / kProjectedRows;
    const int64_t most = std::min(count, kProjectedGroups);
    Scratch<A> projected(most * N * M), made(grads ? most * N * M : 0);
    const auto of = [&](int64_t i) -> const Group& { return groups[static_cast<size_t>(i)]; };
    int64_t row = 0;
    for (int64_t first = 0; first < count; first += kProjectedGroups) {
      const int64_t last = std::min(first + kProjectedGroups, count);
      std::vector<LossChunk<A>> chunks;
      for (int64_t i = first; i < last; ++i) {
        const int64_t at = (i - first) * N * M, n = static_cast<int64_t>(of(i).rows.size());
        chunks.push_back({row, n, projected.get() + at, made.get() + at});
        row += n;
      }
      parallel_chunks(last - first, 1, [&](int64_t i, int64_t) {
        const Group& group = of(first + i);
        through(neg.data + group.chunk * N * D, N, w.data + group.relation * D * M, D, M, false,
                projected.get() + i * N * M);
      });
      call.run(chunks, to_rows.get());
      if (!grads) continue;
      // candidates collect from all groups of their chunk, matrices from all groups of their relation
      parallel_chunks(C * blocks, 1, [&](int64_t task, int64_t) {
        const int64_t c = task / blocks, n0 = task % blocks * kProjectedRows, n = std::min(kProjectedRows, N - n0);
        for (int64_t i = first; i < last; ++i)
          if (of(i).chunk == c)
            through(made.get() + (i - first) * N * M + n0 * M, n, w.data + of(i).relation * D * M, D, M, true,
                    dneg.data + (c * N + n0) * D, true);
      });
      parallel_chunks(last - first, 1, [&](int64_t begin, int64_t) {
        if (begin > 0 && of(first + begin).relation == of(first + begin - 1).relation) return;
        for (int64_t i = first + begin; i < last && of(i).relation == of(first + begin).relation; ++i)
          outer(neg.data + of(i).chunk * N * D, made.get() + (i - first) * N * M, N, D, M,
                dw.data + of(i).relation * D * M, true);
      });
    }
    result.emplace(number(call.total(), neg_in.scalar_type()), dq.finish(), dother.finish(), dneg.finish(),
                   dw.finish());
  });
  return *result;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> kg_loss_backward_cpu(const Tensor& grad, const Tensor& a, const Tensor& b,
                                                                const Tensor& c, const Tensor& d) {
  const double by = to_double(grad, 1, "kg_loss").front();
  const auto scaled = [&](const Tensor& t_in) {
    const Tensor t = torch::stable::contiguous(t_in);
    Tensor out = empty(sizes_of(t), t.scalar_type());
    dispatch_floating(t.scalar_type(), "kg_loss", [&](auto tag) {
      using T = decltype(tag);
      using A = acc_t<T>;
      const T* from = ptr<T>(t);
      T* to = ptr<T>(out);
      parallel_chunks(t.numel(), kConverted, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) to[i] = static_cast<T>(static_cast<A>(by) * static_cast<A>(from[i]));
      });
    });
    return out;
  };
  return {scaled(a), scaled(b), scaled(c), scaled(d)};
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) {
  m.impl("kg_loss_rows", TORCH_BOX(&gnnaccel::kg_loss_rows_cpu));
  m.impl("kg_loss_ids", TORCH_BOX(&gnnaccel::kg_loss_ids_cpu));
  m.impl("kg_loss_projected", TORCH_BOX(&gnnaccel::kg_loss_projected_cpu));
  m.impl("kg_loss_backward", TORCH_BOX(&gnnaccel::kg_loss_backward_cpu));
}
