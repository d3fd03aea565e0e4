// Runs planted cases, all or those named, and prints for each what the checkers say.
#include <algorithm>
#include <cstdio>
#include <stdexcept>

#include "planted.h"
#include "sim/check/profile.h"

using namespace imgrec;

static void print_costs() {
  for (const auto& kernel : sim::check::profile_take())
    for (const auto& [line, cost] : kernel.lines)
      std::printf("cost %s:%d wavefronts %lld of %lld sectors %lld of %lld\n", line.file.c_str(), line.number,
                  static_cast<long long>(cost.shared_wavefronts),
                  static_cast<long long>(cost.shared_minimum_wavefronts), static_cast<long long>(cost.global_sectors),
                  static_cast<long long>(cost.global_minimum_sectors));
}

int main(int count, char** names) {
  for (const auto& [name, run] : planted::cases()) {
    if (count > 1 && std::find(names + 1, names + count, name) == names + count) continue;
    std::printf("case %s\n", name.c_str());
    sim::check::profile_start();
    try {
      run();
    } catch (const std::exception& error) {
      std::printf("%s\n", error.what());
    }
    print_costs();
  }
}
