#include "tests/sim/program.h"

int main(int count, char** words) {
  using namespace imgrec;
  program::Arguments arguments{{.sm_count = 4, .max_shared_bytes = 99 << 10}, {}};
  if (count > 2) arguments.context.threads = std::atoi(words[2]);
  for (int i = 3; i < count; ++i) arguments.numbers.push_back(std::atoi(words[i]));
  const auto found = program::cases().find(count > 1 ? words[1] : "");
  if (found == program::cases().end()) {
    std::fprintf(stderr, "usage: program CASE [threads [numbers...]]\n");
    for (const auto& [name, run] : program::cases()) std::fprintf(stderr, "  %s\n", name.c_str());
    return 2;
  }
  try {
    found->second(arguments);
  } catch (const KernelError& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
