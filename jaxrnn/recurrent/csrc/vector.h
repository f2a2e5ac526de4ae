// Vectors of one register.
//
// The compiler's vector extensions are the same in GCC and Clang and on every processor; only the
// width depends on the machine. The functions of a cell stand in functions.h.

#pragma once

#include <cstdint>
#include <cstring>

namespace jaxrnn {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kAccumulators = 24;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32, kAccumulators = 12;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16, kAccumulators = 24;
#else
constexpr int kVectorBytes = 16, kAccumulators = 12;
#endif
// kAccumulators: registers that a product may fill with sums and still have some for its factors.

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes), aligned(kVectorBytes)));
};
template <typename T>
using Vec = typename VectorOf<T>::type;

template <typename T>
constexpr int kLanes = kVectorBytes / sizeof(T);

// How many vectors hold `units` numbers.
template <typename T>
constexpr long panels_of(long units) {
  return (units + kLanes<T> - 1) / kLanes<T>;
}

template <typename T>
inline Vec<T> splat(T x) {
  return x - Vec<T>{};
}

// The first `count` numbers at `from`; the other lanes are zero.
template <typename T>
inline Vec<T> load(const T* from, int count = kLanes<T>) {
  Vec<T> x{};
  if (count == kLanes<T>) {
    std::memcpy(&x, from, sizeof(x));
  } else {
    std::memcpy(&x, from, count * sizeof(T));
  }
  return x;
}

template <typename T>
inline void store(T* to, Vec<T> x, int count = kLanes<T>) {
  if (count == kLanes<T>) {
    std::memcpy(to, &x, sizeof(x));
  } else {
    std::memcpy(to, &x, count * sizeof(T));
  }
}

}  // namespace jaxrnn
