// Which samples and hidden units a thread takes through the steps, in which order, and where threads meet.
#pragma once

#include <algorithm>
#include <atomic>
#include <thread>

#include "cpu/gemm.h"
#include "ops/recurrent.h"

namespace imgrec::cpu {

/// Which step of which sample comes when, and where its numbers lie: in the caller's arrays at a row of (N T, ...), in
/// those that only we read at a place of (T N, ...), so that samples that take a step together lie side by side.
struct Order {
  const std::int64_t* lengths;
  std::int64_t batch, steps;
  bool reverse;

  explicit Order(const RecurrentInputs& in)
      : lengths(in.lengths ? in.lengths.as<const std::int64_t>() : nullptr),
        batch(in.x.shape[0]),
        steps(in.x.shape[1]),
        reverse(in.reverse) {}

  std::int64_t length(std::int64_t sample) const { return lengths ? lengths[sample] : steps; }

  /// The most steps that any of `count` samples takes.
  std::int64_t longest(std::int64_t first, int count) const {
    if (count <= 0) return 0;
    return lengths ? *std::max_element(lengths + first, lengths + first + count) : steps;
  }

  /// The time at which the sample takes its step `step` < length(sample).
  std::int64_t time(std::int64_t sample, std::int64_t step) const { return reverse ? length(sample) - 1 - step : step; }
  std::int64_t row(std::int64_t sample, std::int64_t step) const { return sample * steps + time(sample, step); }
  std::int64_t place(std::int64_t sample, std::int64_t step) const { return time(sample, step) * batch + sample; }

  /// The other way round: the step of a sample at a time, -1 where it lies past the sample's length.
  std::int64_t step(std::int64_t sample, std::int64_t time) const {
    const std::int64_t size = length(sample);
    return time >= size ? -1 : reverse ? size - 1 - time : time;
  }
};

/// What one thread does of a time step: panels [first_panel, last_panel) of samples, hidden blocks [first_block,
/// last_block) of micro_cols units.
struct Part {
  std::int64_t first_panel, last_panel, first_block, last_block;
};

/// How the time loop is spread over the threads. Samples come in panels of at most micro_rows.
///   - With enough of them, each thread takes some panels through all steps, and no thread waits for another.
///   - With few, every step is cut into groups of hidden blocks, and the threads meet after each step.
/// Every sample's numbers are the same either way.
struct Schedule {
  std::int64_t batch, blocks, task_rows, panels_per_task, panel_rows, tasks, panels, groups;
  bool by_rows;
  static constexpr std::int64_t most_rows = 8 * micro_rows;  // of a task: what it works on stays in the L2 cache
  static constexpr std::int64_t projected_blocks = 512;      // of one row each, at most 4 gates: 256 KiB with AVX-512
  static constexpr std::int64_t most_groups = 64;

  Schedule(const Context& context, std::int64_t batch, std::int64_t blocks) : batch(batch), blocks(blocks) {
    // With fewer rows a thread, reading the matrix takes the time; groups of blocks read a part of it each.
    const std::int64_t least_rows = blocks >= context.threads ? 12 : 4;
    by_rows = context.threads == 1 || batch >= least_rows * context.threads || blocks == 1;
    const std::int64_t least_tasks = by_rows ? context.threads : 1;
    const std::int64_t rounds = std::max<std::int64_t>(1, divide(batch, least_tasks * most_rows));
    task_rows = std::max<std::int64_t>(1, divide(batch, least_tasks * rounds));
    panels_per_task = divide(task_rows, micro_rows);
    panel_rows = round_up(divide(task_rows, panels_per_task), 2);  // products are compiled for even numbers of rows
    tasks = divide(batch, task_rows);
    panels = tasks * panels_per_task;
    groups = by_rows ? 1 : std::min({blocks, static_cast<std::int64_t>(context.threads), most_groups});
  }

  static std::int64_t divide(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }

  /// How many steps of a task have their inputs projected at once: enough rows for an efficient product, few enough
  /// for the projections to stay in the L2 cache beside the weights.
  std::int64_t chunk(std::int64_t steps) const {
    // Plans are made before sizes of 0 are refused.
    const std::int64_t wanted = projected_blocks / std::max<std::int64_t>(1, blocks);
    const std::int64_t rows = std::clamp<std::int64_t>(wanted, 2 * micro_rows, most_rows);
    const std::int64_t most = std::max<std::int64_t>(1, rows / task_rows);
    return divide(steps, std::max<std::int64_t>(1, divide(steps, most)));
  }

  /// A panel's first sample.
  std::int64_t sample(std::int64_t panel) const {
    return panel / panels_per_task * task_rows + panel % panels_per_task * panel_rows;
  }

  /// How many samples a panel has: 0 or less for the last ones of a task with fewer samples than the others.
  int rows_of(std::int64_t panel) const {
    const std::int64_t end = std::min(batch, (panel / panels_per_task + 1) * task_rows);
    return static_cast<int>(std::min(panel_rows, end - sample(panel)));
  }

  /// Calls step(part, s, worker) for all parts and s = 0, ..., steps - 1; what step s does comes before step s + 1.
  template <class Step>
  void run(const Context& context, std::int64_t steps, Step&& step) const {
    for (std::int64_t task = 0; !by_rows && task < tasks; ++task) run_groups(context, task, steps, step);
    if (by_rows)
      parallel_tasks(context, tasks, [&](std::int64_t task, int worker) {
        for (std::int64_t s = 0; s < steps; ++s) step(part(task, 0), s, worker);
      });
  }

 private:
  Part part(std::int64_t task, std::int64_t group) const {
    const std::int64_t size = divide(blocks, groups);
    return {task * panels_per_task, (task + 1) * panels_per_task, std::min(blocks, group * size),
            std::min(blocks, (group + 1) * size)};
  }

  /// Each thread takes one group through the steps, so that its part of the matrix stays in its own cache, and after
  /// each step looks for the others. What they have not begun by then it does itself: nothing depends on how many
  /// threads come, or when.
  template <class Step>
  void run_groups(const Context& context, std::int64_t task, std::int64_t steps, Step&& step) const {
    struct alignas(64) Counter {
      std::atomic<std::int64_t> value{0};
    };
    Counter begun[most_groups];  // steps of each group
    Counter finished;            // steps of all groups together
    parallel_tasks(context, groups, [&](std::int64_t own, int worker) {
      const auto try_step = [&](std::int64_t group, std::int64_t s) {
        if (std::int64_t expected = s; !begun[group].value.compare_exchange_strong(expected, s + 1)) return;
        step(part(task, group), s, worker);
        finished.value.fetch_add(1);
      };
      for (std::int64_t s = 0; s < steps; ++s) {
        try_step(own, s);
        for (int looks = 1; finished.value.load() < (s + 1) * groups; ++looks) {
          if (looks % looks_before_helping != 0) continue;
          for (std::int64_t group = 0; group < groups; ++group) try_step(group, s);
          if (looks > looks_before_yielding) std::this_thread::yield();
        }
      }
    });
  }

  static constexpr int looks_before_helping = 1 << 10, looks_before_yielding = 1 << 14;
};

}  // namespace imgrec::cpu
