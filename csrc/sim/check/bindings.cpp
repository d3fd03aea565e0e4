// What only the module with checkers offers to Python.
#include "bindings/array.h"
#include "sim/check/profile.h"

namespace imgrec::bindings {

namespace check = sim::check;

static py::dict line_dict(const check::Line& line, const check::LineCounters& counters) {
  py::dict one;
  one["file"] = line.file;
  one["line"] = line.number;
  one["executions"] = counters.executions;
  one["global_requests"] = counters.global_requests;
  one["global_sectors"] = counters.global_sectors;
  one["global_minimum_sectors"] = counters.global_minimum_sectors;
  one["shared_requests"] = counters.shared_requests;
  one["shared_wavefronts"] = counters.shared_wavefronts;
  one["shared_minimum_wavefronts"] = counters.shared_minimum_wavefronts;
  one["barriers"] = counters.barriers;
  return one;
}

static py::dict kernel_dict(const check::KernelProfile& profile) {
  py::list lines;
  for (const auto& [line, counters] : profile.lines) lines.append(line_dict(line, counters));
  py::dict one;
  one["kernel"] = profile.kernel;
  one["function"] = py::make_tuple(profile.function.file, profile.function.number);
  one["launches"] = profile.launches;
  one["blocks"] = profile.blocks;
  one["threads_per_block"] = profile.threads_per_block;
  one["static_shared_bytes"] = profile.static_shared_bytes;
  one["dynamic_shared_bytes"] = profile.dynamic_shared_bytes;
  one["global_bytes_read"] = profile.global_bytes_read;
  one["global_bytes_written"] = profile.global_bytes_written;
  one["lines"] = lines;
  return one;
}

IMGREC_BINDINGS(check) {
  module.def("sim_profile_start", &check::profile_start, "Starts to count what each line of the kernels costs.");
  module.def(
      "sim_profile_take",
      [] {
        py::list kernels;
        for (const check::KernelProfile& profile : check::profile_take()) kernels.append(kernel_dict(profile));
        return kernels;
      },
      "The counts of each kernel since sim_profile_start, as dictionaries (csrc/sim/check/profile.h); ends counting.");
}

}  // namespace imgrec::bindings
