// DLPack 1.0 both ways (https://dmlc.github.io/dlpack): memory shared with PyTorch, CuPy, JAX, TensorFlow. NumPy's own
// exchange refuses bfloat16. The structures below are the standard's binary interface, hence their layout.
#include <memory>
#include <vector>

#include "bindings/array.h"

namespace imgrec::bindings::dlpack {
namespace {

struct DLDevice {
  std::int32_t type, id;
};

struct DLDataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};

struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLDataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null for row-major
  std::uint64_t byte_offset;
};

struct Managed {  // DLManagedTensor
  DLTensor tensor;
  void* owner;
  void (*deleter)(Managed*);
  static constexpr const char* name = "dltensor";
  static constexpr const char* used_name = "used_dltensor";
};

struct ManagedVersioned {  // DLManagedTensorVersioned
  std::uint32_t major, minor;
  void* owner;
  void (*deleter)(ManagedVersioned*);
  std::uint64_t flags;
  DLTensor tensor;
  static constexpr const char* name = "dltensor_versioned";
  static constexpr const char* used_name = "used_dltensor_versioned";
};

constexpr std::int32_t cpu_type = 1;
constexpr std::uint64_t read_only_flag = 1, copied_flag = 2;

struct Kind {
  std::uint8_t code, bits;
};
constexpr Kind kinds[] = {{2, 32}, {2, 64}, {2, 16}, {4, 16}, {0, 64}, {0, 32}, {1, 8}, {6, 8}};  // in DType's order
const char* const kind_names[] = {"float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool_"};

/// What an exported tensor keeps alive: the array, and the numbers that DLTensor points to.
template <class M>
struct Export {
  M managed{};
  Array view;
  py::object array;
};

template <class M>
void release(M* managed) {
  const py::gil_scoped_acquire held;
  delete static_cast<Export<M>*>(managed->owner);
}

/// A capsule that nobody has consumed still owns its tensor.
template <class M>
void destroy_capsule(PyObject* capsule) {
  if (!PyCapsule_IsValid(capsule, M::name)) return;
  auto* managed = static_cast<M*>(PyCapsule_GetPointer(capsule, M::name));
  managed->deleter(managed);
}

template <class M>
std::unique_ptr<Export<M>> describe_export(const py::array& array) {
  auto made = std::make_unique<Export<M>>();
  make_view(array, made->view);
  made->array = array;
  const Kind kind = kinds[static_cast<int>(made->view.dtype)];
  made->managed.tensor = {made->view.data,
                          {cpu_type, 0},
                          made->view.ndim,
                          {kind.code, kind.bits, 1},
                          made->view.shape,
                          made->view.strides,
                          0};
  made->managed.owner = made.get();
  made->managed.deleter = &release<M>;
  return made;
}

template <class M>
py::object to_capsule(std::unique_ptr<Export<M>> made) {
  PyObject* capsule = PyCapsule_New(&made->managed, M::name, &destroy_capsule<M>);
  if (!capsule) throw py::error_already_set();
  made.release();
  return py::reinterpret_steal<py::object>(capsule);
}

py::object export_array(const py::array& array, bool versioned, bool copied) {
  if (!versioned) return to_capsule(describe_export<Managed>(array));
  auto made = describe_export<ManagedVersioned>(array);
  made->managed.major = 1;
  made->managed.flags = (array.writeable() ? 0 : read_only_flag) | (copied ? copied_flag : 0);
  return to_capsule(std::move(made));
}

py::dtype dtype_of(const DLDataType& given) {
  for (std::size_t i = 0; i < std::size(kinds); ++i)
    if (given.lanes == 1 && kinds[i].code == given.code && kinds[i].bits == given.bits)
      return py::dtype::from_args(py::module_::import(i == 3 ? "ml_dtypes" : "numpy").attr(kind_names[i]));
  throw DTypeError("from_dlpack: the tensor has DLPack dtype (code " + std::to_string(given.code) + ", " +
                   std::to_string(given.bits) + " bits, " + std::to_string(given.lanes) +
                   " lanes), expected float32, float64, float16, bfloat16, int64, int32, uint8 or bool");
}

/// An array that shares the tensor's memory and gives it back when it dies.
template <class M>
py::array import_capsule(const py::object& capsule) {
  auto* managed = static_cast<M*>(PyCapsule_GetPointer(capsule.ptr(), M::name));
  const DLTensor& tensor = managed->tensor;
  if (tensor.device.type != cpu_type)
    throw py::buffer_error("from_dlpack: the tensor is on DLPack device type " + std::to_string(tensor.device.type) +
                           ", expected 1, the CPU");
  const py::dtype dtype = dtype_of(tensor.dtype);
  const std::vector<py::ssize_t> shape(tensor.shape, tensor.shape + tensor.ndim);
  std::vector<py::ssize_t> strides(shape.size());
  py::ssize_t expected = dtype.itemsize();
  for (int i = tensor.ndim - 1; i >= 0; --i) {
    strides[i] = tensor.strides ? tensor.strides[i] * dtype.itemsize() : expected;
    expected *= shape[i];
  }
  char* data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  PyCapsule_SetName(capsule.ptr(), M::used_name);
  const py::capsule owner(managed, [](void* pointer) {
    auto* dying = static_cast<M*>(pointer);
    if (dying->deleter) dying->deleter(dying);
  });
  return py::array(dtype, shape, strides, data, owner);
}

py::array import_array(const py::object& capsule) {
  if (PyCapsule_IsValid(capsule.ptr(), Managed::name)) return import_capsule<Managed>(capsule);
  if (!PyCapsule_IsValid(capsule.ptr(), ManagedVersioned::name))
    throw py::type_error("from_dlpack: __dlpack__() gave no unused DLPack capsule");
  const auto* managed = static_cast<ManagedVersioned*>(PyCapsule_GetPointer(capsule.ptr(), ManagedVersioned::name));
  if (managed->major != 1)
    throw py::buffer_error("from_dlpack: the capsule is of DLPack version " + std::to_string(managed->major) +
                           ", expected 1");
  const bool read_only = managed->flags & read_only_flag;
  py::array array = import_capsule<ManagedVersioned>(capsule);
  if (read_only) array.attr("setflags")(py::arg("write") = false);
  return array;
}

}  // namespace

IMGREC_BINDINGS(dlpack) {
  module.def("dlpack_export", &export_array, py::arg("array"), py::arg("versioned"), py::arg("copied"),
             "A DLPack capsule that shares the array's memory.");
  module.def("dlpack_import", &import_array, py::arg("capsule"),
             "An array that shares the memory of a DLPack capsule.");
}

}  // namespace imgrec::bindings::dlpack
