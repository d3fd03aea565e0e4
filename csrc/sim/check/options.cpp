#include "sim/check/options.h"

#include <cstdlib>
#include <sstream>
#include <stdexcept>
#include <string>

namespace imgrec::sim::check {
namespace {

void choose(Options& chosen, const std::string& word) {
  const bool all = word == "all";
  bool known = all;
  const auto name = [&](const char* own, bool& option) {
    known |= word == own;
    option |= all || word == own;
  };
  name("race", chosen.race);
  name("bounds", chosen.bounds);
  name("uninit", chosen.uninit);
  name("banks", chosen.banks);
  name("coalescing", chosen.coalescing);
  if (!known)
    throw std::invalid_argument("IMGREC_SIM_CHECK names '" + word +
                                "', expected race, bounds, uninit, banks and coalescing, separated by commas, or all");
}

}  // namespace

const Options& options() {
  static const Options all = [] {
    Options chosen;
    const char* value = std::getenv("IMGREC_SIM_CHECK");
    if (!value || !*value) return Options{.race = true, .bounds = true, .uninit = true};
    std::istringstream words(value);
    for (std::string word; std::getline(words, word, ',');) choose(chosen, word);
    return chosen;
  }();
  return all;
}

}  // namespace imgrec::sim::check
