// The recurrence's gradients, from the last step to the first.
//
// Shapes: as in sizes.h. The rows go through time in chunks, one a thread. What is summed over rows
// (the gradients of the weight, the bias and the table) is summed afterwards, column by column and
// in the order of the places: no result depends on how many threads there are, or on their speed.

#pragma once

#include "cells.h"
#include "outer.h"
#include "parallel.h"
#include "product.h"
#include "team.h"

namespace jaxrnn {

template <typename T, template <typename> class CellOf>
struct Backward {
  using Cell = CellOf<T>;
  static constexpr int G = Cell::gates;
  static constexpr int U = 2;  // vectors of units in a panel
  static constexpr int L = kLanes<T>;

  Sizes n;
  const T* weight;                       // (GH, H)
  const T *before, *kept, *ys;           // what the forward run kept, and its outputs
  const int32_t* tokens;                 // (T, B) or null
  const bool* alive;                     // (T, B) or null
  const T *d_ys, *dh_last, *dc_last;     // (T, B, H), (B, H), (B, H)
  T* d_gates;                            // (T, B, GH): of the recurrent half of the gates
  T* d_x_gates;                          // of the input half, or null where it is the same; for
                                         // a table, only the gates that are not shared
  T *d_table, *d_weight, *d_bias;        // (V, GH) or null, (GH, H), (GH,)
  T *dh_first, *dc_first;                // (B, H), (B, H), or both null

  void run(xla::ffi::ThreadPool& pool) {
    const long panels = (n.H + U * L - 1) / (U * L), GH = G * n.H;
    Buffer<T> packed(panels * panel_size());
    const double operations = 2.0 * n.T * n.B * n.H * n.H * G;
    const Chunks chunks(n.B, pool.num_threads(), operations);
    const long helpers = helpers_for(pool, chunks.count, GH * n.H * sizeof(T), operations);
    const auto pack_one = [&](long p) { pack(p, packed.data() + p * panel_size()); };
    if (n.H * GH < kWorthPacking) {
      for (long p = 0; p < panels; ++p) pack_one(p);
    } else {
      parallel_for(pool, panels, pack_one);
    }
    parallel_for(pool, chunks.count, [&](long i) {
      Rows(*this, packed.data(), panels, chunks.begin(i), chunks.end(i)).run(Team(pool, helpers));
    });
    const long places = steps_run(alive, n.T, n.B) * n.B;
    const TableGradient<T> table{n, GH, tokens, d_gates, Cell::shared * n.H, d_x_gates, d_table};
    OuterProducts<T>{places, GH, n.H, d_gates, before, d_weight, d_bias, table}.run(pool);
  }

 private:
  long panel_size() const { return G * n.H * U * L; }

  void pack(long p, T* panel) const {
    const long unit = p * U * L, lanes = std::min<long>(U * L, n.H - unit);
    for (long k = 0; k < G * n.H; ++k) {
      copy<U * L>(weight + k * n.H + unit, lanes, panel + k * U * L);
    }
  }

  struct Rows {
    const Backward& b;
    const T* packed;
    const long panels, first, count, width;
    std::vector<Block> blocks;
    Buffer<T> dh, dc, rows;

    Rows(const Backward& b, const T* packed, long panels, long begin, long end)
        : b(b), packed(packed), panels(panels), first(begin), count(end - begin),
          width(panels * U * L), blocks(blocks_of(count, kMostRows<U>)),
          dh(count * width), dc(Cell::has_c ? count * width : 0), rows(count * G * b.n.H) {}

    void run(Team team) {
      const long H = b.n.H;
      for (long r = 0; r < count; ++r) {
        std::copy_n(b.dh_last + (first + r) * H, H, dh.data() + r * width);
        if (Cell::has_c) std::copy_n(b.dc_last + (first + r) * H, H, dc.data() + r * width);
      }
      for (long i = 0; i < b.n.T; ++i) {
        const long t = b.n.step(i, true);
        for (const Block& block : blocks) pull_back(t, block);
        if (!any_alive(b.alive, t, b.n.B, first, count)) continue;
        const bool last = i == b.n.T - 1;
        if (last && !b.dh_first) break;  // what goes on to the first carry, nobody asked for
        team.run(panels, [&](long p) {
          for (const Block& block : blocks) through_weight(p, block);
        });
      }
      if (b.dh_first) write_carry();
    }

    void write_carry() {
      const long H = b.n.H;
      for (long r = 0; r < count; ++r) {
        std::copy_n(dh.data() + r * width, H, b.dh_first + (first + r) * H);
        if (Cell::has_c) std::copy_n(dc.data() + r * width, H, b.dc_first + (first + r) * H);
      }
    }

    // dh += d_gates @ weight, for the units of panel p.
    void through_weight(long p, const Block& block) {
      Vec<T> tile[kAccumulators];
      multiply_for<T, U>(block.rows)(
          rows.data() + block.first * G * b.n.H, packed + p * b.panel_size(), G * b.n.H, tile);
      for (int r = 0; r < block.rows; ++r) {
        T* own = dh.data() + (block.first + r) * width + p * U * L;
        for (int u = 0; u < U; ++u) store(own + u * L, load(own + u * L) + tile[r * U + u]);
      }
    }

    // The gradients of the gates at step t, for the rows of a block.
    void pull_back(long t, const Block& block) {
      const long H = b.n.H;
      T* packed_rows = rows.data() + block.first * G * H;
      for (long unit = 0; unit < H; unit += L) {
        const int lanes = static_cast<int>(std::min<long>(L, H - unit));
        for (int r = 0; r < block.rows; ++r) {
          Vec<T> d_gates[G] = {};
          step(t, block.first + r, unit, lanes, d_gates);
          for (int g = 0; g < G; ++g) {
            T* to = packed_rows + (g * H + unit) * block.rows + r;
            for (int l = 0; l < lanes; ++l) to[l * block.rows] = d_gates[g][l];
          }
        }
      }
    }

    void step(long t, long row, long unit, int lanes, Vec<T>* d_gates) {
      const long H = b.n.H, place = t * b.n.B + first + row;
      T* to = b.d_gates + place * G * H + unit;
      const int first_x = b.d_table ? Cell::shared : 0;
      T* to_x = b.d_x_gates ? b.d_x_gates + place * (G - first_x) * H + unit : nullptr;
      if (b.alive && !b.alive[place]) {
        for (int g = 0; g < G; ++g) {
          store(to + g * H, Vec<T>{}, lanes);
          if (to_x && g >= first_x) store(to_x + (g - first_x) * H, Vec<T>{}, lanes);
        }
        return;
      }
      T *own_h = dh.data() + row * width + unit, *own_c = dc.data() + row * width + unit;
      Vec<T> d_h = load(own_h) + load(b.d_ys + place * H + unit, lanes), d_c{}, dx[G];
      if (Cell::has_c) d_c = load(own_c);
      Vec<T> kept[Cell::kept + 1];
      for (int k = 0; k < Cell::kept; ++k) {
        kept[k] = load(b.kept + (place * Cell::kept + k) * H + unit, lanes);
      }
      const Vec<T> h_before = load(b.before + place * H + unit, lanes);
      Cell::backward(kept, h_before, load(b.ys + place * H + unit, lanes), d_h, d_c, dx, d_gates);
      store(own_h, d_h);
      if (Cell::has_c) store(own_c, d_c);
      for (int g = 0; g < G; ++g) {
        store(to + g * H, d_gates[g], lanes);
        if (to_x && g >= first_x) store(to_x + (g - first_x) * H, dx[g], lanes);
      }
    }
  };
};

}  // namespace jaxrnn
