#include "ops/target.h"

namespace imgrec {

const char* kernel_target() { return IMGREC_CPU_LEVEL; }

}  // namespace imgrec
