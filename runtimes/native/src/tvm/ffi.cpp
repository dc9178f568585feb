#include "tvm/ffi.h"

#include <cstring>
#include <stdexcept>

namespace edge {
namespace {

// What follows the header of an object.
template <class Cell>
const Cell& cell(const TVMFFIObject* object) {
  return *reinterpret_cast<const Cell*>(reinterpret_cast<const char*>(object) + sizeof(TVMFFIObject));
}

Any object_of(int32_t type, TVMFFIObjectHandle handle) {
  TVMFFIAny value{};
  value.type_index = type;
  value.v_obj = static_cast<TVMFFIObject*>(handle);
  return Any(value);
}

void check_call(int status) {
  if (status == 0) return;
  TVMFFIObjectHandle raised = nullptr;
  TVMFFIErrorMoveFromRaised(&raised);
  std::string message = "no message";
  if (raised != nullptr) {
    const auto& error = cell<TVMFFIErrorCell>(static_cast<TVMFFIObject*>(raised));
    message.assign(error.message.data, error.message.size);
    TVMFFIObjectDecRef(raised);
  }
  for (char& next : message) {
    if (next == '\n') next = ' ';
  }
  throw std::runtime_error(message.substr(0, 300));
}

}  // namespace

Any& Any::operator=(Any&& other) noexcept {
  if (this != &other) {
    drop();
    value_ = other.value_;
    other.value_ = {};
  }
  return *this;
}

void Any::drop() {
  if (value_.type_index >= kTVMFFIStaticObjectBegin) TVMFFIObjectDecRef(value_.v_obj);
  value_ = {};
}

TVMFFIObject* Any::object(int32_t type) const {
  if (value_.type_index != type) throw std::runtime_error("TVM gave another object than was asked for");
  return value_.v_obj;
}

TVMFFIAny any(int64_t number) {
  TVMFFIAny value{};
  value.type_index = kTVMFFIInt;
  value.v_int64 = number;
  return value;
}

TVMFFIAny any(const char* text) {
  TVMFFIAny value{};
  value.type_index = kTVMFFIRawStr;
  value.v_c_str = text;
  return value;
}

Any function_object(void* self, TVMFFISafeCallType function) {
  TVMFFIObjectHandle handle = nullptr;
  check_call(TVMFFIFunctionCreate(self, function, nullptr, &handle));
  return object_of(kTVMFFIFunction, handle);
}

Any call_function(const Any& function, std::vector<TVMFFIAny> arguments) {
  TVMFFIAny result{};
  check_call(TVMFFIFunctionCall(function.object(kTVMFFIFunction), arguments.data(), static_cast<int32_t>(arguments.size()), &result));
  return Any(result);
}

Any global_function(const char* name) {
  const TVMFFIByteArray bytes{name, std::strlen(name)};
  TVMFFIObjectHandle found = nullptr;
  check_call(TVMFFIFunctionGetGlobal(&bytes, &found));
  if (found == nullptr) throw std::runtime_error(std::string("TVM has no function ") + name);
  return object_of(kTVMFFIFunction, found);
}

Any module_function(const Any& module, const char* name) {
  TVMFFIAny imports{};
  imports.type_index = kTVMFFIBool;
  imports.v_int64 = 1;
  Any found = call_function(global_function("ffi.ModuleGetFunction"), {module.view(), any(name), imports});
  if (!found.is(kTVMFFIFunction)) throw std::runtime_error(std::string("the module has no function ") + name);
  return found;
}

std::string text_of(const TVMFFIAny& value) {
  switch (value.type_index) {
    case kTVMFFIRawStr: return value.v_c_str;
    case kTVMFFISmallStr: return std::string(value.v_bytes, value.small_str_len);
    case kTVMFFIStr: {
      const auto& bytes = cell<TVMFFIByteArray>(value.v_obj);
      return std::string(bytes.data, bytes.size);
    }
    default: return "";
  }
}

std::vector<TVMFFIAny> elements(const Any& array) {
  const auto& items = cell<TVMFFISeqCell>(array.object(kTVMFFIArray));
  const auto* first = static_cast<const TVMFFIAny*>(items.data);
  return std::vector<TVMFFIAny>(first, first + items.size);
}

const DLTensor& tensor_of(const TVMFFIAny& value) {
  if (value.type_index != kTVMFFITensor) throw std::runtime_error("TVM gave another object than a tensor");
  return cell<DLTensor>(value.v_obj);
}

}  // namespace edge
