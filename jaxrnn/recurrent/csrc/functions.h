// The elementwise functions of a cell, on vectors of one register.
//
// exp, log and tanh are Cephes' (Moshier 1989, https://netlib.org/cephes); the relative error of
// these and of what is made of them is at most 2 units in the last place of 1, 2 * 2^-23 in float32,
// which tests/test_generated.py and tests/test_native.py compare with NumPy's.

#pragma once

#include <cmath>
#include <limits>

#include "vector.h"

namespace jaxrnn {

// Constants of exp: exp(r) for |r| <= ln(2) / 2, and ln(2) in two parts, so that r is exact.
struct FloatBits {
  using Int = int32_t;
  static constexpr int mantissa = 23, bias = 127;
  static constexpr float largest = 88.0f, smallest = -87.3f;
  static constexpr float infinite = 89.0f, zero = -104.0f;  // exp overflows, underflows
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float round = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
};
struct DoubleBits {
  using Int = int64_t;
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr double largest = 709.4, smallest = -708.3;
  static constexpr double infinite = 710.0, zero = -746.0;
  static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
  static constexpr double round = 6755399441055744.0;  // 1.5 * 2^52
};
template <typename T>
struct BitsOf;
template <>
struct BitsOf<float> : FloatBits {};
template <>
struct BitsOf<double> : DoubleBits {};

// The bits of a number as integers, and back.
template <typename T>
using Ints = Vec<typename BitsOf<T>::Int>;

template <typename T>
inline Ints<T> bits_of(Vec<T> x) {
  Ints<T> bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

template <typename T>
inline Vec<T> from_bits(Ints<T> bits) {
  Vec<T> x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

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

// exp where the result is a normal number; elsewhere, the result at the nearer end of that range.
template <typename T>
inline Vec<T> exp_bounded(Vec<T> x) {
  using Bits = BitsOf<T>;
  x = x > Bits::largest ? splat(Bits::largest) : x;  // a NaN compares false and stays
  x = x < Bits::smallest ? splat(Bits::smallest) : x;
  const Vec<T> shifted = x * T(1.44269504088896340736) + Bits::round;
  const Vec<T> n = shifted - Bits::round;
  const Vec<T> r = (x - n * Bits::ln2_high) - n * Bits::ln2_low;
  const Ints<T> power = bits_of<T>(shifted);  // its lowest bits are those of n
  return exp_of_remainder(r) * from_bits<T>((power + Bits::bias) << Bits::mantissa);
}

// exp everywhere: the power of 2 is multiplied in two halves, which may overflow or underflow.
template <typename T>
inline Vec<T> exp(Vec<T> x) {
  using Bits = BitsOf<T>;
  x = x > Bits::infinite ? splat(Bits::infinite) : x;  // a NaN compares false and stays
  x = x < Bits::zero ? splat(Bits::zero) : x;
  const Vec<T> shifted = x * T(1.44269504088896340736) + Bits::round;
  const Vec<T> n = shifted - Bits::round;
  const Vec<T> r = (x - n * Bits::ln2_high) - n * Bits::ln2_low;
  const Ints<T> power = bits_of<T>(shifted) - bits_of<T>(splat(Bits::round));
  const Ints<T> half = power >> 1;
  const Vec<T> one = from_bits<T>((half + Bits::bias) << Bits::mantissa);
  const Vec<T> other = from_bits<T>((power - half + Bits::bias) << Bits::mantissa);
  return exp_of_remainder(r) * one * other;
}

template <typename T>
inline Vec<T> sigmoid(Vec<T> x) {
  return T(1) / (T(1) + exp_bounded<T>(-x));
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
  const Vec<T> far = T(1) - T(2) / (exp_bounded<T>(size + size) + T(1));
  const Vec<T> near = tanh_near_zero(x);
  return size < T(0.625) ? near : (x < T(0) ? -far : far);
}

// log(1 + x) for 1 + x between sqrt(1/2) and sqrt(2), in two parts whose sum it is, the larger one x.
inline Vec<float> log_near_one(Vec<float> x) {
  Vec<float> p = splat(7.0376836292e-2f);
  p = p * x - 1.1514610310e-1f;
  p = p * x + 1.1676998740e-1f;
  p = p * x - 1.2420140846e-1f;
  p = p * x + 1.4249322787e-1f;
  p = p * x - 1.6668057665e-1f;
  p = p * x + 2.0000714765e-1f;
  p = p * x - 2.4999993993e-1f;
  p = p * x + 3.3333331174e-1f;
  return p * x * (x * x);
}

inline Vec<double> log_near_one(Vec<double> x) {
  Vec<double> p = splat(1.01875663804580931796e-4);
  p = p * x + 4.97494994976747001425e-1;
  p = p * x + 4.70579119878881725854;
  p = p * x + 1.44989225341610930846e1;
  p = p * x + 1.79368678507819816313e1;
  p = p * x + 7.70838733755885391666;
  Vec<double> q = x + 1.12873587189167450590e1;
  q = q * x + 4.52279145837532221105e1;
  q = q * x + 8.29875266912776603211e1;
  q = q * x + 7.11544750618563894466e1;
  q = q * x + 2.31251620126765340583e1;
  return x * (x * x) * (p / q);
}

template <typename T>
inline Vec<T> log(Vec<T> x) {
  using Bits = BitsOf<T>;
  constexpr typename Bits::Int one = 1;
  const T scale = T(one << (Bits::mantissa + 1));
  const auto tiny = x < std::numeric_limits<T>::min();  // subnormal numbers have their exponent elsewhere
  const Ints<T> bits = bits_of<T>(tiny ? x * scale : x);
  // x = 2^exponent * (1 + fraction), with 1 + fraction in [1/2, 1) at first
  Ints<T> exponent = (bits >> Bits::mantissa) - (Bits::bias - 1);
  exponent -= tiny & Ints<T>(Ints<T>{} + (Bits::mantissa + 1));
  const Ints<T> half = Ints<T>{} + ((Bits::bias - 1) * (one << Bits::mantissa));
  Vec<T> fraction = from_bits<T>((bits & ((one << Bits::mantissa) - 1)) | half);
  const auto low = fraction < T(0.70710678118654752440);
  exponent += low;  // a mask is -1 where it is true
  fraction = (low ? fraction + fraction : fraction) - T(1);
  const Vec<T> e = __builtin_convertvector(exponent, Vec<T>);
  Vec<T> y = log_near_one(fraction) + e * -T(2.121944400546905827679e-4);
  y = y - T(0.5) * (fraction * fraction);
  y = (fraction + y) + e * T(0.693359375);
  const T infinity = std::numeric_limits<T>::infinity();
  const Vec<T> unknown = splat(std::numeric_limits<T>::quiet_NaN());
  y = x == infinity ? x : y;
  y = x == T(0) ? splat(-infinity) : y;
  return (x < T(0)) | (x != x) ? unknown : y;
}

// Corrects log(1 + x) for what is lost in 1 + x (W. Kahan, HP-15C Advanced Functions, 1982).
template <typename T>
inline Vec<T> log1p(Vec<T> x) {
  const Vec<T> sum = T(1) + x;
  const Vec<T> y = log<T>(sum) * (x / (sum - T(1)));
  return (sum == T(1)) | (x == std::numeric_limits<T>::infinity()) ? x : y;
}

// A NaN on either side stays, as in JAX.
template <typename T>
inline Vec<T> maximum(Vec<T> x, Vec<T> y) {
  return (x < y) | (y != y) ? y : x;
}

template <typename T>
inline Vec<T> minimum(Vec<T> x, Vec<T> y) {
  return (x > y) | (y != y) ? y : x;
}

template <typename T>
inline Vec<T> absolute(Vec<T> x) {
  return x <= T(0) ? T(0) - x : x;
}

template <typename T>
inline Vec<T> sign(Vec<T> x) {
  const Vec<T> one = splat(T(1));
  return x > T(0) ? one : (x < T(0) ? -one : x);
}

template <typename T>
inline Ints<T> is_finite(Vec<T> x) {
  return x - x == T(0);
}

// The rest of the C library's functions, one lane after the other; the compiler makes one
// instruction of sqrt, floor and ceil.
#define JAXRNN_BY_LANE(name, function)                    \
  template <typename T>                                   \
  inline Vec<T> name(Vec<T> x) {                          \
    for (int l = 0; l < kLanes<T>; ++l) x[l] = function(x[l]); \
    return x;                                             \
  }
JAXRNN_BY_LANE(sqrt, std::sqrt)
JAXRNN_BY_LANE(floor, std::floor)
JAXRNN_BY_LANE(ceil, std::ceil)
JAXRNN_BY_LANE(round_half_away, std::round)
JAXRNN_BY_LANE(round_half_even, std::nearbyint)
JAXRNN_BY_LANE(expm1, std::expm1)
JAXRNN_BY_LANE(exp2, std::exp2)
JAXRNN_BY_LANE(cbrt, std::cbrt)
JAXRNN_BY_LANE(erf, std::erf)
JAXRNN_BY_LANE(erfc, std::erfc)
JAXRNN_BY_LANE(sin, std::sin)
JAXRNN_BY_LANE(cos, std::cos)
JAXRNN_BY_LANE(tan, std::tan)
JAXRNN_BY_LANE(asin, std::asin)
JAXRNN_BY_LANE(acos, std::acos)
JAXRNN_BY_LANE(atan, std::atan)
JAXRNN_BY_LANE(sinh, std::sinh)
JAXRNN_BY_LANE(cosh, std::cosh)
JAXRNN_BY_LANE(asinh, std::asinh)
JAXRNN_BY_LANE(acosh, std::acosh)
JAXRNN_BY_LANE(atanh, std::atanh)

#define JAXRNN_BY_TWO_LANES(name, function)                          \
  template <typename T>                                              \
  inline Vec<T> name(Vec<T> x, Vec<T> y) {                           \
    for (int l = 0; l < kLanes<T>; ++l) x[l] = function(x[l], y[l]); \
    return x;                                                        \
  }
JAXRNN_BY_TWO_LANES(pow, std::pow)
JAXRNN_BY_TWO_LANES(atan2, std::atan2)
JAXRNN_BY_TWO_LANES(rem, std::fmod)

}  // namespace jaxrnn
