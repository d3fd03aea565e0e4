// Sums of rows by position, without atomics: y[p] = the sum of the rows whose position is p.
//
//   y (count, columns); rows (n, columns); order, positions (n,), sorted by position
//   parts (chunks, 2, columns) float64: what a chunk adds to a run that began before it, and to one that goes on
//
// The sorted places are cut into chunks of 64. A thread walks through a chunk for one column and adds up each run of
// equal positions; a run that lies within the chunk is written at once, what crosses its ends goes into `parts`. A
// second kernel adds the parts of each such run up, by the thread for the chunk in which it begins. Cuts depend on the
// shape alone and so does the order of all sums. Neighbouring threads have neighbouring columns; where there are fewer
// columns than threads a block has several chunks.
//
// Bound by memory: every row is read once, parts are a sixteenth of it in float32, and no shared memory is used. A run
// of n rows is joined by n / 64 dependent steps.
//
// At most 36 registers on sm_80 (38 on sm_90a), no spills; measured share of the peer: not run on a GPU.
#include "ops/indexing.h"

#include "cuda/arch/pack.h"

namespace imgrec {
namespace cuda {
namespace {

constexpr int block_threads = 128;
constexpr std::int64_t chunk_places = 64;

struct RunTiling {
  std::int64_t places, columns, count;  // of the sorted places; of y's columns and rows
  int across;                           // threads along the columns: a power of two
  std::int64_t tiles, chunks;

  RunTiling(std::int64_t n, std::int64_t width, std::int64_t height)
      : places(n), columns(width), count(height), across(1) {
    while (across < block_threads && across < columns) across *= 2;
    tiles = (columns + across - 1) / across;
    chunks = (places + chunk_places - 1) / chunk_places;
  }

  /// Whether y has a row of that number: what checks find of indices on a GPU is not waited for.
  __device__ __forceinline__ bool has(std::int64_t position) const { return position >= 0 && position < count; }

  LaunchConfig config() const {
    const int down = block_threads / across;
    return {.blocks = static_cast<unsigned>((chunks + down - 1) / down * tiles), .threads = block_threads};
  }
};

/// A thread's chunk and column, and the chunk's part of the sorted places.
struct ChunkPlace {
  std::int64_t chunk, column, begin, end;
  bool used, follows, goes_on;  // whether the first run began before the chunk, and the last goes on beyond it

  __device__ __forceinline__ ChunkPlace(const RunTiling& tiling, const std::int64_t* positions) {
    const int down = block_threads / tiling.across, thread = static_cast<int>(threadIdx.x);
    chunk = blockIdx.x / tiling.tiles * down + thread / tiling.across;
    column = blockIdx.x % tiling.tiles * tiling.across + thread % tiling.across;
    begin = chunk * chunk_places;
    end = min(begin + chunk_places, tiling.places);
    used = chunk < tiling.chunks && column < tiling.columns;
    follows = used && begin > 0 && positions[begin] == positions[begin - 1];
    goes_on = used && end < tiling.places && positions[end] == positions[end - 1];
  }
};

template <class T>
__global__ void __launch_bounds__(block_threads)
    sum_chunks_kernel(T* y, double* parts, const T* rows, const std::int64_t* order, const std::int64_t* positions,
                      RunTiling tiling) {
  const ChunkPlace place(tiling, positions);
  if (!place.used) return;
  double* before = parts + 2 * place.chunk * tiling.columns + place.column;
  double* beyond = before + tiling.columns;
  bool follows = place.follows;
  double sum = 0;
  for (std::int64_t i = place.begin; i < place.end; ++i) {
    sum += widen(rows[order[i] * tiling.columns + place.column]);
    const bool ends = i + 1 == place.end ? !place.goes_on : positions[i + 1] != positions[i];
    if (!ends) continue;
    if (follows)
      *before = sum;
    else if (tiling.has(positions[i]))
      y[positions[i] * tiling.columns + place.column] = narrow<T>(static_cast<Compute<T>>(sum));
    follows = false;
    sum = 0;
  }
  if (place.goes_on) *(follows ? before : beyond) = sum;
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    join_runs_kernel(T* y, const double* parts, const std::int64_t* positions, RunTiling tiling) {
  const ChunkPlace place(tiling, positions);
  if (!place.goes_on) return;
  const std::int64_t position = positions[place.end - 1];
  if (!tiling.has(position)) return;
  if (place.follows && positions[place.begin] == position) return;  // the run began in another chunk
  double sum = parts[(2 * place.chunk + 1) * tiling.columns + place.column];
  for (std::int64_t chunk = place.chunk + 1; chunk < tiling.chunks; ++chunk) {
    if (positions[chunk * chunk_places] != position) break;
    sum += parts[2 * chunk * tiling.columns + place.column];
  }
  y[position * tiling.columns + place.column] = narrow<T>(static_cast<Compute<T>>(sum));
}

}  // namespace
}  // namespace cuda

Plan index_add_plan(const Context&, std::int64_t rows, std::int64_t columns) {
  const cuda::RunTiling tiling(rows, columns, 0);
  return {.algorithm = "runs",
          .workspace_bytes = 2 * tiling.chunks * columns * static_cast<std::int64_t>(sizeof(double))};
}

void index_add(const Context& context, const Array& y, const Array& rows, const Array& order, const Array& positions,
               const Array& workspace) {
  const cuda::RunTiling tiling(rows.shape[0], rows.shape[1], y.shape[0]);
  if (tiling.chunks == 0 || tiling.columns == 0) return;
  const auto* sorted = positions.as<const std::int64_t>();
  auto* parts = workspace.as<double>();
  cuda::for_floating(rows.dtype, [&](auto type) {
    using T = decltype(type);
    LAUNCH((cuda::sum_chunks_kernel<T>), context, tiling.config(), y.as<T>(), parts, rows.as<const T>(),
           order.as<const std::int64_t>(), sorted, tiling);
    LAUNCH((cuda::join_runs_kernel<T>), context, tiling.config(), y.as<T>(), parts, sorted, tiling);
  });
}

}  // namespace imgrec
