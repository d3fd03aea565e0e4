// What the backward passes need of each query, once: its log-sum-exp and delta = sum over the row of dout out.
//
//   dout, out (N, S_q, H, E), contiguous     lse (N, H, S_q)     results (N, H, S_q) each, in the workspace
//
// A warp sums one row. Bound by memory: reads two rows and writes two numbers. No shared memory. At most 32 registers,
// no spills; measured share of the peer: not run on a GPU.
#include "cuda/attention/attention.h"
#include "cuda/attention/problem.h"

namespace imgrec::cuda {
namespace {

constexpr int block_threads = 256, block_rows = block_threads / 32;

template <class S>
__global__ void __launch_bounds__(block_threads)
    row_statistics_kernel(RowStatistics<Compute<S>> statistics, const S* dout, const S* out, const Compute<S>* lse,
                          Compute<S> lse_unit, std::int64_t rows, std::int64_t queries, std::int64_t heads,
                          std::int64_t size) {
  using T = Compute<S>;
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * block_rows + threadIdx.x / 32;
  if (row >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  T sum = 0;
  for (std::int64_t i = row * size + lane; i < (row + 1) * size; i += 32) sum += widen(dout[i]) * widen(out[i]);
  sum = warp_sum(sum);
  if (lane > 0) return;
  const std::int64_t head = row % heads, query = row / heads % queries, sample = row / heads / queries;
  const std::int64_t to = (sample * heads + head) * queries + query;
  statistics.lse[to] = lse[to] == -infinity() ? T(infinity()) : lse[to] * lse_unit;
  statistics.delta[to] = sum;
}

}  // namespace

std::int64_t row_statistics_bytes(const AttentionShape& shape, DType dtype) {
  return 2 * shape.batch * shape.heads * shape.queries * (dtype == DType::float64 ? 8 : 4);
}

template <class S>
RowStatistics<Compute<S>> row_statistics(const Context& context, const Array& workspace, const Array& dout,
                                         const Array& out, const Array& lse, double lse_unit) {
  using T = Compute<S>;
  const std::int64_t rows = lse.size();
  const RowStatistics<T> statistics{workspace.as<T>(), workspace.as<T>() + rows};
  if (rows > 0)
    LAUNCH((row_statistics_kernel<S>), context,
           {.blocks = static_cast<unsigned>((rows + block_rows - 1) / block_rows), .threads = block_threads},
           statistics, dout.as<const S>(), out.as<const S>(), lse.as<const T>(), static_cast<T>(lse_unit), rows,
           lse.shape[2], lse.shape[1], out.shape[3]);
  return statistics;
}

#define IMGREC_INSTANTIATE(S)                                                                                    \
  template RowStatistics<Compute<S>> row_statistics<S>(const Context&, const Array&, const Array&, const Array&, \
                                                       const Array&, double);
IMGREC_INSTANTIATE(float)
IMGREC_INSTANTIATE(double)
IMGREC_INSTANTIATE(Float16)
IMGREC_INSTANTIATE(BFloat16)
#undef IMGREC_INSTANTIATE

}  // namespace imgrec::cuda
