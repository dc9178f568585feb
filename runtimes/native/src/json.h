// JSON (RFC 8259), strictly: what the host sends and a bundle's manifest holds, and the messages that go back.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace edge {

// One value. `at`, `text` and the like throw std::runtime_error, with the place in words, where the value is another.
class Json {
 public:
  enum class Kind { null, boolean, integer, real, string, array, object };

  Kind kind = Kind::null;
  bool boolean = false;
  int64_t integer = 0;
  double real = 0.0;
  std::string string;
  std::vector<Json> array;
  std::map<std::string, Json> object;

  // The whole of `text` as one value; std::runtime_error for anything that is not JSON, a name that is there twice,
  // or more than 64 levels.
  static Json parse(std::string_view text);

  bool has(const std::string& name) const { return kind == Kind::object && object.count(name) != 0; }
  const Json& at(const std::string& name) const;
  const std::string& text() const;
  int64_t whole() const;
  double number() const;
  bool truth() const;
  const std::vector<Json>& items() const;
};

// Writes one value, front to back; commas are its own business.
class Writer {
 public:
  Writer& begin_object() { return open('{'); }
  Writer& end_object() { return close('}'); }
  Writer& begin_array() { return open('['); }
  Writer& end_array() { return close(']'); }
  Writer& name(std::string_view name);
  Writer& value(std::string_view text);
  Writer& value(const char* text) { return value(std::string_view(text)); }
  Writer& value(double number);
  Writer& value(int64_t number);
  Writer& value(int number) { return value(static_cast<int64_t>(number)); }
  Writer& value(size_t number) { return value(static_cast<int64_t>(number)); }
  Writer& value(bool truth);
  Writer& value(const Json& json);
  Writer& null();
  Writer& raw(std::string_view json);  // a value that another writer wrote
  const std::string& text() const { return text_; }

 private:
  Writer& open(char bracket);
  Writer& close(char bracket);
  void comma();
  void quote(std::string_view text);

  std::string text_;
  bool first_ = true;  // no comma before what comes next
};

}  // namespace edge
