// What the arrays of a call must be: anything else would be read or written outside its memory.
//
// The same is checked in Python before (jaxrnn/array_checks.py), where the message is better. Here it
// is the last line: no mistake of a caller's reaches memory.

#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace jaxrnn {

using Dimensions = std::initializer_list<int64_t>;

class Checks {
 public:
  // The dtype that all arrays of numbers must have.
  explicit Checks(xla::ffi::DataType dtype) : dtype_(dtype) {}

  // An array of numbers of this shape.
  template <typename Buffer>
  void numbers(const char* name, Buffer array, Dimensions shape) {
    if (array.element_type() != dtype_) fail(name, "has another dtype than the others");
    has_shape(name, array, shape);
  }

  // An array of numbers of this shape, or none where there need not be one.
  template <typename Buffer>
  void numbers_or_none(const char* name, Buffer array, Dimensions shape) {
    if (!is_none(array)) numbers(name, array, shape);
  }

  // An array of numbers that is there exactly where it should be.
  template <typename Buffer>
  void numbers_if(bool expected, const char* name, Buffer array, Dimensions shape) {
    if (expected) {
      numbers(name, array, shape);
    } else if (!is_none(array)) {
      fail(name, "is not expected");
    }
  }

  template <typename Buffer>
  void has_shape(const char* name, Buffer array, Dimensions shape) {
    const auto got = array.dimensions();
    if (std::vector<int64_t>(got.begin(), got.end()) == std::vector<int64_t>(shape)) return;
    fail(name, "has shape " + text(got) + ", expected " + text(shape));
  }

  void that(bool right, const char* name, const char* what) {
    if (!right) fail(name, what);
  }

  // An array that is not there is passed as one of shape (0,).
  template <typename Buffer>
  static bool is_none(Buffer array) {
    const auto shape = array.dimensions();
    return shape.size() == 1 && shape[0] == 0;
  }

  bool failed() const { return !problem_.empty(); }
  xla::ffi::Error error() const { return xla::ffi::Error::InvalidArgument("jaxrnn: " + problem_); }

 private:
  template <typename Shape>
  static std::string text(const Shape& shape) {
    std::string joined;
    for (int64_t size : shape) joined += (joined.empty() ? "" : ", ") + std::to_string(size);
    return "(" + joined + ")";
  }

  void fail(const char* name, const std::string& what) {
    if (problem_.empty()) problem_ = std::string(name) + " " + what + ".";
  }

  xla::ffi::DataType dtype_;
  std::string problem_;
};

}  // namespace jaxrnn
