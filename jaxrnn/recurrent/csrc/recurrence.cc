// The calls that XLA makes: pack a weight, the recurrence over time, its gradients, generation.
//
// Which arrays they take and give is described where they are called, in
// jaxrnn/recurrent/compiled/calls.py and jaxrnn/generation/compiled.py. An array that is not there has
// no elements.
//
// A call names its cell by a text, the fingerprint of the cell's source, and finds its functions among
// those that were registered. No pointer and no number stands in a compiled program: JAX keeps
// programs on the disk, and they outlive the process.

#include <map>
#include <mutex>
#include <string>
#include <string_view>

#include "backward.h"
#include "checks.h"
#include "forward.h"
#include "generation.h"

namespace ffi = xla::ffi;

namespace jaxrnn {
namespace {

using Tokens = ffi::Buffer<ffi::DataType::S32>;
using Mask = ffi::Buffer<ffi::DataType::PRED>;
using Array = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;

// The tables of all cells that are loaded. They stay as long as the process.
class Registry {
 public:
  void add(const char* fingerprint, const CellTable* cell) {
    std::lock_guard<std::mutex> lock(mutex_);
    cells_[fingerprint] = cell;
  }

  const CellTable* find(std::string_view fingerprint) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = cells_.find(fingerprint);
    return found == cells_.end() ? nullptr : found->second;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, const CellTable*, std::less<>> cells_;  // finds a view without a copy
};

Registry& registry() {
  static Registry* const instance = new Registry;  // is there until the last thread ends
  return *instance;
}

template <typename T>
T* data_of(ffi::AnyBuffer buffer) {
  return buffer.element_count() == 0 ? nullptr : static_cast<T*>(buffer.untyped_data());
}

template <ffi::DataType dtype>
auto* data_of(ffi::Buffer<dtype> buffer) {
  return buffer.element_count() == 0 ? nullptr : buffer.typed_data();
}

template <typename T>
T* data_of(ffi::Result<ffi::AnyBuffer> buffer) {
  return data_of<T>(*buffer);
}

// Gives what act.operator()<T>() gives for a dtype.
template <typename Act>
ffi::Error with_dtype(ffi::DataType dtype, Act act) {
  switch (dtype) {
    case ffi::DataType::F32: return act.template operator()<float>();
    case ffi::DataType::F64: return act.template operator()<double>();
    default: return ffi::Error::InvalidArgument("jaxrnn: unknown dtype");
  }
}

// Gives what act.operator()<T>(cell) gives for a dtype and the cell of a fingerprint.
template <typename Act>
ffi::Error with_cell(ffi::DataType dtype, std::string_view fingerprint, Act act) {
  const CellTable* const cell = registry().find(fingerprint);
  if (!cell) {
    return ffi::Error::InvalidArgument(
        "jaxrnn: the cell " + std::string(fingerprint) +
        " is not loaded in this process: trace the function here before it is run.");
  }
  return with_dtype(dtype, [&]<typename T>() { return act.template operator()<T>(*cell); });
}

// What a dimension of an array is, or 0 where it has no such axis.
template <typename Buffer>
long size(Buffer array, size_t axis) {
  const auto shape = array.dimensions();
  return axis < shape.size() ? shape[axis] : 0;
}

// Runs what `work` gives for the sizes of a call once they are known to fit.
template <typename Work>
ffi::Error checked(const Checks& checks, Work work) {
  if (checks.failed()) return checks.error();
  work();
  return ffi::Error::Success();
}

ffi::Error pack(ffi::ThreadPool pool, Array weight, Result packed, int64_t gates) {
  const auto dtype = weight.element_type();
  return with_dtype(dtype, [&]<typename T>() {
    Checks checks(dtype);
    checks.that(gates >= 1 && gates <= kMostGates, "gates", "are none, or too many");
    if (checks.failed()) return checks.error();
    const long rows = size(weight, 0), K = size(weight, 1);
    const Packing<T> packing(static_cast<int>(gates), rows / gates, K);
    checks.numbers("weight", weight, {rows, K});
    checks.that(rows > 0 && rows % gates == 0 && K > 0, "weight",
                "has rows for no whole number of units");
    checks.numbers("packed weight", *packed, {packing.panels * packing.size});
    return checked(checks, [&] { packing.run(pool, data_of<T>(weight), data_of<T>(packed)); });
  });
}

// What the forward and the backward call both read: (T, B) places, some of them not run, that take
// their inputs from rows of a table of V rows, or (V = 0) from an array of their own.
void check_places(Checks& checks, const Sizes& n, Tokens tokens, Mask mask, Mask resets) {
  checks.that(n.H > 0, "carry", "has no units");
  if (!Checks::is_none(tokens)) {
    if (tokens.dimensions().size() == 2) {
      checks.has_shape("tokens", tokens, {n.T, n.B});
    } else {
      checks.has_shape("tokens", tokens, {n.T, n.B, n.reads});
    }
    checks.that(n.reads > 0, "tokens", "name no row of a place");
    checks.that(n.V > 0, "table", "has no rows");
  }
  if (!Checks::is_none(mask)) checks.has_shape("mask", mask, {n.T, n.B});
  if (!Checks::is_none(resets)) checks.has_shape("resets", resets, {n.T, n.B});
}

// The sizes of a sequence of outputs, and of what the input gates come from: rows of a table, or
// inputs.
Sizes sizes_of(Array sequence, Tokens tokens, int64_t rows, int64_t inputs, bool reverse) {
  const long reads = tokens.dimensions().size() == 3 ? size(tokens, 2) : 1;
  return {size(sequence, 0), size(sequence, 1), size(sequence, 2), rows, reads, inputs, reverse};
}

ffi::Error forward(ffi::ThreadPool pool, Array packed, Array bias, Array packed_ih, Array bias_ih,
                   Array h, Array others, Array x, Tokens tokens, Mask mask, Mask resets,
                   Array params, Result ys, Result h_last, Result others_last, Result before,
                   Result residuals, std::string_view name, bool reverse) {
  const auto dtype = x.element_type();
  return with_cell(dtype, name, [&]<typename T>(const CellTable& cell) {
    const bool looks_up = !Checks::is_none(tokens);
    const bool projects = !Checks::is_none(packed_ih);
    const Sizes n =
        sizes_of(*ys, tokens, looks_up ? size(x, 0) : 0, projects ? size(x, 2) : 0, reverse);
    const Packing<T> packing(cell.gates, n.H, n.H), packing_ih(cell.gates, n.H, n.I);
    const long GH = cell.gates * n.H, F = cell.fields;
    Checks checks(dtype);
    checks.numbers("outputs", *ys, {n.T, n.B, n.H});
    check_places(checks, n, tokens, mask, resets);
    if (looks_up) {
      checks.numbers("table", x, {n.V, GH});
    } else {
      checks.numbers("input gates", x, {n.T, n.B, projects ? n.I : GH});
    }
    checks.that(!projects || (cell.recurrent && !looks_up && n.I > 0), "inputs",
                "have no size, or are not for this cell");
    checks.numbers_if(projects, "packed input weight", packed_ih,
                      {packing_ih.panels * packing_ih.size});
    checks.numbers_if(projects, "input bias", bias_ih, {GH});
    checks.numbers_if(cell.recurrent, "packed weight", packed, {packing.panels * packing.size});
    checks.numbers("bias", bias, {GH});
    checks.numbers("h", h, {n.B, n.H});
    checks.numbers_if(F > 1, "other fields", others, {F - 1, n.B, n.H});
    checks.numbers_if(cell.params > 0, "parameters", params, {cell.params, n.H});
    checks.numbers("h after", *h_last, {n.B, n.H});
    checks.numbers_if(F > 1, "other fields after", *others_last, {F - 1, n.B, n.H});
    checks.numbers_or_none("h before", *before, {n.T, n.B, n.H});
    const long R = cell.steps<T>().residuals;
    checks.numbers_or_none("residuals", *residuals, {n.T, n.B, R * panels_of<T>(n.H) * kLanes<T>});
    return checked(checks, [&] {
      Forward<T>{cell, n, data_of<T>(packed), data_of<T>(bias), data_of<T>(params), data_of<T>(h),
                 data_of<T>(others), data_of<T>(packed_ih), data_of<T>(bias_ih), data_of<T>(x),
                 data_of(tokens), data_of(mask), data_of(resets), data_of<T>(ys),
                 data_of<T>(h_last), data_of<T>(others_last), data_of<T>(before),
                 data_of<T>(residuals)}
          .run(pool);
    });
  });
}

ffi::Error backward(ffi::ThreadPool pool, Array weight, Array weight_ih, Array xs, Array h_first,
                    Array before, Array residuals, Array ys, Array bias, Array x, Tokens tokens, Mask mask,
                    Mask resets, Array params, Array d_ys, Array dh_last, Array d_others_last,
                    Result d_x, Result d_table, Result d_weight,
                    Result d_bias, Result d_weight_ih, Result d_bias_ih, Result d_xs,
                    Result d_params, Result dh_first, Result d_others_first, std::string_view name,
                    bool reverse) {
  const auto dtype = ys.element_type();
  return with_cell(dtype, name, [&]<typename T>(const CellTable& cell) {
    const bool looks_up = !Checks::is_none(tokens), carried = !Checks::is_none(*dh_first);
    const bool projects = !Checks::is_none(weight_ih);
    const Sizes n = sizes_of(ys, tokens, looks_up ? size(*d_table, 0) : 0,
                             projects ? size(weight_ih, 1) : 0, reverse);
    const long GH = cell.gates * n.H, F = cell.fields;
    const long R = cell.steps<T>().residuals;
    Checks checks(dtype);
    checks.numbers("outputs", ys, {n.T, n.B, n.H});
    check_places(checks, n, tokens, mask, resets);
    const bool needs_before = cell.steps<T>().needs_before, reads = !cell.recurrent;
    checks.that(!projects || (cell.recurrent && !looks_up && n.I > 0), "inputs",
                "have no size, or are not for this cell");
    checks.numbers_if(cell.recurrent, "weight", weight, {GH, n.H});
    checks.numbers_if(projects, "input weight", weight_ih, {GH, n.I});
    checks.numbers_if(projects, "inputs", xs, {n.T, n.B, n.I});
    // Without a mask and resets it follows from the outputs.
    const bool follows = Checks::is_none(mask) && Checks::is_none(resets);
    checks.numbers_if(needs_before && !follows, "h before", before, {n.T, n.B, n.H});
    checks.numbers_if(needs_before, "first h", h_first, {n.B, n.H});
    checks.numbers_if(reads, "bias", bias, {GH});
    if (looks_up) {
      checks.numbers_if(reads, "table", x, {n.V, GH});
    } else {
      checks.numbers_if(reads, "input gates", x, {n.T, n.B, GH});
    }
    checks.numbers("residuals", residuals, {n.T, n.B, R * panels_of<T>(n.H) * kLanes<T>});
    checks.numbers_if(cell.params > 0, "parameters", params, {cell.params, n.H});
    checks.numbers("gradient of outputs", d_ys, {n.T, n.B, n.H});
    checks.numbers("gradient of h after", dh_last, {n.B, n.H});
    checks.numbers_if(F > 1, "gradient of other fields after", d_others_last, {F - 1, n.B, n.H});
    checks.numbers_if(!looks_up && !projects, "gradient of input gates", *d_x, {n.T, n.B, GH});
    checks.numbers_if(looks_up, "gradient of table", *d_table, {n.V, GH});
    checks.numbers_if(cell.recurrent, "gradient of weight", *d_weight, {GH, n.H});
    checks.numbers("gradient of bias", *d_bias, {GH});
    checks.numbers_if(projects, "gradient of input weight", *d_weight_ih, {GH, n.I});
    checks.numbers_if(projects, "gradient of input bias", *d_bias_ih, {GH});
    checks.numbers_or_none("gradient of inputs", *d_xs, {n.T, n.B, n.I});
    checks.that(projects || Checks::is_none(*d_xs), "gradient of inputs", "is not expected");
    checks.numbers_if(cell.params > 0, "gradient of parameters", *d_params, {cell.params, n.H});
    checks.numbers_or_none("gradient of h", *dh_first, {n.B, n.H});
    checks.numbers_if(carried && F > 1, "gradient of other fields", *d_others_first,
                      {F - 1, n.B, n.H});
    return checked(checks, [&] {
      Backward<T>{cell, n, data_of<T>(weight), data_of<T>(params), data_of<T>(weight_ih),
                  data_of<T>(xs), data_of<T>(before), data_of<T>(residuals), data_of<T>(ys),
                  data_of<T>(h_first), data_of<T>(bias), data_of<T>(x), data_of(tokens), data_of(mask),
                  data_of(resets), data_of<T>(d_ys), data_of<T>(dh_last),
                  data_of<T>(d_others_last), data_of<T>(d_x),
                  data_of<T>(d_table), data_of<T>(d_weight), data_of<T>(d_bias),
                  data_of<T>(d_weight_ih), data_of<T>(d_bias_ih), data_of<T>(d_xs),
                  data_of<T>(d_params), data_of<T>(dh_first), data_of<T>(d_others_first)}
          .run(pool);
    });
  });
}

ffi::Error generate(ffi::ThreadPool pool, Array weight_hh, Array weight_ih, Array bias_hh,
                    Array bias_ih, Array params, Array table, Array weight_out, Array bias_out,
                    Array h, Array others, Array x_before, Tokens token, Array uniforms,
                    Array inverse_temperature, Tokens count, ffi::Result<Tokens> chosen, Result h_last, Result others_last,
                    std::string_view name) {
  const auto dtype = h.element_type();
  return with_cell(dtype, name, [&]<typename T>(const CellTable& cell) {
    const long N = size(*chosen, 0), V = size(bias_out, 0);
    const long D = size(h, 0), B = size(h, 1), H = size(h, 2);
    const long GH = cell.gates * H, F = cell.fields;
    const Packing<T> packing(cell.gates, H, H), packing_out(1, V, H);
    const int64_t packed = packing.panels * packing.size;
    const bool window = !cell.recurrent && size(table, 0) != V;
    Checks checks(dtype);
    checks.numbers("h", h, {D, B, H});
    checks.that(D > 0 && H > 0 && V > 0, "h", "has no layers or units, or there are no tokens");
    checks.numbers_if(F > 1, "other fields", others, {F - 1, D, B, H});
    if (window) {
      checks.numbers_if(D > 1, "weight of the input before", weight_hh, {D - 1, packed});
    } else {
      checks.numbers_if(cell.recurrent, "weight_hh", weight_hh, {D, packed});
    }
    checks.numbers_if(window && D > 1, "inputs before", x_before, {D - 1, B, H});
    checks.numbers("bias_hh", bias_hh, {D, GH});
    checks.numbers_if(D > 1, "weight_ih", weight_ih, {D - 1, packed});
    checks.numbers_if(D > 1 && cell.recurrent, "bias_ih", bias_ih, {D - 1, GH});
    checks.numbers_if(cell.params > 0, "parameters", params, {D, cell.params, H});
    checks.numbers("table", table, {window ? 2 * V + B : V, GH});
    checks.numbers("output weight", weight_out, {packing_out.panels * packing_out.size});
    checks.numbers("output bias", bias_out, {V});
    checks.has_shape("token", token, {B});
    checks.numbers_or_none("uniforms", uniforms, {N, B});
    checks.numbers("inverse temperature", inverse_temperature, {});
    checks.has_shape("count", count, {});
    checks.has_shape("tokens", *chosen, {N, B});
    checks.numbers("h after", *h_last, {D, B, H});
    checks.numbers_if(F > 1, "other fields after", *others_last, {F - 1, D, B, H});
    return checked(checks, [&] {
      const long steps = std::clamp<long>(*data_of(count), 0, N);
      std::fill_n(data_of(*chosen) + steps * B, (N - steps) * B, 0);
      Generate<T>{cell, steps, B, D, H, V, data_of<T>(weight_hh), data_of<T>(weight_ih),
                  data_of<T>(bias_hh), data_of<T>(bias_ih), data_of<T>(params),
                  data_of<T>(table), window, data_of<T>(weight_out), data_of<T>(bias_out),
                  data_of<T>(h), data_of<T>(others), data_of<T>(x_before), data_of(token), data_of<T>(uniforms),
                  *data_of<T>(inverse_temperature), data_of(*chosen), data_of<T>(h_last),
                  data_of<T>(others_last)}
          .run(pool);
    });
  });
}

}  // namespace
}  // namespace jaxrnn

using Array = ffi::AnyBuffer;
using jaxrnn::Mask, jaxrnn::Tokens;

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_pack, jaxrnn::pack,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>()
                                  .Ret<Array>()
                                  .Attr<int64_t>("gates"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_forward, jaxrnn::forward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>()
                                  .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Tokens>()
                                  .Arg<Mask>().Arg<Mask>().Arg<Array>()
                                  .Ret<Array>().Ret<Array>().Ret<Array>().Ret<Array>()
                                  .Ret<Array>()
                                  .Attr<std::string_view>("cell")
                                  .Attr<bool>("reverse"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_backward, jaxrnn::backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>()
                                  .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>()
                                  .Arg<Array>().Arg<Tokens>().Arg<Mask>().Arg<Mask>()
                                  .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>()
                                  .Ret<Array>().Ret<Array>().Ret<Array>().Ret<Array>()
                                  .Ret<Array>().Ret<Array>().Ret<Array>().Ret<Array>()
                                  .Ret<Array>().Ret<Array>()
                                  .Attr<std::string_view>("cell")
                                  .Attr<bool>("reverse"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxrnn_generate, jaxrnn::generate,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>()
                                  .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>()
                                  .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Tokens>()
                                  .Arg<Array>().Arg<Array>().Arg<Tokens>()
                                  .Ret<Tokens>().Ret<Array>().Ret<Array>()
                                  .Attr<std::string_view>("cell"));

extern "C" void jaxrnn_register_cell(const char* fingerprint, const jaxrnn::CellTable* cell) {
  jaxrnn::registry().add(fingerprint, cell);
}

extern "C" int jaxrnn_vector_bytes() { return jaxrnn::kVectorBytes; }
