#include "bindings/array.h"

#include <bit>
#include <cstddef>
#include <vector>

#include "ops/error.h"

namespace imgrec::bindings {
namespace {

/// NumPy's number for ml_dtypes.bfloat16, which is handed out when ml_dtypes is imported.
int bfloat16_number() {
  static const int number = py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16")).num();
  return number;
}

std::string shape_text(const std::int64_t* shape, int ndim) {
  std::string text = "(";
  for (int i = 0; i < ndim; ++i)
    text += (i ? ", " : "") + (shape[i] < 0 ? std::string("any") : std::to_string(shape[i]));
  return text + (ndim == 1 ? ",)" : ")");
}

const char* name_of(DType dtype) {
  static const char* const names[] = {"float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool"};
  return names[static_cast<int>(dtype)];
}

std::vector<Registration>& registrations() {
  static std::vector<Registration> all;
  return all;
}

}  // namespace

bool find_dtype(const py::dtype& dtype, DType& found) {
  using numbers = py::detail::npy_api;
  constexpr int half = 23;  // NPY_HALF, which pybind11 does not name
  if (dtype.byteorder() == (std::endian::native == std::endian::little ? '>' : '<')) return false;
  const int number = dtype.num();
  if (number == numbers::NPY_FLOAT_)
    found = DType::float32;
  else if (number == numbers::NPY_DOUBLE_)
    found = DType::float64;
  else if (number == numbers::NPY_INT64_ || number == numbers::NPY_LONGLONG_)
    found = DType::int64;
  else if (number == numbers::NPY_INT32_)
    found = DType::int32;
  else if (number == numbers::NPY_UINT8_)
    found = DType::uint8;
  else if (number == numbers::NPY_BOOL_)
    found = DType::boolean;
  else if (number == half)
    found = DType::float16;
  else if (number == bfloat16_number())
    found = DType::bfloat16;
  else
    return false;
  return true;
}

/// What NumPy's and CuPy's arrays tell of themselves; strides in bytes.
struct Layout {
  py::dtype dtype;
  void* data;
  int ndim;
  const py::ssize_t *shape, *strides;
};

static void fill_view(const Layout& layout, Array& view) {
  if (!find_dtype(layout.dtype, view.dtype))
    throw DTypeError("an array of dtype " + std::string(py::str(layout.dtype)) +
                     " was given, expected float32, float64, float16, bfloat16, int64, int32, uint8 or bool" +
                     " in this machine's byte order");
  if (layout.ndim > max_dimensions)
    throw ShapeError("an array has " + std::to_string(layout.ndim) + " dimensions, expected at most " +
                     std::to_string(max_dimensions));
  view.data = layout.data;
  view.ndim = layout.ndim;
  const std::int64_t item = size_of(view.dtype);
  bool aligned = reinterpret_cast<std::uintptr_t>(layout.data) % item == 0;
  for (int i = 0; i < view.ndim; ++i) {
    view.shape[i] = layout.shape[i];
    view.strides[i] = layout.strides[i] / item;
    aligned &= layout.strides[i] % item == 0 || layout.shape[i] < 2;
  }
  if (!aligned && view.size() > 0)
    throw ShapeError("an array's elements do not lie at multiples of their size in memory; copy it first");
}

bool make_host_view(py::handle object, Array& view) {
  if (object.is_none()) {
    view = Array{};
    return true;
  }
  if (!py::isinstance<py::array>(object)) return false;
  const auto* array = py::detail::array_proxy(object.ptr());
  fill_view(
      {py::reinterpret_borrow<py::dtype>(array->descr), array->data, array->nd, array->dimensions, array->strides},
      view);
  return true;
}

/// The type of the arrays that the module serves where Python has named one; null for NumPy's and its subclasses.
static PyTypeObject* served_type = nullptr;

static void serve_arrays(const py::type& type) { served_type = reinterpret_cast<PyTypeObject*>(type.inc_ref().ptr()); }

/// Fills `view` from the attributes of an array of CuPy, which are NumPy's but for the address, `array.data.ptr`.
static void fill_view_from_attributes(py::handle array, Array& view) {
  static PyObject* const names[] = {PyUnicode_InternFromString("dtype"), PyUnicode_InternFromString("data"),
                                    PyUnicode_InternFromString("ptr"), PyUnicode_InternFromString("shape"),
                                    PyUnicode_InternFromString("strides")};
  const auto get = [](py::handle object, int name) { return py::getattr(object, names[name]); };
  const py::tuple shape = get(array, 3), strides = get(array, 4);
  py::ssize_t lengths[max_dimensions], steps[max_dimensions];
  for (std::size_t i = 0; i < shape.size() && i < max_dimensions; ++i) {
    lengths[i] = shape[i].cast<py::ssize_t>();
    steps[i] = strides[i].cast<py::ssize_t>();
  }
  const auto address = get(get(array, 1), 2).cast<std::uintptr_t>();
  fill_view({get(array, 0), reinterpret_cast<void*>(address), static_cast<int>(shape.size()), lengths, steps}, view);
}

bool make_view(py::handle object, Array& view) {
  if ((!served_type && serves_host_memory()) || object.is_none()) return make_host_view(object, view);
  if (Py_TYPE(object.ptr()) == served_type) {
    fill_view_from_attributes(object, view);
    return true;
  }
  if (!py::isinstance<py::array>(object)) return false;
  throw py::type_error("an array of NumPy was given, but the kernels of this module work on the memory of a GPU");
}

bool make_output_view(py::handle object, Output& view) {
  if (!make_view(object, view)) return false;
  if (py::isinstance<py::array>(object) &&
      !py::detail::check_flags(object.ptr(), py::detail::npy_api::NPY_ARRAY_WRITEABLE_))
    throw ShapeError("the array " + describe(view) + " is to be written, but it is read-only");
  return true;
}

std::string describe(const Array& array) {
  if (!array) return "None";
  return std::string(name_of(array.dtype)) + " " + shape_text(array.shape, array.ndim);
}

Array described(const std::vector<std::int64_t>& shape, DType dtype) {
  if (shape.size() > max_dimensions)
    throw ShapeError("an array has " + std::to_string(shape.size()) + " dimensions, expected at most " +
                     std::to_string(max_dimensions));
  Array array{.dtype = dtype, .ndim = static_cast<int>(shape.size())};
  std::int64_t stride = 1;
  for (int i = array.ndim - 1; i >= 0; --i) {
    array.shape[i] = shape[static_cast<std::size_t>(i)];
    array.strides[i] = stride;
    stride *= array.shape[i];
  }
  return array;
}

Array as_rows(const Array& array) {
  const std::int64_t columns = array.shape[array.ndim - 1];
  std::int64_t rows = 1;
  for (int i = 0; i < array.ndim - 1; ++i) rows *= array.shape[i];
  return {array.data, array.dtype, 2, {rows, columns}, {columns, 1}};
}

Array row_of(const Array& matrix, std::int64_t i) {
  auto* const bytes = static_cast<std::byte*>(matrix.data);
  return {bytes + i * matrix.shape[1] * size_of(matrix.dtype), matrix.dtype, 1, {matrix.shape[1]}, {1}};
}

void Check::shape_error(const std::string& message) const { throw ShapeError(std::string(op_) + ": " + message); }

std::string Check::label(const char* name) const {
  return place_ < 0 ? name : std::string(name) + "[" + std::to_string(place_) + "]";
}

void Check::shape(const char* name, const Array& array, std::initializer_list<std::int64_t> expected,
                  const char* meaning) const {
  const std::int64_t* wanted = expected.begin();
  bool right = array.ndim == static_cast<int>(expected.size());
  for (int i = 0; right && i < array.ndim; ++i) right = wanted[i] < 0 || wanted[i] == array.shape[i];
  if (!right)
    shape_error(label(name) + " is " + describe(array) + ", expected " + meaning + " = " +
                shape_text(wanted, static_cast<int>(expected.size())));
}

void Check::floating(const char* name, const Array& array) const {
  if (array && array.dtype <= DType::bfloat16) return;
  throw DTypeError(std::string(op_) + ": " + label(name) + " is " + describe(array) +
                   ", expected float32, float64, float16 or bfloat16");
}

void Check::dtype(const char* name, const Array& array, DType expected) const {
  if (array && array.dtype == expected) return;
  throw DTypeError(std::string(op_) + ": " + label(name) + " is " + describe(array) + ", expected " +
                   name_of(expected));
}

void Check::contiguous(const char* name, const Array& array) const {
  if (!array.contiguous()) shape_error(label(name) + " must be contiguous in row-major order");
}

void Check::exact(const char* name, const Array& array, std::initializer_list<std::int64_t> expected, DType wanted,
                  const char* meaning) const {
  dtype(name, array, wanted);
  shape(name, array, expected, meaning);
  contiguous(name, array);
}

void Check::same_shape(const char* name, const Array& array, const char* other_name, const Array& other) const {
  bool same = array.ndim == other.ndim;
  for (int i = 0; same && i < array.ndim; ++i) same = array.shape[i] == other.shape[i];
  if (!same)
    shape_error(label(name) + " is " + describe(array) + ", but " + label(other_name) + " is " + describe(other) +
                "; they must have the same shape");
}

void Check::alike(const char* name, const Array& array, const char* other_name, const Array& other) const {
  dtype(name, array, other.dtype);
  same_shape(name, array, other_name, other);
  contiguous(name, array);
}

void Check::memory(const char* name, const Array& array, std::int64_t bytes) const {
  dtype(name, array, DType::uint8);
  contiguous(name, array);
  if (array.size() < bytes)
    shape_error(label(name) + " has " + std::to_string(array.size()) + " bytes, expected " + std::to_string(bytes));
  if (bytes > 0 && reinterpret_cast<std::uintptr_t>(array.data) % alignof(std::max_align_t) != 0)
    shape_error(label(name) + " must be aligned as arrays from `empty` are");
}

void Check::workspace(const Array& array, std::int64_t bytes) const {
  if (bytes > 0) memory("workspace", array, bytes);
}

void Check::packed(const Array& array, std::int64_t bytes) const {
  if (bytes > 0) memory("packed", array, bytes);
}

void Check::same_length(const char* name, std::size_t length, const char* other_name, std::size_t other) const {
  if (length != other)
    shape_error(label(name) + " has " + std::to_string(length) + " arrays, but " + label(other_name) + " has " +
                std::to_string(other) + "; they must have as many");
}

bool add_registration(Registration registration) {
  registrations().push_back(registration);
  return true;
}

/// Turns the errors above into the classes of imgrec_engine.errors, which Python code catches by name.
static void translate_errors(std::exception_ptr pointer) {
  const auto raise = [](const char* name, const char* message) {
    py::set_error(py::module_::import("imgrec_engine.errors").attr(name), message);
  };
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const ShapeError& error) {
    raise("ShapeError", error.what());
  } catch (const DTypeError& error) {
    raise("DTypeError", error.what());
  } catch (const KernelError& error) {
    raise("KernelError", error.what());
  } catch (const std::bad_alloc&) {
    raise("OutOfMemoryError", "the system has no more memory to give");
  }
}

/// Beyond any machine, and small enough that no size of scratch memory overflows.
constexpr std::int64_t most_threads = 1 << 16, most_multiprocessors = 1 << 16, most_shared_bytes = 1 << 30,
                       most_devices = 1 << 10;

template <class T>
static T checked(const char* name, T value, std::int64_t least, std::int64_t most) {
  if (value >= least && value <= most) return value;
  throw py::value_error(std::string(name) + " is " + std::to_string(value) + ", expected " + std::to_string(least) +
                        " to " + std::to_string(most));
}

static Context make_context(int threads, int sm_count, std::int64_t max_shared_bytes, std::uintptr_t stream, int device,
                            bool allow_tf32) {
  return Context{.stream = reinterpret_cast<void*>(stream),
                 .device = checked("device", device, 0, most_devices),
                 .sm_count = checked("sm_count", sm_count, 0, most_multiprocessors),
                 .max_shared_bytes = checked("max_shared_bytes", max_shared_bytes, 0, most_shared_bytes),
                 .threads = checked("threads", threads, 1, most_threads),
                 .allow_tf32 = allow_tf32};
}

static void bind_common(py::module_& module) {
  py::register_local_exception_translator(translate_errors);
  // Local to the module: every device's module registers the same types, and one process may load them all.
  py::class_<Context>(module, "Context", "Where and with what an operation runs.", py::module_local())
      .def(py::init(&make_context), py::arg("threads"), py::arg("sm_count") = 0, py::arg("max_shared_bytes") = 0,
           py::arg("stream") = 0, py::arg("device") = 0, py::arg("allow_tf32") = false)
      .def_readonly("sm_count", &Context::sm_count)
      .def_readonly("max_shared_bytes", &Context::max_shared_bytes)
      .def_property_readonly("stream",
                             [](const Context& context) { return reinterpret_cast<std::uintptr_t>(context.stream); })
      .def_readonly("device", &Context::device)
      .def_readonly("allow_tf32", &Context::allow_tf32)
      .def_readonly("threads", &Context::threads);
  py::class_<Plan>(module, "Plan", "What an operation needs besides its arguments.", py::module_local())
      .def_readonly("algorithm", &Plan::algorithm)
      .def_readonly("workspace_bytes", &Plan::workspace_bytes)
      .def_readonly("reserve_bytes", &Plan::reserve_bytes)
      .def_readonly("packed_bytes", &Plan::packed_bytes);
  module.def("serve_arrays", &serve_arrays, py::arg("type"),
             "From now on the arrays of this type, whose attributes are those of cupy.ndarray, and no others.");
  for (Registration registration : registrations()) registration(module);
}

}  // namespace imgrec::bindings

// The same object code is linked into every module: each has all entry points, and Python calls the one of its name.
#define IMGREC_MODULE(name)                                                 \
  PYBIND11_MODULE(name, module) {                                           \
    module.doc() = "Hand-written kernels of imgrec_engine for one device."; \
    imgrec::bindings::bind_common(module);                                  \
  }
IMGREC_MODULE(_cpu)
IMGREC_MODULE(_cuda)
IMGREC_MODULE(_sim)
IMGREC_MODULE(_sim_checked)
