// Vectors of one register.
//
// The compiler's vector extensions are the same in GCC and Clang and on every processor; only the
// width depends on the machine. The functions of a cell stand in functions.h.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

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

// One pass of `transpose`: exchanges the lanes with bit S of the first of two vectors for those
// without it of the second.
template <typename T, int S, int... I>
inline void exchange(Vec<T>& one, Vec<T>& other, std::integer_sequence<int, I...>) {
  constexpr int L = kLanes<T>;
  const Vec<T> a = one, b = other;
#if defined(__clang__)
  one = __builtin_shufflevector(a, b, ((I & S) ? L + I - S : I)...);
  other = __builtin_shufflevector(a, b, ((I & S) ? L + I : I + S)...);
#else  // GCC has the other one from 12 on only
  using Lanes = Vec<std::conditional_t<sizeof(T) == 4, int32_t, int64_t>>;
  one = __builtin_shuffle(a, b, Lanes{((I & S) ? L + I - S : I)...});
  other = __builtin_shuffle(a, b, Lanes{((I & S) ? L + I : I + S)...});
#endif
}

// Transposes the square of as many vectors as one has lanes.
template <typename T, int S = kLanes<T> / 2>
inline void transpose(Vec<T>* rows) {
  if constexpr (S > 0) {
    constexpr int L = kLanes<T>;
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) {
      if ((i & S) == 0) {
        exchange<T, S>(rows[i], rows[i + S], std::make_integer_sequence<int, L>());
      }
    }
    transpose<T, S / 2>(rows);
  }
}

}  // namespace jaxrnn
