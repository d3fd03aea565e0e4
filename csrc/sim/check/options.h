// Which checkers run: IMGREC_SIM_CHECK.
#pragma once

namespace imgrec::sim::check {

struct Options {
  bool race = false, bounds = false, uninit = false;  // end the launch with an error
  bool banks = false, coalescing = false;             // count from the module's first launch on
};

/// From the environment, which is read once; std::invalid_argument for a word that is none of the names or "all".
/// Without any word: what ends a launch with an error.
const Options& options();

}  // namespace imgrec::sim::check
