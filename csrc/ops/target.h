// What the kernels of this build were compiled for, in the compiler's words: "x86-64-v4", "sm_90a", ...
#pragma once

namespace imgrec {

const char* kernel_target();

}  // namespace imgrec
