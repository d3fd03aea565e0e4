// What the forward and the backward pass of the recurrent family share: how rows are spread over the threads, how the
// arrays of any storage type are read and written, and how memory is laid out.
#pragma once

#include "cpu/recurrent_cells.h"
#include "cpu/recurrent_kernel.h"
#include "cpu/storage.h"
#include "ops/recurrent.h"

namespace imgrec::cpu {

/// Runs of an array's elements, widened on the way in and rounded on the way out.
template <class T>
struct Elements {
  const Array& array;

  void load(T* to, std::int64_t offset, std::int64_t count) const {
    widen_all(to, array.data, array.dtype, offset, count);
  }

  void store(const T* from, std::int64_t offset, std::int64_t count) const {
    narrow_all(array.data, array.dtype, offset, from, count);
  }

  void clear(std::int64_t offset, std::int64_t count) const {
    const auto item = static_cast<std::size_t>(size_of(array.dtype));
    std::memset(array.as<char>() + static_cast<std::size_t>(offset) * item, 0, static_cast<std::size_t>(count) * item);
  }
};

/// The layer's sizes; a slot is as wide as the hidden state rounded up to whole panels, so that every vector is whole.
template <class T>
struct Extent : RecurrentShape {
  std::int64_t width, rows;

  explicit Extent(const RecurrentShape& shape)
      : RecurrentShape(shape), width(round_up(shape.hidden, micro_cols<T>)), rows(shape.batch * shape.steps) {}
};

/// What is kept of all steps for the backward pass.
template <class T>
std::int64_t reserve_bytes(const Extent<T>& extent, const CellLayout& layout) {
  return extent.rows * layout.saved * extent.width * static_cast<std::int64_t>(sizeof(T));
}

inline RecurrentShape shape_of(const RecurrentInputs& in) {
  return {in.x.shape[0], in.x.shape[1], in.x.shape[2], in.weight_hh.shape[1]};
}

/// Which step of which sample comes when.
struct Order {
  const std::int64_t* lengths;
  std::int64_t steps;
  bool reverse;

  explicit Order(const RecurrentInputs& in)
      : lengths(in.lengths ? in.lengths.as<const std::int64_t>() : nullptr),
        steps(in.x.shape[1]),
        reverse(in.reverse) {}

  std::int64_t length(std::int64_t sample) const { return lengths ? lengths[sample] : steps; }

  /// The most steps that any of `count` samples takes.
  std::int64_t longest(std::int64_t first, int count) const {
    if (count <= 0) return 0;
    return lengths ? *std::max_element(lengths + first, lengths + first + count) : steps;
  }

  /// The row of (N T, ...) that the sample reads and writes in its step `step` < length(sample).
  std::int64_t row(std::int64_t sample, std::int64_t step) const {
    return sample * steps + (reverse ? length(sample) - 1 - step : step);
  }

  /// The other way round: the step of a row, -1 where it lies past the sample's length.
  std::int64_t step(std::int64_t row) const {
    const std::int64_t size = length(row / steps), time = row % steps;
    return time >= size ? -1 : reverse ? size - 1 - time : time;
  }
};

/// A part of one time step: panel `panel` of the samples, hidden blocks [first, last) of micro_cols units.
struct Part {
  std::int64_t panel, first, last;
};

/// How the time loop is spread over the threads. Samples come in panels of at most micro_rows.
///   - With enough of them, each thread takes some panels through all steps, and no thread waits for another.
///   - With few, every step is cut into hidden blocks as well, and the threads meet after each step.
/// Every sample's numbers are the same either way.
struct Schedule {
  std::int64_t batch, blocks, task_rows, panels_per_task, panel_rows, panels;
  bool by_rows;
  static constexpr std::int64_t least_rows = 4;  // for a thread: with fewer, reading the matrix takes the time

  Schedule(const Context& context, std::int64_t batch, std::int64_t blocks) : batch(batch), blocks(blocks) {
    by_rows = context.threads == 1 || batch >= least_rows * context.threads || blocks == 1;
    task_rows = std::max<std::int64_t>(1, by_rows ? divide(batch, context.threads) : batch);
    panels_per_task = divide(task_rows, micro_rows);
    panel_rows = round_up(divide(task_rows, panels_per_task), 2);  // products are compiled for even numbers of rows
    panels = divide(batch, task_rows) * panels_per_task;
  }

  static std::int64_t divide(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }

  /// A panel's first sample.
  std::int64_t sample(std::int64_t panel) const {
    return panel / panels_per_task * task_rows + panel % panels_per_task * panel_rows;
  }

  /// How many samples a panel has: 0 or less for the last ones of a task with fewer samples than the others.
  int rows_of(std::int64_t panel) const {
    const std::int64_t end = std::min(batch, (panel / panels_per_task + 1) * task_rows);
    return static_cast<int>(std::min(panel_rows, end - sample(panel)));
  }

  /// Calls step(part, s) for all parts and s = 0, ..., steps - 1; what step s does comes before step s + 1.
  template <class Step>
  void run(const Context& context, std::int64_t steps, Step&& step) const {
    if (by_rows) {
      parallel_tasks(context, divide(batch, task_rows), [&](std::int64_t task, int) {
        for (std::int64_t s = 0; s < steps; ++s)
          for (std::int64_t block = 0; block < blocks; ++block)  // the block's matrix serves all panels from the cache
            for (std::int64_t panel = 0; panel < panels_per_task; ++panel)
              step(Part{task * panels_per_task + panel, block, block + 1}, s);
      });
      return;
    }
    const std::int64_t groups = std::min<std::int64_t>(blocks, context.threads), group = divide(blocks, groups);
    for (std::int64_t s = 0; s < steps; ++s)
      parallel_tasks(context, panels * groups, [&](std::int64_t task, int) {
        const std::int64_t first = task % groups * group;
        step(Part{task / groups, first, std::min(blocks, first + group)}, s);
      });
  }
};

/// Asks for one block of each of `slots` slots, which a step reads after its product: they arrive while that runs.
template <class T>
void prefetch(const T* from, int slots, std::int64_t width) {
  for (int slot = 0; slot < slots; ++slot)
    for (int i = 0; i < micro_cols<T>; i += 64 / static_cast<int>(sizeof(T)))
      __builtin_prefetch(from + slot * width + i);
}

/// to (N, width) = array (N, H), or zeros where it is absent; zero beyond H.
template <class T>
void load_states(T* to, const Array& array, const Extent<T>& extent) {
  for (std::int64_t sample = 0; sample < extent.batch; ++sample, to += extent.width) {
    if (array) Elements<T>{array}.load(to, sample * extent.hidden, extent.hidden);
    std::fill(to + (array ? extent.hidden : 0), to + extent.width, T(0));
  }
}

/// Fills a panel of A, [k][row]: load(r, line) writes `depth` <= depth_block elements of row r.
template <class T, class Load>
void fill_rows(T* panel, int rows, std::int64_t depth, Load&& load) {
  T line[depth_block];
  for (int r = 0; r < rows; ++r) {
    load(r, line);
    for (std::int64_t i = 0; i < depth; ++i) panel[i * micro_rows + r] = line[i];
  }
}

}  // namespace imgrec::cpu
