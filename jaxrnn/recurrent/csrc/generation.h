// Generation: token after token, each chosen from what the model says after the one before.
//
// Shapes: N tokens to generate, B texts at once, D layers, H units, GH gates times units,
// F fields of the carry, P parameters per unit, V tokens to choose from. All N steps of some texts
// are one thread's, which needs to wait for nobody; a few texts with a large weight are a team's.

#pragma once

#include <limits>

#include "cell.h"
#include "functions.h"
#include "packing.h"
#include "team.h"

namespace jaxrnn {

template <typename T>
struct Generate {
  static constexpr int L = kLanes<T>;
  static constexpr long kNothing = -1;  // is chosen where no token has a probability

  const CellTable& cell;
  long N, B, D, H, V;
  // (D, packed), (D - 1, packed): the first layer has a table. In a window of 2 there is no
  // recurrent product, and in its place stands that with the input before, (D - 1, packed).
  const T *weight_hh, *weight_ih;
  const T *bias_hh, *bias_ih;        // (D, GH), (D - 1, GH); without a product, the latter is null
  const T* params;                   // (D, P, H)
  // (V, GH): the input half of the first layer's gates. In a window of 2, (2V + B, GH), of which a
  // step reads two rows: V tokens, V tokens as the input before, and what was before the first.
  const T* table;
  bool window;                       // whether it is one of 2
  const T *weight_out, *bias_out;    // (packed), (V,); -inf where a token is never to be chosen
  const T *h_first, *others_first;   // (D, B, H), (F - 1, D, B, H)
  const T* x_first;                  // (D - 1, B, H): in a window of 2, the inputs before the first
  const int32_t* token;              // (B,): the token before the first one
  const T* uniforms;                 // (N, B) from [0, 1), or null: always the most likely
  T inverse_temperature;             // the logits are multiplied by it
  int32_t* chosen;                   // (N, B)
  T *h_last, *others_last;           // (D, B, H), (F - 1, D, B, H)

  void run(xla::ffi::ThreadPool& pool) {
    const long products = (cell.recurrent ? D : window ? D - 1 : 0) + D - 1;
    const long numbers = products * cell.gates * H * H + V * H;
    const double operations = 2.0 * N * B * numbers;
    const Packing<T> packing(cell.gates, H, H);
    const long bytes = numbers * sizeof(T);
    const Division division(pool, B, most_rows(packing.vectors), bytes, packing.panels, operations);
    parallel_for(pool, division.chunks.count, [&](long i) {
      Texts(*this, division.chunks.begin(i), division.chunks.end(i))
          .run(Team(pool, division.helpers));
    });
  }

 private:
  // Some texts, with what they remember from token to token.
  struct Texts {
    const Generate& f;
    const Packing<T> recurrent, output;
    const long first, count, width, field, stride, choices;
    const std::vector<Block> blocks;
    const std::vector<Multiply<T>> multiply_recurrent, multiply_output;  // for each block
    Buffer<T> carry, rows, logits;  // (F, D, count, width); h, (2, D, count, stride);
                                    // (count, choices)
    Buffer<T> x_before;             // (D - 1, count, stride): before the first step
    std::vector<long> reads, older;
    long now = 0;  // which half of `rows` is the carry before the step

    Texts(const Generate& f, long begin, long end)
        : f(f), recurrent(f.cell.gates, f.H, f.H), output(1, f.V, f.H), first(begin),
          count(end - begin), width(recurrent.width()), field(f.D * count * width),
          stride(padded<T>(width)), choices(output.width()),
          blocks(blocks_of(
              count, std::min(most_rows(recurrent.vectors), most_rows(output.vectors)))),
          multiply_recurrent(multiply_for<T>(recurrent.vectors, blocks)),
          multiply_output(multiply_for<T>(output.vectors, blocks)),
          carry(f.cell.fields * field), rows(2 * f.D * count * stride), logits(count * choices),
          x_before(f.window ? (f.D - 1) * count * stride : 0), reads(count), older(count) {}

    void run(Team team) {
      begin();
      for (long n = 0; n < f.N; ++n) {
        for (long d = 0; d < f.D; ++d) {
          team.run(recurrent.panels, [&](long p) { step(d, p, n == 0); });
        }
        now = 1 - now;
        team.run(output.panels, [&](long p) { predict(p); });
        for (long r = 0; r < count; ++r) {
          const long found =
              f.uniforms ? sampled(r, f.uniforms[n * f.B + first + r]) : most_likely(r);
          f.chosen[n * f.B + first + r] = static_cast<int32_t>(found);
          older[r] = f.V + reads[r];
          reads[r] = std::max<long>(found, 0);
        }
      }
      end();
    }

    // h of layer d from a row on, before the step or after it.
    T* h_of(long d, bool after, long row = 0) {
      return rows.data() + (((after ? 1 - now : now) * f.D + d) * count + row) * stride;
    }

    // Field k of the carry of layer d.
    T* carry_of(int k, long d) { return carry.data() + k * field + d * count * width; }

    // Where the first row of a layer's field begins in the arrays of the call.
    long place(int k, long d) const {
      return ((k == 0 ? d : (k - 1) * f.D + d) * f.B + first) * f.H;
    }

    void begin() {
      for (long r = 0; r < count; ++r) {
        reads[r] = row_of(f.token[first + r], f.V);
        older[r] = 2 * f.V + first + r;
      }
      for (long d = 0; d < f.D; ++d) {
        for (int k = 0; k < f.cell.fields; ++k) {
          const T* from = (k == 0 ? f.h_first : f.others_first) + place(k, d);
          for (long r = 0; r < count; ++r) {
            std::copy_n(from + r * f.H, f.H, carry_of(k, d) + r * width);
          }
        }
        copy_rows(carry_of(0, d), width, h_of(d, false));
        if (f.window && d > 0) {
          copy_rows(f.x_first + ((d - 1) * f.B + first) * f.H, f.H, first_inputs(d));
        }
      }
    }

    // Rows with so many numbers from one to the next, to where a product reads them.
    void copy_rows(const T* from, long from_row_to_row, T* to) {
      for (long r = 0; r < count; ++r) {
        std::copy_n(from + r * from_row_to_row, f.H, to + r * stride);
      }
    }

    // The inputs of layer d, not the first, before the first step.
    T* first_inputs(long d) { return x_before.data() + (d - 1) * count * stride; }

    void end() {
      for (long d = 0; d < f.D; ++d) {
        for (int k = 0; k < f.cell.fields; ++k) {
          T* to = (k == 0 ? f.h_last : f.others_last) + place(k, d);
          for (long r = 0; r < count; ++r) {
            std::copy_n(carry_of(k, d) + r * width, f.H, to + r * f.H);
          }
        }
      }
    }

    // One step of layer d for the units of panel p.
    void step(long d, long p, bool is_first) {
      const long weight = recurrent.panels * recurrent.size, GH = f.cell.gates * f.H;
      const bool looks_up = d == 0;
      const GenerateStep<T> arrays{
          f.H, f.bias_hh + d * GH, looks_up || !f.bias_ih ? nullptr : f.bias_ih + (d - 1) * GH,
          f.params + d * f.cell.params * f.H, f.table, reads.data(),
          f.window ? older.data() : nullptr, {carry_of(0, d), width, field}};
      for (size_t i = 0; i < blocks.size(); ++i) {
        const Block& block = blocks[i];
        const auto multiply = multiply_recurrent[i];
        Vec<T> tile[kAccumulators], x_tile[kAccumulators];
        if (f.cell.recurrent) {
          multiply({h_of(d, false, block.first), stride},
                   f.weight_hh + d * weight + p * recurrent.size, f.H, tile);
        }
        if (f.window && !looks_up) {
          // The input before is what the layer below gave at the step before.
          const T* before = is_first ? first_inputs(d) : h_of(d - 1, false);
          multiply({before + block.first * stride, stride},
                   f.weight_hh + (d - 1) * weight + p * recurrent.size, f.H, tile);
        }
        if (!looks_up) {
          multiply({h_of(d - 1, true, block.first), stride},
                   f.weight_ih + (d - 1) * weight + p * recurrent.size, f.H, x_tile);
        }
        f.cell.steps<T>().generate(arrays, p, block, tile, looks_up ? nullptr : x_tile,
                                   h_of(d, true, block.first), stride);
      }
    }

    // The logits of panel p of the tokens.
    void predict(long p) {
      for (size_t i = 0; i < blocks.size(); ++i) {
        const Block& block = blocks[i];
        Vec<T> tile[kAccumulators];
        multiply_output[i](
            {h_of(f.D - 1, false, block.first), stride}, f.weight_out + p * output.size, f.H, tile);
        for (int u = 0; u < output.U; ++u) {
          const long choice = (p * output.U + u) * L;
          const int lanes = static_cast<int>(std::min<long>(L, f.V - choice));
          if (lanes <= 0) break;
          const Vec<T> bias = load(f.bias_out + choice, lanes);
          for (int r = 0; r < block.rows; ++r) {
            T* to = logits.data() + (block.first + r) * choices + choice;
            store(to, tile[r * output.U + u] + bias);
          }
        }
      }
    }

    // The largest logit of row r, or NaN if one is NaN or none is finite: then nothing is chosen.
    T largest_of(const T* own) {
      T largest = -std::numeric_limits<T>::infinity();
      bool unknown = false;
      for (long v = 0; v < f.V; ++v) {
        unknown |= own[v] != own[v];
        largest = own[v] > largest ? own[v] : largest;
      }
      if (unknown) return std::numeric_limits<T>::quiet_NaN();
      const bool finite = largest >= std::numeric_limits<T>::lowest() &&
                          largest <= std::numeric_limits<T>::max();
      return finite ? largest : std::numeric_limits<T>::quiet_NaN();
    }

    long most_likely(long r) {
      const T* own = logits.data() + r * choices;
      const T largest = largest_of(own);
      return largest != largest ? kNothing : std::find(own, own + f.V, largest) - own;
    }

    // The first token up to which the probabilities sum to more than `uniform`.
    long sampled(long r, T uniform) {
      T* own = logits.data() + r * choices;
      const T largest = largest_of(own);
      if (largest != largest) return kNothing;
      T total = 0;
      for (long v = 0; v < f.V; v += L) {
        const Vec<T> x = load(own + v), none{};
        Vec<T> weights = exp_bounded<T>((x - largest) * f.inverse_temperature);
        weights = x < -std::numeric_limits<T>::max() ? none : weights;
        store(own + v, weights);
        const long end = std::min<long>(v + L, f.V);
        for (long i = v; i < end; ++i) total += own[i];
      }
      const T threshold = uniform * total;
      long last = 0;
      T sum = 0;
      for (long v = 0; v < f.V; ++v) {
        sum += own[v];
        if (own[v] > 0) last = v;
        if (sum > threshold) return v;
      }
      return last;
    }
  };
};

}  // namespace jaxrnn
