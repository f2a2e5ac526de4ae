// The recurrence over time: each thread takes some rows through all T steps, or a team of them a
// few rows.
//
// Shapes: as in sizes.h. The product for the units of one panel is finished with the cell's step
// while its sums are in registers or in the innermost cache.

#pragma once

#include "cells.h"
#include "packing.h"
#include "team.h"

namespace jaxrnn {

template <typename T, template <typename> class CellOf>
struct Forward {
  using Cell = CellOf<T>;
  static constexpr int G = Cell::gates, U = Packing<T, G>::U, L = kLanes<T>;

  Sizes n;
  const T *packed, *bias, *h_first, *c_first;  // `Packing`'s, (GH,), (B, H), (B, H)
  const T* x;                                  // (T, B, GH), or the table (V, GH)
  const int32_t* tokens;                       // (T, B) or null
  const bool* alive;                           // (T, B) or null
  T *ys, *h_last, *c_last;                     // (T, B, H), (B, H), (B, H)
  T *before, *kept;                            // (T, B, H), (T, B, kept * H), or both null

  void run(xla::ffi::ThreadPool& pool) {
    const double operations = 2.0 * n.T * n.B * n.H * n.H * G;
    const Chunks chunks(n.B, pool.num_threads(), operations);
    const long helpers = helpers_for(pool, chunks.count, G * n.H * n.H * sizeof(T), operations);
    parallel_for(pool, chunks.count, [&](long i) {
      Rows(*this, chunks.begin(i), chunks.end(i)).run(Team(pool, helpers));
    });
  }

 private:
  // Some rows, with what they remember from step to step.
  struct Rows {
    const Forward& f;
    const Packing<T, G> packing;
    const long first, count, width;
    std::vector<Block> blocks;
    Buffer<T> h, c, rows, next_rows;

    Rows(const Forward& f, long begin, long end)
        : f(f), packing(f.n.H, f.n.H), first(begin), count(end - begin),
          width(packing.panels * U * L), blocks(blocks_of(count, kMostRows<G * U>)), h(count * width),
          c(Cell::has_c ? count * width : 0), rows(count * f.n.H), next_rows(count * f.n.H) {}

    void run(Team team) {
      begin();
      T *now = rows.data(), *next = next_rows.data();
      for (long i = 0; i < f.n.T; ++i) {
        const long t = f.n.step(i, false);
        if (!any_alive(f.alive, t, f.n.B, first, count)) {
          pass_over(t);
          continue;
        }
        team.run(packing.panels, [&](long p) {
          for (const Block& block : blocks) {
            Vec<T> tile[kAccumulators];
            multiply_for<T, G * U>(block.rows)(
                now + block.first * f.n.H, f.packed + p * packing.size, f.n.H, tile);
            finish(t, p, block, tile, next + block.first * f.n.H);
          }
        });
        std::swap(now, next);
      }
      for (long r = 0; r < count; ++r) {
        const long from = r * width, to = (first + r) * f.n.H;
        std::copy_n(h.data() + from, f.n.H, f.h_last + to);
        if (Cell::has_c) std::copy_n(c.data() + from, f.n.H, f.c_last + to);
      }
    }

    void begin() {
      for (long r = 0; r < count; ++r) {
        std::copy_n(f.h_first + (first + r) * f.n.H, f.n.H, h.data() + r * width);
        if (Cell::has_c) std::copy_n(f.c_first + (first + r) * f.n.H, f.n.H, c.data() + r * width);
      }
      for (const Block& block : blocks) {
        for (int r = 0; r < block.rows; ++r) {
          for (long k = 0; k < f.n.H; ++k) {
            rows.data()[block.first * f.n.H + k * block.rows + r] =
                h.data()[(block.first + r) * width + k];
          }
        }
      }
    }

    // A step at which no row is run.
    void pass_over(long t) {
      for (long r = 0; r < count; ++r) {
        const long to = (t * f.n.B + first + r) * f.n.H;
        std::fill_n(f.ys + to, f.n.H, T(0));
        if (f.before) std::copy_n(h.data() + r * width, f.n.H, f.before + to);
      }
    }

    // The cell's step for the units of panel p and the rows of a block.
    void finish(long t, long p, const Block& block, const Vec<T>* tile, T* next) {
      for (int u = 0; u < U; ++u) {
        const long unit = (p * U + u) * L;
        const int lanes = static_cast<int>(std::min<long>(L, f.n.H - unit));
        if (lanes <= 0) return;
        Vec<T> bias[G];
        for (int g = 0; g < G; ++g) bias[g] = load(f.bias + g * f.n.H + unit, lanes);
        for (int r = 0; r < block.rows; ++r) {
          Vec<T> s[G];
          for (int g = 0; g < G; ++g) s[g] = tile[r * G * U + g * U + u] + bias[g];
          const Vec<T> after = step(t, block.first + r, unit, lanes, s);
          for (int l = 0; l < lanes; ++l) next[(unit + l) * block.rows + r] = after[l];
        }
      }
    }

    Vec<T> step(long t, long row, long unit, int lanes, const Vec<T>* s) {
      const long H = f.n.H, place = t * f.n.B + first + row;
      T* own_h = h.data() + row * width + unit;
      Vec<T> h_now = load(own_h), c_now{}, kept[Cell::kept + 1], x[G];
      if (f.before) store(f.before + place * H + unit, h_now, lanes);
      if (f.alive && !f.alive[place]) {
        store(f.ys + place * H + unit, Vec<T>{}, lanes);
        return h_now;
      }
      const T* from = f.x + (f.tokens ? f.n.row(f.tokens[place]) : place) * G * H + unit;
      for (int g = 0; g < G; ++g) x[g] = load(from + g * H, lanes);
      T* own_c = c.data() + row * width + unit;
      if (Cell::has_c) c_now = load(own_c);
      Cell::forward(x, s, h_now, c_now, kept);
      store(own_h, h_now);
      if (Cell::has_c) store(own_c, c_now);
      store(f.ys + place * H + unit, h_now, lanes);
      if (f.kept) {
        T* to = f.kept + place * Cell::kept * H + unit;
        for (int k = 0; k < Cell::kept; ++k) store(to + k * H, kept[k], lanes);
      }
      return h_now;
    }
  };
};

}  // namespace jaxrnn
