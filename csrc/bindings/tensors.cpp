// How an operation takes the arrays of Python's tensors, and how a tensor is made of its result. This belongs to
// arguments.py and autograd.py; it is compiled because it surrounds every call, where it cost as much as a small
// kernel.
#include "bindings/array.h"

#include <pybind11/typing.h>
#include <structmember.h>

#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace imgrec::bindings {
namespace {

/// The class Tensor, whose instances have slots instead of a dictionary. Lives as long as the process.
struct TensorClass {
  PyTypeObject* type = nullptr;
  PyObject* version_type = nullptr;
  py::ssize_t array = 0, version = 0;                      // where an instance keeps these
  std::vector<std::pair<py::ssize_t, PyObject*>> initial;  // where it keeps the others, and what they begin with
};
TensorClass tensor_class;

/// What an object of the class has there: null where it was never set.
PyObject*& slot_at(PyObject* tensor, py::ssize_t offset) {
  return *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(tensor) + offset);
}

void serve_tensors(const py::object& fresh) {
  TensorClass found;
  found.type = Py_TYPE(fresh.ptr());
  const py::object type = py::type::of(fresh);
  for (const py::handle name : type.attr("__slots__")) {
    const py::object slot = type.attr(name);
    if (Py_TYPE(slot.ptr()) != &PyMemberDescr_Type) continue;  // __weakref__
    const py::ssize_t offset = reinterpret_cast<PyMemberDescrObject*>(slot.ptr())->d_member->offset;
    const auto text = name.cast<std::string>();
    py::object value = fresh.attr(name);
    if (text == "_array")
      found.array = offset;
    else if (text == "_version")
      found.version = offset;
    else
      found.initial.emplace_back(offset, value.release().ptr());
  }
  type.inc_ref();
  found.version_type = py::type::of(fresh.attr("_version")).release().ptr();
  tensor_class = std::move(found);
}

/// The array of a tensor; null where the object is none.
PyObject* array_of(PyObject* object) {
  return PyObject_TypeCheck(object, tensor_class.type) ? slot_at(object, tensor_class.array) : nullptr;
}

/// Of a parameter that takes tensors: its place, whether it takes a sequence of them, and whether it takes None.
using Parameter = std::tuple<std::size_t, bool, bool>;

/// Puts arrays in the place of tensors among the positional arguments of an operation. Returns what was given for each
/// parameter, None where nothing was; the tensors; the type of their arrays, None where there is no one type; and the
/// numbers of the parameters that Python has to look at: those given something else, and any that has no tensor here
/// but may have one among the keywords.
py::object take_tensors(const std::vector<Parameter>& parameters, const py::list& arguments, const py::dict& keywords) {
  py::list inputs(parameters.size()), tensors(0);
  py::object others = py::reinterpret_steal<py::object>(PyTuple_New(0));
  PyObject* array_type = nullptr;
  const bool has_keywords = PyDict_GET_SIZE(keywords.ptr()) > 0;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const auto [place, takes_sequence, takes_none] = parameters[i];
    PyObject* given = place < arguments.size() ? PyList_GET_ITEM(arguments.ptr(), place) : Py_None;
    PyList_SET_ITEM(inputs.ptr(), static_cast<py::ssize_t>(i), Py_NewRef(given));
    PyObject* array = takes_sequence ? nullptr : array_of(given);
    if (array) {
      tensors.append(py::handle(given));
      auto* const type = reinterpret_cast<PyObject*>(Py_TYPE(array));
      array_type = !array_type || array_type == type ? type : Py_None;
      PyList_SetItem(arguments.ptr(), static_cast<py::ssize_t>(place), Py_NewRef(array));  // cannot fail: it exists
    } else if (given != Py_None || !takes_none || has_keywords) {
      others = others + py::make_tuple(i);
    }
  }
  return py::reinterpret_steal<py::object>(
      PyTuple_Pack(4, inputs.ptr(), tensors.ptr(), array_type ? array_type : Py_None, others.ptr()));
}

/// A function of the positional arguments and those by keyword.
py::object tensor_taker(std::vector<Parameter> parameters) {
  return py::cpp_function(
      [parameters = std::move(parameters)](const py::list& arguments, const py::dict& keywords) {
        return take_tensors(parameters, arguments, keywords);
      },
      py::arg("arguments"), py::arg("keywords"));
}

/// The array that this one is a view of; null where it is none. That of CuPy's arrays is an attribute.
py::object base_of(py::handle array) {
  const bool is_host = py::isinstance<py::array>(array);
  py::object base = is_host ? py::reinterpret_borrow<py::object>(py::detail::array_proxy(array.ptr())->base)
                            : py::object(array.attr("base"));
  const bool is_view =
      base && (py::isinstance<py::array>(base) || (!is_host && Py_TYPE(base.ptr()) == Py_TYPE(array.ptr())));
  return is_view ? base : py::object();
}

py::object owner_of(py::object array) {
  while (py::object base = base_of(array)) array = std::move(base);
  return array;
}

/// A tensor of an operation's result. Where that is a view of what it was given, or the same, writes to one are writes
/// to the other, and they share their version.
py::object new_tensor(const py::object& array, const py::typing::List<py::object>& given) {
  if (!tensor_class.type) throw py::type_error("new_tensor: serve_tensors has not been called");
  auto tensor = py::reinterpret_steal<py::object>(tensor_class.type->tp_alloc(tensor_class.type, 0));
  if (!tensor) throw py::error_already_set();
  slot_at(tensor.ptr(), tensor_class.array) = Py_NewRef(array.ptr());
  for (const auto& [offset, value] : tensor_class.initial) slot_at(tensor.ptr(), offset) = Py_NewRef(value);
  const py::object base = base_of(array), owner = base ? owner_of(base) : array;
  PyObject* version = nullptr;
  for (const py::handle other : given) {
    const auto its = py::reinterpret_borrow<py::object>(array_of(other.ptr()));
    if (its && (its.is(owner) || (base && owner_of(its).is(owner))))
      version = slot_at(other.ptr(), tensor_class.version);
  }
  version = version ? Py_NewRef(version) : PyObject_CallNoArgs(tensor_class.version_type);
  if (!version) throw py::error_already_set();
  slot_at(tensor.ptr(), tensor_class.version) = version;
  return tensor;
}

}  // namespace

IMGREC_BINDINGS(tensors) {
  module.def("serve_tensors", &serve_tensors, py::arg("fresh"),
             "From now on tensors are of this one's class, and new ones are as this one but for array and version.");
  module.def("tensor_taker", &tensor_taker, py::arg("parameters"),
             "A function that takes an operation's tensors; parameters are (place, takes a sequence, takes None).");
  module.def("owner_of", &owner_of, py::arg("array"), "The array at the end of a chain of views.");
  module.def("new_tensor", &new_tensor, py::arg("array"), py::arg("given"),
             "A tensor of the result of an operation that was given these tensors.");
}

}  // namespace imgrec::bindings
