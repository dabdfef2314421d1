// Writes what the nodes of a batch have just become, and keeps their last events as messages to come.
#include <numeric>

#include "commit_events.h"
#include "common.h"

namespace gnnaccel {
namespace {

constexpr uint8_t kPending = 1;
constexpr int64_t kNodes = 32;  // a task

Tensor keep_events_cpu(Tensor memory, Tensor last_update, Tensor status, Tensor other, Tensor time, Tensor raw,
                       Tensor place, const Tensor& src_in, const Tensor& dst_in, const Tensor& t_in,
                       const Tensor& raw_msg_in, const Tensor& nodes_in, const Tensor& rows_in,
                       const Tensor& rows_time_in) {
  const Tensor src = torch::stable::contiguous(src_in), dst = torch::stable::contiguous(dst_in),
               t = torch::stable::contiguous(t_in), raw_msg = with_dense_rows(raw_msg_in),
               nodes = torch::stable::contiguous(nodes_in), rows = torch::stable::contiguous(rows_in),
               rows_time = torch::stable::contiguous(rows_time_in);
  const int64_t N = memory.size(0), D = memory.size(1), F = raw.size(1), B = src.numel(), U = nodes.numel();
  const int64_t *s = ptr<int64_t>(src), *d = ptr<int64_t>(dst), *id = ptr<int64_t>(nodes), *when = ptr<int64_t>(t);
  const auto check = [&](const char* name, const int64_t* ids, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
      if (ids[i] < 0 || ids[i] >= N)
        throw std::invalid_argument("keep_events: " + std::string(name) + " must be in [0, " + std::to_string(N) +
                                    "), got " + std::to_string(ids[i]));
  };
  check("src", s, B);
  check("dst", d, B);
  check("nodes", id, U);

  Tensor done = empty({}, ScalarType::Bool);
  bool& all = *ptr<bool>(done) = true;
  int64_t* at = ptr<int64_t>(place);
  for (int64_t u = 0; u < U; ++u) at[id[u]] = u;
  std::vector<int64_t> end(static_cast<size_t>(2 * B)), row(end.size()), times(end.size()),
      event(static_cast<size_t>(B));
  std::iota(event.begin(), event.end(), int64_t{0});
  for (int64_t p = 0; p < 2 * B && all; ++p) {
    const auto i = static_cast<size_t>(p);
    end[i] = p < B ? s[p] : d[p - B];
    times[i] = when[p % B];
    row[i] = at[end[i]];
    // what `place` holds for other nodes is of no meaning
    all = row[i] >= 0 && row[i] < U && id[row[i]] == end[i];
  }
  if (!all) return done;

  const std::vector<int64_t> last = last_ends(row.data(), times.data(), event.data(), B, U);
  dispatch_floating(memory.scalar_type(), "keep_events", [&](auto tag) {
    using S = decltype(tag);
    parallel_chunks(static_cast<int64_t>(last.size()), kNodes, [&](int64_t begin, int64_t stop) {
      for (int64_t i = begin; i < stop; ++i) {
        const int64_t p = last[static_cast<size_t>(i)], e = p % B, n = end[static_cast<size_t>(p)];
        const int64_t r = row[static_cast<size_t>(p)];
        copy_row(ptr<S>(rows) + r * D, ptr<S>(memory) + n * D, D);
        ptr<int64_t>(last_update)[n] = ptr<int64_t>(rows_time)[r];
        copy_row(ptr<S>(raw_msg) + e * raw_msg.stride(0), ptr<S>(raw) + n * F, F);
        ptr<int64_t>(other)[n] = p < B ? d[e] : s[e];
        ptr<int64_t>(time)[n] = when[e];
        ptr<uint8_t>(status)[n] = kPending;
      }
    });
  });
  return done;
}

}  // namespace
}  // namespace gnnaccel

STABLE_TORCH_LIBRARY_IMPL(gnnaccel, CPU, m) { m.impl("keep_events_", TORCH_BOX(&gnnaccel::keep_events_cpu)); }
