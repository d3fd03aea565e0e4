// The names by which Python asks for activations, here and in the epilogues of other families.
#pragma once

#include "bindings/array.h"
#include "ops/activation.h"

namespace imgrec::bindings {

/// An empty name is no activation; an unknown name is an error of the operation named.
inline Activation activation_named(const char* op, const std::string& name) {
  if (name.empty()) return Activation::none;
  if (name == "relu") return Activation::relu;
  if (name == "gelu") return Activation::gelu;
  if (name == "silu") return Activation::silu;
  if (name == "sigmoid") return Activation::sigmoid;
  if (name == "tanh") return Activation::tanh;
  throw py::value_error(std::string(op) + ": activation is '" + name +
                        "', expected None, 'relu', 'gelu', 'silu', 'sigmoid' or 'tanh'");
}

}  // namespace imgrec::bindings
