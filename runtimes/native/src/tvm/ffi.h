// TVM's functions and objects by the C ABI of tvm-ffi: no type of the C++ standard library passes, and no exception.
#pragma once

#include <tvm/ffi/c_api.h>

#include <string>
#include <vector>

namespace edge {

// A value that TVM gave, let go of when it goes.
class Any {
 public:
  Any() = default;
  explicit Any(const TVMFFIAny& value) : value_(value) {}
  Any(Any&& other) noexcept : value_(other.value_) { other.value_ = {}; }
  Any& operator=(Any&& other) noexcept;
  Any(const Any&) = delete;
  ~Any() { drop(); }

  const TVMFFIAny& view() const { return value_; }
  // The object, which must be of type `type`; std::runtime_error for anything else, none too.
  TVMFFIObject* object(int32_t type) const;
  bool is(int32_t type) const { return value_.type_index == type; }

 private:
  void drop();

  TVMFFIAny value_{};
};

TVMFFIAny any(int64_t number);
TVMFFIAny any(const char* text);  // which must outlive the call

// A function object of the given C function; `self`, which must not be null, is passed to it.
Any function_object(void* self, TVMFFISafeCallType function);

// Calls a function object; std::runtime_error with TVM's own message if it fails.
Any call_function(const Any& function, std::vector<TVMFFIAny> arguments);

// A function of TVM's registry; std::runtime_error if there is none.
Any global_function(const char* name);

// A module's function; std::runtime_error if there is none.
Any module_function(const Any& module, const char* name);

// The text of a string argument, whichever of TVM's three kinds it is.
std::string text_of(const TVMFFIAny& value);

// What an array holds, and what a tensor object is.
std::vector<TVMFFIAny> elements(const Any& array);
const DLTensor& tensor_of(const TVMFFIAny& value);

}  // namespace edge
