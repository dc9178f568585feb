#include "json.h"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

namespace edge {
namespace {

constexpr int kDeepest = 64;

[[noreturn]] void wrong(const std::string& what) { throw std::runtime_error(what); }

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Json whole() {
    Json found = value(0);
    space();
    if (place_ != text_.size()) bad("something follows the value");
    return found;
  }

 private:
  Json value(int depth) {
    if (depth > kDeepest) bad("it is nested too deeply");
    space();
    Json found;
    switch (peek()) {
      case '{': object(found, depth); break;
      case '[': array(found, depth); break;
      case '"': found.kind = Json::Kind::string; found.string = quoted(); break;
      case 't': word("true"); found.kind = Json::Kind::boolean; found.boolean = true; break;
      case 'f': word("false"); found.kind = Json::Kind::boolean; break;
      case 'n': word("null"); break;
      default: number(found);
    }
    return found;
  }

  void object(Json& found, int depth) {
    found.kind = Json::Kind::object;
    ++place_;
    for (bool first = true;; first = false) {
      space();
      if (peek() == '}' && first) break;
      std::string name = quoted();
      space();
      expect(':');
      if (!found.object.emplace(std::move(name), value(depth + 1)).second) bad("a name is there twice");
      space();
      if (peek() == '}') break;
      expect(',');
    }
    ++place_;
  }

  void array(Json& found, int depth) {
    found.kind = Json::Kind::array;
    ++place_;
    for (bool first = true;; first = false) {
      space();
      if (peek() == ']' && first) break;
      found.array.push_back(value(depth + 1));
      space();
      if (peek() == ']') break;
      expect(',');
    }
    ++place_;
  }

  std::string quoted() {
    expect('"');
    std::string found;
    while (true) {
      const char next = peek();
      ++place_;
      if (next == '"') return found;
      if (static_cast<unsigned char>(next) < 0x20) bad("a string has a control character");
      if (next != '\\') {
        found += next;
        continue;
      }
      const char escaped = peek();
      ++place_;
      switch (escaped) {
        case '"': case '\\': case '/': found += escaped; break;
        case 'b': found += '\b'; break;
        case 'f': found += '\f'; break;
        case 'n': found += '\n'; break;
        case 'r': found += '\r'; break;
        case 't': found += '\t'; break;
        case 'u': encode(found, code_point()); break;
        default: bad("a string has an unknown escape");
      }
    }
  }

  uint32_t code_point() {
    const uint32_t high = four_digits();
    if (high < 0xD800 || high > 0xDFFF) return high;
    if (high > 0xDBFF || text_.substr(place_, 2) != "\\u") bad("half of a surrogate pair stands alone");
    place_ += 2;
    const uint32_t low = four_digits();
    if (low < 0xDC00 || low > 0xDFFF) bad("half of a surrogate pair stands alone");
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
  }

  uint32_t four_digits() {
    uint32_t found = 0;
    const std::string_view digits = text_.substr(std::min(place_, text_.size()), 4);
    const auto end = std::from_chars(digits.data(), digits.data() + digits.size(), found, 16);
    if (digits.size() != 4 || end.ptr != digits.data() + 4) bad("\\u is not followed by four digits");
    place_ += 4;
    return found;
  }

  static void encode(std::string& out, uint32_t code) {
    if (code < 0x80) {
      out += static_cast<char>(code);
    } else if (code < 0x800) {
      out += static_cast<char>(0xC0 | (code >> 6));
      out += static_cast<char>(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
      out += static_cast<char>(0xE0 | (code >> 12));
      out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
      out += static_cast<char>(0x80 | (code & 0x3F));
    } else {
      out += static_cast<char>(0xF0 | (code >> 18));
      out += static_cast<char>(0x80 | ((code >> 12) & 0x3F));
      out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
      out += static_cast<char>(0x80 | (code & 0x3F));
    }
  }

  void number(Json& found) {
    const size_t start = place_;
    if (peek() == '-') ++place_;
    const size_t first = place_;
    digits();
    if (text_[first] == '0' && place_ > first + 1) bad("a number begins with 0");
    bool real = false;
    if (place_ < text_.size() && text_[place_] == '.') {
      real = true;
      ++place_;
      digits();
    }
    if (place_ < text_.size() && (text_[place_] == 'e' || text_[place_] == 'E')) {
      real = true;
      ++place_;
      if (peek() == '+' || peek() == '-') ++place_;
      digits();
    }
    const char *from = text_.data() + start, *to = text_.data() + place_;
    if (!real) {
      found.kind = Json::Kind::integer;
      if (std::from_chars(from, to, found.integer).ec == std::errc()) return;
    }
    found.kind = Json::Kind::real;
    found.real = std::strtod(std::string(from, to).c_str(), nullptr);
    if (!std::isfinite(found.real)) bad("a number is too large");
  }

  void digits() {
    const size_t start = place_;
    while (place_ < text_.size() && text_[place_] >= '0' && text_[place_] <= '9') ++place_;
    if (place_ == start) bad("it is not JSON");
  }

  void word(std::string_view expected) {
    if (text_.substr(place_, expected.size()) != expected) bad("it is not JSON");
    place_ += expected.size();
  }

  void space() {
    while (place_ < text_.size() && std::string_view(" \t\r\n").find(text_[place_]) != std::string_view::npos) ++place_;
  }

  char peek() {
    if (place_ >= text_.size()) bad("it ends too early");
    return text_[place_];
  }

  void expect(char wanted) {
    if (peek() != wanted) bad("it is not JSON");
    ++place_;
  }

  [[noreturn]] void bad(const char* why) { wrong(std::string(why) + ", at byte " + std::to_string(place_)); }

  std::string_view text_;
  size_t place_ = 0;
};

}  // namespace

Json Json::parse(std::string_view text) { return Parser(text).whole(); }

const Json& Json::at(const std::string& name) const {
  const auto found = object.find(name);
  if (kind != Kind::object || found == object.end()) wrong("it has no '" + name + "'");
  return found->second;
}

const std::string& Json::text() const {
  if (kind != Kind::string) wrong("a string is expected");
  return string;
}

int64_t Json::whole() const {
  if (kind != Kind::integer) wrong("a whole number is expected");
  return integer;
}

double Json::number() const {
  if (kind == Kind::integer) return static_cast<double>(integer);
  if (kind != Kind::real) wrong("a number is expected");
  return real;
}

bool Json::truth() const {
  if (kind != Kind::boolean) wrong("true or false is expected");
  return boolean;
}

const std::vector<Json>& Json::items() const {
  if (kind != Kind::array) wrong("a list is expected");
  return array;
}

Writer& Writer::name(std::string_view name) {
  comma();
  quote(name);
  text_ += ':';
  first_ = true;
  return *this;
}

Writer& Writer::value(std::string_view text) {
  comma();
  quote(text);
  return *this;
}

Writer& Writer::value(double number) {
  comma();
  char digits[40];
  // The fewest digits, from 15 on, that read back as the same number. std::to_chars would do it with tables of 105 KB, a sixth
  // of a static program. JSON has no infinity: the callers have none either.
  for (int count = 15; count <= 17; ++count) {
    std::snprintf(digits, sizeof digits, "%.*g", count, number);
    if (count == 17 || std::strtod(digits, nullptr) == number) break;
  }
  text_ += digits;
  return *this;
}

Writer& Writer::value(int64_t number) {
  comma();
  text_ += std::to_string(number);
  return *this;
}

Writer& Writer::value(bool truth) {
  comma();
  text_ += truth ? "true" : "false";
  return *this;
}

Writer& Writer::null() {
  comma();
  text_ += "null";
  return *this;
}

Writer& Writer::raw(std::string_view json) {
  comma();
  text_ += json;
  return *this;
}

Writer& Writer::value(const Json& json) {
  switch (json.kind) {
    case Json::Kind::null: return null();
    case Json::Kind::boolean: return value(json.boolean);
    case Json::Kind::integer: return value(json.integer);
    case Json::Kind::real: return value(json.real);
    case Json::Kind::string: return value(std::string_view(json.string));
    case Json::Kind::array:
      begin_array();
      for (const Json& item : json.array) value(item);
      return end_array();
    case Json::Kind::object:
      begin_object();
      for (const auto& [key, item] : json.object) name(key).value(item);
      return end_object();
  }
  return *this;
}

Writer& Writer::open(char bracket) {
  comma();
  text_ += bracket;
  first_ = true;
  return *this;
}

Writer& Writer::close(char bracket) {
  text_ += bracket;
  first_ = false;
  return *this;
}

void Writer::comma() {
  if (!first_) text_ += ',';
  first_ = false;
}

void Writer::quote(std::string_view text) {
  static const char* hex = "0123456789abcdef";
  text_ += '"';
  for (const char next : text) {
    const auto byte = static_cast<unsigned char>(next);
    if (next == '"' || next == '\\') {
      text_ += '\\';
      text_ += next;
    } else if (byte < 0x20) {
      text_ += "\\u00";
      text_ += hex[byte >> 4];
      text_ += hex[byte & 15];
    } else {
      text_ += next;
    }
  }
  text_ += '"';
}

}  // namespace edge
