// A cell's step in the loops over the rows and units of a block. Compiled with each cell.
//
// `CellOf<T>` is generated. It has the sizes of cell.h as constants, and two functions for one
// vector of units of one row:
//
// forward:  x and s are the input and the recurrent half of the gates; `carry` becomes the next
//           carry; `residuals` is what the backward step needs.
// backward: x and s are there only where the cell has no recurrent product; `d_carry`, the gradient of
//           the carry after the step, becomes that of the carry before it, but for the part of dh
//           that goes through the product with weight_hh; dx, ds and d_params become the gradients
//           of the gates' two halves and of the parameters.

#pragma once

#include "cell.h"
#include "functions.h"

#define JAXRNN_INLINE __attribute__((always_inline)) inline

namespace jaxrnn {

template <template <typename> class CellOf, typename T>
struct StepsOf {
  using Cell = CellOf<T>;
  using V = Vec<T>;
  static constexpr int G = Cell::gates, F = Cell::fields, P = Cell::params, R = Cell::residuals;
  static constexpr int U = units_per_panel(G), L = kLanes<T>;

  static constexpr Steps<T> table() {
    return {R, Cell::shared, Cell::needs_before, forward, backward, generate};
  }

 private:
  static int lanes_from(long unit, long H) {
    return static_cast<int>(std::min<long>(L, H - unit));
  }

  // Where the residuals of a vector of units begin, R vectors.
  static JAXRNN_INLINE long residuals_of(long t, long B, long row, long unit, long H) {
    return residuals_number(Cell::recurrent, t, B, row, unit / L, panels_of<T>(H)) * R * L;
  }

  static JAXRNN_INLINE void load_params(const T* from, long unit, long H, int lanes, V* params) {
    for (int p = 0; p < P; ++p) params[p] = load(from + p * H + unit, lanes);
  }

  static JAXRNN_INLINE void load_carry(const T* from, long field, V* carry) {
    for (int f = 0; f < F; ++f) carry[f] = load(from + f * field);
  }

  static JAXRNN_INLINE void store_carry(T* to, long field, const V* carry) {
    for (int f = 0; f < F; ++f) store(to + f * field, carry[f]);
  }

  static void forward(ForwardStep<T> a, long t, long panel, Block block, const V* tile,
                      const V* x_tile, T* next, long stride) {
    if constexpr (!Cell::recurrent) {
      forward_rows(a, t, block);
      return;
    }
    for (int u = 0; u < U; ++u) {
      const long unit = (panel * U + u) * L;
      const int lanes = lanes_from(unit, a.H);
      if (lanes <= 0) return;
      V bias[G], bias_ih[G] = {}, params[P + 1];
      for (int g = 0; g < G; ++g) bias[g] = load(a.bias + g * a.H + unit, lanes);
      for (int g = 0; x_tile && g < G; ++g) bias_ih[g] = load(a.bias_ih + g * a.H + unit, lanes);
      load_params(a.params, unit, a.H, lanes, params);
      for (int r = 0; r < block.rows; ++r) {
        const long row = block.first + r, place = t * a.B + a.first + row;
        V x[G], s[G];
        if (x_tile) {
          for (int g = 0; g < G; ++g) x[g] = x_tile[r * G * U + g * U + u] + bias_ih[g];
        } else {
          read_gates(a, place, unit, lanes, x);
        }
        for (int g = 0; g < G; ++g) s[g] = tile[r * G * U + g * U + u] + bias[g];
        const V after = forward_one(a, t, row, unit, lanes, x, s, params);
        store(next + r * stride + unit, after);
      }
    }
  }

  // All units of some rows: without a product, each row is read from front to back.
  static void forward_rows(ForwardStep<T> a, long t, Block block) {
    for (int r = 0; r < block.rows; ++r) {
      for (long unit = 0; unit < a.H; unit += L) {
        const int lanes = lanes_from(unit, a.H);
        const long row = block.first + r;
        V x[G], s[G], params[P + 1];
        read_gates(a, t * a.B + a.first + row, unit, lanes, x);
        for (int g = 0; g < G; ++g) s[g] = load(a.bias + g * a.H + unit, lanes);
        load_params(a.params, unit, a.H, lanes, params);
        forward_one(a, t, row, unit, lanes, x, s, params);
      }
    }
  }

  // One row and one vector of units; gives h after the step.
  static JAXRNN_INLINE V forward_one(const ForwardStep<T>& a, long t, long row, long unit,
                                     int lanes, const V* x, const V* s, const V* params) {
    const long place = t * a.B + a.first + row;
    T* own = a.carry.data + row * a.carry.width + unit;
    V carry[F], residuals[R + 1];
    carry[0] = load(own);
    if (a.before) store(a.before + place * a.H + unit, carry[0], lanes);
    T* to = a.residuals ? a.residuals + residuals_of(t, a.B, a.first + row, unit, a.H) : nullptr;
    if (a.mask && !a.mask[place]) {
      store(a.ys + place * a.H + unit, V{}, lanes);
      for (int k = 0; to && k < R; ++k) store(to + k * L, V{});
      return carry[0];
    }
    for (int f = 1; f < F; ++f) carry[f] = load(own + f * a.carry.field);
    Cell::forward(x, s, params, carry, residuals);
    store_carry(own, a.carry.field, carry);
    store(a.ys + place * a.H + unit, carry[0], lanes);
    for (int k = 0; to && k < R; ++k) store(to + k * L, residuals[k]);
    return carry[0];
  }

  // The input half of the gates of a place: its own, or the sum of the rows that it reads.
  template <typename Step>
  static JAXRNN_INLINE void read_gates(const Step& a, long place, long unit, int lanes, V* x) {
    const int32_t* reads = a.tokens ? a.tokens + place * a.reads : nullptr;
    const T* from = a.x + (reads ? row_of(*reads, a.V) : place) * G * a.H + unit;
    for (int g = 0; g < G; ++g) x[g] = load(from + g * a.H, lanes);
    for (long k = 1; reads && k < a.reads; ++k) {
      from = a.x + row_of(reads[k], a.V) * G * a.H + unit;
      for (int g = 0; g < G; ++g) x[g] += load(from + g * a.H, lanes);
    }
  }

  static void backward(BackwardStep<T> a, long t, Block block) {
    if constexpr (!Cell::recurrent) {
      backward_rows(a, t, block);
      return;
    }
    for (long unit = 0; unit < a.H; unit += L) {
      const int lanes = lanes_from(unit, a.H);
      V params[P + 1];
      load_params(a.params, unit, a.H, lanes, params);
      for (int r = 0; r < block.rows; ++r) {
        V dx[G] = {}, ds[G] = {};
        backward_one(a, t, block.first + r, unit, lanes, params, dx, ds);
        T* to = a.rows + (block.first + r) * a.stride + unit;
        for (int g = 0; g < G; ++g) store(to + g * a.H, ds[g], lanes);
        if (!a.rows_x) continue;
        to = a.rows_x + (block.first + r) * a.stride_x + unit;
        for (int g = Cell::shared; g < G; ++g) store(to + (g - Cell::shared) * a.H, dx[g], lanes);
      }
    }
  }

  // All units of some rows, as `forward_rows`.
  static void backward_rows(BackwardStep<T> a, long t, Block block) {
    for (int r = 0; r < block.rows; ++r) {
      for (long unit = 0; unit < a.H; unit += L) {
        const int lanes = lanes_from(unit, a.H);
        V params[P + 1], dx[G], ds[G];
        load_params(a.params, unit, a.H, lanes, params);
        backward_one(a, t, block.first + r, unit, lanes, params, dx, ds);
      }
    }
  }

  // One row and one vector of units.
  static JAXRNN_INLINE void backward_one(const BackwardStep<T>& a, long t, long row, long unit,
                                         int lanes, const V* params, V* dx, V* ds) {
    const long H = a.H, place = t * a.B + a.first + row;
    const int first_x = a.own_alone ? Cell::shared : 0;
    T* to_s = a.d_gates + place * G * H + unit;
    T* to_x = a.d_x_gates ? a.d_x_gates + place * (G - first_x) * H + unit : nullptr;
    T* to_params = P > 0 ? a.d_params + place * P * H + unit : nullptr;
    if (a.mask && !a.mask[place]) {
      for (int g = 0; g < G; ++g) {
        store(to_s + g * H, V{}, lanes);
        if (to_x && g >= first_x) store(to_x + (g - first_x) * H, V{}, lanes);
      }
      for (int p = 0; p < P; ++p) store(to_params + p * H, V{}, lanes);
      return;
    }
    T* own = a.d_carry.data + row * a.d_carry.width + unit;
    V d_carry[F], residuals[R + 1], d_params[P + 1];
    load_carry(own, a.d_carry.field, d_carry);
    d_carry[0] += load(a.d_ys + place * H + unit, lanes);
    const T* from = a.residuals + residuals_of(t, a.B, a.first + row, unit, H);
    for (int k = 0; k < R; ++k) residuals[k] = load(from + k * L);
    V before = {}, x[G], s[G];
    if constexpr (Cell::needs_before) {
      const long here = (a.first + row) * H + unit;
      before = load(a.before + here, lanes);
      __builtin_prefetch(a.before + here + L);
    }
    if constexpr (!Cell::recurrent) {
      read_gates(a, place, unit, lanes, x);
      for (int g = 0; g < G; ++g) s[g] = load(a.bias + g * H + unit, lanes);
    }
    const V after = load(a.ys + place * H + unit, lanes);
    // The next units of the row: the other rows of the block are read before them.
    __builtin_prefetch(a.d_ys + place * H + unit + L);
    __builtin_prefetch(a.ys + place * H + unit + L);
    Cell::backward(residuals, x, s, before, after, params, d_carry, dx, ds, d_params);
    store_carry(own, a.d_carry.field, d_carry);
    for (int g = 0; g < G; ++g) {
      store(to_s + g * H, ds[g], lanes);
      if (to_x && g >= first_x) store(to_x + (g - first_x) * H, dx[g], lanes);
    }
    for (int p = 0; p < P; ++p) store(to_params + p * H, d_params[p], lanes);
  }

  static void generate(GenerateStep<T> a, long panel, Block block, const V* tile, const V* x_tile,
                       T* next, long stride) {
    const long H = a.H;
    for (int u = 0; u < U; ++u) {
      const long unit = (panel * U + u) * L;
      const int lanes = lanes_from(unit, H);
      if (lanes <= 0) return;
      V params[P + 1];
      load_params(a.params, unit, H, lanes, params);
      for (int r = 0; r < block.rows; ++r) {
        const long row = block.first + r;
        V x[G], s[G], carry[F], residuals[R + 1];
        for (int g = 0; g < G; ++g) {
          const long gate = g * H + unit, sum = r * G * U + g * U + u;
          s[g] = load(a.bias_hh + gate, lanes);
          if constexpr (Cell::recurrent) s[g] += tile[sum];
          if (!x_tile) {
            x[g] = load(a.table + a.reads[row] * G * H + gate, lanes);
            if (a.older) x[g] += load(a.table + a.older[row] * G * H + gate, lanes);
          } else {
            x[g] = x_tile[sum];
            if (a.older) x[g] += tile[sum];
            if constexpr (Cell::recurrent) x[g] += load(a.bias_ih + gate, lanes);
          }
        }
        T* own = a.carry.data + row * a.carry.width + unit;
        load_carry(own, a.carry.field, carry);
        Cell::forward(x, s, params, carry, residuals);
        store_carry(own, a.carry.field, carry);
        store(next + r * stride + unit, carry[0]);
      }
    }
  }
};

}  // namespace jaxrnn

// Exports the table of a generated cell.
#define JAXRNN_EXPORT(CellOf)                                                     \
  extern "C" __attribute__((visibility("default"))) const jaxrnn::CellTable       \
      jaxrnn_cell = {CellOf<float>::gates, CellOf<float>::fields,                 \
                     CellOf<float>::params, CellOf<float>::recurrent,             \
                     jaxrnn::StepsOf<CellOf, float>::table(),                     \
                     jaxrnn::StepsOf<CellOf, double>::table()};
