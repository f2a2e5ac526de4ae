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
    parallel_for(pool, parts, [&](long i) {
      for (long p = panels * i / parts; p < panels * (i + 1) / parts; ++p) {
        pack(p, weight, packed + p * size);
      }
    });
  }

 private:
  // One panel: squares of units and columns, transposed in registers.
  void pack(long p, const T* weight, T* panel) const {
    for (long k = 0; k < K; k += L) {
      const int columns = static_cast<int>(std::min<long>(L, K - k));
      for (int v = 0; v < vectors; ++v) {
        const long first = (p * U + v % U) * L;
        const T* from = weight + ((v / U) * N + first) * K + k;
        const long units = std::clamp<long>(N - first, 0, L);
        Vec<T> square[L];
        for (int l = 0; l < L; ++l) {
          square[l] = l < units ? load(from + l * K, columns) : Vec<T>{};
        }
        transpose<T>(square);
        for (int c = 0; c < columns; ++c) store(panel + ((k + c) * vectors + v) * L, square[c]);
      }
    }
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
