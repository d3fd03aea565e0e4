#include "cpu/storage.h"

#include <type_traits>

#include "cpu/vector_io.h"

namespace imgrec::cpu {

template <class T>
void widen_all(T* to, const void* from, DType dtype, std::int64_t offset, std::int64_t count) {
  for_floating(dtype, [&](auto tag) {
    using S = decltype(tag);
    if constexpr (std::is_same_v<Compute<S>, T>) {
      const S* elements = static_cast<const S*>(from) + offset;
      for_vectors<S>(0, count, [&](std::int64_t i, int n) { store_narrow(to + i, load_wide(elements + i, n), n); });
    }
  });
}

template <class T>
void narrow_all(void* to, DType dtype, std::int64_t offset, const T* from, std::int64_t count) {
  for_floating(dtype, [&](auto tag) {
    using S = decltype(tag);
    if constexpr (std::is_same_v<Compute<S>, T>) {
      S* elements = static_cast<S*>(to) + offset;
      for_vectors<S>(0, count, [&](std::int64_t i, int n) { store_narrow(elements + i, load_wide(from + i, n), n); });
    }
  });
}

template void widen_all(float*, const void*, DType, std::int64_t, std::int64_t);
template void widen_all(double*, const void*, DType, std::int64_t, std::int64_t);
template void narrow_all(void*, DType, std::int64_t, const float*, std::int64_t);
template void narrow_all(void*, DType, std::int64_t, const double*, std::int64_t);

}  // namespace imgrec::cpu
