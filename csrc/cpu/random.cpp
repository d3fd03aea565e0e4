// Compiled with -ffp-contract=off: fused operations would give other bits than the GPU (see ops/philox.h).
#include "ops/random.h"

#include "cpu/dtypes.h"
#include "cpu/parallel.h"
#include "ops/philox.h"

namespace imgrec {
namespace cpu {
namespace {

constexpr std::int64_t grain = 1 << 12;  // counters a task

/// Calls write(index, value) for every element of a draw that takes `per_counter` numbers from each counter.
template <int per_counter, class Generate>
void draw(const Context& context, std::int64_t size, const Array& state, Generate&& generate) {
  const auto seed = static_cast<std::uint64_t>(state.as<const std::int64_t>()[0]);
  const auto offset = static_cast<std::uint64_t>(state.as<const std::int64_t>()[1]);
  const std::int64_t counters = (size + per_counter - 1) / per_counter;
  parallel_range(context, counters, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t counter = begin; counter < end; ++counter) {
      const PhiloxWords words = philox(seed, offset, static_cast<std::uint64_t>(counter));
      const std::int64_t first = counter * per_counter;
      const std::int64_t count = size - first < per_counter ? size - first : per_counter;
      generate(words, first, static_cast<int>(count));
    }
  });
}

}  // namespace
}  // namespace cpu

void random_bits(const Context&, const Array& out, const Array& state, std::uint64_t first) {
  const auto seed = static_cast<std::uint64_t>(state.as<const std::int64_t>()[0]);
  const auto offset = static_cast<std::uint64_t>(state.as<const std::int64_t>()[1]);
  for (std::int64_t i = 0; i < out.shape[0]; ++i) {
    const PhiloxWords words = philox(seed, offset, first + static_cast<std::uint64_t>(i));
    for (int j = 0; j < 4; ++j) out.as<std::int64_t>()[4 * i + j] = words.word[j];
  }
}

void random_uniform(const Context& context, const Array& out, const Array& state, double low, double high) {
  if (out.dtype == DType::float64) {
    auto* to = out.as<double>();
    return cpu::draw<2>(context, out.size(), state, [=](const PhiloxWords& words, std::int64_t first, int count) {
      for (int i = 0; i < count; ++i)
        to[first + i] = low + (high - low) * uniform_double(words.word[2 * i], words.word[2 * i + 1]);
    });
  }
  auto* to = out.as<float>();
  const auto from = static_cast<float>(low), range = static_cast<float>(high - low);
  cpu::draw<4>(context, out.size(), state, [=](const PhiloxWords& words, std::int64_t first, int count) {
    for (int i = 0; i < count; ++i) to[first + i] = from + range * uniform_float(words.word[i]);
  });
}

void random_normal(const Context& context, const Array& out, const Array& state, double mean, double deviation) {
  const bool wide = out.dtype == DType::float64;
  cpu::draw<2>(context, out.size(), state, [=](const PhiloxWords& words, std::int64_t first, int count) {
    const NormalPair pair = normal_pair(words);
    const double values[2] = {mean + deviation * pair.first, mean + deviation * pair.second};
    for (int i = 0; i < count; ++i) {
      if (wide)
        out.as<double>()[first + i] = values[i];
      else
        out.as<float>()[first + i] = static_cast<float>(values[i]);
    }
  });
}

void dropout(const Context& context, const Array& y, const Array& x, const Array& state, double probability) {
  cpu::for_floating(x.dtype, [&](auto tag) {
    using S = decltype(tag);
    using T = cpu::Compute<S>;
    const auto threshold = static_cast<float>(probability);
    const T scale = probability < 1 ? T(1 / (1 - probability)) : T(0);
    S* to = y.as<S>();
    const S* from = x.as<const S>();
    cpu::draw<4>(context, x.size(), state, [=](const PhiloxWords& words, std::int64_t first, int count) {
      for (int i = 0; i < count; ++i) {
        const bool keep = uniform_float(words.word[i]) >= threshold;
        to[first + i] = cpu::narrow<S>(keep ? cpu::widen(from[first + i]) * scale : T(0));
      }
    });
  });
}

}  // namespace imgrec
