#include "ops/target.h"

#include "cuda/arch/cuda.h"

namespace imgrec {

#ifdef __CUDACC__
const char* kernel_target() { return IMGREC_CUDA_ARCHITECTURES; }
#else
const char* kernel_target() { return "the simulator"; }
#endif

}  // namespace imgrec
