// The recurrence's gradients, from the last step to the first.
//
// Shapes: as in cell.h. The rows go through time in chunks, one a thread. What is summed over rows
// (the gradients of the weight, the bias, the parameters and the table) is summed afterwards, column
// by column and in the order of the places: no result depends on how many threads there are, or on
// their speed.

#pragma once

#include "cell.h"
#include "outer.h"
#include "team.h"

namespace jaxrnn {

template <typename T>
struct Backward {
  static constexpr int U = 2;  // vectors of units in a panel
  static constexpr int L = kLanes<T>;

  const CellTable& cell;
  Sizes n;
  const T *weight, *params;              // (GH, H), or null without a product; (P, H)
  const T *before, *residuals, *ys;      // what the forward run kept, and its outputs
  const T *bias, *x;                     // without a product, what the forward run read; else null
  const int32_t* tokens;                 // (T, B, reads) or null
  const bool *mask, *resets;             // (T, B) or null
  const T *d_ys, *dh_last;               // (T, B, H), (B, H)
  const T* d_others_last;                // (F - 1, B, H)
  T* d_gates;                            // (T, B, GH): of the recurrent half of the gates
  T* d_x_gates;                          // of the input half, or null where it is the same; for
                                         // a table, only the gates that are not shared
  T *d_table, *d_weight, *d_bias;        // (V, GH) or null, (GH, H) or null, (GH,)
  T* d_params;                           // (P, H) or null
  T *dh_first, *d_others_first;          // (B, H), (F - 1, B, H), or both null

  void run(xla::ffi::ThreadPool& pool) {
    const int shared = cell.steps<T>().shared;
    const long panels = (n.H + U * L - 1) / (U * L), GH = cell.gates * n.H;
    const long PH = cell.params * n.H;
    const long weight_size = cell.recurrent ? GH * n.H : 0;
    Buffer<T> packed(cell.recurrent ? panels * panel_size() : 0);
    Buffer<T> d_params_of_places(n.T * n.B * PH);
    const double operations = n.operations(cell.gates, cell.recurrent);
    const Chunks chunks(n.B, pool.num_threads(), operations);
    const long helpers = helpers_for(pool, chunks.count, weight_size * sizeof(T), operations);
    const auto pack_one = [&](long p) { pack(p, packed.data() + p * panel_size()); };
    if (weight_size >= kWorthPacking) {
      parallel_for(pool, panels, pack_one);
    } else if (cell.recurrent) {
      for (long p = 0; p < panels; ++p) pack_one(p);
    }
    parallel_for(pool, chunks.count, [&](long i) {
      Part(*this, packed.data(), d_params_of_places.data(), chunks.begin(i), chunks.end(i))
          .run(Team(pool, helpers));
    });
    const long places = steps_run(mask, n.T, n.B) * n.B;
    const TableGradient<T> table{n.V, GH, n.reads, tokens, d_gates, shared * n.H, d_x_gates,
                                 d_table};
    const long columns = cell.recurrent ? n.H : 0;  // of the weight's gradient
    OuterProducts<T>{places, GH, columns, d_gates, before, d_weight, d_bias, table}.run(pool);
    ColumnSums<T>{places, PH, d_params_of_places.data(), d_params}.run(pool);
  }

 private:
  long panel_size() const { return cell.gates * n.H * U * L; }

  void pack(long p, T* panel) const {
    const long unit = p * U * L, lanes = std::min<long>(U * L, n.H - unit);
    for (long k = 0; k < cell.gates * n.H; ++k) {
      copy<U * L>(weight + k * n.H + unit, lanes, panel + k * U * L);
    }
  }

  // Some rows, with what they remember from step to step.
  struct Part {
    const Backward& b;
    const T* weight;  // packed
    T* d_params;      // (T, B, PH)
    const long GH, panels, first, count, width, field;
    std::vector<Block> blocks;
    Buffer<T> d_carry, rows;  // (F, count, width); the gradients of the gates, in blocks

    Part(const Backward& b, const T* weight, T* d_params, long begin, long end)
        : b(b), weight(weight), d_params(d_params), GH(b.cell.gates * b.n.H),
          panels((b.n.H + U * L - 1) / (U * L)), first(begin), count(end - begin),
          width(panels * U * L), field(count * width), blocks(blocks_of(count, most_rows(U))),
          d_carry(b.cell.fields * field), rows(count * GH) {}

    void run(Team team) {
      begin();
      const BackwardStep<T> step{b.n.B, b.n.H, b.n.V, b.n.reads, first, b.d_table != nullptr,
                                 b.params, b.before, b.residuals, b.ys, b.bias, b.x, b.tokens, b.mask, b.d_ys,
                                 {d_carry.data(), width, field}, b.d_gates, b.d_x_gates, d_params,
                                 rows.data()};
      const auto run_step = b.cell.steps<T>().backward;
      for (long i = 0; i < b.n.T; ++i) {
        const long t = b.n.step(i, true);
        for (const Block& block : blocks) run_step(step, t, block);
        if (!any_run(b.mask, t, b.n.B, first, count)) continue;
        const bool last = i == b.n.T - 1;
        if (last && !b.dh_first) break;  // what goes on to the first carry, nobody asked for
        if (b.cell.recurrent) {
          team.run(panels, [&](long p) {
            for (const Block& block : blocks) through_weight(p, block);
          });
        }
        if (b.resets) reset(t);
      }
      if (b.dh_first) end();
    }

    void begin() {
      for (int k = 0; k < b.cell.fields; ++k) {
        const T* from = k == 0 ? b.dh_last : b.d_others_last + (k - 1) * b.n.B * b.n.H;
        for (long r = 0; r < count; ++r) {
          std::copy_n(from + (first + r) * b.n.H, b.n.H, d_carry.data() + k * field + r * width);
        }
      }
    }

    void end() {
      for (int k = 0; k < b.cell.fields; ++k) {
        T* to = k == 0 ? b.dh_first : b.d_others_first + (k - 1) * b.n.B * b.n.H;
        for (long r = 0; r < count; ++r) {
          std::copy_n(d_carry.data() + k * field + r * width, b.n.H, to + (first + r) * b.n.H);
        }
      }
    }

    // The carry before a step that starts anew has no part in it.
    void reset(long t) {
      for (long r = 0; r < count; ++r) {
        if (!starts_anew(b.resets, b.mask, t * b.n.B + first + r)) continue;
        for (int k = 0; k < b.cell.fields; ++k) {
          std::fill_n(d_carry.data() + k * field + r * width, width, T(0));
        }
      }
    }

    // dh += d_gates @ weight, for the units of panel p.
    void through_weight(long p, const Block& block) {
      Vec<T> tile[kAccumulators];
      multiply_for<T, U>(block.rows)(
          rows.data() + block.first * GH, weight + p * b.panel_size(), GH, tile);
      for (int r = 0; r < block.rows; ++r) {
        T* own = d_carry.data() + (block.first + r) * width + p * U * L;
        for (int u = 0; u < U; ++u) store(own + u * L, load(own + u * L) + tile[r * U + u]);
      }
    }
  };
};

}  // namespace jaxrnn
