// The host's side of a launch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <utility>

#include "ops/array.h"
#include "sim/types.h"

namespace imgrec::sim {

/// One launch, as the simulator's compiled part sees it.
struct Launch {
  const char* kernel;        // its name as the source says it
  const void* function;      // tells instantiations apart
  void (*run)(const void*);  // runs the kernel as the current thread
  const void* parameters;    // what `run` is given, in the host's memory
  std::size_t parameter_bytes;
  dim3 blocks, threads;
  std::int64_t shared_bytes;
  bool cooperative;
  unsigned cluster;
};

/// Runs all blocks and returns when they are done. KernelError for a configuration that a GPU would refuse, and for
/// what went wrong in a kernel.
void run(const Context& context, const Launch& launch);

/// Permits a kernel more than 48 KB of dynamic shared memory.
void allow_shared(const void* function, std::int64_t bytes);

template <class Config, class... Parameters, class... Arguments>
void launch(const char* kernel, void (*function)(Parameters...), const Context& context, const Config& config,
            Arguments&&... arguments) {
  struct Call {
    void (*function)(Parameters...);
    std::tuple<Parameters...> parameters;
  };
  const Call call{function, std::tuple<Parameters...>(static_cast<Parameters>(std::forward<Arguments>(arguments))...)};
  const auto run_one = [](const void* opaque) {
    const auto* one = static_cast<const Call*>(opaque);
    std::apply(one->function, one->parameters);
  };
  run(context, {kernel, reinterpret_cast<const void*>(function), run_one, &call, sizeof(call), config.blocks,
                config.threads, config.shared_bytes, config.cooperative, config.cluster});
}

}  // namespace imgrec::sim
