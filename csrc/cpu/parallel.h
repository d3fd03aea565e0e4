// One thread pool for the whole process. Work is cut into tasks by shapes alone and each task writes its own part of
// the output, so that results do not depend on how many threads serve it.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "ops/array.h"

namespace imgrec::cpu {

/// A reference to a callable that outlives the call: std::function without its allocation.
template <class Signature>
class FunctionReference;

template <class R, class... Args>
class FunctionReference<R(Args...)> {
 public:
  template <class F, class = std::enable_if_t<!std::is_same_v<std::decay_t<F>, FunctionReference>>>
  FunctionReference(F&& function)  // NOLINT: implicit, so that lambdas can be passed
      : object_(const_cast<void*>(static_cast<const void*>(&function))), call_([](void* object, Args... args) -> R {
          return (*static_cast<std::remove_reference_t<F>*>(object))(std::forward<Args>(args)...);
        }) {}

  R operator()(Args... args) const { return call_(object_, std::forward<Args>(args)...); }

 private:
  void* object_;
  R (*call_)(void*, Args...);
};

/// Calls body(task, worker) for every task in [0, tasks). `worker` < context.threads names the thread's own scratch
/// memory. Runs on the calling thread alone where the pool is busy or the call comes from inside a task.
void parallel_tasks(const Context& context, std::int64_t tasks,
                    FunctionReference<void(std::int64_t task, int worker)> body);

/// Calls body(begin, end) over [0, count) in ranges of `grain` elements.
template <class Body>
void parallel_range(const Context& context, std::int64_t count, std::int64_t grain, Body&& body) {
  const std::int64_t tasks = (count + grain - 1) / grain;
  parallel_tasks(context, tasks, [&](std::int64_t task, int) {
    const std::int64_t begin = task * grain;
    body(begin, begin + grain < count ? begin + grain : count);
  });
}

}  // namespace imgrec::cpu
