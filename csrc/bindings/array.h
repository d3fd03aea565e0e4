// How Python's arrays become the contract's views, and how bad arguments become errors that name them.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <initializer_list>
#include <string>
#include <vector>

#include "ops/array.h"
#include "ops/memory.h"

namespace imgrec::bindings {

namespace py = pybind11;

/// Raised as imgrec_engine.errors.ShapeError / DTypeError.
struct ShapeError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct DTypeError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// What an operation writes: a view that only writable arrays become.
struct Output : Array {};

/// Lists of arrays, from any sequence in Python.
using ArrayList = std::vector<Array>;
struct OutputList : ArrayList {};

/// What lies in the host's memory on every device, where the contract says so.
struct HostArray : Array {};

/// Fills `view` from None or an array of the kind that the module serves: NumPy's, or those of the type that Python has
/// named with `serve_arrays`, which are CuPy's. False where the object is no array, so that pybind11 reports a
/// TypeError; an array of another kind, or one that the contract cannot describe, is an error.
bool make_view(py::handle object, Array& view);

/// The same for an array of NumPy, whatever the module serves.
bool make_host_view(py::handle object, Array& view);

/// The same for an array that is to be written.
bool make_output_view(py::handle object, Output& view);

/// False where the dtype is not one of ours.
bool find_dtype(const py::dtype& dtype, DType& found);

std::string describe(const Array& array);

/// An array without memory, to check what is known before there is any: contiguous, of a shape and dtype.
Array described(const std::vector<std::int64_t>& shape, DType dtype);

/// A contiguous array (..., C) as the matrix (rows, C).
Array as_rows(const Array& array);

/// Row i of a contiguous matrix.
Array row_of(const Array& matrix, std::int64_t i);

/// Checks for one operation: each failure names the operation and the argument, what was seen and what would be right.
class Check {
 public:
  explicit Check(const char* op) : op_(op) {}
  /// For what stands at one place of the lists that the operation was given.
  Check(const char* op, std::size_t place) : op_(op), place_(static_cast<std::int64_t>(place)) {}

  [[noreturn]] void shape_error(const std::string& message) const;

  /// -1 in `expected` admits any length.
  void shape(const char* name, const Array& array, std::initializer_list<std::int64_t> expected,
             const char* meaning) const;
  void floating(const char* name, const Array& array) const;
  void dtype(const char* name, const Array& array, DType expected) const;
  void contiguous(const char* name, const Array& array) const;
  /// A contiguous array of the shape and dtype given; what outputs and most inputs must be.
  void exact(const char* name, const Array& array, std::initializer_list<std::int64_t> expected, DType dtype,
             const char* meaning) const;
  void same_shape(const char* name, const Array& array, const char* other_name, const Array& other) const;
  /// A contiguous array of the shape and dtype of another.
  void alike(const char* name, const Array& array, const char* other_name, const Array& other) const;
  /// Memory for a kernel's own use: uint8, contiguous, aligned for any number, of at least `bytes`.
  void memory(const char* name, const Array& array, std::int64_t bytes) const;
  /// Memory that is not looked at where none is needed.
  void workspace(const Array& array, std::int64_t bytes) const;
  void packed(const Array& array, std::int64_t bytes) const;
  /// As many arrays as in the other list.
  void same_length(const char* name, std::size_t length, const char* other_name, std::size_t other) const;

 private:
  std::string label(const char* name) const;

  const char* op_;
  std::int64_t place_ = -1;
};

/// Every file of this folder adds its family's functions through one of these; there is no list of families.
using Registration = void (*)(py::module_&);
bool add_registration(Registration registration);

#define IMGREC_BINDINGS(family)                                                                           \
  static void bind_##family(pybind11::module_& module);                                                   \
  [[maybe_unused]] static const bool family##_added = imgrec::bindings::add_registration(&bind_##family); \
  static void bind_##family(pybind11::module_& module)

}  // namespace imgrec::bindings

namespace pybind11::detail {

// The first argument of every operation, so that its conversion is where an operation begins.
template <>
struct type_caster<imgrec::Context> : type_caster_base<imgrec::Context> {
  bool load(handle source, bool convert) {
    imgrec::begin_operation();
    return type_caster_base::load(source, convert);
  }
};

template <>
struct type_caster<imgrec::Array> {
  PYBIND11_TYPE_CASTER(imgrec::Array, const_name("numpy.typing.NDArray[typing.Any] | None"));
  bool load(handle source, bool) {
    if (!imgrec::bindings::make_view(source, value)) return false;
    imgrec::give_array(value, false);
    return true;
  }
};

template <>
struct type_caster<imgrec::bindings::HostArray> {
  PYBIND11_TYPE_CASTER(imgrec::bindings::HostArray, const_name("numpy.typing.NDArray[typing.Any] | None"));
  bool load(handle source, bool) {
    if (!imgrec::bindings::make_host_view(source, value)) return false;
    imgrec::give_array(value, false);
    return true;
  }
};

template <>
struct type_caster<imgrec::bindings::Output> {
  PYBIND11_TYPE_CASTER(imgrec::bindings::Output, const_name("numpy.typing.NDArray[typing.Any] | None"));
  bool load(handle source, bool) {
    if (!imgrec::bindings::make_output_view(source, value)) return false;
    imgrec::give_array(value, true);
    return true;
  }
};

template <>
struct type_caster<imgrec::bindings::OutputList> : list_caster<imgrec::bindings::OutputList, imgrec::bindings::Output> {
};

template <>
struct type_caster<imgrec::DType> {
  PYBIND11_TYPE_CASTER(imgrec::DType, const_name("numpy.dtype[typing.Any]"));
  bool load(handle source, bool) {
    return isinstance<dtype>(source) && imgrec::bindings::find_dtype(reinterpret_borrow<dtype>(source), value);
  }
};

}  // namespace pybind11::detail
