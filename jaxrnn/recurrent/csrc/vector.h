// Vectors of one register, and the functions of a cell on them.
//
// The compiler's vector extensions are the same in GCC and Clang and on every processor; only the
// width depends on the machine. exp and tanh are Cephes' (Moshier 1989, https://netlib.org/cephes),
// within 2 units in the last place; tests/test_native.py compares them with NumPy's.

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

// Constants of exp: exp(r) for |r| <= ln(2) / 2, and ln(2) in two parts, so that r is exact.
struct FloatBits {
  using Int = int32_t;
  static constexpr int mantissa = 23, bias = 127;
  static constexpr float largest = 88.0f, smallest = -87.3f;
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float round = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
};
struct DoubleBits {
  using Int = int64_t;
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr double largest = 709.4, smallest = -708.3;
  static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
  static constexpr double round = 6755399441055744.0;  // 1.5 * 2^52
};
template <typename T>
struct BitsOf;
template <>
struct BitsOf<float> : FloatBits {};
template <>
struct BitsOf<double> : DoubleBits {};

inline Vec<float> exp_of_remainder(Vec<float> r) {
  Vec<float> p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return p * (r * r) + r + 1.0f;
}

inline Vec<double> exp_of_remainder(Vec<double> r) {
  Vec<double> square = r * r;
  Vec<double> p = splat(1.26177193074810590878e-4);
  p = p * square + 3.02994407707441961300e-2;
  p = (p * square + 9.99999999999999999910e-1) * r;
  Vec<double> q = splat(3.00198505138664455042e-6);
  q = q * square + 2.52448340349684104192e-3;
  q = q * square + 2.27265548208155028766e-1;
  q = q * square + 2.0;
  return 1.0 + 2.0 * (p / (q - p));
}

template <typename T>
inline Vec<T> exp(Vec<T> x) {
  using Bits = BitsOf<T>;
  using Ints = Vec<typename Bits::Int>;
  x = x > Bits::largest ? splat(Bits::largest) : x;  // a NaN compares false and stays
  x = x < Bits::smallest ? splat(Bits::smallest) : x;
  const Vec<T> shifted = x * T(1.44269504088896340736) + Bits::round;
  const Vec<T> n = shifted - Bits::round;
  const Vec<T> r = (x - n * Bits::ln2_high) - n * Bits::ln2_low;
  Ints power;
  std::memcpy(&power, &shifted, sizeof(power));  // its lowest bits are those of n
  power = (power + Bits::bias) << Bits::mantissa;
  Vec<T> scale;
  std::memcpy(&scale, &power, sizeof(scale));
  return exp_of_remainder(r) * scale;
}

template <typename T>
inline Vec<T> sigmoid(Vec<T> x) {
  return T(1) / (T(1) + exp<T>(-x));
}

inline Vec<float> tanh_near_zero(Vec<float> x) {
  const Vec<float> z = x * x;
  Vec<float> p = splat(-5.70498872745e-3f);
  p = p * z + 2.06390887954e-2f;
  p = p * z + -5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z + -3.33332819422e-1f;
  return p * z * x + x;
}

inline Vec<double> tanh_near_zero(Vec<double> x) {
  const Vec<double> z = x * x;
  Vec<double> p = splat(-9.64399179425052238628e-1);
  p = p * z + -9.92877231001918586564e1;
  p = p * z + -1.61468768441708447952e3;
  Vec<double> q = z + 1.12811678491632931402e2;
  q = q * z + 2.23548839060100448583e3;
  q = q * z + 4.84406305325125486048e3;
  return x * z * (p / q) + x;
}

template <typename T>
inline Vec<T> tanh(Vec<T> x) {
  const Vec<T> size = x < T(0) ? -x : x;
  const Vec<T> far = T(1) - T(2) / (exp<T>(size + size) + T(1));
  const Vec<T> near = tanh_near_zero(x);
  return size < T(0.625) ? near : (x < T(0) ? -far : far);
}

}  // namespace jaxrnn
