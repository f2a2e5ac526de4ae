// The elementwise steps of jaxrnn/nn/cells.py, one vector of units at a time, and their gradients.
//
// forward:  x and s are the two halves of the gates; h and c, the carry, become the next carry;
//           `kept` is what the backward step needs.
// backward: dh and dc are the gradients of the carry after the step and become those of the carry
//           before it, but for the part of dh that goes through the product with weight_hh; dx
//           and ds become the gradients of the two halves of the gates. They are the same for the
//           first `shared` gates.

#pragma once

#include "vector.h"

namespace jaxrnn {

// h' = tanh(x + s)
template <typename T>
struct Tanh {
  using V = Vec<T>;
  static constexpr int gates = 1, kept = 0, shared = 1;
  static constexpr bool has_c = false;

  static void forward(const V* x, const V* s, V& h, V&, V*) { h = tanh<T>(x[0] + s[0]); }
  static void backward(const V*, V, V after, V& dh, V&, V* dx, V* ds) {
    dx[0] = ds[0] = dh * (T(1) - after * after);
    dh = V{};
  }
};

// h' = max(x + s, 0), with derivative 0 at 0
template <typename T>
struct Relu {
  using V = Vec<T>;
  static constexpr int gates = 1, kept = 0, shared = 1;
  static constexpr bool has_c = false;

  static void forward(const V* x, const V* s, V& h, V&, V*) {
    const V sum = x[0] + s[0];
    h = sum < T(0) ? V{} : sum;  // a NaN compares false and stays
  }
  static void backward(const V*, V, V after, V& dh, V&, V* dx, V* ds) {
    dx[0] = ds[0] = after > T(0) ? dh : V{};
    dh = V{};
  }
};

// r = sigmoid(x_r + s_r), z = sigmoid(x_z + s_z), n = tanh(x_n + r * s_n), h' = n + z * (h - n)
template <typename T>
struct Gru {
  using V = Vec<T>;
  static constexpr int gates = 3, kept = 4, shared = 2;
  static constexpr bool has_c = false;

  static void forward(const V* x, const V* s, V& h, V&, V* kept) {
    const V r = sigmoid<T>(x[0] + s[0]), z = sigmoid<T>(x[1] + s[1]);
    const V n = tanh<T>(x[2] + r * s[2]);
    kept[0] = r, kept[1] = z, kept[2] = n, kept[3] = s[2];
    h = n + z * (h - n);
  }
  static void backward(const V* kept, V before, V, V& dh, V&, V* dx, V* ds) {
    const V r = kept[0], z = kept[1], n = kept[2];
    const V d_n = dh * (T(1) - z) * (T(1) - n * n);
    dx[0] = ds[0] = d_n * kept[3] * r * (T(1) - r);
    dx[1] = ds[1] = dh * (before - n) * z * (T(1) - z);
    dx[2] = d_n, ds[2] = d_n * r;
    dh = dh * z;
  }
};

// c' = sigmoid(f) * c + sigmoid(i) * tanh(g), h' = sigmoid(o) * tanh(c')
template <typename T>
struct Lstm {
  using V = Vec<T>;
  static constexpr int gates = 4, kept = 5, shared = 4;
  static constexpr bool has_c = true;

  static void forward(const V* x, const V* s, V& h, V& c, V* kept) {
    const V i = sigmoid<T>(x[0] + s[0]), f = sigmoid<T>(x[1] + s[1]);
    const V g = tanh<T>(x[2] + s[2]), o = sigmoid<T>(x[3] + s[3]);
    kept[0] = i, kept[1] = f, kept[2] = g, kept[3] = o, kept[4] = c;
    c = f * c + i * g;
    h = o * tanh<T>(c);
  }
  static void backward(const V* kept, V, V, V& dh, V& dc, V* dx, V* ds) {
    const V i = kept[0], f = kept[1], g = kept[2], o = kept[3], c = kept[4];
    const V tanh_c = tanh<T>(f * c + i * g);
    const V d_c = dc + dh * o * (T(1) - tanh_c * tanh_c);
    dx[0] = ds[0] = d_c * g * i * (T(1) - i);
    dx[1] = ds[1] = d_c * c * f * (T(1) - f);
    dx[2] = ds[2] = d_c * i * (T(1) - g * g);
    dx[3] = ds[3] = dh * tanh_c * o * (T(1) - o);
    dc = d_c * f;
    dh = V{};
  }
};

}  // namespace jaxrnn
