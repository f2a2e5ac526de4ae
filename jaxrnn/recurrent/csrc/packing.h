// A weight cut into panels: what `multiply` of product.h reads from front to back.
//
// Shapes: G gates, N units, K what is summed over.

#pragma once

#include "parallel.h"
#include "product.h"

namespace jaxrnn {

// A weight (GN, K) in panels, each with all gates of some units.
template <typename T>
struct Packing {
  static constexpr int L = kLanes<T>;

  const int G, U, vectors;  // gates; vectors of units in a panel, and of all its gates
  const long N, K, panels, size;

  Packing(int G, long N, long K)
      : G(G), U(units_per_panel(G)), vectors(G * U), N(N), K(K),
        panels((N + U * L - 1) / (U * L)), size(K * vectors * L) {}

  // Numbers of a row of units, filled up to whole panels.
  long width() const { return panels * U * L; }

  void run(xla::ffi::ThreadPool& pool, const T* weight, T* packed) const {
    const long parts = K * N * G < kWorthPacking ? 1 : panels;
    const PackOne pack_one = choose(vectors, std::make_integer_sequence<int, kMostGates>());
    parallel_for(pool, parts, [&](long i) {
      for (long p = panels * i / parts; p < panels * (i + 1) / parts; ++p) {
        (this->*pack_one)(p, weight, packed + p * size);
      }
    });
  }

 private:
  using PackOne = void (Packing::*)(long, const T*, T*) const;

  // One panel. Its width is a constant: with one that is only known at run time the compiler makes
  // no vector code of the innermost loop, which then takes seven times as long.
  template <int W>
  void pack(long p, const T* weight, T* panel) const {
    for (int v = 0; v < W; ++v) {
      for (int l = 0; l < L; ++l) {
        const long unit = (p * U + v % U) * L + l;
        const T* from = weight + ((v / U) * N + unit) * K;
        T* to = panel + v * L + l;
        for (long k = 0; k < K; ++k) to[k * W * L] = unit < N ? from[k] : T(0);
      }
    }
  }

  template <int... W>
  static PackOne choose(int vectors, std::integer_sequence<int, W...>) {
    static constexpr PackOne table[] = {&Packing::template pack<W + 1>...};
    return table[vectors - 1];
  }
};

}  // namespace jaxrnn
