// Programs of small kernels, for nvcc and for the simulator: each CASE reads its arrays from the standard input, runs,
// and writes what came out to the standard output, as bare bytes.
//
//   program NAME [threads [numbers...]]     exit status 1 and a message where a launch failed
#pragma once

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "cuda/arch/cuda.h"

namespace imgrec::program {

struct Arguments {
  Context context;
  std::vector<int> numbers;  // the meaning is the case's
};

using Case = void (*)(const Arguments&);

inline std::map<std::string, Case>& cases() {
  static std::map<std::string, Case> all;
  return all;
}

struct Registration {
  Registration(const char* name, Case run) { cases()[name] = run; }
};

/// Memory that kernels can reach.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t size) : size_(size) {
#ifdef __CUDACC__
    cuda::check(cudaMalloc(&data_, size * sizeof(T)), "cudaMalloc");
    cuda::check(cudaMemset(data_, 0, size * sizeof(T)), "cudaMemset");
#else
    data_ = static_cast<T*>(std::aligned_alloc(256, (size * sizeof(T) + 255) / 256 * 256));
    std::fill(data_, data_ + size, T{});
#endif
  }
  DeviceArray(const DeviceArray&) = delete;
  ~DeviceArray() {
#ifdef __CUDACC__
    cudaFree(data_);
#else
    std::free(data_);
#endif
  }

  T* data() const { return data_; }

  void read() {
    std::vector<T> host(size_);
    if (std::fread(host.data(), sizeof(T), size_, stdin) != size_) throw KernelError("the input is too short");
#ifdef __CUDACC__
    cuda::check(cudaMemcpy(data_, host.data(), size_ * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
#else
    std::copy(host.begin(), host.end(), data_);
#endif
  }

  void write() const {
    std::vector<T> host(size_);
#ifdef __CUDACC__
    cuda::check(cudaMemcpy(host.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
#else
    std::copy(data_, data_ + size_, host.begin());
#endif
    std::fwrite(host.data(), sizeof(T), size_, stdout);
  }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

}  // namespace imgrec::program

#define CASE(name)                                                                          \
  static void case_##name(const ::imgrec::program::Arguments&);                             \
  static const ::imgrec::program::Registration registration_of_##name(#name, &case_##name); \
  static void case_##name([[maybe_unused]] const ::imgrec::program::Arguments& arguments)
