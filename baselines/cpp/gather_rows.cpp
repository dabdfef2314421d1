#include "gather_rows.h"

#include <optional>

#include "common.h"
#include "unique_nodes.h"

namespace gnnaccel {
namespace {

constexpr int64_t kChunk = 128;  // rows a task
constexpr int64_t kWindow = 64;  // positions a task of the backward pass; fixed, so that sums do not depend on threads
constexpr int64_t kZero = 512;   // rows a task that zeroes them

template <class F>
void dispatch_rows(ScalarType dtype, const F& f) {
  dispatch_floating_as<HalfBits, BFloat16Bits>(dtype, "gather_rows", f);
}

[[noreturn]] void refuse(int64_t id, int64_t num_rows) {
  throw std::invalid_argument("gather_rows: ids must be below " + std::to_string(num_rows) + " (rows of table), got " +
                              std::to_string(id));
}

// ids [begin, end) as int64; returns the largest if it is not below num_rows, else -1.
int64_t load_ids(const Tensor& ids, int64_t begin, int64_t end, int64_t num_rows, int64_t* out) {
  int64_t largest = -1;
  dispatch_ids(ids.scalar_type(), "gather_rows", [&](auto tag) {
    const auto* p = ptr<decltype(tag)>(ids);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t id = static_cast<int64_t>(p[i]);
      out[i - begin] = id;
      largest = id > largest ? id : largest;
    }
  });
  return largest < num_rows ? -1 : largest;
}

// An output of this size leaves every cache before anybody reads it; below, the next step may find it in one.
constexpr int64_t kStreamBytes = int64_t{32} << 20;

void gather_rows_into(Tensor& out, const Tensor& table_in, const Tensor& ids_in, std::optional<Tensor> scale_in) {
  const Tensor table = with_dense_rows(table_in);
  const Tensor ids = torch::stable::contiguous(ids_in);
  std::optional<Tensor> scale;
  if (scale_in.has_value()) scale = torch::stable::contiguous(*scale_in);
  const int64_t n = ids.numel(), F = table.size(1), num_rows = table.size(0), stride = table.stride(0);
  const float* s = scale ? static_cast<const float*>(scale->data_ptr()) : nullptr;
  std::vector<int64_t> bad(static_cast<size_t>((n + kChunk - 1) / kChunk), -1);
  dispatch_rows(out.scalar_type(), [&](auto out_tag) {
    using out_t = decltype(out_tag);
    const int64_t row_bytes = F * static_cast<int64_t>(sizeof(out_t));
    // chunks of kChunk rows keep every chunk's start on a cache line
    const bool stream = LineWriter::supported() && n * row_bytes >= kStreamBytes && row_bytes <= LineWriter::kRoom &&
                        reinterpret_cast<uintptr_t>(out.data_ptr()) % LineWriter::kLine == 0;
    auto run = [&](auto in_tag) {
      using in_t = decltype(in_tag);
      const in_t* rows = ptr<in_t>(static_cast<const Tensor&>(table));
      out_t* o = ptr<out_t>(out);
      parallel_chunks(n, kChunk, [&](int64_t begin, int64_t end) {
        int64_t local[kChunk + kRowsAhead];
        const int64_t ahead = n - end < kRowsAhead ? n - end : kRowsAhead;
        const int64_t past = load_ids(ids, begin, end + ahead, num_rows, local);
        bad[static_cast<size_t>(begin / kChunk)] = past;
        if (past >= 0) return;
        if (stream)
          gather_rows_stream(rows, stride, s, local, o + begin * F, end - begin, ahead, F);
        else
          gather_rows_chunk(rows, stride, s, local, o + begin * F, end - begin, ahead, F);
      });
    };
    if (table.scalar_type() == ScalarType::Char)
      run(int8_t{});
    else
      dispatch_rows(table.scalar_type(), run);
  });
  for (int64_t id : bad)
    if (id >= 0) refuse(id, num_rows);
}

Tensor gather_rows_cpu(const Tensor& table, const Tensor& ids, std::optional<Tensor> scale, ScalarType dtype, bool) {
  std::vector<int64_t> shape = sizes_of(ids);
  shape.push_back(table.size(1));
  Tensor out = empty(shape, dtype);
  gather_rows_into(out, table, ids, scale);
  return out;
}

void gather_rows_out_cpu(Tensor out, const Tensor& table, const Tensor& ids, std::optional<Tensor> scale) {
  gather_rows_into(out, table, ids, scale);
}

Groups group_by_id(const Tensor& ids, int64_t num_rows) {
  Groups g;
  dispatch_ids(ids.scalar_type(), "gather_rows", [&](auto tag) {
    const auto* p = ptr<decltype(tag)>(ids);
    g = group_ids(p, ids.numel(), num_rows);
    if (g.bad >= 0) refuse(static_cast<int64_t>(p[g.bad]), num_rows);
  });
  return g;
}

template <class In, class Sum, class Out>
void sum_rows(const In* grad, const Groups& g, Out* out, int64_t F) {
  const int64_t n = static_cast<int64_t>(g.order.size()), windows = (n + kWindow - 1) / kWindow;
  std::vector<int64_t> first(static_cast<size_t>(windows));  // group at the start of each window
  for (int64_t w = 0, k = 0; w < windows; ++w) {
    while (g.segment[static_cast<size_t>(k + 1)] <= w * kWindow) ++k;
    first[static_cast<size_t>(w)] = k;
  }
  std::vector<Sum> edges(static_cast<size_t>(windows * 2 * F));
  auto head = [&](int64_t w) { return edges.data() + w * 2 * F; };
  auto tail = [&](int64_t w) { return head(w) + F; };
  parallel_chunks(n, kWindow, [&](int64_t begin, int64_t end) {
    std::vector<Sum> sum(static_cast<size_t>(F));
    const int64_t w = begin / kWindow;
    sum_rows_window(grad, g.order.data(), g.segment.data(), g.row.data(), first[static_cast<size_t>(w)], begin, end,
                    out, head(w), tail(w), sum.data(), F);
  });
  for (int64_t w = 0; w + 1 < windows; ++w) {
    const int64_t k = first[static_cast<size_t>(w + 1)], start = g.segment[static_cast<size_t>(k)],
                  stop = g.segment[static_cast<size_t>(k + 1)];
    // the group that runs from window w into w + 1, once: where it starts
    if (start >= (w + 1) * kWindow || start < w * kWindow) continue;
    for (int64_t later = w + 1; later * kWindow < stop; ++later) add_row(head(later), tail(w), F);
    copy_row(tail(w), out + g.row[static_cast<size_t>(k)] * F, F);
  }
}

Tensor gather_rows_backward_cpu(const Tensor& grad_in, const Tensor& ids_in, int64_t num_rows, ScalarType dtype, bool) {
  const Tensor grad = torch::stable::contiguous(grad_in), ids = torch::stable::contiguous(ids_in);
  const int64_t F = grad.size(grad.dim() - 1);
  Tensor out = empty({num_rows, F}, dtype);
  const Groups groups = group_by_id(ids, num_rows);
  dispatch_rows(dtype, [&](auto out_tag) {
    using out_t = decltype(out_tag);
    out_t* o = ptr<out_t>(out);
    // zero what no sum will be written to
    std::vector<uint8_t> summed(static_cast<size_t>(num_rows), 0);
    for (int64_t row : groups.row) summed[static_cast<size_t>(row)] = 1;
    parallel_chunks(num_rows, kZero, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        if (!summed[static_cast<size_t>(r)])
          std::memset(static_cast<void*>(o + r * F), 0, static_cast<size_t>(F) * sizeof(out_t));
    });
    dispatch_rows(grad.scalar_type(), [&](auto in_tag) {
      using in_t = decltype(in_tag);
      using sum_t = std::conditional_t<std::is_same_v<in_t, double> || std::is_same_v<out_t, double>, double, float>;
      sum_rows<in_t, sum_t>(ptr<in_t>(static_cast<const Tensor&>(grad)), groups, o, F);
    });
  });
  return out;
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) {
  m.impl("gather_rows", TORCH_BOX(&gnnaccel::gather_rows_cpu));
  m.impl("gather_rows_out", TORCH_BOX(&gnnaccel::gather_rows_out_cpu));
  m.impl("gather_rows_backward", TORCH_BOX(&gnnaccel::gather_rows_backward_cpu));
}
