// The vocabulary of the contract: what every operation, on every device, receives.
// Plain structures without Python, CUDA or ownership, so that one header serves all devices.
#pragma once

#include <cstdint>
#include <span>

namespace imgrec {

enum class DType : std::uint8_t { float32, float64, float16, bfloat16, int64, int32, uint8, boolean };

constexpr std::int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::float64:
    case DType::int64:
      return 8;
    case DType::float32:
    case DType::int32:
      return 4;
    case DType::float16:
    case DType::bfloat16:
      return 2;
    default:
      return 1;
  }
}

constexpr int max_dimensions = 8;

/// A view of memory that somebody else owns. Strides count elements, not bytes.
struct Array {
  void* data = nullptr;
  DType dtype = DType::float32;
  int ndim = -1;  // -1: the argument was None
  std::int64_t shape[max_dimensions] = {};
  std::int64_t strides[max_dimensions] = {};

  /// False where an optional argument was left out.
  explicit operator bool() const { return ndim >= 0; }

  std::int64_t size() const {
    std::int64_t product = 1;
    for (int i = 0; i < ndim; ++i) product *= shape[i];
    return ndim < 0 ? 0 : product;
  }

  /// Whether the elements lie in row-major order without gaps.
  bool contiguous() const {
    std::int64_t expected = 1;
    for (int i = ndim - 1; i >= 0; --i) {
      if (shape[i] != 1 && strides[i] != expected) return size() == 0;
      expected *= shape[i];
    }
    return true;
  }

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

/// Several arrays that one call works on.
using Arrays = std::span<const Array>;

/// Where and with what an operation runs. The first argument of every function of the contract.
struct Context {
  void* stream = nullptr;             // cuda: the stream to launch on
  int device = 0;                     // cuda: the GPU's index
  int sm_count = 0;                   // cuda, sim: multiprocessors
  std::int64_t max_shared_bytes = 0;  // cuda, sim: shared memory that a block may have
  int threads = 1;                    // cpu: how many threads may work at once
  bool allow_tf32 = false;            // cuda, sim: float32 products may round their factors to tf32
};

/// What an operation needs besides its arguments. A pure function of shapes, dtype and context.
///
/// Where packed_bytes is not 0, the kernels read the weights in a layout of their own, which `<op>_pack` writes and
/// which serves until the weights change. For the same weights and parameters, plans of equal algorithm and
/// packed_bytes share the layout, whatever the batch and the number of threads: so packed weights can be kept.
struct Plan {
  const char* algorithm = "";
  std::int64_t workspace_bytes = 0;  // scratch during the call
  std::int64_t reserve_bytes = 0;    // kept from forward to backward
  std::int64_t packed_bytes = 0;     // weights in the layout of the kernels; 0: they are read as they are
};

}  // namespace imgrec
