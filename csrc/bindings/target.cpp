#include "ops/target.h"

#include "bindings/array.h"

namespace imgrec::bindings {

IMGREC_BINDINGS(target) { module.def("kernel_target", &kernel_target); }

}  // namespace imgrec::bindings
