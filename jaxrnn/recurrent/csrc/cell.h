// What a cell is to the core: three functions that run its step for a block of rows, as a table.
//
// The core (recurrence.cc) has the products, the loops over time and the calls of XLA, and knows no
// cell. Each cell is a shared object of its own that exports one `CellTable`; its step and the
// gradients of its step are generated from the Python function (jaxrnn/recurrent/compiled/), and
// steps.h puts them into the loops over rows and units.
//
// Shapes: T time steps, B rows of the batch, H units, G gates, F fields of the carry, P parameters
// per unit, R residuals, S gates whose two halves have one gradient, V rows of the table. "Rows"
// are those of one thread, which begin at row `first` of the batch.
//
// The arrays of a call are passed by value: as pointers in registers or on the stack the compiler
// knows that storing a vector changes none of them. By reference the backward pass was 4 % slower.

#pragma once

#include "sizes.h"

namespace jaxrnn {

// The carry, or its gradient, of a thread's rows: (F, rows, width), padded to whole vectors.
template <typename T>
struct Rows {
  T* data;
  long width;  // numbers from a row to the next
  long field;  // numbers from a field to the next
};

template <typename T>
struct ForwardStep {
  long B, H, V, reads, first;
  const T* bias;          // (GH,)
  const T* bias_ih;       // (GH,), or null where `x` has it
  const T* params;        // (P, H)
  const T* x;             // (T, B, GH), or the table (V, GH); null where there are tiles of it
  const int32_t* tokens;  // (T, B, reads), or null where there is no table
  const bool* mask;       // (T, B), or null where every step is run
  Rows<T> carry;
  T* ys;                  // (T, B, H)
  T* before;              // (T, B, H), or null where it is not kept
  T* residuals;           // T * B * R whole rows of vectors, or null
};

template <typename T>
struct BackwardStep {
  long B, H, V, reads, first;
  bool own_alone;      // of the gradient of the input gates, only those of gates S ... G - 1 are
                       // stored: what sums them up takes the others from `d_gates`
  const T* params;     // (P, H)
  const T* before;     // (B, H): `h` before this step, or null where it is not needed
  const T* residuals;  // as the forward step left them
  const T* ys;         // (T, B, H)
  // For a cell without a recurrent product, what the forward step read; else null.
  const T *bias, *x;      // (GH,); (T, B, GH), or the table (V, GH)
  const int32_t* tokens;  // (T, B, reads), or null where there is no table
  const bool* mask;    // (T, B), or null
  const T* d_ys;       // (T, B, H)
  Rows<T> d_carry;     // without the part of dh that comes through the product, which is added
  T* d_gates;          // (T, B, GH)
  T* d_x_gates;        // (T, B, GH) or (T, B, (G - S)H), or null where S = G
  T* d_params;         // (T, B, PH), or null where P = 0
  T* rows;             // `d_gates` of the step for the product, (rows, GH), with so many numbers
  T* rows_x;           // from one to the next; `d_x_gates` of gates S ... G - 1, or null
  long stride, stride_x;
};

template <typename T>
struct GenerateStep {
  long H;
  const T *bias_hh, *bias_ih;  // (GH,); the latter null in the first layer
  const T* params;             // (P, H)
  const T* table;              // (V, GH): the input gates of the first layer
  const long* reads;           // (rows,): which row of the table each text reads
  // In a window of 2, the row of the input before; then the tiles of the layers above have the
  // product with their input before. Else null.
  const long* older;
  Rows<T> carry;
};

// The functions of a cell in one precision. A tile has the sums of a product: for each row of the
// block G * U vectors, gate by gate; `x_tile` has those of the product with the inputs, or is null.
// `next` gets h after the step, for the next product; from row to row it has `stride` numbers.
// Where there is no recurrent product, there are no tiles and no `next`, and a call of `forward` or
// `backward` does the step for all units of a block.
template <typename T>
struct Steps {
  int residuals, shared;  // R, S
  bool needs_before;      // whether the backward step needs h before the step
  void (*forward)(ForwardStep<T>, long t, long panel, Block, const Vec<T>* tile,
                  const Vec<T>* x_tile, T* next, long stride);
  void (*backward)(BackwardStep<T>, long t, Block);
  void (*generate)(GenerateStep<T>, long panel, Block, const Vec<T>* tile, const Vec<T>* x_tile,
                   T* next, long stride);
};

struct CellTable {
  int gates, fields, params;  // G, F, P
  bool recurrent;             // whether there is a product with h; without it, the bias alone is
                              // the recurrent half of the gates
  Steps<float> float32;
  Steps<double> float64;

  template <typename T>
  const Steps<T>& steps() const {
    if constexpr (sizeof(T) == sizeof(float)) {
      return float32;
    } else {
      return float64;
    }
  }
};

}  // namespace jaxrnn
