#include "ops/arithmetic.h"

#include "cpu/channel_block.h"
#include "cpu/parallel.h"
#include "cpu/row_chunks.h"

namespace imgrec {
namespace cpu {
namespace {

constexpr std::int64_t grain = 1 << 14;  // elements a task

/// What S is computed in, lane by lane in float64: two registers where that is float.
template <class S>
struct Exact {
  typedef double type __attribute__((vector_size(wide_lanes<S> * sizeof(double))));
};

/// z = x + y for the elements begin, ... < end of x, where y goes round.
template <class S>
void add_range(S* z, const S* x, const S* y, std::int64_t round, std::int64_t begin, std::int64_t end) {
  while (begin < end) {
    const std::int64_t at = begin % round, count = std::min(round - at, end - begin);
    for_vectors<S>(0, count, [&](std::int64_t i, auto lanes) {
      store_narrow(z + begin + i, load_wide(x + begin + i, lanes) + load_wide(y + at + i, lanes), lanes);
    });
    begin += count;
  }
}

/// The sums of some rows, for the channels of a block.
template <class S, class Block>
void sum_block(const Block& block, double* sums, const S* x, std::int64_t rows, std::int64_t columns) {
  typename Exact<S>::type sum[Block::size] = {};
  block.for_rows(0, rows, columns, [&](int v, std::int64_t at) {
    sum[v] += __builtin_convertvector(load_wide(x + at, block.lanes_of()), typename Exact<S>::type);
  });
  for (int v = 0; v < Block::size; ++v)
    std::memcpy(sums + block.channel(v), &sum[v], sizeof(double) * static_cast<std::size_t>(block.lanes_of()));
}

/// The sum of neighbours.
template <class S>
double sum_run(const S* x, std::int64_t count) {
  constexpr int in_flight = 4, step = in_flight * wide_lanes<S>;
  typename Exact<S>::type part[in_flight] = {};
  std::int64_t i = 0;
  for (; i + step <= count; i += step)
#pragma GCC unroll 4
    for (int v = 0; v < in_flight; ++v)
      part[v] += __builtin_convertvector(load_wide(x + i + v * wide_lanes<S>), typename Exact<S>::type);
  for_vectors<S>(i, count, [&](std::int64_t at, int lanes) {
    part[0] += __builtin_convertvector(load_wide(x + at, lanes), typename Exact<S>::type);
  });
  const typename Exact<S>::type lines = (part[0] + part[1]) + (part[2] + part[3]);
  double sum = 0;
  for (int lane = 0; lane < wide_lanes<S>; ++lane) sum += lines[lane];
  return sum;
}

}  // namespace
}  // namespace cpu

void add(const Context& context, const Array& z, const Array& x, const Array& y) {
  cpu::for_floating(x.dtype, [&](auto tag) {
    using S = decltype(tag);
    cpu::parallel_range(context, x.size(), cpu::grain, [&](std::int64_t begin, std::int64_t end) {
      cpu::add_range(z.as<S>(), x.as<const S>(), y.as<const S>(), y.size(), begin, end);
    });
  });
}

Plan sum_rows_plan(const Context&, std::int64_t batch, std::int64_t rows, std::int64_t columns, DType) {
  const cpu::RowChunks chunks(rows, columns);
  return {.algorithm = "chunked",
          .workspace_bytes = batch * chunks.count * columns * static_cast<std::int64_t>(sizeof(double))};
}

void sum_rows(const Context& context, const Array& y, const Array& x, double divisor, const Array& workspace) {
  const std::int64_t batch = x.shape[0], columns = x.shape[2];
  const cpu::RowChunks chunks(x.shape[1], columns);
  auto* sums = workspace.as<double>();
  cpu::for_floating(x.dtype, [&](auto tag) {
    using S = decltype(tag);
    cpu::parallel_tasks(context, batch * chunks.count, [&](std::int64_t task, int) {
      const std::int64_t row = task / chunks.count * chunks.rows + chunks.begin(task % chunks.count);
      const S* const from = x.as<const S>() + row * columns;
      if (columns == 1)
        sums[task] = cpu::sum_run(from, chunks.size(task % chunks.count));
      else
        cpu::for_channel_blocks<S>(columns, [&](const auto& block) {
          cpu::sum_block(block, sums + task * columns, from, chunks.size(task % chunks.count), columns);
        });
    });
    const std::int64_t blocks = (columns + cpu::column_block - 1) / cpu::column_block;
    cpu::parallel_tasks(context, batch * blocks, [&](std::int64_t task, int) {
      const std::int64_t sample = task / blocks, column = task % blocks * cpu::column_block;
      cpu::add_chunks(chunks, sums + sample * chunks.count * columns, columns, column,
                      [&](std::int64_t at, double sum) {
                        y.as<S>()[sample * columns + at] = cpu::narrow<S>(static_cast<cpu::Compute<S>>(sum / divisor));
                      });
    });
  });
}

}  // namespace imgrec
