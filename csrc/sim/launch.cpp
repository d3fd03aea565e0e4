#include "sim/launch.h"

#include <atomic>
#include <mutex>
#include <string>
#include <unordered_map>

#include "cpu/parallel.h"
#include "ops/error.h"
#include "sim/hooks.h"
#include "sim/multiprocessor.h"

namespace imgrec::sim {
namespace {

constexpr std::int64_t default_limit = 48 << 10;  // of dynamic shared memory, for kernels that do not ask for more
constexpr unsigned largest_cluster = 8;           // that every GPU with clusters can run

std::mutex permissions_mutex;
std::unordered_map<const void*, std::int64_t> permissions;

std::int64_t permitted_shared_bytes(const void* function) {
  const std::lock_guard lock(permissions_mutex);
  const auto found = permissions.find(function);
  return found == permissions.end() ? default_limit : std::max(found->second, default_limit);
}

std::string text_of(const dim3& extent) {
  return "(" + std::to_string(extent.x) + ", " + std::to_string(extent.y) + ", " + std::to_string(extent.z) + ")";
}

/// Refuses what a GPU refuses.
void check(const Context& context, const Launch& launch) {
  const auto refuse = [&](const std::string& why) { throw KernelError(std::string(launch.kernel) + ": " + why); };
  const std::int64_t threads = std::int64_t{launch.threads.x} * launch.threads.y * launch.threads.z;
  const std::int64_t blocks = std::int64_t{launch.blocks.x} * launch.blocks.y * launch.blocks.z;
  if (threads < 1 || threads > 1024 || launch.threads.z > 64)
    refuse("blocks of " + text_of(launch.threads) + " threads; 1 to 1024 are possible, 64 along z");
  if (blocks < 1 || launch.blocks.x > 0x7FFFFFFFu || launch.blocks.y > 65535 || launch.blocks.z > 65535)
    refuse("a grid of " + text_of(launch.blocks) +
           " blocks; (2147483647, 65535, 65535) are possible, and at least one");
  if (launch.shared_bytes > context.max_shared_bytes)
    refuse(std::to_string(launch.shared_bytes) + " bytes of shared memory; a block may have " +
           std::to_string(context.max_shared_bytes));
  if (launch.shared_bytes > permitted_shared_bytes(launch.function))
    refuse(std::to_string(launch.shared_bytes) + " bytes of dynamic shared memory without ALLOW_SHARED for as much");
  if (launch.cluster < 1 || launch.cluster > largest_cluster || launch.blocks.x % launch.cluster != 0)
    refuse("clusters of " + std::to_string(launch.cluster) + " blocks in a grid of " + text_of(launch.blocks) +
           "; 1 to 8 that divide the blocks along x are possible");
  if (launch.cooperative && blocks > context.sm_count)
    refuse(std::to_string(blocks) + " cooperating blocks, but " + std::to_string(context.sm_count) +
           " multiprocessors, which run one each");
}

/// The failure of the first block that failed, whichever thread met it first.
class FirstFailure {
 public:
  void note(std::int64_t block, const std::string& message) {
    const std::lock_guard lock(mutex_);
    if (block >= block_) return;
    block_ = block;
    message_ = message;
  }
  bool before(std::int64_t block) const { return block_ < block; }
  const std::string& message() const { return message_; }

 private:
  std::mutex mutex_;
  std::atomic<std::int64_t> block_ = INT64_MAX;
  std::string message_;
};

}  // namespace

void allow_shared(const void* function, std::int64_t bytes) {
  const std::lock_guard lock(permissions_mutex);
  permissions[function] = bytes;
}

void run(const Context& context, const Launch& launch) {
  check(context, launch);
  const std::int64_t blocks = std::int64_t{launch.blocks.x} * launch.blocks.y * launch.blocks.z;
  const std::int64_t together = launch.cooperative ? blocks : launch.cluster;
  FirstFailure failure;
  hooks::ObservedLaunch observed(launch);
  Context workers = context;
  if (observed.one_thread) workers.threads = 1;
  cpu::parallel_tasks(workers, blocks / together, [&](std::int64_t task, int) {
    const std::int64_t first = task * together;
    if (failure.before(first)) return;
    Multiprocessor& here = Multiprocessor::here();
    if (!here.run(launch, context.max_shared_bytes, first, static_cast<unsigned>(together)))
      failure.note(first, here.error());
  });
  const std::string error = observed.conclude(failure.message());
  if (!error.empty()) throw KernelError(error);
}

}  // namespace imgrec::sim
