// The pool that gives host arrays their memory: blocks aligned to 64 bytes, kept for reuse when an array dies, because
// fresh pages from the system cost more than many kernels take. Small blocks find takers of their own size; large ones
// are cut from an arena, for a cache of each size would hold several times what is used at once.
#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "bindings/arena.h"
#include "bindings/array.h"
#include "ops/memory.h"

namespace imgrec::bindings {
namespace {

constexpr std::size_t alignment = 64;
constexpr std::size_t smallest_block = 64;
#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t largest_small_block = std::size_t{1} << 62;  // the sanitizer guards the ends of malloc's blocks
#else
constexpr std::size_t largest_small_block = std::size_t{1} << 16;
#endif

// Large blocks are so much longer than asked for: arrays of round sizes that lie side by side then do not begin at the
// same distance from a page's start, where they would drive each other out of the caches.
constexpr std::size_t stagger = 9 * alignment;

/// Small sizes are rounded up to eighths of a power of two: at most 12.5 % is lost, and blocks find takers again.
std::size_t block_size(std::size_t bytes) {
  if (bytes <= smallest_block) return smallest_block;
  const bool large = bytes > largest_small_block;
  const std::size_t step = large ? alignment : std::max<std::size_t>(std::bit_floor(bytes) / 8, alignment);
  return (bytes + step - 1) / step * step + (large ? stagger : 0);
}

class Pool {
 public:
  void* take(std::size_t block) {
    const std::lock_guard lock(mutex_);
    void* memory = find(block);
    if (!memory) {
      release_cached();
      memory = find(block);
    }
    if (!memory) return nullptr;
    used_ += block;
    if (poison_) std::fill_n(static_cast<std::uint16_t*>(memory), block / sizeof(std::uint16_t), memory_poison);
    return memory;
  }

  /// Called where arrays die, so it must not throw.
  void give_back(void* memory, std::size_t block) noexcept {
    const std::lock_guard lock(mutex_);
    used_ -= block;
    const bool keep = cached() + block <= limit_;
    if (block > largest_small_block) return arena_.give_back(memory, block, keep);
    if (!keep) return std::free(memory);
    try {
      small_[block].push_back(memory);
      small_cached_ += block;
    } catch (const std::bad_alloc&) {  // no memory to remember the block by: the system gets it back
      std::free(memory);
    }
  }

  void trim() {
    const std::lock_guard lock(mutex_);
    release_cached();
  }

  void set_limit(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    limit_ = bytes;
    if (cached() > limit_) release_cached();
  }

  void set_poison(bool poison) { poison_ = poison || poisons_memory(); }
  std::size_t used() const { return used_; }
  std::size_t cached() const { return small_cached_ + arena_.cached(); }

 private:
  void* find(std::size_t block) {
    if (block > largest_small_block) return arena_.take(block);
    auto& free_blocks = small_[block];
    if (free_blocks.empty()) return std::aligned_alloc(alignment, block);
    void* memory = free_blocks.back();
    free_blocks.pop_back();
    small_cached_ -= block;
    return memory;
  }

  void release_cached() {
    for (auto& [block, memories] : small_)
      for (void* memory : memories) std::free(memory);
    small_.clear();
    small_cached_ = 0;
    arena_.release();
  }

  std::mutex mutex_;
  std::unordered_map<std::size_t, std::vector<void*>> small_;  // free ones by size
  Arena arena_;
  std::size_t used_ = 0, small_cached_ = 0, limit_ = std::size_t{1} << 30;
  bool poison_ = poisons_memory();
};

// Never destroyed: arrays may outlive every static object.
Pool& pool() {
  static Pool* the_pool = new Pool;
  return *the_pool;
}

constexpr const char* block_name = "imgrec_engine.block";  // other libraries' arrays may have capsules for bases, too

constexpr py::ssize_t most_dimensions = 64;  // NumPy's

void give_block_back(PyObject* capsule) {
  void* memory = PyCapsule_GetPointer(capsule, block_name);
  pool().give_back(memory, reinterpret_cast<std::size_t>(PyCapsule_GetContext(capsule)));
}

/// Every operation calls it, so it goes to Python's and NumPy's own interfaces.
py::object empty(const py::object& shape, const py::dtype& dtype) {
  const auto lengths = py::reinterpret_steal<py::object>(PySequence_Fast(shape.ptr(), "empty: shape is no sequence"));
  if (!lengths) throw py::error_already_set();
  const py::ssize_t ndim = PySequence_Fast_GET_SIZE(lengths.ptr());
  if (ndim > most_dimensions)
    throw ShapeError("empty: there are " + std::to_string(ndim) + " dimensions, expected at most " +
                     std::to_string(most_dimensions));
  std::array<py::ssize_t, most_dimensions> sizes;
  auto bytes = static_cast<std::size_t>(dtype.itemsize());
  for (py::ssize_t i = 0; i < ndim; ++i) {
    const py::ssize_t length = PyNumber_AsSsize_t(PySequence_Fast_GET_ITEM(lengths.ptr(), i), PyExc_OverflowError);
    if (length == -1 && PyErr_Occurred()) throw py::error_already_set();
    if (length < 0) throw ShapeError("empty: a dimension is " + std::to_string(length) + ", expected 0 or more");
    if (__builtin_mul_overflow(bytes, static_cast<std::size_t>(length), &bytes) || bytes > (std::size_t{1} << 62))
      throw std::bad_alloc();
    sizes[static_cast<std::size_t>(i)] = length;
  }
  const std::size_t block = block_size(bytes);
  void* memory = pool().take(block);
  if (!memory) throw std::bad_alloc();
  auto owner = py::reinterpret_steal<py::object>(PyCapsule_New(memory, block_name, &give_block_back));
  if (!owner) {
    pool().give_back(memory, block);
    throw py::error_already_set();
  }
  // The block's size travels in the capsule's context: the owner must know it to give the block back.
  PyCapsule_SetContext(owner.ptr(), reinterpret_cast<void*>(block));
  const auto& numpy = py::detail::npy_api::get();
  auto array = py::reinterpret_steal<py::object>(
      numpy.PyArray_NewFromDescr_(numpy.PyArray_Type_, dtype.inc_ref().ptr(), static_cast<int>(ndim), sizes.data(),
                                  nullptr, memory, py::detail::npy_api::NPY_ARRAY_WRITEABLE_, nullptr));
  if (!array || numpy.PyArray_SetBaseObject_(array.ptr(), owner.release().ptr()) < 0) throw py::error_already_set();
  return array;
}

}  // namespace

IMGREC_BINDINGS(memory) {
  module.def("empty", &empty, py::arg("shape"), py::arg("dtype"), "An uninitialised array from the pool.");
  module.def("pool_trim", [] { pool().trim(); }, "Gives all cached memory back to the system.");
  module.def(
      "pool_limit", [](std::size_t bytes) { pool().set_limit(bytes); }, py::arg("bytes"),
      "How much unused memory the pool may keep.");
  module.def(
      "pool_poison", [](bool poison) { pool().set_poison(poison); }, py::arg("poison"),
      "Whether new arrays are filled with NaN, so that what a kernel forgets to write shows.");
  module.def(
      "pool_owns", [](py::handle base) { return PyCapsule_IsValid(base.ptr(), block_name) != 0; }, py::arg("base"),
      "Whether memory whose array has this base is the pool's.");
  module.def("pool_used", [] { return pool().used(); }, "Bytes in live arrays.");
  module.def("pool_cached", [] { return pool().cached(); }, "Bytes kept for reuse.");
}

}  // namespace imgrec::bindings
