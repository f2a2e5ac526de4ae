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
    // Some columns at a time: what is written stays in a cache until its lines are full.
    for (long begin = 0; begin < K; begin += L) {
      const long end = std::min<long>(K, begin + L);
      for (int v = 0; v < W; ++v) {
        for (int l = 0; l < L; ++l) {
          const long unit = (p * U + v % U) * L + l;
          const T* from = weight + ((v / U) * N + unit) * K;
          T* to = panel + v * L + l;
          for (long k = begin; k < end; ++k) to[k * W * L] = unit < N ? from[k] : T(0);
        }
      }
    }
  }

  template <int... W>
  static PackOne choose(int vectors, std::integer_sequence<int, W...>) {
    static constexpr PackOne table[] = {&Packing::template pack<W + 1>...};
    return table[vectors - 1];
  }
};

// A weight (M, N) in panels of some columns, each read from its first row to its last one.
template <typename T>
class Columns {
 public:
  static constexpr int U = 2, L = kLanes<T>;  // vectors of columns in a panel

  const long M, N, panels;

  // No panels where there is no weight.
  Columns(xla::ffi::ThreadPool& pool, const T* weight, long M, long N)
      : M(M), N(N), panels(weight ? (N + U * L - 1) / (U * L) : 0), packed_(panels * size()) {
    const auto pack_one = [&](long p) { pack(weight, p); };
    if (M * N >= kWorthPacking) {
      parallel_for(pool, panels, pack_one);
    } else {
      for (long p = 0; p < panels; ++p) pack_one(p);
    }
  }

  const T* panel(long p) const { return packed_.data() + p * size(); }

 private:
  long size() const { return M * U * L; }

  void pack(const T* weight, long p) {
    const long first = p * U * L, count = std::min<long>(U * L, N - first);
    T* to = packed_.data() + p * size();
    for (long k = 0; k < M; ++k) copy<U * L>(weight + k * N + first, count, to + k * U * L);
  }

  Buffer<T> packed_;
};

}  // namespace jaxrnn
