// A weight cut into panels: what `multiply` of product.h reads from front to back.
//
// Shapes: G gates, N units, K what is summed over.

#pragma once

#include "parallel.h"
#include "product.h"
#include "sizes.h"

namespace jaxrnn {

// A weight (GN, K) in panels, each with all gates of some units.
template <typename T, int G>
struct Packing {
  static constexpr int U = G == 1 ? 2 : 1;  // vectors of units in a panel
  static constexpr int L = kLanes<T>;

  const long N, K, panels, size;

  Packing(long N, long K) : N(N), K(K), panels((N + U * L - 1) / (U * L)), size(K * G * U * L) {}

  void run(xla::ffi::ThreadPool& pool, const T* weight, T* packed) const {
    const long parts = K * N * G < kWorthPacking ? 1 : panels;
    parallel_for(pool, parts, [&](long i) {
      for (long p = panels * i / parts; p < panels * (i + 1) / parts; ++p) {
        pack(p, weight, packed + p * size);
      }
    });
  }

 private:
  void pack(long p, const T* weight, T* panel) const {
    for (int v = 0; v < G * U; ++v) {
      for (int l = 0; l < L; ++l) {
        const long unit = (p * U + v % U) * L + l;
        const T* from = weight + ((v / U) * N + unit) * K;
        T* to = panel + v * L + l;
        for (long k = 0; k < K; ++k) to[k * G * U * L] = unit < N ? from[k] : T(0);
      }
    }
  }
};

}  // namespace jaxrnn
